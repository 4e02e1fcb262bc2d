"""Programs: fetches the third-party programs that tests talk to, into a cache, without installing anything.

On CI one that cannot be had is a failure; elsewhere its tests are skipped, with the reason.
"""

import hashlib
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest


def debian(package: str, suite: str, *, with_needs: bool = False) -> Path:
    """The folder in which a Debian package of this suite is unpacked; with all it needs that this machine has not."""
    folder = _cache() / f"{package}-{suite}"
    if not folder.exists():
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                missing(f"{package} comes from Debian, and there is no {program}")
        _unpack(package, _apt(suite), folder, with_needs=with_needs)
    return folder


def pypi(package: str) -> Path:
    """The folder in which a package from the Python index is unpacked, with what it needs."""
    folder = _cache() / f"{package}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not folder.exists():
        new = _fresh(folder)
        _run([sys.executable, "-m", "pip", "install", "-q", "--target", str(new), package], package)
        new.rename(folder)
    return folder


def debian_root(suite: str, *packages: str) -> Path:
    """An archive of the smallest Debian of this suite with these packages. It takes half a minute, once."""
    archive = _cache() / f"root-{suite}-{'-'.join(packages)}.tar"
    if not archive.exists():
        programs = debian("mmdebstrap", suite) / "usr/bin"
        _apt(suite)
        new = archive.with_suffix(".new")
        leave_out = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")]
        options = ["--mode=root", "--variant=essential", f"--include={','.join(packages)}", *leave_out]
        env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        sources = _cache() / f"apt-{suite}/suite.sources"
        _run([str(programs / "mmdebstrap"), *options, suite, str(new), str(sources)], archive.name, env=env)
        new.rename(archive)
    return archive


def wheels(requirements: Path, python: str) -> Path:
    """The folder with the packages of a list of requirements, as wheels for this machine and version of Python."""
    folder = _cache() / f"wheels-{python}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        new = _fresh(folder)
        options = ["--only-binary=:all:", f"--python-version={python}", "-d", str(new), "-r", str(requirements)]
        _run([sys.executable, "-m", "pip", "download", "-q", *options], requirements.name)
        new.rename(folder)
    return folder


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it on CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _cache() -> Path:
    """Outlives the tests, whose HOME is a temporary folder."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "skillmeter-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unpack(package: str, config: Path, folder: Path, *, with_needs: bool) -> None:
    new = _fresh(folder)
    env = {**os.environ, "APT_CONFIG": str(config)}
    _run(["apt-get", "-qq", "update"], package, env=env)
    names = [package]
    if with_needs:
        plan = _run(["apt-get", "-s", "--no-install-recommends", "install", package], package, env=env)
        names = re.findall(r"^Inst (\S+)", plan, re.MULTILINE) or [package]
    _run(["apt-get", "-qq", "download", *names], package, env=env, cwd=new)
    for file in new.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(file), str(new)], package)
        file.unlink()
    new.rename(folder)


def _apt(suite: str) -> Path:
    """A configuration of apt with lists and caches of its own, and this machine's source with the suite changed."""
    folder = _cache() / f"apt-{suite}"
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    sources = "\n\n".join(_sources(suite))
    if not sources:
        missing("this machine has no source of Debian packages")
    (folder / "suite.sources").write_text(sources + "\n")
    config = folder / "apt.conf"
    config.write_text(
        f'Dir::State "{folder}";\nDir::State::Lists "{folder}/lists";\nDir::Cache "{folder}/cache";\n'
        f'Dir::Etc::SourceList "{folder}/suite.sources";\nDir::Etc::SourceParts "-";\nAPT::Sandbox::User "";\n'
    )
    return config


def _sources(suite: str) -> Iterator[str]:
    """The stanzas of this release's main archive, for another suite."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        return
    for file in Path("/etc/apt/sources.list.d").glob("*.sources"):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            if re.search(rf"^Suites:.*\b{release['VERSION_CODENAME']}(\s|$)", stanza, re.MULTILINE):
                yield re.sub(r"^Suites:.*$", f"Suites: {suite}", stanza.strip(), flags=re.MULTILINE)


def _fresh(folder: Path) -> Path:
    """An empty folder beside it: what was fetched by half is never taken for the whole."""
    new = folder.with_name(f"{folder.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    return new


def _run(command: Sequence[str], package: str, *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        missing(f"{package} cannot be fetched: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
