"""The spool: whatever lies in it, and however much, the daemon takes what is a journal and goes on serving."""

import functools
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

from skillmeter import records
from skillmeterd import spool
from tests.journals import event, flip, write_journal
from tests.support import (
    HTTP,
    SCALE,
    DaemonProcess,
    assert_exactly,
    journals,
    ledger,
    read,
    recorded_names,
    run_client,
    wait_until,
)

MIB = 1024 * 1024


def start_with_few_descriptors(daemon: DaemonProcess, limit: int) -> None:
    """Start a daemon that may never have more than so many descriptors."""
    daemon.spawn()
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, limit))  # long before its interpreter is up
    wait_until(lambda: "ready" in daemon.log())


def test_thousands_of_orphans_need_few_descriptors_and_little_memory(tmp_path: Path) -> None:
    """A client is served while they are taken over; nothing is left, and nothing is there twice. Until then /readyz
    says how many are left."""
    count = 2000 * SCALE
    with DaemonProcess(tmp_path, env=HTTP, started=False) as daemon:
        recorded = []
        for number in range(count):
            names = [f"{number}-{part}" for part in range(3)]
            parts = [[event(name)] for name in names] if number % 50 == 0 else [[event(name) for name in names]]
            write_journal(daemon.spool_dir, parts, capacity=4000)
            recorded += names
        start_with_few_descriptors(daemon, 256)
        assert_counted_down(daemon, count)
        recorded += run_client("[record(str(n)) for n in range(100)]; assert client.flush(50)", daemon.env)
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        vitals = daemon.ask("status")["vitals"]
        assert vitals["orphans_recovered"] >= count
        assert vitals["orphans_pending"] == 0
        assert daemon.peak_bytes() < 128 * MIB


def readiness(daemon: DaemonProcess) -> tuple[int, dict[str, Any]]:
    """The status of /readyz, and what it says of orphans."""
    address = daemon.log().rpartition("http=http://")[2].split()[0]  # asking it would be a turn of its loop
    status, body = read(address, "/readyz")
    orphans: dict[str, Any] = json.loads(body)["orphans"]
    return status, orphans


def assert_counted_down(daemon: DaemonProcess, count: int) -> None:
    """Follow /readyz until the orphans of the start are taken over: what it calls left and taken are all there are."""
    left = []
    while True:
        status, orphans = readiness(daemon)
        assert status == 200
        if orphans["first_round_done"]:
            break
        assert not orphans["pending"] or orphans["pending"] + orphans["recovered"] == count
        left.append(orphans["pending"])
    assert orphans["recovered"] >= count
    seen = [pending for pending in left if pending]  # before the first look it knows of none
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 2, "it was never seen at work"


def test_what_could_not_be_committed_is_not_called_done(tmp_path: Path) -> None:
    """While nothing can be committed, /readyz is 503, and what is left stays left, whatever else the daemon does."""
    count = 2000
    with DaemonProcess(tmp_path, env=HTTP, started=False) as daemon:
        for number in range(count):
            write_journal(daemon.spool_dir, [[event(str(number))]])
        daemon.spawn()
        wait_until(lambda: "ready" in daemon.log())
        _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, most))  # its log fits, the database does not
        wait_until(lambda: readiness(daemon)[0] == 503, what="/readyz to be 503")
        for _ in range(300):
            daemon.ask("health")  # a turn of its loop
            status, orphans = readiness(daemon)
            assert status == 503
            assert orphans["recovered"] + orphans["pending"] == count
            assert not orphans["first_round_done"]
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (most, most))
        wait_until(lambda: readiness(daemon)[1]["first_round_done"])
        assert readiness(daemon) == (200, {"recovered": count, "pending": 0, "first_round_done": True})


def test_a_daemon_that_dies_among_many_orphans_goes_on_where_it_was(tmp_path: Path) -> None:
    """What it had taken over is gone; the next one takes the rest, and says when it has looked at all."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        for number in range(600):
            write_journal(daemon.spool_dir, [[event(str(number))]])
        assert daemon.spawn({"SKILLMETER_FAULTS": "orphans.adopted=200"}).wait(60) == -9
        assert 400 <= len(journals(daemon.spool_dir)) < 600
        daemon.start()
        wait_until(lambda: daemon.ask("status")["vitals"]["first_round_done"])
        assert not journals(daemon.spool_dir)
        assert_exactly(map(str, range(600)), daemon.db_path)


def test_large_orphans_are_read_in_bounded_pieces(tmp_path: Path) -> None:
    """A backlog that is larger than the daemon does not have to fit into it."""
    script = """
    for number in range(7000):
        name = f"{sys.argv[1]}-{number}"
        assert client.record_skill_execution("s", True, 1.0, name, attributes={"text": "x" * 8000})
        print(name)
    """
    with DaemonProcess(tmp_path, started=False) as daemon:
        recorded = [name for label in "abc" for name in run_client(script, daemon.env, label)]
        backlog = sum((daemon.spool_dir / name).stat().st_size for name in journals(daemon.spool_dir))
        assert backlog > 160 * MIB
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        assert daemon.peak_bytes() < 128 * MIB


def test_tiny_records_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Files that hold as many records as they can, which a hostile client wrote: each takes many times its bytes, so
    that not many may be in memory together."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        daemon.spool_dir.mkdir(mode=0o700)
        record = records.frame(b"x")
        count = (spool.MAX_FILE_BYTES - records.HEAD_BYTES) // len(record)
        for number in range(5):
            head = records.encode_head(records.Head(bytes([number] * 16), 1, 1)).ljust(records.HEAD_BYTES, b"\0")
            (daemon.spool_dir / f"{bytes([number] * 16).hex()}.journal").write_bytes(head + record * count)
        daemon.start()
        daemon.wait_drained()
        assert daemon.ask("status")["ledger"]["rejected"] == 5 * count
        assert daemon.peak_bytes() < 152 * MIB


def test_strange_things_in_the_spool_stop_nothing(tmp_path: Path) -> None:
    """Empty, header only, truncated, foreign, newer, a folder, a FIFO, links, a huge file: left alone or set aside,
    each said once, over two starts; what is a journal is stored."""
    spool = tmp_path / "spool"
    written = [write_journal(spool, [[event(f"{number}-{part}")] for part in range(3)]) for number in range(4)]
    empty = write_journal(spool, [[]])
    flip(written[1].head, 8, 3)  # a newer version
    os.truncate(written[2].head, 100)
    flip(written[3].files[1], 20)
    (spool / f"{'0' * 32}.journal").touch()
    (spool / f"{'1' * 32}.journal").write_bytes(empty.head.read_bytes()[:64])
    (spool / "notes.journal").write_text("not a journal")
    (spool / "folder.journal").mkdir()
    os.mkfifo(spool / "pipe.journal")
    (spool / "link.journal").symlink_to("/etc/passwd")
    (spool / "loop.journal").symlink_to("loop.journal")
    (spool / f"{written[0].producer.hex()}.0000000f.seg").mkdir()
    with (spool / "huge.journal").open("wb") as file:
        file.truncate(1 << 42)
    with DaemonProcess(tmp_path) as daemon:
        for _ in range(2):
            (name,) = run_client("record(sys.argv[1])", daemon.env, f"alive{daemon.pid}")
            wait_until(functools.partial(is_stored, daemon, name))
            assert daemon.stop() == 0
            daemon.start()
        assert stored(daemon) >= {"0-0", "0-1", "0-2", "3-0", "3-2"}
        assert not stored(daemon) & {"1-0", "2-0", "3-1"}
        left = {path.name for path in spool.iterdir()} - {"daemon.lock", "quarantine"}
        newer = {path.name for path in written[1].files}
        assert left == newer | {f"{kind}.journal" for kind in ("folder", "pipe", "link", "loop", "huge")}
        set_aside = {path.name for path in (spool / "quarantine").iterdir()}
        assert set_aside >= {"notes.journal", f"{'1' * 32}.journal", *(path.name for path in written[2].files)}
        assert daemon.log().count("notes.journal") == 1
        said = "file=" + str(spool / "huge.journal")
        wait_until(lambda: daemon.log().count(said) >= 3)
        assert daemon.log().count(said) == 3  # once each start
        assert ledger(daemon.db_path)["dropped.corrupt"] == 2  # a segment's header, and a folder
        assert daemon.peak_bytes() < 100 * MIB


def is_stored(daemon: DaemonProcess, name: str) -> bool:
    """Whether that one is."""
    return name in stored(daemon)


def stored(daemon: DaemonProcess) -> set[str]:
    """The names that are in SQLite."""
    return set(recorded_names(daemon.db_path))


def test_a_living_process_with_the_number_of_a_dead_one_keeps_nothing(tmp_path: Path) -> None:
    """The kernel gives process ids again: who holds the lock decides, and a journal is adopted once."""
    with DaemonProcess(tmp_path) as daemon:
        written = write_journal(daemon.spool_dir, [[event("a"), event("b")]], pid=os.getpid())
        daemon.wait_drained()
        assert_exactly(["a", "b"], daemon.db_path)
        assert daemon.ask("status")["vitals"]["orphans_recovered"] == 1
        assert not written.head.exists()


def test_an_idle_daemon_costs_nothing(tmp_path: Path) -> None:
    """With an idle client connected, and journals of the living in the spool, seconds pass with hardly any work."""
    script = "record('a'); assert client.flush(20); print('ready', flush=True); sys.stdin.read()"
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env)
        daemon.wait_drained()
        before_s, began_s = daemon.cpu_s(), time.monotonic()
        wait_until(lambda: time.monotonic() - began_s > 3)
        assert daemon.cpu_s() - before_s < 0.15 * (time.monotonic() - began_s)
        assert recorded == ["a", "ready"]


def test_a_segment_without_a_head_is_left_alone(tmp_path: Path) -> None:
    """Nobody can say whether its owner lives."""
    with DaemonProcess(tmp_path) as daemon:
        path = daemon.spool_dir / f"{'a' * 32}.00000001.seg"
        path.write_bytes(b"\1" * 4095)
        run_client("record('a'); assert client.flush(20)", daemon.env)
        wait_until(lambda: journals(daemon.spool_dir) == [path.name])
        assert_exactly(["a"], daemon.db_path)
