"""Days to which nothing is added any more: their small files become few large ones, sorted and strongly compressed.

Rows only move between files (``dataChange`` false), beside the running stream. delta-rs's own OPTIMIZE chooses files by
size alone, so it would take the open day's too, and does not sort; hence DuckDB sorts, on disk where memory ends, and
the commit is the stream's own (``sinks/delta.py``), which is exclusive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset

from lakehouse.flows import FLOWS
from lakehouse.ops import access_log, promotions
from lakehouse.runtime.compaction import CLOSED
from lakehouse.runtime.ledger import LEDGER
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import CommitConflict, DataFile, DeltaWriter, statistics
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

APPENDED: dict[str, Table] = {
    table.name: table
    for table in (
        *(table for flow in FLOWS for table in (flow.bronze, flow.silver)),
        quarantine.TABLE, LEDGER, access_log.TABLE, promotions.TABLE,
    )
}  # fmt: skip
"""The append-only tables that are kept."""
LEFT = {
    "_internal.": "its rows are taken out after stream.time_travel",
    "gold.": "whoever writes it replaces its files as a whole, and the stream remembers them",
}
"""Why tables are left alone, by the beginning of their names."""
ARRIVED = ("timestamp", "committed_at", "at", "decided_at")
"""The column that says when a row came into its table, the first that there is."""
TARGET_BYTES = 256 << 20
BATCH = 100_000
LEVEL = 9
"""Of zstd: above it, files get hardly smaller, and writing takes far longer."""
MEMORY = "1GB"


class MovedRows(Exception):
    """Rewritten files hold another number of rows than those they replace; nothing was committed."""


@dataclass(frozen=True)
class File:
    """A live file of a table: the time its newest row came, where that is known."""

    path: str
    size: int
    rows: int
    newest: datetime | None


def live(lake: Lake, table: Table, version: int) -> list[File]:
    """The files of a version."""
    column = next(name for name in ARRIVED if name in table.order)
    actions = pa.table(lake.table(table.name, version).get_add_actions(flatten=True)).to_pylist()
    return [File(a["path"], a["size_bytes"], a["num_records"], _utc(a.get(f"max.{column}"))) for a in actions]


def _utc(at: Any) -> datetime | None:
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    if not isinstance(at, datetime):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def closed_days(files: Iterable[File], today: date) -> dict[date, list[File]]:
    """By day that is over, the files that are to become one or few; what is as it should be is left out.

    A file belongs to the day of its newest row. Statistics are cut to milliseconds upwards, so midnight's last may
    count as the next day's: it is then done a day later.
    """
    days: dict[date, list[File]] = defaultdict(list)
    for file in files:
        if file.newest is not None and file.newest.astimezone(UTC).date() < today:
            days[file.newest.astimezone(UTC).date()].append(file)
    found = {}
    for day, there in sorted(days.items()):
        group = [file for file in there if CLOSED not in file.path or file.size < TARGET_BYTES // 2]
        if any(CLOSED not in file.path for file in group):
            found[day] = group
    return found


def rewrite(lake: Lake, writer: DeltaWriter, group: list[File], scratch: Path) -> list[DataFile]:
    """Move all rows of a group of files into few large ones, sorted as the table's ``order``; the new ones.

    Raises:
        CommitConflict: another writer took one of the files out meanwhile.
        MovedRows: what was read back does not add up.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    whole = pruned_dataset(lake.table(writer.table.name, writer.version))
    wanted = {file.path for file in group}
    parts = [one for one in whole.get_fragments() if one.path.rsplit("/", 1)[-1] in wanted]
    if len(parts) < len(group):
        raise CommitConflict(f"{writer.table.name}: another writer took {len(group) - len(parts)} files out")
    rows = dataset.FileSystemDataset(parts, whole.schema, parts[0].format, parts[0].filesystem)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'; set preserve_insertion_order = false; set threads = 1")
        connection.execute(f"set memory_limit = '{MEMORY}'; set temp_directory = '{scratch / 'sort'}'")
        connection.register("rows", rows)
        order = ", ".join(f'"{name}"' for name in writer.table.order)
        reader: Any = connection.sql(f"select * from rows order by {order}").to_arrow_reader(BATCH)
        made = [_put(writer, path) for path in _files(reader, writer.table, scratch)]
    if sum(file.rows for file in made) != sum(file.rows for file in group):
        raise MovedRows(f"{writer.table.name}: {len(group)} files hold other rows than their log says; not compacted")
    writer.commit(made, [(file.path, file.size) for file in group], operation="OPTIMIZE", data_change=False)
    return made


def _files(batches: Iterable[pa.RecordBatch], table: Table, scratch: Path) -> Iterator[Path]:
    """Sorted rows -> local Parquet files of about :data:`TARGET_BYTES`."""
    path, writer = scratch, None
    for batch in batches:
        if writer is None:
            path = scratch / f"part-{uuid4().hex}{CLOSED}parquet"
            writer = pq.ParquetWriter(
                path, table.arrow, compression="zstd", compression_level=LEVEL, store_schema=False
            )
        writer.write_table(pa.Table.from_batches([batch]).select(table.schema.names).cast(table.arrow))
        if path.stat().st_size >= TARGET_BYTES:
            writer.close()
            yield path
            writer = None
    if writer is not None:
        writer.close()
        yield path


def _put(writer: DeltaWriter, local: Path) -> DataFile:
    stats = statistics(pq.read_table(local, columns=list(writer.table.order)), writer.table.order)
    size = local.stat().st_size
    writer.storage.put(local, f"{writer.uri}/{local.name}")
    return DataFile(local.name, size, stats["numRecords"], stats)
