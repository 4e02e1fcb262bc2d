"""The database's file: which file systems it is refused on, and what stands beside it."""

import os
from pathlib import Path

import pytest

from skillmeterd.database import Files, refuse_network, set_aside
from skillmeterd.errors import NetworkFileSystem


def _mounts(tmp_path: Path, *lines: tuple[str, str]) -> Path:
    """A table of mounts as the kernel writes it."""
    table = tmp_path / "mounts"
    escaped = [(point.replace("\\", r"\134").replace(" ", r"\040"), kind) for point, kind in lines]
    table.write_text("".join(f"source {point} {kind} rw,relatime 0 0\n" for point, kind in escaped))
    return table


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    """Its name and the path are in the message."""
    mounts = _mounts(tmp_path, ("/", "ext4"), (str(tmp_path), kind))
    with pytest.raises(NetworkFileSystem, match=kind):
        refuse_network(tmp_path / "analytics.db", mounts)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "overlay", "tmpfs", "fuse.fuse-overlayfs"])
def test_a_local_file_system_is_accepted(tmp_path: Path, kind: str) -> None:
    """Even inside a network one, and whatever is mounted elsewhere."""
    mounts = _mounts(tmp_path, ("/", "nfs"), (str(tmp_path), kind), (f"{tmp_path}/else", "nfs"))
    refuse_network(tmp_path / "analytics.db", mounts)


def test_the_mount_is_found_through_links_and_blanks(tmp_path: Path) -> None:
    """It is where the file really is that counts."""
    share = tmp_path / "a share"
    share.mkdir()
    (tmp_path / "link").symlink_to(share)
    mounts = _mounts(tmp_path, ("/", "ext4"), (str(share), "nfs"))
    with pytest.raises(NetworkFileSystem):
        refuse_network(tmp_path / "link" / "analytics.db", mounts)


def test_a_system_without_a_table_of_mounts_passes(tmp_path: Path) -> None:
    """Nothing is known there, and so nothing refused."""
    refuse_network(tmp_path / "analytics.db", tmp_path / "missing")


def test_what_is_set_aside_keeps_its_wal_beside_it(tmp_path: Path) -> None:
    """So that SQLite's own tools can still read both."""
    path = tmp_path / "analytics.db"
    for name in ("analytics.db", "analytics.db-wal"):
        (tmp_path / name).write_text(name)
    aside = set_aside(path, "corrupt", 0)
    assert sorted(os.listdir(tmp_path)) == [aside.name, f"{aside.name}-wal"]
    assert aside.with_name(f"{aside.name}-wal").read_text() == "analytics.db-wal"


def test_only_the_wal_of_the_old_database_is_set_aside(tmp_path: Path) -> None:
    """One that was put in place together with its database belongs to that."""
    path, wal = tmp_path / "analytics.db", tmp_path / "analytics.db-wal"
    for old in (path, wal):
        old.write_text("old")
    files = Files(path)
    assert not files.exchanged()
    for name in ("new", "new-wal"):
        (tmp_path / name).write_text("new")
    (tmp_path / "new").rename(path)
    assert files.exchanged()
    (tmp_path / "new-wal").rename(wal)
    files.leave_wal(0)
    assert wal.read_text() == "new"
