"""Processes and threads: forks, pools, servers that fork, green threads. Every worker's events arrive, each once."""

import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest

from tests.support import (
    PRELUDE,
    SCALE,
    DaemonProcess,
    assert_exactly,
    complete_lines,
    journals,
    ledger,
    recorded_names,
    run_client,
    start_client,
    wait_until,
)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_pools_record_from_every_worker(tmp_path: Path, method: str) -> None:
    """A pool whose parent has recorded before: the workers' events and the parent's backlog arrive, each once."""
    module = tmp_path / "pooled.py"
    module.write_text(
        textwrap.dedent(
            """
            import multiprocessing, os, sys
            from skillmeter import create_analytics_client

            def work(number):
                return [f"{number}-{step}" for step in range(20)
                        if create_analytics_client().record_skill_execution("s", True, 1.0, f"{number}-{step}")]

            if __name__ == "__main__":
                record = create_analytics_client().record_skill_execution
                recorded = [f"parent-{n}" for n in range(500) if record("s", True, 1.0, f"parent-{n}")]
                with multiprocessing.get_context(sys.argv[1]).Pool(4) as pool:
                    for names in pool.map(work, range(40), chunksize=1):
                        recorded += names
                print("\\n".join(recorded))
            """
        )
    )
    with DaemonProcess(tmp_path) as daemon:
        out = subprocess.run(
            [sys.executable, module, method], env=daemon.env, check=True, capture_output=True, timeout=60
        )
        daemon.wait_drained()
        recorded = complete_lines(out.stdout)
        assert len(recorded) == 500 + 800
        assert_exactly(recorded, daemon.db_path)


def test_a_child_outlives_its_killed_parent_and_both_journals_arrive(tmp_path: Path) -> None:
    """The child's copies of the parent's descriptors do not keep the parent's lock: the journal is adopted at once."""
    script = """
    import signal
    for number in range(100):
        record(f"parent-{number}")
    child = os.fork()
    if not child:
        record("child-0")
        print("forked", flush=True)
        signal.pause()
    signal.pause()
    """
    with DaemonProcess(tmp_path) as daemon:
        process = start_client(script, daemon.env)
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "forked":
            lines.append(process.stdout.readline().decode().strip())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        try:
            wait_until(lambda: len([name for name in daemon.journals() if name.endswith(".journal")]) == 1)
            wait_until(lambda: ledger(daemon.db_path)["stored"] == 101)
        finally:
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            process.communicate()
        daemon.wait_drained()
        assert_exactly([line for line in lines if line != "forked"], daemon.db_path)


def test_a_fork_while_other_threads_record_does_not_deadlock(tmp_path: Path) -> None:
    """Children that are forked in the middle of other threads' calls record, and end."""
    script = """
    import threading
    going = True
    def hammer(name):
        number = 0
        while going:
            record(f"{name}-{number}")
            number += 1
    threads = [threading.Thread(target=hammer, args=(f"t{n}",)) for n in range(4)]
    for thread in threads: thread.start()
    for number in range(40):
        pid = os.fork()
        if not pid:
            record(f"child-{number}-a")
            record(f"child-{number}-b")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    going = False
    for thread in threads: thread.join()
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env)
        daemon.wait_drained()
        assert sum(name.startswith("child") for name in recorded) == 80
        assert_exactly(recorded, daemon.db_path)


def test_sixty_four_threads_record_at_once_from_the_first_call(tmp_path: Path) -> None:
    """All race for the first record, of which each would make the journal: one is made, and every event is in it."""
    script = """
    import threading
    barrier = threading.Barrier(64)
    def work(name):
        barrier.wait()
        for number in range(100):
            record(f"{name}-{number}")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert client.flush(30)
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env)
        daemon.wait_drained()
        assert len(recorded) == 6400
        assert_exactly(recorded, daemon.db_path)


def test_events_after_close_are_counted_in_their_process(tmp_path: Path) -> None:
    """Whether it recorded before or not, by old calls and by new: its own ledger has them, the daemon's has not."""
    script = """
    import logging
    from skillmeter import AnalyticsClient
    logging.disable()
    fresh = AnalyticsClient(client.settings)
    fresh.close()
    record("a")
    kept = client.record_skill_execution
    client.close()
    for late in (client, fresh):
        assert not late.record_skill_execution("s", True, 1.0)
        assert not late.rate_skill("s", 5)
        assert not late.rate_skill("s", 6)
    assert not kept("s", True, 1.0)
    late = {"rejected.invalid_rating": 1, "dropped.closed": 2}
    assert fresh.get_config_summary()["ledger"] == {"attempted": 3, **late}, fresh.get_config_summary()["ledger"]
    assert client.get_config_summary()["ledger"] == {"attempted": 5, **late, "dropped.closed": 3}
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env)
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        assert {name: count for name, count in ledger(daemon.db_path).items() if count} == {"attempted": 1, "stored": 1}


def test_close_leaves_no_descriptor_no_thread_and_no_journal(tmp_path: Path) -> None:
    """Many clients, opened and closed: as many descriptors and threads as before, and an empty spool."""
    script = """
    import gc, threading
    def open_descriptors(): return len(os.listdir("/proc/self/fd"))
    def threads(): return len(os.listdir("/proc/self/task"))
    def once(name):
        global client
        client = create_analytics_client()
        record(name)
        assert client.flush(20)
        client.close()
        assert client.record_skill_execution("late", True, 1.0) is False
    once("first")
    gc.collect()
    before = open_descriptors(), threads()
    for number in range(30):
        once(str(number))
    assert (open_descriptors(), threads()) == before, (open_descriptors(), threads(), before)
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env, code=None)
        daemon.wait_drained()
        assert len(recorded) == 31, "the script failed"
        assert_exactly(recorded, daemon.db_path)


def test_short_processes_leave_an_empty_spool(tmp_path: Path) -> None:
    """Processes that record once and end, one after the other and in parallel."""
    script = """
    for batch in range(int(sys.argv[1])):
        pids = []
        for number in range(25):
            pid = os.fork()
            if not pid:
                record(f"{batch}-{number}")
                os._exit(0)
            pids.append(pid)
        for pid in pids: os.waitpid(pid, 0)
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env, 20 * SCALE)
        assert len(recorded) == 500 * SCALE
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        assert not journals(daemon.spool_dir)


def test_two_containers_with_one_spool_do_not_collide(tmp_path: Path) -> None:
    """Two processes that are both PID 1, each in a PID namespace of its own, share the spool."""
    with DaemonProcess(tmp_path) as daemon:
        inside = (
            "assert os.getpid() == 1; [record(f'{sys.argv[1]}-{n}') for n in range(300)]; os.kill(1, 9); os._exit(0)"
        )
        clients = []
        for name in "ab":
            command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", f"{PRELUDE}\n{inside}", name]
            clients.append(subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        results = [client.communicate(timeout=60) for client in clients]
        if any(b"unshare" in err for _, err in results) and not os.environ.get("CI"):
            pytest.skip("this machine lets us make no PID namespace")
        recorded = [line for out, _ in results for line in complete_lines(out)]
        assert len(recorded) == 600, results
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_gevent_and_its_patches(tmp_path: Path) -> None:
    """A patched process records from greenlets, other greenlets run while one flushes, and everything arrives."""
    _needs("gevent")
    script = """
    from gevent import monkey; monkey.patch_all()
    import gevent
    import warnings; warnings.simplefilter("ignore")
    from skillmeter import create_analytics_client
    client = create_analytics_client()
    def work(name):
        for number in range(50):
            if client.record_skill_execution("s", True, 1.0, f"{name}-{number}"):
                print(f"{name}-{number}", flush=True)
            gevent.sleep(0)
    ticks = []
    def tick():
        while True:
            ticks.append(1)
            gevent.sleep(0.001)
    ticker = gevent.spawn(tick)
    gevent.joinall([gevent.spawn(work, n) for n in range(20)])
    before = len(ticks)
    flushed = client.flush(30)
    assert flushed and len(ticks) > before, (flushed, before, len(ticks))
    """
    with DaemonProcess(tmp_path) as daemon:
        out = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=daemon.env,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert out.returncode == 0, out.stderr.decode()
        daemon.wait_drained()
        recorded = complete_lines(out.stdout)
        assert len(recorded) == 1000
        assert_exactly(recorded, daemon.db_path)


def test_asyncio_records_without_stalling_its_loop(tmp_path: Path) -> None:
    """Tasks record, and flush in a thread of its own."""
    script = """
    import asyncio
    async def work(name):
        for number in range(50):
            record(f"{name}-{number}")
            await asyncio.sleep(0)
    async def main():
        await asyncio.gather(*(work(n) for n in range(20)))
        assert await asyncio.to_thread(client.flush, 30)
    asyncio.run(main())
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env)
        assert len(recorded) == 1000
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_gunicorn_with_preload(tmp_path: Path) -> None:
    """The application records before the fork; the workers' events arrive, and the parent's backlog once."""
    _needs("gunicorn")
    (tmp_path / "application.py").write_text(
        textwrap.dedent(
            """
            from skillmeter import create_analytics_client
            client = create_analytics_client()
            for number in range(200):
                client.record_skill_execution("s", True, 1.0, f"preload-{number}")

            def app(environ, start_response):
                name = environ["QUERY_STRING"]
                kept = client.record_skill_execution("s", True, 1.0, name)
                start_response("200 OK" if kept else "500 no", [])
                return [b"ok"]
            """
        )
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with DaemonProcess(tmp_path) as daemon:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "-w", "3", "-b", f"127.0.0.1:{port}", "application:app"],
            env=daemon.env, cwd=tmp_path, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            recorded = [f"preload-{number}" for number in range(200)]
            for number in range(60):
                wait_until(functools.partial(_get, port, f"request-{number}"))
                recorded.append(f"request-{number}")
        finally:
            server.terminate()
            server.wait(30)
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def _needs(package: str) -> None:
    """Skip where an optional package is missing; on CI that is a failure."""
    if not os.environ.get("CI"):
        pytest.importorskip(package)


def _get(port: int, name: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?{name}", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:  # not up yet
        return False


def test_celery_prefork_with_a_process_for_each_task(tmp_path: Path) -> None:
    """Every worker process runs one task and ends; each task's event arrives."""
    _needs("celery")
    for folder in ("in", "processed", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(
        textwrap.dedent(
            f"""
            from celery import Celery
            from skillmeter import create_analytics_client
            app = Celery("tasks", broker="filesystem://", backend="file://{tmp_path}/results")
            app.conf.broker_transport_options = dict(
                data_folder_in="{tmp_path}/in", data_folder_out="{tmp_path}/in",
                processed_folder="{tmp_path}/processed", control_folder="{tmp_path}/control")

            @app.task
            def work(name):
                return create_analytics_client().record_skill_execution("s", True, 1.0, name)
            """
        )
    )
    send = "import tasks\nfor n in range(12): tasks.work.delay(f'task-{n}')"
    with DaemonProcess(tmp_path) as daemon:
        subprocess.run([sys.executable, "-c", send], env=daemon.env, cwd=tmp_path, check=True, timeout=60)
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "2", "--max-tasks-per-child", "1",
             "-P", "prefork", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"],
            env={**daemon.env, "C_FORCE_ROOT": "1"}, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(lambda: len(set(recorded_names(daemon.db_path))) == 12)
        finally:
            worker.terminate()
            worker.wait(30)
        daemon.wait_drained()
        assert_exactly([f"task-{number}" for number in range(12)], daemon.db_path)
