"""Folders: of socket, spool and database - who owns them and who else may read or write."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .. import spool
from .daemon import group_name, user_name
from .finding import Finding, fail, ok, warn
from .patient import Patient

OTHERS = 0o007
DATABASE_FILES = ("", "-wal", "-shm", ".lock", ".sinks", ".sinks-journal")


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `folders.*`."""
    settings = patient.settings
    if patient.socket is not None:
        yield from _folder("folders.runtime", patient.socket.parent, "ANALYTICS_RUNTIME_DIR")
    yield from _folder("folders.spool", Path(settings.spool_dir), "ANALYTICS_SPOOL_DIR")
    yield from _folder("folders.database", settings.db_path.parent, "ANALYTICS_DB_PATH")
    yield from _private_files(settings.db_path)
    yield from _journals(Path(settings.spool_dir))


def _folder(check: str, path: Path, setting: str) -> Iterator[Finding]:
    try:
        info = path.stat()
    except FileNotFoundError:
        yield _missing(check, path, setting)
        return
    except PermissionError:
        yield fail(check, f"this user may not look at {path}", f"run this as its owner, or set {setting}")
        return
    if not stat.S_ISDIR(info.st_mode):
        yield fail(check, f"{path} is no folder", f"move it away, or set {setting} to another")
        return
    yield _access(check, path, info)


def _missing(check: str, path: Path, setting: str) -> Finding:
    """The daemon and clients make what is missing, if they may."""
    above = next(parent for parent in path.parents if parent.exists())
    if above.is_dir() and _may_write(above):
        return ok(check, f"{path} is not there yet; it is made when it is needed")
    what = f"{path} is not there, and this user may not make it in {above}"
    return fail(check, what, f"make it for the daemon's user (see docs/systemd.md), or set {setting}")


def _access(check: str, path: Path, info: os.stat_result) -> Finding:
    mode = stat.S_IMODE(info.st_mode)
    whose = f"{path} of {user_name(info.st_uid)}, mode {mode:04o}"
    sticky, shared = mode & stat.S_ISVTX, mode & stat.S_ISGID
    if mode & stat.S_IWOTH:
        what = f"anybody may make files in {whose}"
        return warn(check, what, f"chmod o= {path}") if sticky else fail(check, what, f"chmod o= {path}")
    if not _may_write(path):
        if info.st_uid != os.geteuid():
            advice = f"run this as {user_name(info.st_uid)}, or join the group {group_name(info.st_gid)}"
            return warn(check, f"this user may not write to {whose}", advice)
        return fail(check, f"its owner may not write to {whose}", f"chmod u+rwx {path}")
    if mode & stat.S_IWGRP and not shared:
        what = f"the group {group_name(info.st_gid)} may write to {whose}, but what its members make is not the group's"
        return warn(check, what, f"chmod g+s {path} to share it, chmod g-w {path} to keep it")
    if mode & stat.S_IWGRP and not sticky:
        what = f"members of {group_name(info.st_gid)} may delete one another's files in {whose}"
        return warn(check, what, f"chmod +t {path}")
    return ok(check, whose + (f", shared with the group {group_name(info.st_gid)}" if shared else ""))


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _private_files(db_path: Path) -> Iterator[Finding]:
    """The database and what lies beside it are their owner's alone: they hold users' ids."""
    open_to = {}
    for suffix in DATABASE_FILES:
        path = db_path.with_name(db_path.name + suffix)
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & (stat.S_IRWXG | stat.S_IRWXO):
            open_to[path] = mode
    for path, mode in open_to.items():
        state = fail if mode & OTHERS else warn
        yield state("folders.files", f"others than the owner may open {path} (mode {mode:o})", f"chmod 600 {path}")
    if not open_to and db_path.exists():
        yield ok("folders.files", "the database's files are their owner's alone")


def _journals(folder: Path) -> Iterator[Finding]:
    suffixes = (spool.HEAD_SUFFIX, spool.SEGMENT_SUFFIX)
    found = []
    with contextlib.suppress(PermissionError):  # members of the group may write, not list
        for path in spool.entries(folder):
            with contextlib.suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if path.suffix in suffixes and stat.S_ISREG(mode) and mode & OTHERS:
                    found.append(path)
    if found:
        what = f"anybody may open {len(found):,} journals, as {found[0]}"
        yield fail("folders.journals", what, f"chmod o= {folder}/*")
