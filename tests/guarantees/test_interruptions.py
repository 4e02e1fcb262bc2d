"""Interruptions: what runs in the middle of something else - handlers that raise, forks, the end of the interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import (
    FORKS_KNOWINGLY,
    SCALE,
    DaemonProcess,
    assert_consistent,
    assert_exactly,
    ledger,
    recorded_names,
    run_client,
)

HANDLERS = """
import signal
class TimeIsUp({base}): pass
def on_signal(number, frame): raise TimeIsUp
signal.signal(signal.SIGALRM, on_signal)
raised = 0
for number in range(int(sys.argv[1])):
    name = str(number)
    os.write(1, f"?{{name}}\\n".encode())
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 40 * 1e-6)
        kept = client.record_skill_execution("s", True, 1.0, name)
        while True: pass
    except TimeIsUp:
        if "kept" not in dir():
            raised += 1
        else:
            assert kept is True
            os.write(1, f"+{{name}}\\n".encode())
            del kept
os.write(1, f"raised {{raised}}\\n".encode())
"""


@pytest.mark.parametrize("base", ["Exception", "ValueError", "TimeoutError"])
def test_an_exception_of_a_handler_reaches_the_caller_and_doubles_nothing(tmp_path: Path, base: str) -> None:
    """A timeout that fires inside record calls is never swallowed, turns no True into False and repeats no event."""
    with DaemonProcess(tmp_path) as daemon:
        *lines, raised = run_client(HANDLERS.format(base=base), daemon.env, 3000 * SCALE)
        daemon.wait_drained()
        kept = [line[1:] for line in lines if line[0] == "+"]
        assert_exactly(kept, daemon.db_path, perhaps=[line[1:] for line in lines if line[0] == "?"])
        assert int(raised.split()[1]) + len(kept) == 3000 * SCALE
        assert not ledger(daemon.db_path)["dropped"]


INJECTED = """
import ctypes, threading
class TimeIsUp({base}): pass
sys.setswitchinterval(1e-6)
inject = ctypes.pythonapi.PyThreadState_SetAsyncExc
inject.argtypes = ctypes.c_ulong, ctypes.py_object
rounds = int(sys.argv[1])
begun = threading.Lock()
begun.acquire()
injected = [threading.Lock() for _ in range(rounds)]  # not a loop: what comes at its end is in no `try` since 3.12
for lock in injected: lock.acquire()
raised = swallowed = 0
def attributes(name): return {{name: [1, 2, 3]}}
CALLS = [
    lambda name: client.record_skill_execution("s", True, 1.0, name),
    lambda name: client.record_skill_execution("s", True, 1, name, attributes=attributes(name)),
    lambda name: client.rate_skill("s", 5, None, name),
]
def work():
    global raised, swallowed
    for number in range(rounds):
        name = str(number)
        call = CALLS[number % 3]
        kept = None
        os.write(1, f"?{{name}}\\n".encode())
        try:
            begun.release()
            kept = call(name)
            injected[number].acquire()
            os.getpid(), os.getpid()
            swallowed += 1
        except TimeIsUp:
            raised += 1
        if kept is not None:
            assert kept is True
            os.write(1, f"+{{name}}\\n".encode())
assert client.rate_skill("s", 5, None, "first") and client.flush(30)  # a thread that starts has its maker's number
os.write(1, b"?first\\n+first\\n")
worker = threading.Thread(target=work)
worker.start()
for number in range(rounds):
    assert begun.acquire(timeout=30)
    for _ in range(number % 50): pass
    inject(worker.ident, TimeIsUp)
    injected[number].release()
worker.join()
os.write(1, f"{{raised}} {{swallowed}}\\n".encode())
"""


@pytest.mark.parametrize("base", ["Exception", "ValueError", "TimeoutError"])
def test_an_exception_from_another_thread_reaches_the_caller_and_doubles_nothing(tmp_path: Path, base: str) -> None:
    """A job's timeout that is put into record calls from outside comes out of them, turns no True into False, repeats
    no event, and leaves the books balanced."""
    with DaemonProcess(tmp_path) as daemon:
        *lines, counts = run_client(INJECTED.format(base=base), daemon.env, 3000 * SCALE)
        daemon.wait_drained()
        kept = [line[1:] for line in lines if line[0] == "+"]
        assert_exactly(kept, daemon.db_path, perhaps=[line[1:] for line in lines if line[0] == "?"])
        assert counts == f"{3000 * SCALE} 0"
        books = ledger(daemon.db_path)
        assert books["attempted"] == books["stored"] == len(recorded_names(daemon.db_path))
        assert not books["dropped"] + books["rejected"]


CALLS = {
    "plain": "client.record_skill_execution('s', True, 1.0, name)",
    "general": "client.record_skill_execution('s', True, 1, name, attributes={'a': [1]})",
    "rating": "client.rate_skill('s', 5, None, name)",
}


@pytest.mark.parametrize("durability", ["process", "fsync"])
@pytest.mark.parametrize("kind", CALLS)
def test_a_call_at_the_end_of_the_stack_is_true_if_it_kept(tmp_path: Path, kind: str, durability: str) -> None:
    """However little room there is, and by the long way too: True, or False or an exception and nothing stored."""
    script = f"""
    journal = None
    def deep(frames, name):
        if frames: return deep(frames - 1, name)
        journal.idle = True
        return {CALLS[kind]}
    for name in ("plain", *map(str, range(120))): record(name)  # an id that is known needs less room
    journal = client._producer.opened.journal
    for number in range(120):
        if number % 2: journal.bar()
        try: kept = deep(sys.getrecursionlimit() - 60 + number // 2, str(number))
        except RecursionError: continue
        if kept: print("kept", number)
    """
    with DaemonProcess(tmp_path, env={"ANALYTICS_DURABILITY": durability}) as daemon:
        lines = run_client(script, daemon.env)
        daemon.wait_drained()
        kept = [line.split()[1] for line in lines if line.startswith("kept")]
        assert 60 < len(kept) < 120
        assert recorded_names(daemon.db_path)[121:] == kept
        assert_consistent(daemon.db_path)


def test_a_child_forked_while_zmq_is_imported_can_use_it(tmp_path: Path) -> None:
    """The fork waits for the import: a child would wait for ever for a module that nobody imports any more."""
    script = """
    import threading, time
    from skillmeter import native
    load = native.importlib.import_module
    begun = threading.Event()
    def slow(name):
        if name == "zmq":
            begun.set()
            time.sleep(0.2)
        return load(name)
    native.importlib.import_module = slow
    record("parent")
    assert begun.wait(30)
    pid = os.fork()
    if not pid:
        native.importlib.import_module = load
        record("child")
        assert client.flush(30), "the child cannot ship"
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(script, daemon.env)
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_calls_in_a_child_before_its_turn_reach_its_own_journal(tmp_path: Path) -> None:
    """A hook that runs first in the child records, by a call that was kept from before the fork; so does the parent."""
    script = """
    early = []
    def first(): early.append((os.getpid(), [kept("s", True, 1.0, f"early-{os.getpid()}-{n}") for n in range(3)]))
    os.register_at_fork(after_in_child=first)
    """
    # The hook has to be there before ours, so it is registered before the package is imported.
    whole = f"""
import os, sys
{script.replace("    ", "", 1).replace(chr(10) + "    ", chr(10))}
from skillmeter import create_analytics_client
client = create_analytics_client()
def tell(name, answer):
    assert answer is True
    os.write(1, (name + chr(10)).encode())
tell("parent-0", client.record_skill_execution("s", True, 1.0, "parent-0"))
kept = client.record_skill_execution
for number in range(20):
    pid = os.fork()
    if not pid:
        (me, answers), = early
        for n, answer in enumerate(answers): tell(f"early-{{me}}-{{n}}", answer)
        tell(f"late-{{me}}", kept("s", True, 1.0, f"late-{{me}}"))
        os._exit(0)
    tell(f"parent-{{number + 1}}", kept("s", True, 1.0, f"parent-{{number + 1}}"))
    assert os.waitpid(pid, 0)[1] == 0
"""
    with DaemonProcess(tmp_path) as daemon:
        done = subprocess.run(
            [sys.executable, *FORKS_KNOWINGLY, "-c", whole],
            env=daemon.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        recorded = done.stdout.splitlines()
        assert len(recorded) == 1 + 20 * 5
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        assert ledger(daemon.db_path)["attempted"] == len(recorded)


def test_ending_while_the_shipper_starts_is_quiet(tmp_path: Path) -> None:
    """Whenever the interpreter ends, in the middle of the import of zmq too: exit code 0, and not a word on stderr."""
    script = """
    import time
    record(sys.argv[1])
    client._producer.opened.shipper.hurry()
    time.sleep(float(sys.argv[1]) / 1000)
    """
    with DaemonProcess(tmp_path) as daemon:
        recorded = [run_client(script, daemon.env, delay_ms)[0] for delay_ms in range(0, 100, 4)]
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
