"""Bronze rows, each checked against its contract: flagged, not dropped."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from zipimport import zipimporter

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import PythonEvalType, pandas_udf
from pyspark.sql.pandas.types import to_arrow_schema

from lakehouse.bronze.landed import COLUMNS
from lakehouse.contracts import Contract
from lakehouse.quality.checks import Checked, checker
from lakehouse.tables import columns

FLAGS = columns("_identity string, _reasons array<string>, _warnings array<string>")
"""Identity within the topic (null: topic/partition/offset names it), errors (null: valid) and warnings (null: none)."""

_KEPT = to_arrow_schema(COLUMNS)


@dataclass(frozen=True)
class Parser:
    """How a topic's records become columns: by which contract, of which shape, from one checked record."""

    contract: Contract
    shape: T.StructType
    row: Callable[[Checked, Contract], list[Any]]


def _judged(batch: pa.RecordBatch, parser: Parser, judge: Callable[[bytes | None, int], Checked]) -> list[pa.Array]:
    """The arrays of the shape's columns and of :data:`FLAGS` for a batch of bronze rows."""
    values = batch.column("value").to_pylist()
    arrivals = batch.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    results = [judge(value, arrival) for value, arrival in zip(values, arrivals, strict=True)]
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
    schema = _KEPT
    return [batch.column(name).cast(schema.field(name).type) for name in COLUMNS.names]


def checked(bronze: DataFrame, parser: Parser) -> DataFrame:
    """Bronze rows of one topic -> the same rows with the shape's columns (null where invalid) and :data:`FLAGS`.

    One pass of Arrow batches through Python workers; bytes pass through untouched.
    """
    out = T.StructType([*COLUMNS.fields, *parser.shape.fields, *FLAGS.fields])

    def check(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        forget_archives()
        schema, judge = to_arrow_schema(out), checker(parser.contract)
        for batch in batches:
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
def _unpacked(packed: bytes) -> tuple[dict[str, Parser], dict[str, Callable[[bytes | None, int], Checked]], pa.Schema]:
    """Parsers, their checks and the result's schema: once a worker, not once a task."""
    parsers: dict[str, Parser] = pickle.loads(packed)
    return parsers, {t: checker(p.contract) for t, p in parsers.items()}, to_arrow_schema(_together(parsers))


def _together(parsers: dict[str, Parser]) -> T.StructType:
    structs = [T.StructField(topic, parser.shape) for topic, parser in parsers.items()]
    return T.StructType([*COLUMNS.fields, *structs, *FLAGS.fields])


class CheckedTogether:
    """Bronze rows of several topics -> the same rows, one struct column a topic and :data:`FLAGS`, in one job.

    The struct is named as the topic; :func:`of_topic` takes a topic's rows out again. It is ``mapInArrow`` with a
    function that is made once, for any number of batches: to pickle and register it anew took longer than a small
    batch's records.
    """

    def __init__(self, parsers: dict[str, Parser]):
        packed = pickle.dumps(parsers)

        def check(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            forget_archives()
            parsers, judges, schema = _unpacked(packed)
            for batch in batches:
                for topic in pc.unique(batch.column("topic")).to_pylist():
                    part = batch.filter(pc.equal(batch.column("topic"), topic))
                    arrays = _judged(part, parsers[topic], judges[topic])
                    own_type = schema.field(topic).type
                    fields = list(own_type)
                    own = pa.StructArray.from_arrays(arrays[: len(fields)], fields=fields)
                    others = [own if t == topic else pa.nulls(part.num_rows, schema.field(t).type) for t in parsers]
                    yield pa.RecordBatch.from_arrays([*_kept(part), *others, *arrays[len(fields) :]], schema=schema)

        function: Any = pandas_udf(check, _together(parsers), PythonEvalType.SQL_MAP_ARROW_ITER_UDF)  # type: ignore[call-overload]
        self._expression = function(*COLUMNS.names)._jc.expr()

    def __call__(self, bronze: DataFrame) -> DataFrame:
        """Check bronze rows, whose columns are :data:`COLUMNS`."""
        return DataFrame(bronze._jdf.pythonMapInArrow(self._expression, False), bronze.sparkSession)


def of_topic(together: pa.Table, topic: str, parser: Parser) -> pa.Table:
    """One topic's rows of :class:`CheckedTogether`, in the shape of :func:`checked`."""
    rows = together.filter(pc.equal(together.column("topic"), topic)).combine_chunks()
    struct = rows.column(topic)
    names = parser.shape.names
    cells = [
        pa.chunked_array([chunk.field(i) for chunk in struct.chunks], struct.type.field(i).type)
        for i in range(len(names))
    ]
    kept = [*COLUMNS.names, *FLAGS.names]
    # metrics have a "value" of their own only after their samples become rows, so names don't collide here
    return pa.table([*[rows.column(n) for n in kept], *cells], names=[*kept, *names])
