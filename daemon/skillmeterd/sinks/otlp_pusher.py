"""Pusher: keeps the totals that an OTLP receiver has equal to those in SQLite."""

import logging
import sqlite3
import time
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from .families import Family, Histogram
from .otlp_metrics import FULL_EVERY_S, Sent, pieces, refusal, rows
from .otlp_state import Acknowledged, State
from .otlp_transport import REFUSED, Transport
from .sink import Progress
from .source import Source
from .totals import Totals

log = logging.getLogger(__name__)


class MetricsPusher:
    """Pushes the totals. One thread calls `export`; the rest may be read by any."""

    def __init__(self, source: Source, state: State, transport: Transport, resource: Resource) -> None:
        self.progress = Progress()
        self.refused_points = 0
        self.warning = ""
        """What the receiver last said beside a success."""
        self.acknowledged: dict[str, Any] = {}
        """The totals that the receiver has: `last_event_id`, and `sums` over all series by metric."""
        self.full_wanted = False
        """Set it to have the next export leave nothing out."""
        self._source = source
        self._state = state
        self._transport = transport
        self._resource = resource
        self._sent = Sent()
        self._full_at_s = 0.0

    def export(self) -> bool:
        """Push what changed, or everything if it is time. Whether the receiver took it all."""
        try:
            totals = self._source.totals()
            problem = self._push(totals.families, self._source.own(totals))
        except (sqlite3.Error, OSError) as error:
            problem = f"cannot read the totals: {error}"
        finally:
            self._transport.close()
        if problem:
            self._sent.clear()  # which part arrived is not known
            self.progress.failed(time.time_ns(), problem)
            log.warning("cannot push metrics", extra={"problem": problem})
            return False
        self._remember(totals)
        self.progress.succeeded(time.time_ns())
        return True

    def status(self) -> dict[str, Any]:
        """How old what the receiver has is, what it has, and what it did not want."""
        last_ns = self.progress.last_success_ns
        return {
            "lag_s": None if last_ns is None else round(max(0.0, (time.time_ns() - last_ns) / 1e9), 1),
            "refused_points": self.refused_points,
            "warning": self.warning,
            "acknowledged": self.acknowledged,
        }

    def _remember(self, totals: Totals) -> None:
        """Keep what the receiver has, for `status`, and durably for who compares it with SQLite."""
        before = self.acknowledged.get("last_event_id")
        self.acknowledged = _acknowledged(totals)
        if totals.last_event_id == before:
            return
        labels = self._source.settings.metric_labels
        url = self._transport.url
        try:
            self._state.acknowledge(Acknowledged(time.time_ns(), url, totals.last_event_id, labels, totals.families))
        except (sqlite3.Error, OSError) as error:
            log.warning("cannot note what the receiver has", extra={"problem": str(error)})

    def _push(self, skills: list[Family], own: list[Family]) -> str:
        """What went wrong, or nothing. After a refusal of points it goes on: the others may be fine."""
        now_s = time.monotonic()
        full = self.full_wanted or now_s >= self._full_at_s
        if full:
            self.full_wanted = False
            self._sent.clear()
        problem = ""
        changed = [row for row in rows(skills) if row not in self._sent]
        # The few of its own are always sent: an export that sends nothing would show nothing of the receiver.
        for piece in pieces([*changed, *rows(own)], self._resource, time.time_ns()):
            delivery = self._transport.deliver(piece.body)
            if delivery.delivered:
                self._sent.add(piece.rows)
                problem = self._partial_problem(delivery.body) or problem
            elif delivery.kind in REFUSED:
                problem = delivery.problem
            else:
                return delivery.problem
        if full and not problem:
            self._full_at_s = now_s + FULL_EVERY_S
        return problem

    def _partial_problem(self, answer: bytes) -> str:
        try:
            refused, message = refusal(answer)
        except DecodeError:  # it said 2xx; what else it said nobody can read
            return ""
        message = self._transport.shown(message)
        if not refused:
            self.warning = message or self.warning
            return ""
        self.refused_points += refused
        self._transport.failures["partial"] += 1
        return f"{refused} points refused: {message}"


def _acknowledged(totals: Totals) -> dict[str, Any]:
    sums = {family.name: sum(map(_count, family.points)) for family in totals.families if family.kind != "gauge"}
    return {"last_event_id": totals.last_event_id, "sums": sums}


def _count(point: Any) -> float:
    return sum(point.counts) if isinstance(point, Histogram) else point.value
