"""Tools: small things that are done to a file. Each raises what its library raises when the file is not of its kind."""

import ast
import bz2
import configparser
import csv
import email.parser
import hashlib
import html.parser
import importlib.util
import io
import json
import lzma
import marshal
import re
import sqlite3
import tokenize
import tomllib
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

_DEFINITION: Final = re.compile(r"^\s*(?:async\s+)?(?:def|class)\s+(\w+)", re.MULTILINE)
_PYC_HEADER_BYTES: Final = 16
_TABLES: Final = (".py", ".txt", ".json", ".toml", ".xml")


def toolbox(catalog: Path) -> dict[str, Callable[[Path], object]]:
    """The tools by skill. `catalog` is the database that `write_catalog` made."""
    return {
        "parse_json": lambda path: json.loads(path.read_bytes()),
        "parse_toml": lambda path: tomllib.loads(path.read_text("utf-8")),
        "parse_python": lambda path: ast.parse(path.read_bytes()),
        "tokenize_python": tokenize_python,
        "parse_xml": ElementTree.parse,
        "parse_csv": parse_csv,
        "parse_ini": parse_ini,
        "read_metadata": read_metadata,
        "extract_html_text": extract_html_text,
        "load_bytecode": load_bytecode,
        "decode_text": lambda path: path.read_bytes().decode("utf-8"),
        "search_definitions": lambda path: _DEFINITION.findall(path.read_text("utf-8")),
        "hash_sha256": lambda path: hashlib.sha256(path.read_bytes()).hexdigest(),
        "compress_zlib": lambda path: zlib.compress(path.read_bytes()),
        "compress_bz2": lambda path: bz2.compress(path.read_bytes()),
        "compress_lzma": lambda path: lzma.compress(path.read_bytes(), preset=1),
        "query_catalog": partial(query_catalog, catalog),
    }


def tokenize_python(path: Path) -> int:
    """How many tokens a Python file has. Raises tokenize.TokenError or SyntaxError."""
    return sum(1 for _ in tokenize.tokenize(io.BytesIO(path.read_bytes()).readline))


def parse_csv(path: Path) -> list[list[str]]:
    """The rows of a CSV file. Raises csv.Error when they are not all of one width."""
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"), newline=""), strict=True))
    if len({len(row) for row in rows}) > 1:
        raise csv.Error("its rows have different numbers of columns")
    return rows


def parse_ini(path: Path) -> configparser.ConfigParser:
    """A configuration file. Raises configparser.Error."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read_string(path.read_text("utf-8"))
    return parser


def read_metadata(path: Path) -> tuple[str, str]:
    """Name and version of an installed package. Raises KeyError when the file does not say."""
    message = email.parser.BytesParser().parsebytes(path.read_bytes())
    found = dict(message.items())
    return found["Name"], found["Version"]


def extract_html_text(path: Path) -> str:
    """What a reader of an HTML file sees."""
    reader = _HtmlReader()
    reader.feed(path.read_text("utf-8"))
    reader.close()
    return "".join(reader.texts)


class _HtmlReader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def load_bytecode(path: Path) -> tuple[str, ...]:
    """The names that a compiled module uses. Raises ImportError when it is not this Python's."""
    data = path.read_bytes()
    if not data.startswith(importlib.util.MAGIC_NUMBER):
        raise ImportError("not a compiled module of this Python")
    names: tuple[str, ...] = marshal.loads(data[_PYC_HEADER_BYTES:]).co_names  # noqa: S302 - what this Python imports
    return names


def write_catalog(catalog: Path, files: Iterable[tuple[Path, int]]) -> None:
    """A database of files, given with their bytes: one table for each kind of text, with folder, name and bytes."""
    by_suffix: dict[str, list[tuple[str, str, int]]] = {suffix: [] for suffix in _TABLES}
    for path, size in files:
        by_suffix.get(path.suffix, []).append((str(path.parent), path.name, size))
    with sqlite3.connect(catalog) as db:
        for suffix, rows in by_suffix.items():
            db.execute(f'CREATE TABLE "{suffix}" (folder TEXT, name TEXT, bytes INTEGER)')
            db.executemany(f'INSERT INTO "{suffix}" VALUES (?, ?, ?)', rows)  # noqa: S608 - one of _TABLES
    db.close()


def query_catalog(catalog: Path, path: Path) -> list[tuple[str, int]]:
    """The largest files beside this one, of its kind. Raises sqlite3.OperationalError: not every kind has a table."""
    db = sqlite3.connect(catalog)
    try:
        table = path.suffix.replace('"', '""')
        query = f'SELECT name, bytes FROM "{table}" WHERE folder = ? ORDER BY bytes DESC LIMIT 10'  # noqa: S608
        return db.execute(query, (str(path.parent),)).fetchall()
    finally:
        db.close()
