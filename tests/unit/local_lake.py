"""A small lake on the local disk, written with delta-rs; shared by the tests of what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from lakehouse.flows import TABLES
from lakehouse.settings import Hdfs, Settings


def local_lake(folder: Path) -> Settings:
    """Settings whose lake lies in a folder; no server is there."""
    return Settings(home=folder / "home", hdfs=Hdfs(uri=f"file://{folder}", root="lake"), servers="existing")


def write(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to a table; columns left out are null."""
    schema = TABLES[name].arrow
    full = [{column: row.get(column) for column in schema.names} for row in rows]
    folder = Path(settings.table_uri(name).removeprefix("file://"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(folder), pa.Table.from_pylist(full, schema=schema), mode="append")
