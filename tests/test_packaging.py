"""The distribution: what the wheel holds, what a bare install can do, and what it says when more is wanted."""

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from skillmeter._version import __version__

ROOT = Path(__file__).parents[1]
DEPENDENCIES = ("msgspec", "zmq", "pyzmq.libs")  # what a bare install brings; the last is where its wheel keeps libzmq


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and what `pip install skillmeter` brings with it, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    spec = importlib.util.find_spec("zmq")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parents[1]
    for name in DEPENDENCIES:
        if (site / name).exists():
            (folder / name).symlink_to(site / name)
    return folder


def run_bare(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where only the standard library and the bare install are on the path."""
    start = f"import sys; sys.path.append({str(folder)!r}); {code}"
    return subprocess.run([sys.executable, "-I", "-S", "-c", start], capture_output=True, text=True, check=False)


def test_the_wheel_holds_both_packages_and_all_their_files(wheel: Path) -> None:
    """Every file of the packages is in the wheel - schema, page and type markers too - and nothing besides."""
    ours = {
        str(path.relative_to(folder.parent))
        for folder in (ROOT / "client" / "skillmeter", ROOT / "daemon" / "skillmeterd")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == ours
    assert {"skillmeter/py.typed", "skillmeterd/py.typed"} <= held


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Name, version, licence, the two dependencies of the client, the extras and the command."""
    with zipfile.ZipFile(wheel) as archive:
        info = f"skillmeter-{__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert (metadata["Name"], metadata["Version"]) == ("skillmeter", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    bare = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert sorted(need.partition(">")[0] for need in bare) == ["msgspec", "pyzmq"]
    assert metadata.get_all("Provides-Extra") == ["daemon", "dev", "parquet", "wandb"]
    assert "skillmeter = skillmeter._cli:main" in scripts


def test_every_module_of_the_client_works_with_the_bare_install(bare: Path) -> None:
    """All of the client but the pytest plugin imports with pyzmq and msgspec alone."""
    modules = [path.stem for path in (ROOT / "client" / "skillmeter").glob("*.py")]
    names = [f"skillmeter.{name}" for name in modules if name not in ("__init__", "pytest_plugin")]
    ran = run_bare(bare, f"import {', '.join(['skillmeter', *names])}")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_importing_the_client_loads_little(bare: Path) -> None:
    """`import skillmeter` starts nothing and loads neither ZeroMQ nor the daemon."""
    code = "import skillmeter, threading; print(threading.active_count(), {'zmq', 'skillmeterd'} & set(sys.modules))"
    ran = run_bare(bare, code)
    assert (ran.stdout, ran.stderr) == ("1 set()\n", "")


def test_the_command_of_a_bare_install_says_what_to_install(bare: Path) -> None:
    """Without the daemon's packages `skillmeter` is one clear line and exit code 2, not a traceback."""
    ran = run_bare(bare, "from skillmeter._cli import main; sys.argv[1:] = ['run']; main()")
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert "click is missing" in line
    assert "pip install 'skillmeter[daemon]'" in line


def test_a_half_installed_daemon_says_so_too() -> None:
    """If one of the daemon's packages is missing when its command needs it, the answer is the same."""
    code = (
        "import sys; sys.modules['rich'] = None; sys.argv[1:] = ['config', 'show'];"
        "from skillmeter._cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "(rich is missing): pip install 'skillmeter[daemon]'" in ran.stderr


def test_a_module_of_our_own_is_not_called_a_missing_package() -> None:
    """A module of our own that cannot be imported is a bug, and shows as one."""
    code = "import sys; sys.modules['skillmeterd.config'] = None; from skillmeter._cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, even if it is make that runs this test."""
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True, env=env)


def test_make_lists_its_goals() -> None:
    """`make` alone explains itself, and installs nothing."""
    ran = make()
    goals = [line.split()[1] for line in ran.stdout.splitlines()]
    assert {"demo", "test", "check", "bench", "chaos", "clean"} <= set(goals)


@pytest.mark.parametrize(("keep", "flag"), [("1", True), ("0", False), ("", False)])
def test_make_demo_passes_keep_on(keep: str, flag: bool) -> None:
    """`make demo KEEP=1` is `skillmeter demo --keep`."""
    ran = make("--dry-run", "demo", f"KEEP={keep}")
    assert (ran.stdout.splitlines()[-1].strip() == ".venv/bin/skillmeter demo --keep") is flag


def test_the_pieces_are_what_pyproject_says() -> None:
    """The client's dependencies are two and stay two."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(need.partition(">")[0] for need in project["dependencies"]) == ["msgspec", "pyzmq"]
