"""Tables that jobs write, by delta-rs: no Spark, about a second a commit on HDFS.

Guarantee: each function is one atomic commit. :func:`upsert` of the same rows again changes nothing, :func:`append`
appends them again.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, write_deltalake

from lakehouse.settings import Settings
from lakehouse.sources.datasets import REWRITTEN
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

_ATTEMPTS = CommitProperties(max_commit_retries=10)


def append(settings: Settings, table: Table, rows: pa.Table) -> None:
    """Add rows."""
    handle = Lake(settings).table(table.name)
    write_deltalake(handle, rows.select(table.schema.names).cast(table.arrow), mode="append")


def upsert(settings: Settings, table: Table, rows: pa.Table) -> None:
    """Let these rows be those of their keys.

    The span that the rows have of the table's first ordering column bounds what is read.

    Raises:
        ValueError: the table is not one that readers expect to be merged into.
    """
    if table.name.replace(".", "/") not in REWRITTEN:
        raise ValueError(f"{table.name} is merged into: name it in sources.datasets.REWRITTEN, or filters on it fail")
    source = rows.select(table.schema.names).cast(table.arrow)
    if not source.num_rows:
        return
    on = [f"t.{name} = s.{name}" for name in table.key]
    span = next((name for name in table.order if name in table.key and pa.types.is_timestamp(source[name].type)), None)
    if span:
        low, high = pc.min_max(source[span]).as_py().values()
        on.append(f"t.{span} between timestamp '{low.isoformat()}' and timestamp '{high.isoformat()}'")
    handle = Lake(settings).table(table.name)
    (
        handle.merge(source, " and ".join(on), source_alias="s", target_alias="t", commit_properties=_ATTEMPTS)
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )
