"""Searching the files that are no tables: models' artefacts, reports, spools, indexes, logs."""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

from lakehouse.erasure.identifiers import Wanted
from lakehouse.settings import Settings

SKIPPED = ("jars", "data", "build", "conf", "supervisor", "secrets", "service-logs", "erasures", "writer.lock")
"""Of the home: programs, the servers' own files (searched through the servers), and what is the service's, not ours."""
SIMULATED = ("simulation-truth.json", "bench-truth.json")
"""What the simulation knows of the people it made up."""


def local(settings: Settings, wanted: Wanted) -> Iterator[Path]:
    """Files under the home that name somebody."""
    if not settings.home.is_dir():
        return
    for top in sorted(settings.home.iterdir()):
        if top.name in SKIPPED or top.name in SIMULATED:
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not path.is_symlink():
                try:
                    if in_file(wanted, path.name, path.read_bytes()):
                        yield path
                except FileNotFoundError:
                    continue  # its program has taken it away meanwhile


def on_lake(settings: Settings, wanted: Wanted) -> Iterator[str]:
    """Files under the lake's root, beside its tables, that name somebody: reports, checkpoints."""
    handler = fs.PyFileSystem(DeltaStorageHandler(settings.root))
    for info in handler.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True)):
        parts = info.path.split("/")
        if info.type != fs.FileType.File or parts[0] in ("bronze", "silver", "gold", "ops", "_internal"):
            continue
        with handler.open_input_file(info.path) as file:
            if in_file(wanted, parts[-1], file.read()):
                yield info.path


def delete_on_lake(settings: Settings, path: str) -> None:
    """Delete one of them."""
    fs.PyFileSystem(DeltaStorageHandler(settings.root)).delete_file(path)


def in_file(wanted: Wanted, name: str, data: bytes) -> bool:
    """Whether a file's content names somebody; what it is follows from its first bytes."""
    if not data:
        return False
    if data[:6] == b"\x93NUMPY":
        return _in_array(wanted, np.load(BytesIO(data), allow_pickle=False))
    if data[:4] == b"PAR1":
        return bool(wanted.in_rows(pq.read_table(BytesIO(data))).any())
    if data[:15] == b"SQLite format 3":
        return _in_database(wanted, data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return any(in_file(wanted, part, archive.read(part)) for part in archive.namelist())
    return any(wanted.in_bytes(line) for line in ([data] if data[:1] in b"{[" else data.splitlines()))


def _in_array(wanted: Wanted, array: Any) -> bool:
    return array.dtype.kind in "US" and any(
        wanted.in_text(value.decode(errors="replace") if isinstance(value, bytes) else value)
        for value in array.ravel().tolist()
    )


def _in_database(wanted: Wanted, data: bytes) -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        # A database that keeps a write-ahead log says so in its header, and can't be opened from memory then; the log
        # is a file of its own (https://sqlite.org/fileformat.html, 1.3.3).
        connection.deserialize(data[:18] + b"\1\1" + data[20:])
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        return any(wanted.in_strings(row) for table in tables for row in connection.execute(f'select * from "{table}"'))
    finally:
        connection.close()
