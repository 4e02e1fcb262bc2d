"""Journal: against a plain list, whatever interrupts whatever; then read back by the daemon's own orphans."""

import contextlib
import fcntl
import gc
import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from skillmeter import journal as journals_module
from skillmeter import segment as segment_module
from skillmeter import spool, wire
from skillmeter.errors import JournalError
from skillmeter.events import Execution, event_decoder
from skillmeter.journal import NO_HEIR, Heir, Journal
from skillmeter.records import HEAD_BYTES, RECORD_HEADER_BYTES, decode_head, decode_ledger, decode_segment_header, scan
from skillmeter.segment import Segment
from skillmeterd.intake import Intake
from skillmeterd.orphans import Orphans
from skillmeterd.quarantine import Quarantine
from skillmeterd.store import Store

from .journals import event
from .support import assert_exactly, journals, ledger, recorded_names, wait_until

HEAD_ROOM = 512
SEGMENT_BYTES = 640
MAX_BYTES = 4 * SEGMENT_BYTES + HEAD_BYTES + HEAD_ROOM


def small(spool_dir: Path, **changes: Any) -> Journal:
    """A journal whose head and segments hold a handful of events each."""
    sizes = {"head_bytes": HEAD_BYTES + HEAD_ROOM, "segment_bytes": SEGMENT_BYTES, "max_bytes": MAX_BYTES}
    return Journal.create(str(spool_dir), **{**sizes, **changes})


def everything(journal: Journal) -> list[bytes]:
    """The payloads that the shipper would read, in small pieces."""
    payloads, offset = [], journal.kept_from
    while (piece := journal.read(offset, 200)) is not None:
        assert piece.continues == offset
        payloads += scan(piece.body, sealed=True).payloads
        offset = piece.end
    return payloads


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A small one in an empty spool."""
    journal = small(tmp_path / "spool")
    journal.noted()
    yield journal
    journal.close()


class Model(RuleBasedStateMachine):
    """A journal, a list of what it accepted, and a store that takes batches as the daemon does."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.spool = self.folder / "spool"
        self.store = Store.open(self.folder / "analytics.db")
        self.journal = small(self.spool)
        self.accepted: list[str] = []
        self.attempted = self.refused = self.acked = 0
        self.nested = 0

    @initialize()
    def noted(self) -> None:
        self.journal.noted()

    def append(self, size: int) -> None:
        name = f"{self.attempted}-{'x' * size}"
        self.attempted += 1
        if self.journal.append(event(name)):
            self.accepted.append(name)
        else:
            self.refused += 1

    @rule(size=st.integers(0, 200))
    def one(self, size: int) -> None:
        """A plain append."""
        self.append(size)

    @rule(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=8), before=st.booleans())
    def one_that_is_interrupted_while_it_makes_room(self, sizes: list[int], before: bool) -> None:
        """A signal handler appends in the middle of the making of a segment, and may make one itself."""
        make = self.journal._make_segment

        def interrupted(header: Any) -> Any:
            if before:
                self.interrupt(sizes)
            segment = make(header)
            self.interrupt(sizes)
            return segment

        self.journal._make_segment = interrupted  # type: ignore[method-assign]
        try:
            self.append(100)
        finally:
            del self.journal._make_segment

    def interrupt(self, sizes: list[int]) -> None:
        while sizes:
            self.append(sizes.pop())

    @rule(back=st.integers(0, 3))
    def a_thread_that_was_left_behind_moves_current_back(self, back: int) -> None:
        """It found an old segment full, took its successor, was stopped, and only now says that this is the current."""
        chain = self.chain()
        segment = chain[max(0, chain.index(self.journal.current) - back)] if self.journal.current in chain else chain[0]
        self.journal.current = segment
        self.journal.put = segment.write

    @rule()
    def a_thread_seals_and_stops(self) -> None:
        """It was stopped between sealing the full segment and saying which one is current."""
        segment = self.journal.current
        with contextlib.suppress(JournalError):
            if segment.end > segment.base:  # nobody finds an empty one full
                self.journal._successor(segment)
                segment.seal()

    @rule()
    def fork_begins(self) -> None:
        """The next append has to take the long way."""
        self.journal.bar()

    @rule()
    def tidy(self) -> None:
        """The shipper unmaps, and prepares a segment."""
        self.journal.tidy()

    @rule(max_bytes=st.integers(1, 2000), again=st.booleans())
    def ship(self, max_bytes: int, again: bool) -> None:
        """The shipper sends a piece, some of it for the second time, the daemon commits, and space is freed."""
        start = self.journal.kept_from if again else self.acked
        piece = self.journal.read(start, max_bytes)
        if piece is None:
            return
        batch = wire.Batch(self.journal.producer, piece.continues, piece.start, list(self.journal.ledger.snapshot()))
        intake = Intake(self.store.committed)
        assert intake.add(b"client", batch, piece.body) is None
        if intake.chunks:
            self.store.commit(intake.chunks)
        self.acked = self.store.committed(self.journal.producer).offset
        self.journal.free(self.acked)

    @precondition(lambda self: self.acked)
    @rule()
    def count(self) -> None:
        """How many records there are is known without reading them all."""
        kept = len(everything(self.journal))
        assert self.journal.records_between(self.journal.kept_from, self.journal.end) == kept

    @invariant()
    def the_newest_are_all_readable(self) -> None:
        """What is not freed is read in the order in which it was accepted."""
        names = [payload_name(payload) for payload in everything(self.journal)]
        assert names == self.accepted[len(self.accepted) - len(names) :]
        stored = self.store.committed(self.journal.producer).events
        assert len(names) >= len(self.accepted) - stored

    @invariant()
    def the_ledger_agrees(self) -> None:
        """Every call was counted, the refused ones under a reason."""
        counts = self.journal.ledger.named()
        assert counts.pop("attempted", 0) == self.attempted
        assert sum(counts.values()) == self.refused
        assert set(counts) <= {"dropped.spool_full", "dropped.busy"}

    @invariant()
    def the_bound_holds(self) -> None:
        """Files that are mapped or prepared never take more than they may."""
        assert sum(path.stat().st_size for path in self.spool.iterdir()) <= MAX_BYTES

    def chain(self) -> list[Any]:
        chain: list[Any] = [self.journal._oldest]
        while chain[-1].next is not None:
            chain.append(chain[-1].next)
        return chain

    def teardown(self) -> None:
        self.journal.close()
        orphans = Orphans(self.spool, self.store, Quarantine(self.spool))
        orphans.look()
        while orphans.step():
            pass
        self.store.close()
        try:
            assert_exactly(self.accepted, self.folder / "analytics.db")
            assert recorded_names(self.folder / "analytics.db") == self.accepted
            assert ledger(self.folder / "analytics.db")["attempted"] == self.attempted
            assert not journals(self.spool)
        finally:
            shutil.rmtree(self.folder)


def payload_name(payload: bytes) -> str:
    """The user id of an event's bytes."""
    kind = event_decoder.decode(payload)
    assert isinstance(kind, Execution)
    assert kind.user_id is not None
    return kind.user_id


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck))


def test_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    """The spool and those above it, whatever the umask: nobody else can put another spool in its place."""
    umask = os.umask(0)
    try:
        small(tmp_path / "newer" / "new" / "spool").close()
    finally:
        os.umask(umask)
    for folder in ("newer", "newer/new", "newer/new/spool"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_the_files_are_in_the_format(journal: Journal, tmp_path: Path) -> None:
    """The head says who writes and what was counted; each segment says whose it is and where it begins."""
    for number in range(30):
        journal.append(event(f"{number:03}"))
    head, *segments = sorted((tmp_path / "spool").iterdir(), key=lambda path: path.suffix)
    page = head.read_bytes()
    assert decode_head(page).producer == journal.producer
    assert decode_head(page).pid == os.getpid()
    assert decode_ledger(page) == journal.ledger.snapshot()
    assert head.name == f"{journal.producer.hex()}.journal"
    assert head.stat().st_mode & 0o777 == 0o600
    headers = [decode_segment_header(path.read_bytes()) for path in sorted(segments)]
    assert [header.index for header in headers] == list(range(1, len(headers) + 1))
    assert [header.base for header in headers] == [HEAD_ROOM + n * (SEGMENT_BYTES - 64) for n in range(len(headers))]


def test_the_lock_is_held_until_close(journal: Journal, tmp_path: Path) -> None:
    """Nobody else gets the lock of a living owner, and it is free as soon as the journal is closed."""
    (head,) = (tmp_path / "spool").glob("*.journal")
    with head.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_after_close_everything_goes_to_the_heir(tmp_path: Path) -> None:
    """A call that was kept from before the close hands its event on, and raises nothing."""
    accepted: list[bytes] = []
    counted: list[str] = []

    def accept(payload: bytes) -> bool:
        accepted.append(payload)
        return True

    heir = Heir(accept, counted.append)
    journal = small(tmp_path / "spool", heir=heir)
    put = journal.put
    assert journal.append(b"before")
    journal.close()
    journal.close()
    assert journal.append(b"after")
    journal.count("rejected.invalid_rating")
    assert journal.append(b"x" * 60_000) is False, "it would not have fitted before either"
    assert (accepted, counted) == ([b"after"], ["rejected.invalid_rating", "dropped.too_large"])
    with pytest.raises(ValueError, match="closed"):
        put(b"anything")
    assert journal.ledger.named() == {"attempted": 1}
    assert len(journals(tmp_path / "spool")) == 1


def test_what_fits_no_segment_or_no_record_is_counted(journal: Journal) -> None:
    """Such an event is refused by name, and the next one is accepted."""
    assert journal.append(b"x" * SEGMENT_BYTES) is False
    assert journal.append(b"x" * 65_536) is False
    assert journal.append(b"fits")
    assert journal.ledger.named() == {"attempted": 3, "dropped.too_large": 2}


def test_two_threads_that_make_the_same_successor_leave_one_file(journal: Journal, tmp_path: Path) -> None:
    """The one that is slower deletes its own and uses the other's."""
    barrier = threading.Barrier(8)
    make = journal._make_segment

    def together(header: Any) -> Any:
        barrier.wait()
        return make(header)

    journal._make_segment = together  # type: ignore[method-assign]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(journal._successor(journal.current))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert len(journals(tmp_path / "spool")) == 2


def test_an_append_within_a_seal_is_not_lost(journal: Journal) -> None:
    """A finalizer that runs in the middle of sealing (Python 3.11 collects garbage at any allocation) appends: what was
    accepted is read, and after the seal nothing is accepted."""
    segment = journal.current
    assert journal.append(event("before"))
    appended: list[str] = []

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if segment.sealed or len(appended) > 3:
                return
            name = f"finalizer-{len(appended)}"
            with contextlib.suppress(ValueError):
                segment.write(journals_module._pack(*framing(event(name))) + event_bytes[name])
                appended.append(name)
            Garbage()

    event_bytes: dict[str, bytes] = {}

    def framing(payload: bytes) -> tuple[int, int, int]:
        event_bytes[f"finalizer-{len(appended)}"] = payload
        return journals_module._crc32(payload, len(payload)), len(payload), 0xFEFF

    drained = [(number, number) for number in range(5000)]  # so that each tuple is an allocation
    thresholds = gc.get_threshold()
    gc.collect()
    Garbage()
    gc.set_threshold(1)
    try:
        segment.seal()
    finally:
        gc.set_threshold(*thresholds)
        segment.seal()
        gc.collect()
    assert len(drained) == 5000
    assert [payload_name(payload) for payload in everything(journal)] == ["before", *appended]
    with pytest.raises(ValueError, match=r"range|size"):
        segment.write(b"late")


@pytest.mark.parametrize("error", [ValueError("a handler's own"), TimeoutError("time is up")])
def test_an_exception_of_a_signal_handler_goes_through_and_doubles_nothing(journal: Journal, error: Exception) -> None:
    """A handler that runs right after the write and raises, be it a ValueError, neither hides nor repeats the event."""
    real = journal.put

    def put_and_be_interrupted(record: bytes) -> int:
        real(record)
        raise error

    journal.put = put_and_be_interrupted
    with pytest.raises(type(error)):
        journal.append(event("once"))
    journal.put = real
    assert [payload_name(payload) for payload in everything(journal)] == ["once"]


def test_a_stack_that_is_full_after_the_write_does_not_undo_it(journal: Journal) -> None:
    """The shipper cannot be woken then, but the event is kept, and so the answer is True."""

    def too_deep() -> None:
        raise RecursionError

    journal.wake = too_deep
    journal.idle = True
    assert journal.append(event("kept")) is True


def no_frame_left() -> None:
    """What a call does for which the stack has no room."""
    raise RecursionError


def test_a_stack_without_room_for_what_follows_the_write_does_not_undo_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the short way and the long one: the event is there once, and the answer is True; a refusal is counted once."""
    monkeypatch.setattr(journal, "kept", no_frame_left)
    assert journal.append(event("short")) is True
    journal.bar()
    assert journal.append(event("long")) is True
    journal.count("rejected.invalid_rating")
    assert [payload_name(payload) for payload in everything(journal)] == ["short", "long"]
    assert journal.ledger.named() == {"rejected.invalid_rating": 1}


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("size", [1, 300])
def test_at_the_end_of_the_stack_the_answer_is_what_became_of_the_event(tmp_path: Path, sync: bool, size: int) -> None:
    """However little room is left, also where each append needs a new segment: True and once, or not at all."""
    journal = small(tmp_path / "spool", max_bytes=2**22, sync=sync)

    def deep(frames: int, payload: bytes) -> bool:
        return deep(frames - 1, payload) if frames else journal.append(payload)

    answers = Counter[object]()
    for frames in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        journal.idle = True
        before = journal.end
        try:
            answer: bool | None = deep(frames, bytes(size))
        except RecursionError:
            answer = None
        assert (journal.end > before) is (answer is True)
        answers[answer] += 1
    assert answers[True] > 20
    assert answers[None] > 20
    assert journal.append(b"again") is True
    journal.close()


def test_handlers_that_nest_too_deep_are_refused(tmp_path: Path) -> None:
    """Handlers that come faster than a segment is made end in refusals that are counted as busy, not in recursion."""
    journal = small(tmp_path / "spool", max_bytes=2**20)
    make = journal._make_segment
    answers: list[bool] = []

    def interrupted(header: Any) -> Any:
        answers.append(journal.append(event("nested" + "x" * 200)))
        return make(header)

    journal._make_segment = interrupted  # type: ignore[method-assign]
    while not answers:
        journal.append(event("x" * 200))
    assert False in answers
    assert journal.ledger.named()["dropped.busy"] == answers.count(False)
    assert journal.append(event("again")), "the depth is left as it was"
    journal.close()


def test_what_is_freed_leaves_the_memory_too(tmp_path: Path) -> None:
    """A process that records for weeks has as many segments in memory as on disk, and goes on from the head's last."""
    journal = small(tmp_path / "spool")
    for number in range(200):
        assert journal.append(event(f"{number}" + "x" * 200))
        journal.free(journal.end)
    kept = [one for one in gc.get_objects() if isinstance(one, Segment) and one.path.startswith(str(tmp_path))]
    assert len(kept) == len(journals(tmp_path / "spool"))
    journal.current = journal._head  # as a thread leaves it that was held up in the middle of rolling
    assert journal.append(event("late")) is True
    assert payload_name(everything(journal)[-1]) == "late"
    journal.close()


def test_a_deleted_segment_is_passed_over(journal: Journal, tmp_path: Path) -> None:
    """Somebody deletes a segment: its events are gone, the later ones are read, and reading ends."""
    names = [f"{number:03}" for number in range(40)]
    for name in names:
        assert journal.append(event(name))
    journal.tidy()
    (tmp_path / "spool" / f"{journal.producer.hex()}.00000001.seg").unlink()
    left = [payload_name(payload) for payload in everything(journal)]
    assert 0 < len(left) < len(names)
    assert left[0] == "000"
    assert left[-1] == "039"
    assert set(left) < set(names)


@pytest.mark.parametrize("create", [small, lambda spool_dir: small(spool_dir, sync=True)])
def test_close_and_discard_leave_no_descriptor(tmp_path: Path, create: Callable[[Path], Journal]) -> None:
    """However many segments there were, as many descriptors are open as before."""
    before = len(os.listdir("/dev/fd"))
    journal = create(tmp_path / "spool")
    journal.noted()
    for number in range(60):
        journal.append(event(str(number)))
        if number % 9 == 0:
            journal.tidy()
            journal.free(journal.end)
    create(tmp_path / "spool").discard()
    journal.close()
    assert len(os.listdir("/dev/fd")) == before
    assert not spool.unfinished


def test_no_descriptor_is_left_when_a_journal_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails in the making, the error names a reason of the ledger, and file and descriptor are gone."""
    before = len(os.listdir("/dev/fd"))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((segment_module, "preallocate"), (os, "fsync"), (fcntl, "flock")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(JournalError) as caught:
                small(tmp_path / "spool", sync=True)
            assert caught.value.reason == "disk_full"
    assert len(os.listdir("/dev/fd")) == before
    assert not spool.unfinished


def test_a_segment_whose_folder_cannot_be_synced_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsync durability a file whose name is not on the disk would be lost with the power: the event is refused."""
    journal = small(tmp_path / "spool", sync=True)
    journal.noted()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    while journal.append(event("x" * 100)):
        pass
    assert journal.ledger.named()["dropped.spool_unavailable"] == 1
    assert len(journals(tmp_path / "spool")) == 1
    journal.close()


def test_a_disk_that_refuses_to_sync_is_counted_and_the_event_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing after the write turns True into False."""
    journal = small(tmp_path / "spool", sync=True)
    journal.noted()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    assert journal.append(event("kept"))
    assert journal.ledger.named() == {"attempted": 1, "sync_failed": 1}
    journal.close()


def test_counts_of_many_threads_are_exact(journal: Journal) -> None:
    """A count is one step: no thread's is lost, and the page never shows an older number."""

    def count_many() -> None:
        for _ in range(5000):
            journal.count("rejected.invalid_rating")

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count_many) for _ in range(8)]
        for thread in threads:
            thread.start()
        seen = 0
        while any(thread.is_alive() for thread in threads):
            now = journal.ledger.snapshot()[0]
            assert now >= seen
            seen = now
    finally:
        sys.setswitchinterval(interval_s)
        for thread in threads:
            thread.join()
    assert journal.ledger.named() == {"attempted": 40_000, "rejected.invalid_rating": 40_000}


def test_appends_while_another_thread_closes_have_one_outcome_each(tmp_path: Path) -> None:
    """Each call ends in the journal or with the heir, none in both, none in neither, and none raises."""
    for _ in range(20):
        inherited: list[str] = []

        def accept(payload: bytes) -> bool:
            inherited.append(payload_name(payload))  # noqa: B023
            return False

        heir = Heir(accept, NO_HEIR.count)
        journal = small(tmp_path / "spool", heir=heir, max_bytes=2**20)
        journal.noted()
        answers: dict[str, bool] = {}
        running = threading.Barrier(5)

        def work(thread: int) -> None:
            running.wait()  # noqa: B023
            for number in range(200):
                answers[f"{thread}-{number}"] = journal.append(event(f"{thread}-{number}"))  # noqa: B023

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        running.wait()
        wait_until(lambda: len(answers) > 100)  # noqa: B023
        journal.close()
        for thread in threads:
            thread.join()
        kept = []
        for path in (tmp_path / "spool").iterdir():
            start = HEAD_BYTES if path.suffix == ".journal" else 64
            kept += [payload_name(payload) for payload in scan(path.read_bytes()[start:], sealed=False).payloads]
            path.unlink()
        assert sorted(kept) == sorted(name for name, answer in answers.items() if answer)
        assert sorted(inherited) == sorted(name for name, answer in answers.items() if not answer)


def test_a_journal_refuses_a_spool_that_is_a_file(tmp_path: Path) -> None:
    """The error says which path, under the reason that the ledger counts."""
    (tmp_path / "spool").write_text("")
    with pytest.raises(JournalError, match="spool") as caught:
        small(tmp_path / "spool")
    assert caught.value.reason == "spool_unavailable"
    assert RECORD_HEADER_BYTES == 8
