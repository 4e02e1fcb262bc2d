"""Formats: rows to and from CSV, JSON lines and Parquet.

CSV holds values as they are. A spreadsheet program takes a cell that begins with = + - or @ for a formula: import such
a file there as text. An absent value is an empty cell; no event has an empty text.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, AnyStr, Final, Generic, Protocol, TypedDict

import msgspec

from ..errors import DaemonError, MissingExtra
from .rows import COLUMNS, NEEDED

FORMATS: Final = ("csv", "jsonl", "parquet")
PIECE: Final = 10_000  # rows of a Parquet file read in one go
MAX_ROW: Final = 1024 * 1024
"""Characters of CSV, bytes of JSON lines: more than any event has, however it is escaped, and little in memory."""

Row = tuple[Any, ...]


class Unreadable(DaemonError):
    """A file is not in the format that its name or an option says."""


class Writer(Protocol):
    """Writes rows to an open file."""

    def write(self, rows: Iterable[Row]) -> None:
        """Rows of COLUMNS."""

    def finish(self) -> None:
        """No more will come. The file stays open."""


def format_of(path: Path) -> str | None:
    """The format that a file's name says, or None."""
    suffix = path.suffix.lower().removeprefix(".")
    return suffix if suffix in FORMATS else None


def writer(kind: str, file: IO[bytes]) -> Writer:
    """A writer of a format. Raises MissingExtra."""
    makers: dict[str, type[Any]] = {"csv": _Csv, "jsonl": _JsonLines, "parquet": _Parquet}
    made: Writer = makers[kind](file)
    return made


def read(kind: str, path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file. Raises Unreadable, MissingExtra or OSError."""
    return {"csv": _read_csv, "jsonl": _read_json_lines, "parquet": _read_parquet}[kind](path)


class _Csv:
    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text)
        self._writer.writerow(COLUMNS)

    def write(self, rows: Iterable[Row]) -> None:
        self._writer.writerows(rows)

    def finish(self) -> None:
        self._text.detach()


class _JsonLines:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode_lines

    def write(self, rows: Iterable[Row]) -> None:
        self._file.write(self._encode([_json_row(row) for row in rows]))

    def finish(self) -> None:
        pass


class _Parquet:
    def __init__(self, file: IO[bytes]) -> None:
        self._arrow, parquet = _pyarrow()
        types = {"recorded_at": "int64", "success": "bool", "latency_ms": "double", "rating": "int8", "score": "double"}
        aliases = [(name, self._arrow.type_for_alias(types.get(name, "string"))) for name in COLUMNS]
        self._schema = self._arrow.schema(aliases)
        self._writer = parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Iterable[Row]) -> None:
        columns = [list(column) for column in zip(*rows, strict=True)]
        if columns:
            at = COLUMNS.index("success")
            columns[at] = [None if value is None else bool(value) for value in columns[at]]
            self._writer.write_batch(self._arrow.record_batch(columns, schema=self._schema))

    def finish(self) -> None:
        self._writer.close()


def _json_row(row: Row) -> dict[str, Any]:
    named = dict(zip(COLUMNS, row, strict=True))
    if named["attributes"] is not None:
        one_line = (
            named["attributes"].replace("\r", " ").replace("\n", " ")
        )  # between values: in a text they are escaped
        named["attributes"] = msgspec.Raw(one_line.encode())
    return named


def _read_csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            lines = _Lines(path, file)
            reader = csv.DictReader(lines, strict=True)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise Unreadable(f"{path} has no column {', '.join(missing)} in its first line")
            lines.begin_row()
            for row in reader:
                if None in row or None in row.values():
                    raise Unreadable(f"{path}, line {reader.line_num}: not as many cells as the first line")
                yield row
                lines.begin_row()
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unreadable(f"{path} is no CSV in UTF-8: {error}") from error


def _read_json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    decode = msgspec.json.Decoder(_JsonRow).decode
    with path.open("rb") as file:
        lines = _Lines(path, file)
        for line in lines:
            if line.strip():
                try:
                    yield decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise Unreadable(f"{path}, line {lines.number}: no JSON object: {error}") from error
            lines.begin_row()


class _JsonRow(TypedDict, total=False):
    """A line's object: COLUMNS. The attributes stay the text that they are: numbers keep their digits."""

    event_id: Any
    recorded_at: Any
    kind: Any
    skill_id: Any
    user_id: Any
    org_id: Any
    success: Any
    latency_ms: Any
    rating: Any
    score: Any
    error_type: Any
    skill_version: Any
    attributes: msgspec.Raw


class _Lines(Generic[AnyStr]):
    """A file's lines. Raises Unreadable when a row is longer than any can be, which would go into the memory whole."""

    def __init__(self, path: Path, file: IO[AnyStr]) -> None:
        self.number = 0
        self._path = path
        self._read: Callable[[int], AnyStr] = file.readline
        self._row = 0

    def __iter__(self) -> Iterator[AnyStr]:
        return self

    def __next__(self) -> AnyStr:
        line = self._read(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._row += len(line)
        if self._row > MAX_ROW:
            raise Unreadable(f"{self._path}, line {self.number}: longer than {MAX_ROW:,}, which no event is")
        return line

    def begin_row(self) -> None:
        """What comes is another row."""
        self._row = 0


def _read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            missing = [name for name in NEEDED if name not in file.schema_arrow.names]
            if missing:
                raise Unreadable(f"{path} has no column {', '.join(missing)}")
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=PIECE, columns=columns):
                yield from batch.to_pylist()
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of a damaged page it has no number
        raise Unreadable(f"{path} is no Parquet file, or damaged: {error}") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtra("Parquet needs pyarrow: pip install 'skillmeter[parquet]'") from error
    return pyarrow, parquet
