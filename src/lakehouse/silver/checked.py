"""Bronze rows, each checked against its contract: flagged, not dropped."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipimport import zipimporter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import PythonEvalType, pandas_udf
from pyspark.sql.pandas.types import to_arrow_schema

from lakehouse.bronze.landed import COLUMNS
from lakehouse.contracts import Contract
from lakehouse.erasure.identifiers import Erased
from lakehouse.quality.checks import Checked, checker
from lakehouse.tables import columns

GONE = "erased"
"""The only reason of a record that names somebody who was erased; its key, value and headers are gone."""
FLAGS = columns("_identity string, _reasons array<string>, _warnings array<string>")
"""Identity within the topic (null: topic/partition/offset names it), errors (null: valid) and warnings (null: none)."""

_KEPT = to_arrow_schema(COLUMNS)
_FILES = pa.schema([("topic", pa.string()), ("file", pa.string())])


@dataclass(frozen=True)
class Parser:
    """How a topic's records become columns: by which contract, of which shape, from one checked record."""

    contract: Contract
    shape: T.StructType
    row: Callable[[Checked, Contract], list[Any]]
    erased: Erased | None = None
    """Whom no record may name; such records go no further."""


def _judged(batch: pa.RecordBatch, parser: Parser, judge: Callable[[bytes | None, int], Checked]) -> list[pa.Array]:
    """The arrays of the shape's columns and of :data:`FLAGS` for a batch of bronze rows."""
    values = batch.column("value").to_pylist()
    arrivals = batch.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    gone = pc.is_valid(batch.column("erased_at")).to_pylist()
    results = [
        Checked({}, reasons=[GONE]) if left_out else judge(value, arrival)
        for value, arrival, left_out in zip(values, arrivals, gone, strict=True)
    ]
    kinds = to_arrow_schema(parser.shape).types
    nothing = [None] * len(kinds)
    rows = [nothing if r.reasons else parser.row(r, parser.contract) for r in results]
    cells = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return [
        *(
            pa.array(column, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(column, kind)
            for column, kind in zip(cells, kinds, strict=True)
        ),
        pa.array([r.identity for r in results], pa.string()),
        pa.array([r.reasons for r in results], pa.list_(pa.string())),
        pa.array([r.warnings for r in results], pa.list_(pa.string())),
    ]


def _kept(batch: pa.RecordBatch) -> list[pa.Array]:
    return [batch.column(name).cast(_KEPT.field(name).type) for name in COLUMNS.names]


def without(batch: pa.RecordBatch, erased: Erased | None) -> Any:
    """Bronze rows, those that name somebody who was erased without their key, value and headers."""
    if not erased:
        return batch
    keys, values = batch.column("key").to_pylist(), batch.column("value").to_pylist()
    headers = batch.column("headers").to_pylist()
    found = [erased.in_record(*record) for record in zip(keys, values, headers, strict=True)]
    return nulled(batch, np.array(found, dtype=bool), datetime.now(UTC))


def nulled(rows: Any, gone: NDArray[np.bool_], at: datetime) -> Any:
    """Rows (a table or a batch), some of them without key, value and headers; ``erased_at`` says since when."""
    if not gone.any():
        return rows
    mask = pa.array(gone)
    for name in ("key", "value", "headers"):
        kind = rows.schema.field(name).type
        column = rows.column(name)
        rows = rows.set_column(
            rows.schema.get_field_index(name), rows.schema.field(name), pc.if_else(mask, pa.scalar(None, kind), column)
        )
    place = rows.schema.get_field_index("erased_at")
    kind = rows.schema.field(place).type
    already = rows.column(place)
    stamped = pc.coalesce(already, pc.if_else(mask, pa.scalar(at, kind), pa.scalar(None, kind)))
    return rows.set_column(place, rows.schema.field(place), stamped)


def checked(bronze: DataFrame, parser: Parser) -> DataFrame:
    """Bronze rows of one topic -> the same rows with the shape's columns (null where invalid) and :data:`FLAGS`.

    One pass of Arrow batches through Python workers; bytes pass through untouched.
    """
    out = _shape(parser)

    def check(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        forget_archives()
        schema, judge = to_arrow_schema(out), checker(parser.contract)
        for batch in batches:
            batch = without(batch, parser.erased)
            yield pa.RecordBatch.from_arrays([*_kept(batch), *_judged(batch, parser, judge)], schema=schema)

    return bronze.selectExpr(*COLUMNS.names).mapInArrow(check, out)


def forget_archives() -> None:
    """Take zips and jars out of the import system's cache in a Spark worker; they are found again when needed.

    At the start of every task Spark calls ``importlib.invalidate_caches``, which reads anew the directory of each
    archive there, Spark's core jar among them with some ten thousand entries: longer than a small batch's records take.
    """
    for path, finder in [*sys.path_importer_cache.items()]:
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]


@cache
def _unpacked(packed: bytes) -> dict[str, tuple[Parser, Callable[[bytes | None, int], Checked], pa.Schema]]:
    """Each topic's parser, check, and schema of checked rows: once a worker, not once a task."""
    parsers: dict[str, Parser] = pickle.loads(packed)
    return {
        topic: (parser, checker(parser.contract), to_arrow_schema(_shape(parser))) for topic, parser in parsers.items()
    }


def _shape(parser: Parser) -> T.StructType:
    return T.StructType([*COLUMNS.fields, *parser.shape.fields, *FLAGS.fields])


class CheckedTogether:
    """Checks bronze rows of several topics in one Spark job, on the machine that wants them.

    Workers leave the checked rows as Arrow files in ``scratch`` and tell their names: to bring them through the JVM,
    row by row and back, took longer than to check them. It is ``mapInArrow`` with a function that is made once, for
    any number of batches: to pickle and register it anew took longer than a small batch's records.
    """

    def __init__(self, parsers: dict[str, Parser], scratch: Path):
        packed, folder = pickle.dumps(parsers), str(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)

        def check(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            forget_archives()
            names: dict[str, str] = {}
            with ExitStack() as open_files:
                writers: dict[str, pa.RecordBatchFileWriter] = {}
                for batch in batches:
                    for topic in pc.unique(batch.column("topic")).to_pylist():
                        parser, judge, schema = _unpacked(packed)[topic]
                        if topic not in writers:
                            names[topic] = f"{folder}/{uuid4().hex}.arrow"
                            writers[topic] = open_files.enter_context(pa.ipc.new_file(names[topic], schema))
                        part = batch.filter(pc.equal(batch.column("topic"), topic))
                        part = without(part, parser.erased)
                        arrays = [*_kept(part), *_judged(part, parser, judge)]
                        writers[topic].write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            yield pa.RecordBatch.from_pydict({"topic": [*names], "file": [*names.values()]}, schema=_FILES)

        function: Any = pandas_udf(check, "topic string, file string", PythonEvalType.SQL_MAP_ARROW_ITER_UDF)  # type: ignore[call-overload]
        self._expression = function(*COLUMNS.names)._jc.expr()

    def __call__(self, bronze: DataFrame) -> dict[str, pa.Table]:
        """Rows whose columns are :data:`COLUMNS` -> each present topic's, in the shape of :func:`checked`."""
        done = DataFrame(bronze._jdf.pythonMapInArrow(self._expression, False), bronze.sparkSession)
        parts: dict[str, list[pa.Table]] = {}
        for topic, file in done.collect():
            parts.setdefault(topic, []).append(pa.ipc.open_file(pa.memory_map(file)).read_all())
            os.unlink(file)
        return {topic: pa.concat_tables(tables) for topic, tables in parts.items()}
