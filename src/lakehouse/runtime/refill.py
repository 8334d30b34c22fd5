"""Parts of tables made again on one machine: windows of gold from silver, files without some of their rows.

Each is swapped in by one commit. Only for the one writer (``runtime/turns.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakehouse.gold import trending_posts
from lakehouse.gold.aggregate import Aggregate
from lakehouse.runtime.fold import Buckets
from lakehouse.sinks.delta import DataFile, DeltaWriter
from lakehouse.sources.lake import Lake

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
Span = tuple[datetime, datetime]
"""Half open."""


def windows_of(aggregate: Aggregate, silver: pa.Table) -> list[Span]:
    """The spans of time whose windows silver rows count in; one for each bucket of the table at most."""
    if not silver.num_rows:
        return []
    connection: Any = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.register("rows", silver.select(aggregate.inputs))
    key = aggregate.keys[aggregate.window][1]
    span = aggregate.bucket // timedelta(microseconds=1)
    found = connection.execute(
        f"select min(moment), max(moment) from (select cast({key} as timestamptz) as moment from rows "
        f"where {aggregate.where}) group by epoch_us(moment) // {span} order by 1"
    ).fetchall()
    return [(low.astimezone(UTC), high.astimezone(UTC) + aggregate.width) for low, high in found]


def windows_between(aggregate: Aggregate, low: datetime, high: datetime) -> list[Span]:
    """All windows that lie in a span of time, at least in part; one span for each bucket of the table."""
    low, high = _floor(low, aggregate.width), _floor(high + aggregate.width - _MICROSECOND, aggregate.width)
    found = []
    while low < high:
        end = min(_floor(low, aggregate.bucket) + aggregate.bucket, high)
        found.append((low, end))
        low = end
    return found


def unsealed(windows: list[Span], sealed: datetime | None) -> list[Span]:
    """Without what lies before the time up to which gold's windows stay as they are (``Cut.sealed``)."""
    return windows if sealed is None else [(max(low, sealed), high) for low, high in windows if high > sealed]


def recompute(lake: Lake, aggregate: Aggregate, windows: list[Span], version: int | None = None) -> pa.Table:
    """The rows of windows of a gold table, from silver at a version; ``windows`` begin and end with a window."""
    schema, data = aggregate.table.arrow, lake.dataset(aggregate.source, version)
    time, kind = pc.field(aggregate.source_time), data.schema.field(aggregate.source_time).type
    connection: Any = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    parts = [schema.empty_table()]
    for low, high in windows:
        here = (time >= pa.scalar(low, kind)) & (time < pa.scalar(high, kind))
        connection.register("source", data.to_table(columns=list(aggregate.inputs), filter=here))
        parts.append(
            connection.sql(aggregate.sql("source", "duckdb")).to_arrow_table().select(schema.names).cast(schema)
        )
    return pa.concat_tables(parts)


def within(aggregate: Aggregate, rows: pa.Table, windows: list[Span]) -> NDArray[np.bool_]:
    """Which rows of a gold table lie in windows."""
    times = pc.cast(pc.cast(rows.column(aggregate.window), pa.timestamp("us", "UTC")), pa.int64()).to_numpy()
    inside = np.zeros(rows.num_rows, dtype=bool)
    for low, high in windows:
        inside |= (times >= (low - _EPOCH) // _MICROSECOND) & (times < (high - _EPOCH) // _MICROSECOND)
    return inside


def replace(
    lake: Lake, writer: DeltaWriter, aggregate: Aggregate, windows: list[Span], new: pa.Table
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Swap the rows of windows of a gold table, in one commit; the rows that are new or different, those now gone."""
    buckets = Buckets(aggregate, lake, writer)
    edges = [edge for low, high in windows for edge in (low, high - _MICROSECOND)]
    numbers = buckets.numbers(pa.table({aggregate.window: pa.array(edges, pa.timestamp("us", "UTC"))})).to_pylist()
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    before, removes = buckets.rows({number for low, high in pairs for number in range(low, high + 1)})
    inside = within(aggregate, before, windows)
    order = [(key, "ascending") for key in aggregate.keys]
    after = pa.concat_tables([before.filter(pa.array(~inside)), new]).sort_by(order)
    belongs = buckets.numbers(after)
    files = [after.filter(pc.equal(belongs, number)) for number in pc.unique(belongs).to_pylist()]
    if files or removes:
        writer.commit([writer.stage(rows) for rows in files], removes, operation="REFILL")
    keys = list(aggregate.keys)
    was = {tuple(row[key] for key in keys): row for row in before.filter(pa.array(inside)).to_pylist()}
    now = {tuple(row[key] for key in keys): row for row in new.to_pylist()}
    changed = [row for key, row in now.items() if was.get(key) != row]
    return pa.Table.from_pylist(changed, schema=aggregate.table.arrow), [was[key] for key in was.keys() - now.keys()]


def refill(
    lake: Lake, writer: DeltaWriter, aggregate: Aggregate, windows: list[Span]
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Recompute windows of a gold table from silver as it is now; as :func:`replace`."""
    return replace(lake, writer, aggregate, windows, recompute(lake, aggregate, windows))


def _floor(at: datetime, width: timedelta) -> datetime:
    return _EPOCH + (at - _EPOCH) // width * width


Mask = Callable[[str, Any, pa.Schema], "NDArray[np.bool_] | None"]
Change = Callable[[pa.Table, "NDArray[np.bool_]"], pa.Table]


def rewrite(lake: Lake, writer: DeltaWriter, places: Mask, change: Change, more: pa.Table | None = None) -> pa.Table:
    """Write the files that hold certain rows again, in one commit; those rows, as they were.

    ``places``: (path, file, schema) -> which of its rows, None where that needs no look; ``change``: (rows, which) ->
    the rows to keep; ``more``: rows that come with them.
    """
    data = lake.dataset(writer.table.name, writer.version)
    sizes = dict(live_files(lake, writer))
    adds: list[DataFile] = []
    removes: list[tuple[str, int]] = []
    gone = [data.schema.empty_table()]
    for fragment in data.get_fragments():
        path = fragment.path.rsplit("/", 1)[-1]
        mask = places(path, fragment, data.schema)
        if mask is None or not mask.any():
            continue
        rows = fragment.to_table(schema=data.schema)
        gone.append(rows.filter(pa.array(mask)))
        kept = change(rows, mask)
        removes.append((path, sizes[path]))
        adds += [writer.stage(kept)] if kept.num_rows else []
    if more is not None and more.num_rows:
        adds.append(writer.stage(more))
    if adds or removes:
        writer.commit(adds, removes, operation="REWRITE")
    return pa.concat_tables(gone)


def live_files(lake: Lake, writer: DeltaWriter) -> Iterator[tuple[str, int]]:
    """The files of the version that a writer is at, and their sizes in bytes."""
    for action in pa.table(lake.table(writer.table.name, writer.version).get_add_actions()).to_pylist():
        yield action["path"], action["size_bytes"]


def snapshot(lake: Lake, writer: DeltaWriter) -> pa.Table:
    """gold.trending_posts again, as silver's newest record dates it; its rows."""
    schema = trending_posts.TABLE.arrow
    silver = lake.dataset("silver.user_events")
    connection: Any = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.register("silver", silver)
    [(as_of,)] = connection.execute("select date_trunc('minute', max(timestamp)) from silver").fetchall()
    rows = schema.empty_table()
    if as_of is not None:
        time, kind = pc.field("occurred_at"), silver.schema.field("occurred_at").type
        recent = time >= pa.scalar(as_of - trending_posts.WINDOW, kind)
        connection.register("recent", silver.to_table(columns=list(trending_posts.SOURCE_COLUMNS), filter=recent))
        text = trending_posts.sql("recent", f"timestamptz '{as_of.isoformat()}'", "duckdb")
        rows = connection.sql(text).to_arrow_table().select(schema.names).cast(schema)
    removes = [*live_files(lake, writer)]
    if rows.num_rows or removes:
        writer.commit([writer.stage(rows)] if rows.num_rows else [], removes, operation="REFILL")
    return rows
