"""`skillmeter keys`: the secret key goes to a file for its owner alone, and nowhere else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner

from skillmeter.settings import ClientSettings
from skillmeterd.cli import group
from skillmeterd.config import DaemonSettings


def keys(*words: object) -> Any:
    """Run `skillmeter keys` in this process."""
    return CliRunner().invoke(group, ["keys", *map(str, words)], prog_name="skillmeter")


def settings_in(said: str, heading: str) -> dict[str, str]:
    """The variables below a heading, as a shell would set them."""
    lines = said.split(heading)[1].split("\n\n")[0].splitlines()[1:]
    pairs = [line.split(" #")[0].strip().partition("=") for line in lines]
    return {name: value.strip("'") for name, _, value in pairs}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_secret_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    """Whatever the umask; in a new folder too; and it is not printed."""
    path = tmp_path / "new" / "daemon.key"
    before = os.umask(umask)
    try:
        result = keys("new", path)
    finally:
        os.umask(before)
    assert result.exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in result.output
    assert zmq.curve_public(path.read_bytes().strip()).decode() in result.output


def test_what_is_printed_can_be_set_as_it_is(tmp_path: Path) -> None:
    """The lines for both sides, with a client's key filled in and an address, are settings without a mistake."""
    daemon, client = keys("new", tmp_path / "d").output, keys("new", "--client", tmp_path / "c").output
    here, there = settings_in(daemon, "Where the daemon runs:"), settings_in(daemon, "Where clients run:")
    here |= settings_in(client, "comma-separated:")
    there |= settings_in(client, "Where the client runs:")
    for side in (here, there):
        side["ANALYTICS_ENDPOINT"] = side["ANALYTICS_ENDPOINT"].replace("PORT", "5557").replace("HOST", "192.0.2.1")
    assert DaemonSettings.from_environment({"HOME": "/", **here}).curve_client_keys is not None
    assert ClientSettings.from_environment({"HOME": "/", **there}).curve_client_secret is not None


def test_no_key_is_replaced(tmp_path: Path) -> None:
    """An existing file stays as it is, a link is not followed, and nothing is printed of what is in there."""
    path = tmp_path / "daemon.key"
    path.write_text("hush")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (path, tmp_path / "link"):
        result = keys("new", taken)
        assert result.exit_code == 1
        assert f"{taken} exists" in result.output
    assert path.read_text() == "hush"
    assert not (tmp_path / "nowhere").exists()


def test_json_is_for_programs(tmp_path: Path) -> None:
    """The path and the public key; `keys show` gives that again."""
    path = tmp_path / "daemon.key"
    made = json.loads(keys("new", "--json", path).output)
    assert made["secret_file"] == str(path)
    assert keys("show", path).output.strip() == made["public_key"]


def test_what_is_no_key_is_not_shown(tmp_path: Path) -> None:
    """A file that holds something else is a mistake that does not repeat it."""
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    result = keys("show", path)
    assert (result.exit_code, "hunter2" in result.output) == (1, False)
    assert "must be a CURVE key" in result.output
