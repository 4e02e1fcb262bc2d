"""The image, built and run by real tools: not as root, on a read-only root file system, without a shell."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from skillmeter._version import __version__

from ..support import PRELUDE, assert_exactly, complete_lines, journals, query, wait_until
from .container import REPOSITORY, USER, Container, Image, image

pytestmark = pytest.mark.timeout(600)  # the first of them builds

SHELLS: Final = ("sh", "dash", "bash", "rbash", "busybox")
APPLICATION: Final = 20002
FOR_EVER: Final = """
import itertools, time
for number in itertools.count():
    record(f"{sys.argv[1]}-{number}")
    time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def built() -> Iterator[Image]:
    """Built once, and without a shell from then on."""
    with image() as built:
        for name in SHELLS:
            for folder in ("bin", "usr/bin"):
                (built.root / folder / name).unlink(missing_ok=True)
        yield built


def application(name: str) -> list[str]:
    """The command of an application that records all the time."""
    return ["/opt/skillmeter/bin/python3", "-c", PRELUDE + FOR_EVER, name]


def wait_served(daemon: Container) -> None:
    """Wait until it is ready, as whoever runs the container would ask."""
    wait_until(lambda: '"ready":true' in daemon.get("/readyz"), what=lambda: f"readiness: {daemon.log.read_text()}")


def test_nothing_is_lost_in_a_containers_life(built: Image) -> None:
    """An application of another user records through the volumes while the daemon is ended, started, and killed; it is
    killed itself, and its journal adopted by a process that is number 1 just as it was; the numbers are scraped."""
    db, spool = built.folder / "data/analytics.db", built.folder / "spool"

    def stored() -> int:
        return int(query(db, "SELECT count(*) FROM events")[0][0])

    def more() -> None:
        before = stored()
        wait_until(lambda: stored() > before, what="more events")

    user = {"uid": APPLICATION, "gid": APPLICATION, "additionalGids": [USER]}
    with contextlib.ExitStack() as running:
        with built.running("daemon") as daemon:
            wait_served(daemon)
            app = running.enter_context(built.running("app", application("app"), **user))
            more()
            assert daemon.kill("TERM") == 0
            assert "info stopped" in daemon.log.read_text()
        with built.running("daemon") as daemon:
            more()
            assert daemon.kill("KILL") == 137
        with built.running("daemon") as daemon:
            more()
            assert app.kill("KILL") == 137
            names = complete_lines(app.log.read_bytes())
            wait_until(lambda: not journals(spool), what="the journal of the dead to be adopted")
            scraped = f'executions_total{{skill_id="parse_json",org_id="o1"}} {len(names)}\n'
            wait_until(lambda: scraped in daemon.get("/metrics").replace(".0\n", "\n"), what="the scraped number")
            assert daemon.kill("TERM") == 0
    assert len(names) > 10
    assert_exactly(names, db)


def test_it_is_confined(built: Image) -> None:
    """User 10001, no capability, no way to one; nothing but the volumes can be written, and SQLite has room to sort."""
    with built.running("daemon") as daemon:
        wait_served(daemon)
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.MULTILINE)
        assert set(re.findall(r"^Cap\w+:\s+(\w+)$", status, re.MULTILINE)) == {"0000000000000000"}
        assert "NoNewPrivs:\t1" in status
        for path in ("/x", "/etc/x", "/opt/skillmeter/x", "/tmp/x", "/usr/x"):
            assert "Read-only file system" in daemon.run("python3", "-c", f"open({path!r}, 'w')", check=False)
        sort = "import sqlite3; db = sqlite3.connect(':memory:'); db.execute('PRAGMA temp_store = FILE'); "
        sort += "db.execute('PRAGMA cache_size = 1'); db.execute('CREATE TEMP TABLE t (a)'); "
        sort += "db.executemany('INSERT INTO t VALUES (?)', [(str(n) * 99,) for n in range(9999)]); print('sorted')"
        assert daemon.run("python3", "-c", sort).endswith("sorted\n")
        assert daemon.kill("TERM") == 0


def test_it_can_be_asked_without_a_shell(built: Image) -> None:
    """There is none in it; health by HTTP, and `skillmeter status` by itself, as in `docker exec`."""
    with built.running("daemon") as daemon:
        wait_served(daemon)
        assert '"ready":true' in daemon.get("/readyz").replace(" ", "")
        assert daemon.get("/healthz")
        assert "ready" in daemon.run("skillmeter", "status")
        assert daemon.kill("TERM") == 0


def test_folders_have_the_modes_that_named_volumes_take(built: Image) -> None:
    """Socket and spool are the group's, which new files inherit; the data is the daemon's alone."""
    found = {}
    for path in ("run/skillmeter", "var/spool/skillmeter", "var/lib/skillmeter"):
        of = (built.root / path).stat()
        found[path] = (oct(of.st_mode & 0o7777), of.st_uid, of.st_gid)
    assert found == {
        "run/skillmeter": ("0o2770", USER, USER),
        "var/spool/skillmeter": ("0o2770", USER, USER),
        "var/lib/skillmeter": ("0o700", USER, USER),
    }


def test_it_says_what_it_is(built: Image) -> None:
    """Labels with version, commit and licence."""
    said = built.config["annotations"]
    labels = {name: said[f"org.opencontainers.image.{name}"] for name in ("title", "version", "revision", "licenses")}
    assert labels == {
        "title": "skillmeter",
        "version": __version__,
        "revision": "4f2a",
        "licenses": "Apache-2.0",
    }


def test_the_list_of_parts_is_what_is_in_it(built: Image) -> None:
    """Each installed Python package is in the CycloneDX list with its version, as the constraints have it; nothing
    else is installed, and no installer."""
    listed = json.loads((built.root / "usr/share/doc/skillmeter/sbom.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    parts = {_plain(part["name"]): part["version"] for part in listed["components"]}
    folders = (built.root / "opt/skillmeter/lib").glob("python3*/site-packages/*.dist-info")
    installed = dict(folder.name.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)
    assert parts == {_plain(name): version for name, version in installed.items()}
    lines = (REPOSITORY / "docker/constraints.txt").read_text().splitlines()
    exact = {_plain(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    assert {name: exact[name] for name in parts if name != "skillmeter"} == {
        name: version for name, version in parts.items() if name != "skillmeter"
    }
    assert not {"pip", "setuptools"} & set(parts)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
