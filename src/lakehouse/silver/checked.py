"""Bronze rows, each checked against its contract: flagged, not dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from lakehouse.bronze.landed import COLUMNS
from lakehouse.contracts import Contract
from lakehouse.quality.checks import Checked, checker
from lakehouse.tables import columns

FLAGS = columns("_identity string, _reasons array<string>, _warnings array<string>")
"""Identity within the topic (null: topic/partition/offset names it), errors (null: valid) and warnings (null: none)."""

Extra = tuple[tuple[str, ...], Callable[[Checked], tuple[Any, ...]]]


def checked(bronze: DataFrame, contract: Contract, shape: T.StructType, row: Callable[[Checked], list[Any]]) -> DataFrame:
    """Bronze rows -> the same rows with ``shape``'s columns (by ``row``, null where invalid) and :data:`FLAGS`.

    One pass of Arrow batches through Python workers; bytes pass through untouched.
    """
    out = T.StructType([*COLUMNS.fields, *shape.fields, *FLAGS.fields])
    arrow = to_arrow_schema(out)
    kinds = [arrow.field(name).type for name in shape.names]
    nothing = [None] * len(kinds)

    def check(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        judge = checker(contract)
        for batch in batches:
            values = batch.column("value").to_pylist()
            arrivals = batch.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
            results = [judge(value, arrival) for value, arrival in zip(values, arrivals, strict=True)]
            rows = [nothing if r.reasons else row(r) for r in results]
            cells = [
                pa.array(column, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(column, kind)
                for column, kind in zip(zip(*rows, strict=True) if rows else [()] * len(kinds), kinds, strict=True)
            ]
            flags = [
                pa.array([r.identity for r in results], pa.string()),
                pa.array([r.reasons for r in results], pa.list_(pa.string())),
                pa.array([r.warnings for r in results], pa.list_(pa.string())),
            ]
            kept = [batch.column(name).cast(arrow.field(name).type) for name in COLUMNS.names]
            yield pa.RecordBatch.from_arrays([*kept, *cells, *flags], schema=arrow)

    return bronze.select(*COLUMNS.names).mapInArrow(check, out)
