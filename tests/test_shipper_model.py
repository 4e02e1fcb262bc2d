"""Shipper and intake together: whatever is lost on the way, and whichever copy of the database is put back when."""

import shutil
import tempfile
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from skillmeter import shipper as shipper_module
from skillmeter import wire
from skillmeter.connection import Connection
from skillmeter.journal import Journal
from skillmeter.records import HEAD_BYTES
from skillmeter.shipper import Shipper
from skillmeterd.intake import Intake
from skillmeterd.store import Committed

BATCH_BYTES = 200  # a few records, and several batches for a segment


@dataclass
class Database:
    """What is committed of the one producer."""

    offset: int = 0
    stored: list[bytes] = field(default_factory=list)
    lost: int = 0

    def committed(self, _: bytes) -> Committed:
        """As the store says it."""
        return Committed(self.offset, len(self.stored) + self.lost)


class Way:
    """Takes what the shipper sends."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []

    def send_multipart(self, frames: list[bytes], _: int) -> None:
        """As a socket."""
        self.messages.append(frames)


class Model(RuleBasedStateMachine):
    """A client's journal and shipper, a daemon's intake and database, and what is on the way between them."""

    @initialize()
    def begin(self) -> None:
        """A journal of small segments, and a database of which the first copy is the empty one."""
        self.folder = Path(tempfile.mkdtemp())
        self.usual_bytes = shipper_module.BATCH_BYTES
        shipper_module.BATCH_BYTES = BATCH_BYTES  # type: ignore[misc]
        self.journal = Journal.create(str(self.folder), max_bytes=2**24, head_bytes=HEAD_BYTES + 512, segment_bytes=640)
        self.shipper = Shipper(self.journal, Connection("ipc:///nowhere"))
        self.up, self.down = Way(), list[wire.ToClient]()
        self.database = Database()
        self.copies = [Database()]
        self.recorded: list[bytes] = []

    @rule(count=st.integers(1, 30))
    def record(self, count: int) -> None:
        """Some events."""
        for _ in range(count):
            self.recorded.append(b"event %08d" % len(self.recorded))
            assert self.journal.append(self.recorded[-1])

    @rule()
    def send(self) -> None:
        """What the window allows."""
        self.shipper._send_all(self.up)

    @rule(most=st.integers(1, 9))
    def commit(self, most: int) -> None:
        """The daemon takes a group and answers."""
        taken, self.up.messages = self.up.messages[:most], self.up.messages[most:]
        intake = Intake(self.database.committed)
        for frames in taken:
            batch, body = wire.decode_to_daemon(frames)
            assert isinstance(batch, wire.Batch)
            rewind = intake.add(b"client", batch, body)
            self.down += [rewind] if rewind else []
        for chunk in intake.chunks:
            assert chunk.continues == self.database.offset
            self.database.offset = chunk.committed
            self.database.stored += chunk.payloads
            self.database.lost += chunk.lost
        self.down += [wire.Ack(producer, *self.database.committed(producer)) for producer in intake.waiting]

    @rule(most=st.integers(1, 9))
    def hear(self, most: int) -> None:
        """Answers arrive."""
        heard, self.down = self.down[:most], self.down[most:]
        for message in heard:
            self.shipper._receive(message)
        self.journal.tidy()

    @rule(count=st.integers(20, 60))
    def all_goes_well(self, count: int) -> None:
        """Events are recorded and arrive, and their segments are freed."""
        self.record(count)
        for _ in range(4):
            self.send()
            self.commit(100)
            self.hear(100)

    @rule()
    def lose_connection(self) -> None:
        """All that is on the way is gone, and the client finds out: a timeout, a new socket."""
        self.up.messages.clear()
        self.down.clear()
        self.shipper._go_back(self.shipper.acked)

    @rule()
    def copy(self) -> None:
        """A backup."""
        self.copies.append(deepcopy(self.database))

    @rule(data=st.data(), daemon_lives=st.booleans())
    def restore(self, data: st.DataObject, daemon_lives: bool) -> None:
        """Any copy, under a living daemon or with a new one, which has neither heard nor said anything."""
        self.database = deepcopy(data.draw(st.sampled_from(self.copies)))
        if not daemon_lives:
            self.up.messages.clear()
            self.down.clear()

    def teardown(self) -> None:
        """In the end everything is stored once, in its order, or counted as lost."""
        if not hasattr(self, "journal"):
            return
        try:
            while not self.shipper.settled or self.database.offset < self.journal.end:
                self.lose_connection()
                self.all_goes_well(1)  # an idle client hears of a database that went back when it records again
            assert self.database.stored == sorted(set(self.database.stored))
            assert set(self.database.stored) <= set(self.recorded)
            assert len(self.database.stored) + self.database.lost == len(self.recorded)
        finally:
            shipper_module.BATCH_BYTES = self.usual_bytes  # type: ignore[misc]
            self.shipper.close()
            self.journal.close()
            shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))
