"""OTLP events: each event of the database as an OTLP log record.

Attribute names follow the OpenTelemetry semantic conventions 1.41.0 where they have one - those for generative AI are
in development - and the columns of the public `events`, under `skillmeter.`, where they have none:

    execution   gen_ai.operation.name = execute_tool, gen_ai.tool.name, error.type,
                skillmeter.success, skillmeter.latency_ms, skillmeter.skill_version, skillmeter.attributes
    rating      gen_ai.tool.name, gen_ai.evaluation.name = rating, gen_ai.evaluation.score.value
    health      gen_ai.tool.name, gen_ai.evaluation.name = health, gen_ai.evaluation.score.value
    all         skillmeter.event_id, skillmeter.kind, skillmeter.org_id, user.id
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from skillmeter._version import __version__

from .otlp_metrics import attributes

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
_SCOPE: Final = InstrumentationScope(name="skillmeter", version=__version__)
_INFO: Final = SeverityNumber.SEVERITY_NUMBER_INFO
_ERROR: Final = SeverityNumber.SEVERITY_NUMBER_ERROR

_READ: Final = "SELECT * FROM event_rows WHERE no > ? ORDER BY no LIMIT ?"


class Event(NamedTuple):
    """A row of event_rows."""

    no: int
    event_id: str
    recorded_at: int
    kind: str
    skill_id: str
    user_id: str | None
    org_id: str | None
    success: int | None
    latency_ms: float | None
    rating: int | None
    score: float | None
    error_type: str | None
    skill_version: str | None
    attributes: str | None


def read(db: sqlite3.Connection, after_id: int, limit: int) -> list[Event]:
    """The next events, in the order of their commit."""
    return [Event(*row) for row in db.execute(_READ, (after_id, limit))]


def encode(events: Sequence[Event], resource: Resource, now_ns: int) -> bytes:
    """The request that carries these events."""
    scope = ScopeLogs(scope=_SCOPE, log_records=[_record(event, now_ns) for event in events], schema_url=SCHEMA_URL)
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope], schema_url=SCHEMA_URL)]
    ).SerializeToString()


def refusal(answer: bytes) -> tuple[int, str]:
    """How many records the receiver refused, and what it says. Raises google.protobuf.message.DecodeError."""
    partial = ExportLogsServiceResponse.FromString(answer).partial_success
    return partial.rejected_log_records, partial.error_message


def _record(event: Event, now_ns: int) -> LogRecord:
    body, own = _details(event)
    common = {
        "skillmeter.event_id": event.event_id,
        "skillmeter.kind": event.kind,
        "skillmeter.org_id": event.org_id,
        "user.id": event.user_id,
        "gen_ai.tool.name": event.skill_id,
    }
    failed = event.success == 0
    return LogRecord(
        time_unix_nano=event.recorded_at,
        observed_time_unix_nano=now_ns,
        severity_number=_ERROR if failed else _INFO,
        severity_text="ERROR" if failed else "INFO",
        event_name=f"skillmeter.{event.kind}",
        body=AnyValue(string_value=body),
        attributes=attributes((key, value) for key, value in (common | own).items() if value is not None),
    )


def _details(event: Event) -> tuple[str, dict[str, Any]]:
    """A line for people, and the attributes that only this kind has."""
    if event.kind != "execution":
        score = float(event.rating or 0) if event.kind == "rating" else event.score
        own = {"gen_ai.evaluation.name": event.kind, "gen_ai.evaluation.score.value": score}
        return f"{event.skill_id} {event.kind} {score:g}", own
    outcome = "succeeded" if event.success else "failed"
    return f"{event.skill_id} {outcome} in {event.latency_ms:g} ms", {
        "gen_ai.operation.name": "execute_tool",
        "error.type": event.error_type,
        "skillmeter.success": bool(event.success),
        "skillmeter.latency_ms": event.latency_ms,
        "skillmeter.skill_version": event.skill_version,
        "skillmeter.attributes": event.attributes,
    }
