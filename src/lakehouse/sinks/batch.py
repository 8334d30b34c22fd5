"""Tables that jobs write, by delta-rs: no Spark, about a second a commit on HDFS.

Guarantee: each function is one atomic commit. :func:`replace` and :func:`upsert` of the same rows again change nothing;
:func:`append` twice appends twice.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

_ATTEMPTS = CommitProperties(max_commit_retries=10)


def append(settings: Settings, table: Table, rows: pa.Table) -> int:
    """Add rows; the table's version after it."""
    handle = _opened(settings, table)
    write_deltalake(handle, rows.select(table.schema.names).cast(table.arrow), mode="append")
    return _version(handle)


def replace(settings: Settings, table: Table, rows: pa.Table) -> int:
    """Let the table hold exactly these rows; its version after it."""
    handle = _opened(settings, table)
    write_deltalake(handle, rows.select(table.schema.names).cast(table.arrow), mode="overwrite")
    return _version(handle)


def upsert(settings: Settings, table: Table, rows: pa.Table) -> int:
    """Let these rows be those of their keys; the table's version after it.

    The span that the rows have of the table's first ordering column bounds what is read.
    """
    handle = _opened(settings, table)
    source = rows.select(table.schema.names).cast(table.arrow)
    if not source.num_rows:
        return _version(handle)
    on = [f"t.{name} = s.{name}" for name in table.key]
    span = next((name for name in table.order if name in table.key and pa.types.is_timestamp(source[name].type)), None)
    if span:
        low, high = pc.min_max(source[span]).as_py().values()
        on.append(f"t.{span} between timestamp '{low.isoformat()}' and timestamp '{high.isoformat()}'")
    (
        handle.merge(source, " and ".join(on), source_alias="s", target_alias="t", commit_properties=_ATTEMPTS)
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )
    return _version(handle)


def _opened(settings: Settings, table: Table) -> DeltaTable:
    return Lake(settings).table(table.name)


def _version(handle: DeltaTable) -> int:
    handle.update_incremental()
    return int(handle.version())
