"""The container image: what its Dockerfile may say, and that chart, constraints and package agree with it."""

import json
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Final

from skillmeter._version import __version__

ROOT: Final = Path(__file__).parents[1]
HADOLINT: Final = Path(sysconfig.get_path("scripts")) / "hadolint"
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS: Final = [
    (word, rest.strip())
    for word, _, rest in (
        line.partition(" ")
        for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    )
    if word
]


def last(word: str) -> str:
    """What the last instruction of a kind says: the one that counts for the image."""
    return [rest for name, rest in INSTRUCTIONS if name == word][-1]


def test_hadolint_finds_nothing() -> None:
    """The linter has not even a matter of style."""
    ran = subprocess.run(
        [HADOLINT, "--failure-threshold", "style", "-"], input=DOCKERFILE, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def test_it_runs_the_daemon_as_a_numbered_user() -> None:
    """A number, so that Kubernetes can see that it is not root; the same as the chart's; started without a shell."""
    chart = (ROOT / "helm" / "skillmeter-lib" / "values.yaml").read_text()
    user = re.findall(r"^  (?:id|group): (\d+)$", chart, re.MULTILINE)
    assert last("USER") == ":".join(user)
    assert (json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))) == (["skillmeter"], ["run"])


def test_it_is_of_this_version() -> None:
    """The label says the package's version."""
    assert ("ARG", f"VERSION={__version__}") in INSTRUCTIONS


def test_every_dependency_has_an_exact_version() -> None:
    """What the daemon needs, and what builds it, is in the constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["daemon"],
    ]
    lines = (ROOT / "docker" / "constraints.txt").read_text().lower().splitlines()
    exact = {line.partition("==")[0] for line in lines if "==" in line}
    assert {re.split(r"[^\w-]", need, maxsplit=1)[0] for need in wanted} <= exact


def test_what_is_copied_is_let_in() -> None:
    """.dockerignore lets in what the build copies from the checkout, and the tests and the history stay out."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source for word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    }
    assert {path.partition("/")[0] for path in let_in} == {path.partition("/")[0] for path in copied}
    assert all((ROOT / path).exists() for path in let_in | copied)
