"""Completion in the shells themselves: what `skillmeter completion` prints, loaded as its help says, completes."""

import os
import platform
import pty
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ..support import wait_until
from .programs import debian


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder, and `skillmeter` in its `bin`."""
    program = tmp_path / "bin" / "skillmeter"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m skillmeterd "$@"\n')
    program.chmod(0o755)
    return tmp_path


def shell(name: str) -> Path:
    """A shell of this machine, or else Debian's."""
    found = shutil.which(name)
    if found:
        return Path(found)
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    return next(debian(name, suite, with_needs=True).glob(f"**/bin/{name}"))


def environment(home: Path) -> dict[str, str]:
    """Of a shell whose owner lives there."""
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    known = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    return {**known, "HOME": str(home), "ZDOTDIR": str(home), "PATH": path, "TERM": "xterm", "PS1": "> "}


def typed(command: list[str], home: Path, keys: str, expected: str) -> None:
    """Type into an interactive shell, and wait for what it makes of it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, env=environment(home), start_new_session=True
    )
    os.close(theirs)
    seen = b""

    def read() -> bool:
        nonlocal seen
        seen += os.read(ours, 65536)
        return expected.encode() in seen

    try:
        os.write(ours, keys.encode())
        wait_until(read, what=lambda: f"{expected!r}, not {seen!r}")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_bash(home: Path) -> None:
    """As in ~/.bashrc."""
    (home / ".bashrc").write_text('eval "$(skillmeter completion bash)"\n')
    typed([str(shell("bash")), "--rcfile", str(home / ".bashrc"), "-i"], home, "skillmeter leaderb\t", "leaderboard")
    typed(
        [str(shell("bash")), "--rcfile", str(home / ".bashrc"), "-i"],
        home,
        "skillmeter leaderboard --metric succ\t",
        "success_rate",
    )


def test_zsh(home: Path) -> None:
    """As in ~/.zshrc."""
    zsh = shell("zsh")
    root = zsh.parents[2] if zsh.parts[-3] == "usr" else zsh.parents[1]
    if shutil.which("zsh") is None:  # it looks for its parts where it is not installed
        (home / ".zshenv").write_text(
            textwrap.dedent(f"""\
                module_path=({next(root.glob("**/zsh/[0-9]*/zsh")).parent})
                fpath=({root}/usr/share/zsh/functions/*(/) {root}/usr/share/zsh/functions/*/*(/))
            """)
        )
    (home / ".zshrc").write_text('autoload -U compinit && compinit -u\neval "$(skillmeter completion zsh)"\n')
    typed([str(zsh), "-i"], home, "skillmeter leaderb\t", "leaderboard")
    typed([str(zsh), "-i"], home, "skillmeter leaderboard --metric succ\t", "success_rate")


def test_fish(home: Path) -> None:
    """As a file of its completions."""
    folder = home / ".config" / "fish" / "completions"
    folder.mkdir(parents=True)
    script = subprocess.run(
        ["skillmeter", "completion", "fish"], capture_output=True, env=environment(home), check=True
    )
    (folder / "skillmeter.fish").write_bytes(script.stdout)
    fish = shell("fish")
    libraries = (
        {str(path.parent) for path in fish.parents[1].glob("lib/**/*.so.*")} if shutil.which("fish") is None else ()
    )
    env = {**environment(home), "LD_LIBRARY_PATH": ":".join(libraries)}
    for words, expected in (("leaderb", "leaderboard"), ("leaderboard --metric succ", "success_rate")):
        # Where fish is not installed it does not find its configuration, which names this folder.
        ask = f"set fish_complete_path {folder}; complete --do-complete 'skillmeter {words}'"
        ran = subprocess.run([str(fish), "-c", ask], capture_output=True, text=True, env=env, check=True)
        assert expected in ran.stdout.split(), ran.stderr
