"""W&B's own library, offline: what was logged is read back from the file that it writes."""

import contextlib
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillmeterd.sinks import wandb
from skillmeterd.sinks.wandb import Wandb

from ..otlp_receiver import Database
from .programs import pypi

BLOCK_BYTES = 32 * 1024
HEAD_BYTES = 7

HISTORY = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record

data = sys.stdin.buffer.read()
while data:
    size, data = int.from_bytes(data[:4], "little"), data[4:]
    record, data = Record.FromString(data[:size]), data[size:]
    if record.WhichOneof("record_type") == "history":
        items = record.history.item
        print(json.dumps({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}))
"""


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log, 32 KiB blocks of chunks with CRC, length and type."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEAD_BYTES, b""
    while at < len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEAD_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        crc, size, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + HEAD_BYTES : at + HEAD_BYTES + size]
        assert zlib.crc32(bytes([kind]) + piece) == crc
        at += HEAD_BYTES + size
        parts += piece
        if kind in (1, 4):  # full, or the last of several
            yield parts
            parts = b""


def history(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows in a .wandb file. Another process reads them: W&B's protobuf is not the one of this process."""
    framed = b"".join(len(record).to_bytes(4, "little") + record for record in records(path))
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", HISTORY], input=framed, env=env, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_rows_are_in_the_file_of_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no key and no network; `wandb sync` would send it."""
    folder = pypi("wandb")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    with contextlib.closing(Database(tmp_path)) as db:
        sink = wandb.create(db.source(WANDB_MODE="offline", WANDB_PROJECT="skills"))
        assert isinstance(sink, Wandb)
        sink.start()
        try:
            assert sink.push(), sink.status()["problem"]
            db.execute("parse_json", 3, ms=100.0)
            db.execute("parse_json", 1, ms=100.0, success=False)
            db.rate("parse_json", 4)
            db.health("parse_json", 75.0)
            assert sink.push(), sink.status()["problem"]
            db.execute("parse_json", 2)
        finally:
            sink.stop(60)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    *_, row, last = [row for row in history(file, folder) if "skill/parse_json/executions" in row]
    assert (row["skill/parse_json/executions"], row["skill/parse_json/success_rate"]) == (4, 0.75)
    assert (row["skill/parse_json/rating"], row["skill/parse_json/health_score"]) == (4, 75)
    assert row["skill/parse_json/latency_p99_ms"] == pytest.approx(100, rel=0.011)
    assert (last["skill/parse_json/executions"], last["executions_total"]) == (2, 6)
