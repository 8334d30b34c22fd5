"""Bringing gold up to date from one batch of silver rows, on one machine.

A gold table's rows lie in buckets of time (an hour or a day), one file a bucket: a batch reads nothing but the
buckets it touches (kept in memory while they are hot), sets the touched rows to their new, absolute values and
replaces the bucket's file. So every version holds each key once, and writing a batch twice changes nothing. Additive
measures are folded; distinct counts by asking the index which members are new; whatever can't be folded, and whatever
is older than the index's horizon, is recomputed for the touched keys from silver.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.gold import trending_posts
from lakehouse.gold.aggregate import Aggregate, Distinct, Extreme, Mean, Measure, Percentile, Ratio, Sum
from lakehouse.runtime.seen import SeenIndex
from lakehouse.sinks.delta import DataFile, DeltaWriter
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake

HOT_BUCKETS = 72
CACHED_SOURCE_ROWS = 4_000_000
"""Silver rows (only the columns that a table reads) kept for measures that don't fold."""
WARM = timedelta(hours=26)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Change:
    """What a batch did to one gold table: its touched rows as they are now, and the files to swap."""

    rows: pa.Table
    files: list[tuple[int, pa.Table]]
    removes: list[tuple[str, int]]
    members: Any = None
    owners: dict[int, DataFile] = field(default_factory=dict)


class Buckets:
    """The rows of one gold table by bucket: in memory while hot, else read from the one file that holds them."""

    def __init__(self, aggregate: Aggregate, lake: Lake, writer: DeltaWriter):
        self.aggregate, self.lake, self.writer = aggregate, lake, writer
        self.schema = aggregate.table.arrow
        self.span = aggregate.bucket
        self.hot: OrderedDict[int, pa.Table] = OrderedDict()
        self.files: dict[str, tuple[int, int, int]] = {}
        """path -> (size, first bucket, last bucket)"""
        actions = pa.table(lake.table(aggregate.name, writer.version).get_add_actions(flatten=True)).to_pylist()
        for action in actions:
            low, high = (self._of(action[f"{side}.{aggregate.window}"]) for side in ("min", "max"))
            self.files[action["path"]] = (action["size_bytes"], low, high)

    def _of(self, window: Any) -> int:
        if isinstance(window, str):
            window = datetime.fromisoformat(window)
        if isinstance(window, date) and not isinstance(window, datetime):
            window = datetime(window.year, window.month, window.day, tzinfo=UTC)
        if window.tzinfo is None:
            window = window.replace(tzinfo=UTC)
        return int((window - _EPOCH) // self.span)

    def numbers(self, rows: pa.Table) -> pa.Array:
        """Each row's bucket."""
        micros = pc.cast(pc.cast(rows.column(self.aggregate.window), pa.timestamp("us", "UTC")), pa.int64())
        # Integer division truncates towards zero; all times are after 1970.
        return pc.divide(micros, int(self.span / timedelta(microseconds=1)))

    def rows(self, buckets: set[int]) -> tuple[pa.Table, list[tuple[str, int]]]:
        """(rows of the buckets and of all that share a file with them, the files they lie in)."""
        # Files of our own hold one bucket each. Those of MERGE and OPTIMIZE overlap: what shares a file with a wanted
        # bucket is wanted too, and so on, or a bucket would be written again without its rows in other files.
        wanted: set[int] = set()
        more, owners = set(buckets), dict[str, tuple[int, int, int]]()
        while more != wanted:
            wanted = more
            owners = {p: f for p, f in self.files.items() if any(f[1] <= b <= f[2] for b in wanted)}
            more = wanted.union(*(range(low, high + 1) for _, low, high in owners.values()))
        cold = [path for path, (_, low, high) in owners.items() if not all(b in self.hot for b in range(low, high + 1))]
        if cold:
            loaded = self._read(cold)
            numbers = self.numbers(loaded)
            for bucket in pc.unique(numbers).to_pylist():
                self.hot[bucket] = loaded.filter(pc.equal(numbers, bucket))
        tables = [self.hot[bucket] for bucket in sorted(wanted) if bucket in self.hot]
        merged = pa.concat_tables(tables) if tables else self.schema.empty_table()
        return merged, [(path, size) for path, (size, _, _) in owners.items()]

    def _read(self, paths: list[str]) -> pa.Table:
        table = self.lake.table(self.aggregate.name, self.writer.version)
        whole = pruned_dataset(table)
        wanted = set(paths)
        parts = [f.to_table(schema=whole.schema) for f in whole.get_fragments() if f.path.rsplit("/", 1)[-1] in wanted]
        return pa.concat_tables(parts).select(self.schema.names).cast(self.schema)

    def put(self, new: dict[int, tuple[pa.Table, DataFile]], removed: list[tuple[str, int]]) -> None:
        """After a commit: the buckets' rows and files as they are now."""
        for path, _ in removed:
            self.files.pop(path, None)
        for bucket, (rows, file) in new.items():
            self.files[file.path] = (file.size, bucket, bucket)
            self.hot[bucket] = rows
            self.hot.move_to_end(bucket)
        while len(self.hot) > HOT_BUCKETS:
            self.hot.popitem(last=False)


def _quoted(aggregate: Aggregate) -> list[str]:
    return [f'"{name}"' for name in aggregate.keys]


class GoldFold:
    """One gold table's incremental twin of its declaration."""

    def __init__(
        self,
        aggregate: Aggregate,
        lake: Lake,
        writer: DeltaWriter,
        index: SeenIndex,
        horizon: timedelta,
        sealed: datetime | None = None,
    ):
        self.aggregate, self.lake, self.writer, self.index, self.horizon = aggregate, lake, writer, index, horizon
        self.sealed = sealed
        """Windows before it stay as they are: silver has lost rows of theirs, so nobody could make them again."""
        self.buckets = Buckets(aggregate, lake, writer)
        self.connection: Any = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; set threads = 1")
        self._cached: OrderedDict[datetime, pa.Table] = OrderedDict()
        self._complete_from: datetime | None = None
        """Windows from here on that are not cached are known to be empty."""

    def warm(self, silver_version: int) -> None:
        """Read the last day's silver rows once, so that late records cost no scan each."""
        if self.aggregate.folds:
            return
        data = self.lake.dataset(self.aggregate.source, silver_version)
        time = pc.field(self.aggregate.source_time)
        kind = data.schema.field(self.aggregate.source_time).type
        start = (datetime.now(UTC) - WARM).replace(minute=0, second=0, microsecond=0)
        condition = time >= pa.scalar(start, kind)
        if data.count_rows(filter=condition) <= CACHED_SOURCE_ROWS:
            self._keep(self._inputs(data, condition))
            self._complete_from = start

    def fold(self, rows: pa.Table, arrival: datetime, silver_version: int) -> Change | None:
        """Silver rows accepted by a batch -> what changes; None where the batch touches no key.

        ``arrival`` is the batch's newest Kafka append time, ``silver_version`` silver before the batch.
        """
        a, c = self.aggregate, self.connection
        c.register("rows", rows.select(a.inputs))
        keys = ", ".join(f"{expression} as {name}" for name, (_, expression) in a.keys.items())
        open_ = f"where {a.window} >= timestamptz '{self.sealed.isoformat()}'" if self.sealed else ""
        c.execute(
            f"create or replace temp table keyed as select * from (select {keys}, * from rows where {a.where}) {open_}"
        )
        oldest = arrival - self.horizon
        cold = f"{a.window} < timestamptz '{oldest.isoformat()}'" if a.folds else "true"
        windows = c.sql(f"select {a.window}, {cold} as cold from keyed group by all").to_arrow_table()
        if not windows.num_rows:
            return None
        before, removes = self.buckets.rows(set(self.buckets.numbers(windows).to_pylist()))
        c.register("before", before)
        old = pc.any(windows.column("cold")).as_py()
        parts = []
        members = None
        if a.folds:
            changed, members = self._folded(f"(select * from keyed where not ({cold}))" if old else "keyed")
            parts.append(changed)
        if old:
            touched = c.sql(f"select distinct {', '.join(a.keys)} from keyed where {cold}").to_arrow_table()
            parts.append(self._recomputed(touched, silver_version))
        schema = a.table.arrow
        changed = pa.concat_tables([part.select(schema.names).cast(schema) for part in parts])
        c.register("changed", changed)
        on = " and ".join(f"changed.{key} is not distinct from before.{key}" for key in _quoted(a))
        after = (
            c.sql(
                f"select * from (select before.* from before where not exists (select 1 from changed where {on}) "
                f"union all by name select * from changed) order by {', '.join(_quoted(a))}"
            )
            .to_arrow_table()
            .select(schema.names)
            .cast(schema)
        )
        numbers = self.buckets.numbers(after)
        files = [(b, after.filter(pc.equal(numbers, b))) for b in pc.unique(numbers).to_pylist()]
        return Change(changed, files, removes, members)

    def stage(self, change: Change, pool: ThreadPoolExecutor) -> list[DataFile]:
        """Write the change's files, side by side; not yet part of the table."""
        files = pool.map(self.writer.stage, [rows for _, rows in change.files])
        change.owners = dict(zip([bucket for bucket, _ in change.files], files, strict=True))
        return list(change.owners.values())

    def done(self, change: Change) -> None:
        """After the batch's commit."""
        self.buckets.put({b: (rows, change.owners[b]) for b, rows in change.files}, change.removes)

    def _folded(self, batch: str) -> tuple[pa.Table, Any]:
        """The keys that a relation of keyed rows touches, as they are with it; the members that it is first to name.

        Distinct measures count only members never seen under their key.
        """
        a, c = self.aggregate, self.connection
        keys = list(a.keys)
        totals = [f"{m.total('duckdb')} as {m.name}" for m in a.measures if isinstance(m, Sum | Extreme | Mean)]
        columns, joins, members = ["totals.*"], "", []
        for measure in (m for m in a.measures if isinstance(m, Distinct)):
            found = members_of(c, a, measure, batch)
            digests = digest_array(found.column("digest"))
            new = self.index.times(digests) < 0
            members.append(digests[new])
            c.register(f"new_{measure.name}", found.filter(pa.array(new)).drop_columns(["digest"]))
            on = " and ".join(f"totals.{k} is not distinct from n_{measure.name}.{k}" for k in keys)
            joins += (
                f" left join (select {', '.join(keys)}, count(*) as n from new_{measure.name} group by all) "
                f"as n_{measure.name} on {on}"
            )
            columns.append(f"coalesce(n_{measure.name}.n, 0) as {measure.name}")
        on = " and ".join(f"delta.{key} is not distinct from before.{key}" for key in _quoted(a))
        out = ", ".join([f"delta.{key}" for key in _quoted(a)] + [f"{_fold(m)} as {m.name}" for m in a.measures])
        changed = c.sql(
            f"with totals as (select {', '.join([*keys, *totals])} from {batch} as batch group by all), "
            f"delta as (select {', '.join(columns)} from totals{joins}) "
            f"select {out} from delta left join before on {on}"
        ).to_arrow_table()
        return changed, (np.concatenate(members) if members else None)

    def _recomputed(self, touched: pa.Table, silver_version: int) -> pa.Table:
        """The touched keys from all their silver rows: those before the batch, and the batch's own."""
        a, c = self.aggregate, self.connection
        windows = pc.unique(pc.cast(touched.column(a.window), pa.timestamp("us", "UTC"))).to_pylist()
        self._load([w for w in windows if w not in self._cached], silver_version)
        nothing = self._empty()
        for at in windows:
            self._cached.setdefault(at, nothing)
        keys = ", ".join(a.keys)
        c.register("touched", touched)
        window = a.keys[a.window][1]
        own = c.sql(
            f"select {window} as __window, {', '.join(a.inputs)} from rows "
            f"where {a.where} and {window} in (select {a.window} from touched)"
        ).to_arrow_table()
        numbers = pc.cast(own.column("__window"), pa.timestamp("us", "UTC"))
        own = own.drop_columns(["__window"])
        for at in windows:
            part = own.filter(pc.equal(numbers, pa.scalar(at, pa.timestamp("us", "UTC"))))
            if part.num_rows:
                self._cached[at] = pa.concat_tables([self._cached[at], _pruned(part, self.aggregate)])
            self._cached.move_to_end(at)
        c.register("source", pa.concat_tables([self._cached[at] for at in windows]))
        result = c.sql(
            f"select * from ({a.sql('source', 'duckdb')}) as whole where exists (select 1 from touched where "
            + " and ".join(f"touched.{key} is not distinct from whole.{key}" for key in _quoted(a))
            + f") order by {keys}"
        ).to_arrow_table()
        self._evict()
        return result

    def _load(self, windows: list[datetime], version: int) -> None:
        """Silver's rows of whole windows into the cache, one scan for all."""
        if self._complete_from is not None:
            windows = [window for window in windows if window < self._complete_from]
        if not windows:
            return
        a = self.aggregate
        data = self.lake.dataset(a.source, version)
        kind = data.schema.field(a.source_time).type
        condition: Any = None
        for low, high in _ranges(sorted(windows), a.width):
            here = (pc.field(a.source_time) >= pa.scalar(low, kind)) & (pc.field(a.source_time) < pa.scalar(high, kind))
            condition = here if condition is None else condition | here
        self._keep(self._inputs(data, condition))

    def _inputs(self, data: Any, condition: Any) -> pa.Table:
        return _pruned(data.to_table(columns=list(self.aggregate.inputs), filter=condition), self.aggregate)

    def _empty(self) -> pa.Table:
        from lakehouse.flows import TABLES

        return _pruned(TABLES[self.aggregate.source].arrow.empty_table(), self.aggregate)

    def _keep(self, found: pa.Table) -> None:
        """Rows into the cache by window."""
        if not found.num_rows:
            return
        a = self.aggregate
        unit = int(a.width / timedelta(microseconds=1))
        numbers = pc.divide(pc.cast(pc.cast(found.column(a.source_time), pa.timestamp("us", "UTC")), pa.int64()), unit)
        order = pc.sort_indices(numbers)
        found, numbers = found.take(order).combine_chunks(), numbers.take(order).to_numpy()
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
        for start, end in zip(starts, np.r_[starts[1:], len(numbers)], strict=True):
            self._cached[_EPOCH + int(numbers[start]) * a.width] = found.slice(start, end - start)

    def _evict(self) -> None:
        rows = sum(table.num_rows for table in self._cached.values())
        while len(self._cached) > 1 and rows > CACHED_SOURCE_ROWS:
            window, table = self._cached.popitem(last=False)
            rows -= table.num_rows
            if self._complete_from is not None:
                self._complete_from = max(self._complete_from, window + self.aggregate.width)


def _pruned(rows: pa.Table, aggregate: Aggregate) -> pa.Table:
    """The aggregate's input columns; of structs only the fields that its expressions read."""
    text = " ".join(
        [
            aggregate.where,
            *(e for _, e in aggregate.keys.values()),
            *(m.total("duckdb") for m in aggregate.measures if not isinstance(m, Ratio)),
        ]
    )
    return pa.table({name: _leaves_read(rows.column(name), name, text) for name in aggregate.inputs})


def _leaves_read(column: pa.ChunkedArray, path: str, text: str) -> pa.ChunkedArray:
    if not pa.types.is_struct(column.type):
        return column.cast(pa.timestamp("us", "UTC")) if pa.types.is_timestamp(column.type) else column
    fields = [f.name for f in column.type if f"{path}.{f.name}" in text]
    arrays = []
    for chunk in column.chunks:
        parts = [
            _leaves_read(pa.chunked_array([pc.struct_field(chunk, name)]), f"{path}.{name}", text) for name in fields
        ]
        arrays.append(
            pa.StructArray.from_arrays(
                [
                    p.combine_chunks() if isinstance(p, pa.ChunkedArray) and p.num_chunks != 1 else p.chunk(0)
                    for p in parts
                ],
                names=fields,
            )
        )
    if not arrays:
        empty = [
            _leaves_read(pa.chunked_array([], column.type.field(name).type), f"{path}.{name}", text) for name in fields
        ]
        return pa.chunked_array([], pa.struct([(name, e.type) for name, e in zip(fields, empty, strict=True)]))
    return pa.chunked_array(arrays)


def _ranges(windows: list[datetime], width: timedelta) -> list[tuple[datetime, datetime]]:
    ranges: list[tuple[datetime, datetime]] = []
    for window in windows:
        if ranges and ranges[-1][1] == window:
            ranges[-1] = (ranges[-1][0], window + width)
        else:
            ranges.append((window, window + width))
    return ranges


def _fold(measure: Measure) -> str:
    """The measure's new value from ``before`` and ``delta``."""
    name = measure.name
    match measure:
        case Sum() | Distinct():
            return f"coalesce(before.{name}, 0) + delta.{name}"
        case Extreme():
            return f"{'least' if measure.function == 'min' else 'greatest'}(before.{name}, delta.{name})"
        case Mean():
            weight = measure.weight
            return (
                f"(coalesce(before.{name} * before.{weight}, 0) + delta.{name} * delta.{weight}) "
                f"/ (coalesce(before.{weight}, 0) + delta.{weight})"
            )
        case Ratio():
            top, bottom = (f"(coalesce(before.{x}, 0) + delta.{x})" for x in (measure.top, measure.bottom))
            return f"cast({top} as double) / nullif({bottom}, 0)"
        case Percentile():
            raise ValueError(f"{name}: a percentile does not fold")


def members_of(connection: Any, aggregate: Aggregate, measure: Distinct, relation: str) -> pa.Table:
    """Distinct (keys, member) of a keyed relation with the 128-bit digest that names each in the index.

    The digest is SHA-256 (FIPS 180-4) cut to 16 bytes of table, measure, window, and length-prefixed strings.
    """
    window, *others = aggregate.keys
    text = " || ".join(
        [f"'{aggregate.name}/{measure.name}/'", f"epoch_us(cast({window} as timestamp))"]
        + [f"'/' || coalesce(length({k}) || ':' || {k}, '')" for k in others]
        + [f"'/' || {measure.expression}"]
    )
    return connection.sql(
        f"select {', '.join(aggregate.keys)}, unhex(left(sha256({text}), 32)) as digest from "
        f"(select distinct {', '.join(aggregate.keys)}, {measure.expression} from {relation} "
        f"where {measure.expression} is not null) as members"
    ).to_arrow_table()


def digest_array(column: pa.ChunkedArray) -> Any:
    """A binary column of 16-byte digests as an array (n, 2) of uint64."""
    fixed = pc.cast(column, pa.binary(16)).combine_chunks()
    if isinstance(fixed, pa.ChunkedArray):
        fixed = pa.concat_arrays(fixed.chunks) if fixed.num_chunks else pa.array([], pa.binary(16))
    if not len(fixed):
        return np.empty((0, 2), dtype=np.uint64)
    data = np.frombuffer(fixed.buffers()[1], dtype="<u8", count=len(fixed) * 2, offset=fixed.offset * 16)
    return data.reshape(-1, 2)


class TrendingFold:
    """gold.trending_posts beside the stream: weights per (minute, post) of the last hour, decayed at each snapshot."""

    def __init__(self, lake: Lake, writer: DeltaWriter, silver_version: int):
        self.writer = writer
        self.connection: Any = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; set threads = 1")
        self.connection.execute("create table weights (minute timestamptz, post_id string, weight double)")
        self.as_of: datetime | None = None
        self.files = [
            (action["path"], action["size_bytes"])
            for action in pa.table(lake.table(trending_posts.TABLE.name, writer.version).get_add_actions()).to_pylist()
        ]
        silver = lake.dataset("silver.user_events", silver_version)
        self.connection.register("silver", silver)
        newest = self.connection.execute("select date_trunc('minute', max(timestamp)) from silver").fetchall()[0][0]
        if newest is not None:
            self.as_of = newest
            low = pa.scalar(newest - trending_posts.WINDOW, pa.timestamp("us", "UTC"))
            self._add(
                silver.to_table(columns=list(trending_posts.SOURCE_COLUMNS), filter=pc.field("occurred_at") >= low)
            )
        self.connection.unregister("silver")

    def _add(self, rows: pa.Table) -> None:
        weight = trending_posts.weight_sql()
        half = trending_posts.HALF_LIFE.total_seconds()
        self.connection.register("rows", rows)
        self.connection.execute(
            f"""insert into weights
                select date_trunc('minute', occurred_at) as minute, post_id,
                       sum({weight} * power(2.0, (epoch_us(occurred_at) - epoch_us(date_trunc('minute', occurred_at)))
                           / 1e6 / {half}))
                from rows where post_id is not null and {weight} is not null group by all"""
        )
        self.connection.unregister("rows")

    def fold(self, rows: pa.Table, arrival: datetime) -> pa.Table:
        """Accepted rows and the batch's newest append time -> the whole snapshot."""
        as_of = arrival.replace(second=0, microsecond=0)
        self.as_of = max(self.as_of, as_of) if self.as_of else as_of
        self._add(rows.select(trending_posts.SOURCE_COLUMNS))
        oldest = self.as_of - trending_posts.WINDOW
        # The table is rewritten, not deleted from: DuckDB keeps the space of deleted rows of a table in memory.
        self.connection.execute(
            "create or replace table weights as select minute, post_id, sum(weight) as weight from weights "
            "where minute >= ? group by all",
            [oldest],
        )
        half = trending_posts.HALF_LIFE.total_seconds()
        found = self.connection.sql(
            f"""select cast(? as timestamptz) as as_of,
                       cast(row_number() over (order by score desc, post_id) as int) as rank, post_id, score
                from (select post_id, sum(weight * power(2.0, (epoch_us(minute) - epoch_us(cast(? as timestamptz)))
                                / 1e6 / {half})) as score
                      from weights where minute < ? group by post_id) as scored
                order by rank limit {trending_posts.TOP}""",
            params=[self.as_of, self.as_of, self.as_of],
        ).to_arrow_table()
        schema = trending_posts.TABLE.arrow
        return found.select(schema.names).cast(schema)
