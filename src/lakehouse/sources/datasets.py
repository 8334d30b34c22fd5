"""A Delta table as an Arrow dataset whose files are skipped by their statistics, and by nothing else.

``DeltaTable.to_pyarrow_dataset`` takes a column without statistics for one whose bounds are null, which no comparison
satisfies: ``topic = 'x'`` finds nothing where a writer recorded no bounds of ``topic`` (delta-rs 1.6.6). It also takes
a timestamp's upper bound as exact, which the protocol cuts to milliseconds. Here the bounds are built anew.

Files that delta-rs wrote for a merge or an update hold strings as Arrow's views, which Arrow reads, but compares with
nothing (25.0): a filter on them fails. Of tables that it rewrites, strings are therefore read as dictionaries;
elsewhere that would cost the statistics inside files, and time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import date, datetime, timedelta
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyarrow import dataset

Result = TypeVar("Result")
MILLISECOND = timedelta(milliseconds=1)
EXACT_STRING = 32
"""Delta's writers cut the bounds of strings of this length and more."""
REWRITTEN = ("gold/anomalies", "gold/forecasts", "ops/access_log", "silver/quarantine")
"""The tables of ``sinks.batch.upsert``, which asks for it, and that of ``quality.quarantine.mark``."""


def pruned_dataset(table: DeltaTable) -> dataset.Dataset:
    """The rows of a table without partition columns; a filter skips the files whose recorded bounds rule it out."""
    whole = table.to_pyarrow_dataset()
    facts = pa.table(table.get_add_actions(flatten=True))
    bounded = [n for n in whole.schema.names if f"min.{n}" in facts.column_names and f"max.{n}" in facts.column_names]
    files = facts.select(["path", *(f"{side}.{name}" for name in bounded for side in ("min", "max"))]).to_pylist()
    by_path = {unquote(file["path"]): file for file in files}
    form = _dictionaries(whole.schema) if table.table_uri.rstrip("/").endswith(REWRITTEN) else None
    fragments = [
        (form or fragment.format).make_fragment(
            fragment.path,
            filesystem=fragment.filesystem,
            partition_expression=_bounds(by_path.get(unquote(fragment.path), {}), bounded, whole.schema),
        )
        for fragment in whole.get_fragments()
    ]
    if not fragments:
        return whole
    return dataset.FileSystemDataset(fragments, whole.schema, fragments[0].format, fragments[0].filesystem)


def _dictionaries(schema: pa.Schema) -> dataset.ParquetFileFormat:
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    return dataset.ParquetFileFormat(read_options=dataset.ParquetReadOptions(dictionary_columns=strings))


def _bounds(file: dict[str, Any], names: list[str], schema: pa.Schema) -> pc.Expression | None:
    """What holds for every row of a file; None where nothing is known."""
    known = None
    for name in names:
        low, high = file.get(f"min.{name}"), file.get(f"max.{name}")
        if not (_exact(low) and _exact(high)):
            continue
        if isinstance(high, datetime):
            high += MILLISECOND
        field, kind = pc.field(name), schema.field(name).type
        # Arrow understands a bound or null, but not both bounds at once or null.
        for bound in (field >= pa.scalar(low, kind), field <= pa.scalar(high, kind)):
            holds = bound | field.is_null()
            known = holds if known is None else known & holds
    return known


def _exact(bound: Any) -> bool:
    if isinstance(bound, str):
        return len(bound) < EXACT_STRING
    return isinstance(bound, int | datetime | date)


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What a call returns, or raises; called once more if it takes longer.

    On ``hdfs://`` delta-rs 1.6.6 was seen to wait for ever for an answer while opening a table on a machine without an
    idle processor; another attempt, in a process of its own, was answered at once. The cause is not known.
    """
    for _ in range(2):
        answer: Future[Result] = Future()
        Thread(target=_answer, args=(answer, call), daemon=True).start()
        if wait([answer], timeout=seconds).done:
            return answer.result()
    raise TimeoutError(f"no answer within {2 * seconds:.0f} s")


def _answer(answer: Future[Result], call: Callable[[], Result]) -> None:
    try:
        answer.set_result(call())
    except Exception as error:
        answer.set_exception(error)
