"""Export and import: what goes out comes back the same, once, whatever interrupts it; bad files are refused whole."""

import contextlib
import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from skillmeter import records, wire
from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable, InvalidEventError, SkillmeterError
from skillmeter.events import Event, Execution, Health, Rating
from skillmeterd.cli import group
from skillmeterd.exchange import formats
from skillmeterd.exchange.carrier import BATCH_BYTES, WINDOW, Carrier, batches, producer_of
from skillmeterd.exchange.journals import hand_over
from skillmeterd.exchange.rows import COLUMNS as ROW
from skillmeterd.exchange.rows import event_of, place_of
from skillmeterd.store import Chunk, Store

from .journals import event, write_journal
from .scripted_daemon import Peer
from .support import WAIT_S, DaemonProcess, assert_exactly, journals, ledger, query, run_client, wait_until

HEADINGS = "recorded_at,kind,skill_id,success,latency_ms"
CELLS = "1,execution,s,1,2.5"
EXECUTION = '{"recorded_at":1,"kind":"execution","skill_id":"s","success":1,"latency_ms":2.5'
HOSTILE = ("=1+1", 'a,b\n"c"', "\x00", "null", "1", "'; DROP TABLE x --", "é\u2028", " ")
COLUMNS = "recorded_at, kind, skill_id, user_id, org_id, success, latency_ms, rating, score, error_type, attributes"


def events() -> list[Event]:
    """One of everything, with values that invite confusion."""
    made: list[Event] = [Execution(2**62 + n, name, name, name, n % 2 == 0, n + 0.1) for n, name in enumerate(HOSTILE)]
    made += [Execution(1, "s", None, None, False, 0.0, "ValueError", "1.2", '{"a":[1,null,"=x"]}')]
    return [*made, Rating(5, "s", "u", None, 3), Health(6, "s", 0.95)]


def commit(path: Path, *made: Event) -> None:
    """A database with these events."""
    store = Store.open(path)
    offsets = list(range(0, 100 * len(made), 100))
    store.commit([Chunk(bytes(16), 100 * len(made), offsets, list(map(msgspec.msgpack.encode, made)))])
    store.close()


def skillmeter(*words: object, env: dict[str, str] | None = None) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(group, list(map(str, words)), env=env, prog_name="skillmeter")


def stored(path: Path) -> list[tuple[Any, ...]]:
    """What was recorded, without where."""
    return query(path, f"SELECT {COLUMNS} FROM events ORDER BY recorded_at")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A running daemon."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_round_trip(tmp_path: Path, kind: str) -> None:
    """Every event comes back as it was, in each format; a second import of the file adds nothing."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    source, file = tmp_path / "source.db", tmp_path / f"events.{kind}"
    commit(source, *events())
    assert skillmeter("export", file, "--db-path", source).exit_code == 0
    with DaemonProcess(tmp_path) as daemon:
        for expected in (len(events()), 0):
            result = skillmeter("import", file, "--json", env=daemon.env)
            assert result.exit_code == 0, result.output
            assert json.loads(result.stdout)[0]["stored"] == expected
        assert stored(daemon.db_path) == stored(source)
        counts = ledger(daemon.db_path)
        assert counts["attempted"] == counts["stored"] == len(events())


def test_interrupted(daemon: DaemonProcess, tmp_path: Path) -> None:
    """An import that ends at any point, run again, stores what is missing and nothing twice."""
    file = tmp_path / "events.jsonl"
    file.write_bytes(msgspec.json.encode(tmp_path.name) + b"\n")
    made = [Execution(n, "interrupted", "u" * 200, None, True, 1.0) for n in range(5000)]
    carried = [(msgspec.msgpack.encode(one), False) for one in made]

    def broken(after: int) -> Iterator[tuple[bytes, bool]]:
        yield from itertools.islice(carried, after)
        raise KeyboardInterrupt

    for after in (0, 1, 700, 2500):
        with (
            closing(Carrier(Connection(daemon.endpoint), producer_of(file))) as carrier,
            pytest.raises(KeyboardInterrupt),
        ):
            carrier.carry(functools.partial(broken, after), lambda done: None)
    with closing(Carrier(Connection(daemon.endpoint), producer_of(file))) as carrier:
        assert 0 < carrier.carry(lambda: carried, lambda done: None) < 5000
        assert carrier.carry(lambda: carried, lambda done: None) == 0
    found = query(
        daemon.db_path, "SELECT count(*), count(DISTINCT recorded_at) FROM events WHERE skill_id='interrupted'"
    )
    assert found == [(5000, 5000)]


MANY = 30_000


class TestKills:
    """Real processes, killed at several points: every event is stored once, and an import says how many it stored."""

    @staticmethod
    def start(folder: Path, kind: str, daemon: DaemonProcess) -> "subprocess.Popen[bytes]":
        """An import of MANY events, whose users are named 0, 1, 2..."""
        file = folder / f"many.{kind}"
        if not file.exists():
            with file.open("wb") as out:
                writer = formats.writer(kind, out)
                writer.write([row_of(Execution(n, "s", str(n), None, True, 1.0)) for n in range(MANY)])
                writer.finish()
        command = [sys.executable, "-m", "skillmeterd", "import", str(file), "--json"]
        return subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @staticmethod
    def wait_for(least: int, daemon: DaemonProcess) -> int:
        """Wait until so many events are stored; how many are."""
        return int(
            wait_until(lambda: query(daemon.db_path, f"SELECT count(*) FROM events HAVING count(*) >= {least}"))[0][0]
        )

    @pytest.mark.parametrize("kind", formats.FORMATS)
    def test_of_the_import(self, tmp_path: Path, kind: str) -> None:
        """SIGKILL and SIGINT; the next run goes on where it was."""
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        with DaemonProcess(tmp_path) as daemon:
            stored = 0
            for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGINT):
                process = self.start(tmp_path, kind, daemon)
                self.wait_for(min(MANY, stored + 3000), daemon)
                process.send_signal(number)
                process.communicate(timeout=WAIT_S)
                stored = self.wait_for(1, daemon)
            process = self.start(tmp_path, kind, daemon)
            out, err = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0, err
            (outcome,) = json.loads(out)
            assert (outcome["events"], outcome["stored"] <= MANY - stored) == (MANY, True)
            assert_exactly(map(str, range(MANY)), daemon.db_path)

    def test_of_the_daemon(self, tmp_path: Path) -> None:
        """An import goes on by itself when the daemon is back."""
        with DaemonProcess(tmp_path) as daemon:
            process = self.start(tmp_path, "jsonl", daemon)
            for least in (1, 7_000, 16_000):
                self.wait_for(least, daemon)
                daemon.restart()
            out, err = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0, err
            assert json.loads(out)[0]["stored"] == MANY
            assert_exactly(map(str, range(MANY)), daemon.db_path)


def test_a_daemon_that_ends_with_one_batch_unread(tmp_path: Path) -> None:
    """Its successor answers all that were behind it with a Rewind, and so, perhaps, the question how far it is."""
    sent = [b"%6d" % n * 10_000 for n in range(2 * WINDOW + 4)]  # two in a batch

    def carry() -> int:
        with closing(Carrier(Connection(f"ipc://{tmp_path}/s"), bytes(16))) as carrier:
            return carrier.carry(lambda: [(payload, False) for payload in sent], lambda done: None)

    with closing(Peer(f"ipc://{tmp_path}/s")) as peer, ThreadPoolExecutor(1) as executor:
        stored = executor.submit(carry)
        peer.take()
        peer.say(wire.Ack(bytes(16), 0, 0))
        for _ in range(WINDOW):
            peer.take()
        for _ in range(WINDOW - 1):
            peer.say(wire.Rewind(bytes(16), 0, 0))
        peer.take()
        peer.say(wire.Rewind(bytes(16), 0, 0))
        end, taken = 0, list[bytes]()
        while not stored.done():
            if not peer.socket.poll(20):
                continue
            batch, payloads = peer.take()
            if payloads and batch.start == end:
                end += sum(len(records.frame(payload)) for payload in payloads)
                taken += payloads
            peer.say(wire.Ack(bytes(16), end, len(taken)))
        assert (stored.result(), taken) == (len(sent), sent)


def test_progress_counts_records(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Progress goes up to the number of events."""
    file = tmp_path / "events.jsonl"
    file.write_text(str(tmp_path))
    seen: list[int] = []
    carried = [(msgspec.msgpack.encode(Execution(n, "progress", None, None, True, 1.0)), False) for n in range(10)]
    with closing(Carrier(Connection(daemon.endpoint), producer_of(file))) as carrier:
        assert carrier.carry(lambda: carried, seen.append) == 10
    assert (seen[0], seen[-1]) == (0, 10)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=60_000), st.booleans()), max_size=30))
def test_an_event_has_its_place(carried: list[tuple[bytes, bool]]) -> None:
    """Whichever events are known already, and left out, the others are at the same offsets, in order, each once."""
    places = dict(_placed(batches((payload, False) for payload, _ in carried)))
    assert list(places.values()) == [payload for payload, _ in carried]
    found = _placed(batches(carried))
    assert [payload for _, payload in found] == [payload for payload, is_known in carried if not is_known]
    assert all(places[offset] == payload for offset, payload in found)


def _placed(made: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """(offset, payload) of every record in batches."""
    found = []
    for start, body in made:
        assert len(body) <= 2 * BATCH_BYTES
        at = 0
        for end, payload in records.parse(body):
            found.append((start + at, payload))
            at = end
    return found


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_an_export_of_the_same_database(tmp_path: Path, kind: str) -> None:
    """What is in the database is not stored again, however the file was cut and ordered; what is new in it is."""
    file = tmp_path / f"events.{kind}"
    with DaemonProcess(tmp_path) as daemon:
        for part in "abc":
            run_client(f"[record(f'{part}{{n}}') for n in range(300)]", daemon.env)
        daemon.wait_drained()
        assert skillmeter("export", file, env=daemon.env).exit_code == 0
        rows = list(formats.read(kind, file))
        assert import_(daemon, file) == (900, 0)
        changed = tmp_path / "changed.jsonl"
        new = {"recorded_at": 1, "kind": "execution", "skill_id": "s", "user_id": "new", "success": 1, "latency_ms": 1}
        changed.write_bytes(msgspec.json.Encoder().encode_lines([*rows[500:100:-3], new, *rows[::2]]))
        assert import_(daemon, changed) == (585, 1)
        assert import_(daemon, changed) == (585, 0)
        assert_exactly([*(f"{part}{n}" for part in "abc" for n in range(300)), "new"], daemon.db_path)


@pytest.mark.parametrize("gap", ["lost", "corrupt"])
def test_a_database_with_gaps_before_what_is_committed(tmp_path: Path, gap: str) -> None:
    """An event of a producer that has some is not stored twice; an import says that it may not be there at all."""
    file, source = tmp_path / "events.jsonl", tmp_path / "source.db"
    made = [msgspec.msgpack.encode(Execution(n, "s", None, None, True, 1.0)) for n in range(5)]
    whole = Chunk(b"w" * 16, 200, [0, 100], made[:2])
    with closing(Store.open(source)) as store:
        store.commit([whole, Chunk(b"g" * 16, 300, [0, 100, 200], made[2:])])
    assert skillmeter("export", file, "--db-path", source).exit_code == 0
    with DaemonProcess(tmp_path, started=False) as daemon:
        with closing(Store.open(daemon.db_path)) as store:
            store.commit(
                [whole, Chunk(b"g" * 16, 300, [0, 200], made[2::2], lost=gap == "lost", corrupt=gap == "corrupt")]
            )
        daemon.start()
        result = skillmeter("import", file, "--json", env=daemon.env)
        assert json.loads(result.stdout)[0]["perhaps_missing"] == 3, result.output
        assert "3 events were not stored, as their producers had sent them before" in result.stderr
        assert len(stored(daemon.db_path)) == 4


def import_(daemon: DaemonProcess, file: Path) -> tuple[int, int]:
    """(events of a file, those that its import stored)"""
    result = skillmeter("import", file, "--json", env=daemon.env)
    assert result.exit_code == 0, result.output
    (outcome,) = json.loads(result.stdout)
    return outcome["events"], outcome["stored"]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It could be read once only; nothing waits for it."""
    os.mkfifo(tmp_path / "x.csv")
    result = skillmeter("import", tmp_path / "x.csv")
    assert (result.exit_code, "is no file" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n1,2\n", "has no column recorded_at, kind, skill_id"),
        ("x.csv", "recorded_at,kind,skill_id,success,latency_ms\n1,execution\n", "line 2: not as many cells"),
        ("x.csv", "recorded_at,kind,skill_id\n1,party,s\n", "event 1: kind must be one of execution, rating, health"),
        ("x.csv", "recorded_at,kind,skill_id,rating\n1,rating,s,6\n", "event 1: rating: expected int <= 5"),
        ("x.csv", "recorded_at,kind,skill_id,rating\n1,rating,s,x\n", "event 1: rating: expected int, not 'x'"),
        ("x.csv", "recorded_at,kind,skill_id,rating\n1,rating,,3\n", "event 1: skill_id: expected str, got null"),
        (
            "x.csv",
            "recorded_at,kind,skill_id,rating\nyesterday,rating,s,3\n",
            "event 1: recorded_at: must be Unix nano",
        ),
        ("x.csv", b"recorded_at,kind,skill_id\n\xff,rating,s\n", "is no CSV in UTF-8"),
        ("x.jsonl", '{"kind": "execution"\n', "line 1: no JSON object"),
        (
            "x.jsonl",
            '{"recorded_at": 1, "kind": "execution", "skill_id": "s", "success": 2}\n',
            "success: expected 1 or 0",
        ),
        (
            "x.jsonl",
            '{"recorded_at":1,"kind":"execution","skill_id":"s","success":1,"latency_ms":"nan"}',
            "event 1: latency_ms: expected float >= 0",
        ),
        ("x.jsonl", '{"recorded_at":1,"kind":["rating"],"skill_id":"s"}', "event 1: kind must be one of"),
        (
            "x.jsonl",
            '{"recorded_at":1,"kind":"execution","skill_id":"s","success":[]}',
            "event 1: success: expected 1 or",
        ),
        ("x.jsonl", '{"recorded_at":"²","kind":"rating","skill_id":"s"}', "event 1: recorded_at: must be Unix nano"),
        (
            "x.jsonl",
            f'{{"recorded_at":"{"9" * 5000}","kind":"rating","skill_id":"s"}}',
            "event 1: recorded_at: must be",
        ),
        ("x.jsonl", '{"recorded_at":1,"kind":"rating","skill_id":"s","rating":"1_0"}', "event 1: rating: expected int"),
        ("x.jsonl", f'{EXECUTION},"attributes":[1]}}', "event 1: attributes: must be a JSON object"),
        ("x.jsonl", f'{EXECUTION},"attributes":"{{"}}', "event 1: attributes: must be a JSON object"),
        (
            "x.csv",
            f"{HEADINGS},attributes\n{CELLS}," + '"' + '{""a"":' * 1500 + '"',
            "attributes: must be a JSON object",
        ),
        ("x.jsonl", " " * (formats.MAX_ROW + 1), "line 1: longer than 1,048,576"),
        ("x.jsonl", f"{EXECUTION}}}\n{EXECUTION[:60]}", "line 2: no JSON object"),
        ("x.csv", HEADINGS + "," * formats.MAX_ROW, "line 1: longer than 1,048,576"),
        ("x.csv", f"{HEADINGS}\n{CELLS}" + ',"\n"' * 300_000, "longer than 1,048,576"),
        ("x.csv", f"{HEADINGS}\n{CELLS}\n{CELLS[:12]}", "line 3: not as many cells"),
        ("x.csv", f'{HEADINGS}\n{CELLS}\n1,"exec', "is no CSV"),
        ("x.parquet", "PAR1" * 100, "is no Parquet file"),
        ("x.journal", "no journal", "is no journal"),
        ("x.txt", "", "should end in .csv, .jsonl, .parquet or .journal"),
        ("x.csv", None, "No such file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    """A file with a mistake is refused before anything is sent: no daemon is needed to be told."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = skillmeter("import", path, env={"ANALYTICS_SPOOL_DIR": str(tmp_path / "spool")})
    assert result.exit_code in (1, 2)
    assert message in result.stderr


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
MAYBE = st.none() | TEXTS
MILLISECONDS = st.floats(0, 1e15)
TIMES = st.integers(0, 2**63 - 1)
NUMBERS = st.integers(-(2**200), 2**200) | st.floats(allow_nan=False, allow_infinity=False)
ATTRIBUTES = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.none() | NUMBERS | TEXTS, max_size=3)
SPACED = st.builds(lambda value, indent: json.dumps(value, indent=indent), ATTRIBUTES, st.sampled_from([None, 1]))
EVENTS = (
    st.builds(
        Execution, TIMES, TEXTS, MAYBE, MAYBE, st.booleans(), st.floats(0, 1e15), MAYBE, MAYBE, st.none() | SPACED
    )
    | st.builds(Rating, TIMES, TEXTS, MAYBE, MAYBE, st.integers(1, 5))
    | st.builds(Health, TIMES, TEXTS, st.floats(0, 100))
)


def row_of(made: Event) -> tuple[Any, ...]:
    """The row that the view `events` has of an event."""
    named: dict[str, Any] = msgspec.structs.asdict(made)
    named |= {"kind": type(made).__name__.lower(), "recorded_at": made.recorded_at_ns}
    if isinstance(made, Execution):
        named["success"] = int(made.success)
    return tuple(named.get(column) for column in ROW)


@pytest.mark.parametrize("kind", formats.FORMATS)
@given(made=st.lists(EVENTS, max_size=5))
def test_every_field_comes_back(tmp_path_factory: pytest.TempPathFactory, kind: str, made: list[Event]) -> None:
    """To the last bit and character, whatever the format; attributes too, as text, but for line ends in JSON lines."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("file") / f"x.{kind}"
    with path.open("wb") as file:
        writer = formats.writer(kind, file)
        writer.write([row_of(one) for one in made])
        writer.finish()
    found = [event_of(row) for row in formats.read(kind, path)]
    for one in made:
        if kind == "jsonl" and isinstance(one, Execution) and one.attributes is not None:
            one.attributes = one.attributes.replace("\n", " ")
    assert found == made


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    """Cut, or with bytes changed, a file is read as far as it goes, and what is wrong is an error of ours."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path, chance = tmp_path / f"x.{kind}", random.Random(7)
    with path.open("wb") as file:
        writer = formats.writer(kind, file)
        writer.write([row_of(one) for one in events()])
        writer.finish()
    whole = path.read_bytes()
    path.write_bytes(whole.replace("é".encode(), b"\xff\xff").replace(b"skill_version", b"\xffkill_version"))
    with pytest.raises(formats.Unreadable):
        list(formats.read(kind, path))
    for _ in range(200):
        damaged = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(damaged) + 1)
            damaged[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        path.write_bytes(damaged)
        with contextlib.suppress(SkillmeterError):
            for row in formats.read(kind, path):
                place_of(row)
                with contextlib.suppress(InvalidEventError):
                    event_of(row)


def test_times_for_people() -> None:
    """recorded_at may be ISO 8601 with a time zone; it is exact to the microsecond."""
    row = {"kind": "rating", "skill_id": "s", "rating": "3"}
    found = event_of({**row, "recorded_at": "2026-01-01T01:00:00.000001+01:00"})
    assert found.recorded_at_ns == 1_767_225_600_000_001_000


def test_import_without_a_daemon(tmp_path: Path) -> None:
    """Exit code 3, and how to go on."""
    path = tmp_path / "x.csv"
    path.write_text("recorded_at,kind,skill_id,rating\n1,rating,s,3\n")
    with (
        closing(Carrier(Connection(f"ipc://{tmp_path}/none"), bytes(16), silence_s=0.05)) as carrier,
        pytest.raises(DaemonUnavailable, match="run the same import again"),
    ):
        carrier.committed()
    assert "1 events and no mistake" in skillmeter("import", path, "--check").stdout


class TestJournals:
    """A journal of another machine."""

    SCRIPT = "record('n1'); record('n2'); os._exit(0)"

    def test_taken_once(self, tmp_path: Path) -> None:
        """Its events are stored once, though it is imported twice."""
        with DaemonProcess(tmp_path / "away", started=False) as away:
            (tmp_path / "away").mkdir()
            names = run_client(self.SCRIPT, away.env)
            (journal,) = away.spool_dir.glob("*.journal")
            (tmp_path / "here").mkdir()
            with DaemonProcess(tmp_path / "here") as daemon:
                for _ in range(2):
                    assert skillmeter("import", journal, env=daemon.env).exit_code == 0
                    daemon.wait_drained()
                assert query(daemon.db_path, "SELECT user_id FROM events ORDER BY 1") == [(name,) for name in names]

    @pytest.mark.parametrize(("folder_mode", "mode"), [(0o700, 0o600), (0o777, 0o600), (0o2770, 0o640)])
    def test_a_daemon_of_the_folder_s_group_can_read_it(self, tmp_path: Path, folder_mode: int, mode: int) -> None:
        """As what a client makes: its owner's, and the group's where the set-group-id bit says so."""
        found = write_journal(tmp_path / "found", [[event("a")]])
        (tmp_path / "spool").mkdir()
        (tmp_path / "spool").chmod(folder_mode)
        hand_over(found.head, tmp_path / "spool")
        assert (tmp_path / "spool" / found.head.name).stat().st_mode & 0o777 == mode

    def test_a_link_in_the_spool_is_not_followed(self, tmp_path: Path) -> None:
        """Who may write into the spool cannot have an import write elsewhere."""
        found = write_journal(tmp_path / "found", [[event("a")]])
        (tmp_path / "spool").mkdir()
        (tmp_path / "precious").write_text("before")
        (tmp_path / "spool" / f".{found.head.name}.partial").symlink_to(tmp_path / "precious")
        hand_over(found.head, tmp_path / "spool")
        assert (tmp_path / "precious").read_text() == "before"
        assert journals(tmp_path / "spool") == [found.head.name]


class TestExport:
    """Files appear whole or not at all."""

    def test_stdout(self, tmp_path: Path) -> None:
        """- is stdout, and needs a format."""
        commit(tmp_path / "a.db", *events())
        printed = skillmeter("export", "-", "--format", "jsonl", "--db-path", tmp_path / "a.db").stdout
        assert [json.loads(line)["recorded_at"] for line in printed.split("\n")[:-1]] == [
            e.recorded_at_ns for e in events()
        ]
        assert skillmeter("export", "-", "--db-path", tmp_path / "a.db").exit_code == 2
        both = skillmeter("export", "-", "--format", "jsonl", "--json", "--db-path", tmp_path / "a.db")
        assert (both.exit_code, both.stdout) == (2, "")

    def test_a_file_is_its_owners_alone(self, tmp_path: Path) -> None:
        """Whatever the umask: it holds who used what."""
        commit(tmp_path / "a.db", *events())
        umask = os.umask(0)
        try:
            assert skillmeter("export", tmp_path / "x.csv", "--db-path", tmp_path / "a.db").exit_code == 0
        finally:
            os.umask(umask)
        assert (tmp_path / "x.csv").stat().st_mode & 0o777 == 0o600

    def test_filters(self, tmp_path: Path) -> None:
        """Only a skill, only an org."""
        commit(tmp_path / "a.db", *events())
        for words, count in ((["--skill", "s"], 3), (["--org", "=1+1"], 1), (["--org", "x"], 0)):
            result = skillmeter("export", tmp_path / "x.csv", "--json", "--db-path", tmp_path / "a.db", *words)
            assert json.loads(result.stdout)["events"] == count

    def test_a_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        """Without a database the file from before stays, and nothing half done lies beside it."""
        (tmp_path / "x.csv").write_text("before")
        assert skillmeter("export", tmp_path / "x.csv", "--db-path", tmp_path / "none.db").exit_code == 1
        assert os.listdir(tmp_path) == ["x.csv"]
        assert (tmp_path / "x.csv").read_text() == "before"

    def test_parquet_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says what to install, and leaves no file."""
        commit(tmp_path / "a.db", *events())
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        result = skillmeter("export", tmp_path / "x.parquet", "--db-path", tmp_path / "a.db")
        assert "pip install 'skillmeter[parquet]'" in result.stderr
        assert not list(tmp_path.glob("*x.parquet*"))
