"""The plan: which tool is run on which file, for whom. The same files always give the same plan."""

import os
import stat
import sysconfig
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import msgspec

MAX_FILE_BYTES: Final = 128 * 1024  # one call takes milliseconds, not seconds
MAX_FILES: Final = 20_000  # of one root: looking at more takes longer than it adds
_TEXT: Final = (".py", ".txt", "METADATA", "RECORD")
_ALL: Final = (*_TEXT, ".pyc", ".json", ".toml", ".xml")


@dataclass(frozen=True, slots=True)
class Diet:
    """What a tool gets: kinds of files that suit it, others that do not, and how much of both."""

    skill: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    bad_every: int
    """One file in so many is of a kind that does not suit."""
    weight: int
    """Its part of all calls, relative to the others'."""


DIETS: Final = (
    Diet("parse_json", (".json",), (".pyc",), 12, 12),
    Diet("parse_toml", (".toml",), (".py",), 9, 8),
    Diet("parse_python", (".py",), (".txt",), 25, 9),
    Diet("tokenize_python", (".py",), (".txt",), 14, 3),
    Diet("parse_xml", (".xml", ".xsd"), (".txt",), 10, 6),
    Diet("parse_csv", ("RECORD",), ("METADATA",), 11, 6),
    Diet("parse_ini", ("entry_points.txt", ".cfg", ".ini"), ("METADATA",), 7, 5),
    Diet("read_metadata", ("METADATA",), ("RECORD",), 16, 7),
    Diet("extract_html_text", (".html",), (".pyc",), 8, 3),
    Diet("load_bytecode", (".pyc",), (".py",), 30, 9),
    Diet("decode_text", _TEXT, (".pyc",), 20, 10),
    Diet("search_definitions", (".py",), (".pyc",), 18, 10),
    Diet("hash_sha256", _ALL, (), 1, 14),
    Diet("compress_zlib", _ALL, (), 1, 8),
    Diet("compress_bz2", _ALL, (), 1, 4),
    Diet("compress_lzma", _ALL, (), 1, 2),
    Diet("query_catalog", (".py", ".txt"), (".pyc",), 13, 9),
)


class File(msgspec.Struct, frozen=True):
    """A file and who is said to work with it."""

    path: str
    kind: str
    bytes: int
    user_id: str
    org_id: str


class Task(msgspec.Struct, frozen=True):
    """One call of a tool."""

    skill: str
    file: File


def roots() -> dict[str, Path]:
    """Where files are looked for, by the name that becomes the org: Python's own, the packages', this project's."""
    found = {"stdlib": Path(sysconfig.get_path("stdlib")), "packages": Path(sysconfig.get_path("purelib"))}
    project = Path(__file__).parents[3]
    if (project / "pyproject.toml").is_file():
        found["project"] = project
    return found


def find_files(org_id: str, root: Path) -> list[File]:
    """The files under a root that a tool could take, in the order of their paths.

    The user is the first part of the path below the root: the package or module that the file is of.
    """
    return [
        File(str(root / relative), kind, size, Path(relative).parts[0].partition(".")[0], org_id)
        for relative, kind, size in islice(_walk(root), MAX_FILES)
    ]


def plan(files: Iterable[File], calls: int) -> list[Task]:
    """So many calls, well mixed. A tool for which there is no file is left out."""
    by_kind: defaultdict[str, list[File]] = defaultdict(list)
    for file in sorted(files, key=lambda file: (_spread(file.path), file.path)):
        by_kind[file.kind].append(file)
    diets = [diet for diet in DIETS if any(by_kind[kind] for kind in diet.good)]
    total = sum(diet.weight for diet in diets)
    tasks = [
        Task(diet.skill, file) for diet in diets for file in _serve(diet, by_kind, -(-calls * diet.weight // total))
    ]
    tasks = [task for _, _, task in sorted((_spread(f"{task.skill} {at}"), at, task) for at, task in enumerate(tasks))]
    return tasks[:calls]


def _serve(diet: Diet, by_kind: dict[str, list[File]], calls: int) -> Iterator[File]:
    """Files for one tool; when there are fewer than calls, they come again."""
    good = cycle([file for kind in diet.good for file in by_kind[kind]])
    bad_files = [file for kind in diet.bad for file in by_kind[kind]]
    bad = cycle(bad_files)
    for number in range(1, calls + 1):
        yield next(bad if bad_files and number % diet.bad_every == 0 else good)


def _walk(root: Path) -> Iterator[tuple[str, str, int]]:
    """Relative path, kind and bytes of each file that is not empty and not too large."""
    kinds = {kind for diet in DIETS for kind in diet.good + diet.bad}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith("-packages"))
        for name in sorted(names):
            kind = name if name in kinds else os.path.splitext(name)[1]
            path = os.path.join(folder, name)
            if kind in kinds and 0 < (size := _size(path)) <= MAX_FILE_BYTES:
                yield os.path.relpath(path, root), kind, size


def _size(path: str) -> int:
    """Bytes of a file; 0 for what is none, such as a link."""
    try:
        status = os.lstat(path)
    except OSError:  # removed since it was listed
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _spread(text: str) -> int:
    """A number that looks like chance, and is the same at every run."""
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))
