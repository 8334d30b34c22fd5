"""All flows of a topic in one pass, on one machine: Spark reads and checks, the driver splits, folds and commits.

A batch of some hundred to a hundred thousand records is checked in Spark's workers, comes to the driver as one Arrow
table, and is written with as few round trips as the tables allow, all tables side by side, the ledger last. The
distributed twin, separate queries with Spark's own writer and MERGE, is not built yet.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema

from lakehouse.bronze.landed import COLUMNS, landed
from lakehouse.contracts import Contract
from lakehouse.flows import STORES, Flow
from lakehouse.gold import trending_posts
from lakehouse.runtime.effects import perform
from lakehouse.runtime.fold import Change, GoldFold, TrendingFold
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.runtime.seen import SeenIndex
from lakehouse.silver import quarantine
from lakehouse.silver.checked import checked_together, of_topic
from lakehouse.sinks.delta import DataFile, DeltaWriter
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

REPLAY_HEADER = "lakehouse-replay-of"
MIRRORED = frozenset(s.table for s in STORES if s.store != "redis" and s.table.startswith("gold."))
"""Gold tables whose rows the stores hold one by one; of the others they hold the newest rows only."""
_US = pa.timestamp("us", "UTC")


def arrow(frame: DataFrame) -> pa.Table:
    """A DataFrame's rows in the driver. Spark 4 has this as ``toArrow``."""
    rows: Any = frame
    if hasattr(frame, "toArrow"):
        return rows.toArrow()
    return pa.Table.from_batches(rows._collect_as_arrow(), schema=to_arrow_schema(frame.schema))


def identity_digest(topic: str, identity: str) -> bytes:
    """The 128-bit name of a record in the index: BLAKE2b (RFC 7693) of its topic and identity."""
    return hashlib.blake2b(f"{topic}\x1f{identity}".encode(), digest_size=16).digest()


@dataclass
class Progress:
    """How far a topic is: batches, the end of every partition, and the version of every table."""

    seq: int
    ends: dict[int, int]
    versions: dict[str, int] = field(default_factory=dict)


class Ingest:
    """The ``foreachBatch`` of all topics: one Spark job checks their records, then each topic's pass writes its own.

    One query instead of one a topic: on two cores, what a micro-batch costs besides its records is most of its time.
    """

    def __init__(self, passes: dict[str, FusedPass], workers: int):
        self.passes, self.workers = passes, workers
        self.pool = ThreadPoolExecutor(len(passes), thread_name_prefix="pass")
        self.lock, self.closed = Lock(), False

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        """Write one micro-batch everywhere."""
        with self.lock:
            if self.closed:
                return
            started = time.monotonic()
            parsers = {topic: one.flow.parse for topic, one in self.passes.items()}
            together = arrow(checked_together(landed(batch).coalesce(self.workers), parsers))
            present = set(pc.unique(together.column("topic")).to_pylist())
            jobs = [
                self.pool.submit(one.write, of_topic(together, topic, one.flow.parse), started)
                for topic, one in self.passes.items()
                if topic in present
            ]
            for job in jobs:
                job.result()

    def close(self) -> None:
        """Let the current batch end and take no further one; Spark may count those as done, the ledger does not."""
        with self.lock:
            self.closed = True


class FusedPass:
    """Everything that a batch of one topic does. One instance serves one run; after any error make a new one.

    Guarantee: every effect is a set of rows at absolute values or under Kafka's coordinates; a batch that died half
    way is rolled back by ``runtime/recovery.py`` before its repetition, one that reached the ledger is skipped.
    """

    def __init__(
        self,
        flow: Flow,
        contract: Contract,
        lake: Lake,
        writers: dict[str, DeltaWriter],
        index: SeenIndex,
        progress: Progress,
        horizon: timedelta,
    ):
        self.flow, self.contract, self.lake, self.writers = flow, contract, lake, writers
        self.index, self.progress, self.horizon = index, progress, horizon
        silver_version = writers[flow.silver.name].version
        self.folds = [GoldFold(a, lake, writers[a.name], index, contract.duplicate_horizon) for a in flow.gold]
        for fold in self.folds:
            fold.warm(silver_version)
        self.trending = (
            TrendingFold(lake, writers[trending_posts.TABLE.name], silver_version)
            if trending_posts.TABLE in flow.snapshots
            else None
        )
        self.pool = ThreadPoolExecutor(8, thread_name_prefix=flow.topic)
        self.files_pool = ThreadPoolExecutor(4, thread_name_prefix=f"{flow.topic}-files")
        self.flushed_at = time.monotonic()
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def write(self, checked: pa.Table, started: float) -> None:
        """Write one micro-batch of checked records of this topic everywhere."""
        timings = {"spark": time.monotonic() - started}
        checked = self._unseen_offsets(checked)
        if not checked.num_rows:
            return
        split = self._split(checked)
        timings["split"] = time.monotonic() - started
        self._write(split, started, timings)

    def _unseen_offsets(self, rows: pa.Table) -> pa.Table:
        """Without what an earlier run has already put into the ledger; in the order in which records count."""
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        keep = np.ones(rows.num_rows, dtype=bool)
        for partition, end in self.progress.ends.items():
            keep &= (partitions != partition) | (offsets >= end)
        if not keep.all():
            rows = rows.filter(pa.array(keep))
        return rows.sort_by([("timestamp", "ascending"), ("partition", "ascending"), ("offset", "ascending")])

    def _split(self, rows: pa.Table) -> Split:
        valid = pc.is_null(rows.column("_reasons")).to_numpy(zero_copy_only=False)
        arrivals = pc.cast(rows.column("timestamp"), pa.int64()).to_numpy()
        identities = rows.column("_identity").to_pylist()
        accepted = valid.copy()
        named = [i for i in np.flatnonzero(valid).tolist() if identities[i] is not None]
        digests = [identity_digest(self.flow.topic, identities[i]) for i in named]
        claims = {i: [d] for i, d in zip(named, digests, strict=True)}
        self._claim_replays(rows, valid, claims)
        owners = [i for i, keys in claims.items() for _ in keys]
        keys = self.index.keys([key for claim in claims.values() for key in claim])
        times = self.index.times(keys)
        horizon = self.horizon // timedelta(microseconds=1)
        newest: dict[bytes, int] = {}
        flat = [key for claim in claims.values() for key in claim]
        counts = Counter(flat)
        # Only keys that occur again, in the index or in this batch, need a look in order; the others are new.
        suspects = sorted(
            {owner for owner, key, at in zip(owners, flat, times.tolist(), strict=True) if at >= 0 or counts[key] > 1}
        )
        known = {key: at for key, at in zip(flat, times.tolist(), strict=True) if at >= 0}
        for i in suspects:
            arrival = int(arrivals[i])
            seen = [newest.get(key, known.get(key)) for key in claims[i]]
            if any(at is not None and abs(arrival - at) <= horizon for at in seen):
                accepted[i] = False
            else:
                newest |= dict.fromkeys(claims[i], arrival)
        kept = accepted[np.array(owners, dtype=int)] if owners else np.empty(0, dtype=bool)
        return Split(
            rows=rows,
            valid=valid,
            accepted=accepted,
            arrivals=arrivals,
            keys=keys[kept] if len(keys) else keys,
            times=arrivals[np.array(owners, dtype=int)][kept] if owners else np.empty(0, dtype=np.int64),
        )

    def _claim_replays(self, rows: pa.Table, valid: Any, claims: dict[int, list[bytes]]) -> None:
        """A replay also claims its original's coordinates, so that it lands once however often it is replayed."""
        headers = rows.column("headers")
        if headers.null_count == len(headers):
            return
        for i in np.flatnonzero(valid & pc.is_valid(headers).to_numpy(zero_copy_only=False)).tolist():
            for header in headers[i].as_py() or ():
                if header["key"] == REPLAY_HEADER:
                    origin = (header["value"] or b"").decode(errors="replace")
                    claims.setdefault(i, []).append(identity_digest(self.flow.topic, f"{REPLAY_HEADER}\x1f{origin}"))

    def _silver(self, rows: pa.Table) -> pa.Table:
        """Accepted checked rows -> silver's rows."""
        table = self.flow.silver
        if self.contract.samples:
            samples = rows.column("samples").combine_chunks()
            if isinstance(samples, pa.ChunkedArray):
                samples = (
                    pa.concat_arrays(samples.chunks)
                    if samples.num_chunks
                    else samples.type and pa.array([], samples.type)
                )
            parents = pc.list_parent_indices(samples)
            flat = samples.flatten()
            rows = rows.drop_columns(["samples"]).take(parents)
            rows = rows.append_column("metric", flat.field("metric")).append_column("value_", flat.field("value"))
            rows = rows.drop_columns(["value"]).rename_columns(
                ["value" if name == "value_" else name for name in rows.drop_columns(["value"]).column_names]
            )
        elif "event_id" in rows.column_names and rows.column("event_id").null_count:
            coordinates = pc.binary_join_element_wise(
                rows.column("topic"),
                pc.cast(rows.column("partition"), pa.string()),
                pc.cast(rows.column("offset"), pa.string()),
                "/",
            )
            at = rows.column_names.index("event_id")
            rows = rows.set_column(at, "event_id", pc.coalesce(rows.column("event_id"), coordinates))
        return rows.select(table.schema.names).cast(table.arrow)

    def _write(self, split: Split, started: float, timings: dict[str, float]) -> None:
        flow, query = self.flow, self.flow.topic
        rows = split.rows
        seq = self.progress.seq + 1
        now = datetime.now(UTC)
        arrival = rows.column("timestamp")[-1].as_py()
        silver_before = self.writers[flow.silver.name].version
        silver = self._silver(rows.filter(pa.array(split.accepted)))
        bad = rows.filter(pa.array(~split.valid))
        bronze = rows.select(COLUMNS.names)
        jobs: list[Callable[[], None]] = [lambda: self._append(flow.bronze, bronze)]
        if silver.num_rows:
            jobs.append(lambda: self._append(flow.silver, silver))
        if bad.num_rows:
            jobs.append(lambda: self._append(quarantine.TABLE, _quarantined(bad, now)))
        futures = [self.pool.submit(job) for job in jobs]
        changes: dict[str, Change] = {}
        snapshot: pa.Table | None = None

        def fold_gold(fold: GoldFold) -> None:
            change = fold.fold(silver, arrival, silver_before)
            if change is None:
                return
            changes[fold.aggregate.name] = change

            def commit(files: list[DataFile]) -> None:
                fold.writer.commit(files, change.removes)

            perform(query, fold.aggregate.name, lambda: fold.stage(change, self.files_pool), commit)

        def fold_trending() -> None:
            nonlocal snapshot
            if self.trending is None:
                return
            # Dated by silver alone, as its recomputation is: the batch's newest record may be broken or a duplicate.
            snapshot = self.trending.fold(silver, pc.max(silver.column("timestamp")).as_py())
            trending = self.trending

            def commit(file: DataFile) -> None:
                trending.writer.commit([file], trending.files)
                trending.files = [(file.path, file.size)]

            table = snapshot
            perform(query, trending_posts.TABLE.name, lambda: trending.writer.stage(table), commit)

        if silver.num_rows:
            futures += [self.pool.submit(fold_gold, fold) for fold in self.folds]
            futures.append(self.pool.submit(fold_trending))
        for future in futures:
            future.result()
        timings["tables"] = time.monotonic() - started
        touched = {name: change.rows for name, change in changes.items()}
        if snapshot is not None:
            touched[trending_posts.TABLE.name] = snapshot
        if touched:
            self._append(CHANGES, changed_rows(flow.topic, seq, touched, self.writers))
        versions = {table.name: self.writers[table.name].version for table in flow.tables if table is not LEDGER}
        ledger = self._ledger(split, seq, versions, now, started)
        self._append(LEDGER, ledger)
        timings["ledger"] = time.monotonic() - started
        for fold in self.folds:
            if change := changes.get(fold.aggregate.name):
                fold.done(change)
                if change.members is not None and len(change.members):
                    self.index.add(change.members, np.full(len(change.members), int(split.arrivals.max())))
        self.index.add(split.keys, split.times)
        self.progress.seq = seq
        self.progress.versions = versions
        self.progress.ends |= {r["partition"]: r["end_offset"] for r in ledger.to_pylist()}
        self._flush(int(split.arrivals.max()))
        for listener in self.listeners:
            listener(
                {"topic": flow.topic, "records": rows.num_rows, "ms": (time.monotonic() - started) * 1000, **timings}
            )

    def _append(self, table: Table, rows: pa.Table) -> None:
        writer = self.writers[table.name]

        def commit(file: DataFile) -> None:
            writer.commit([file])

        perform(self.flow.topic, table.name, lambda: writer.stage(rows), commit)

    def _ledger(self, split: Split, seq: int, versions: dict[str, int], now: datetime, started: float) -> pa.Table:
        rows = split.rows
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        warnings = rows.column("_warnings")
        drift = rows.column("_rescued") if "_rescued" in rows.column_names else None
        out = []
        for partition in sorted({*self.progress.ends, *np.unique(partitions).tolist()}):
            here = partitions == partition
            start = self.progress.ends.get(partition, 0)
            times = split.arrivals[here]
            mask = pa.array(here)
            flagged = Counter(w for ws in warnings.filter(mask).drop_null().to_pylist() for w in ws)
            drifted: Counter[str] = Counter()
            if drift is not None:
                for text in drift.filter(mask).drop_null().to_pylist():
                    drifted.update(_leaf_names(orjson.loads(text)))
            out.append(
                {
                    "topic": self.flow.topic,
                    "seq": seq,
                    "partition": partition,
                    "start_offset": start,
                    "end_offset": int(offsets[here].max()) + 1 if here.any() else start,
                    "records": int(here.sum()),
                    "valid": int((here & split.accepted).sum()),
                    "quarantined": int((here & ~split.valid).sum()),
                    "duplicates": int((here & split.valid & ~split.accepted).sum()),
                    "first_at": _time(times.min()) if len(times) else None,
                    "last_at": _time(times.max()) if len(times) else None,
                    "warnings": list(flagged.items()),
                    "drift": list(drifted.most_common(50)),
                    "versions": list(versions.items()),
                    "engine": "fused",
                    "batch_ms": int((time.monotonic() - started) * 1000),
                    "committed_at": now,
                }
            )
        return pa.Table.from_pylist(out, schema=LEDGER.arrow)

    def _flush(self, newest: int, every: float = 30.0) -> None:
        if self.index.unflushed() > self.index.flush_rows or time.monotonic() - self.flushed_at > every:
            # By append time, not by the clock: a backlog may be older than the horizon.
            oldest = newest - (self.horizon + timedelta(days=3)) // timedelta(microseconds=1)
            self.index.flush({"seq": self.progress.seq, "ends": self.progress.ends}, oldest)
            self.flushed_at = time.monotonic()


@dataclass
class Split:
    """A batch's records and where each goes: quarantine (not valid), silver (accepted) or the count of duplicates."""

    rows: pa.Table
    valid: Any
    accepted: Any
    arrivals: Any
    keys: Any
    times: Any


def _quarantined(rows: pa.Table, now: datetime) -> pa.Table:
    names = quarantine.TABLE.schema.names
    rows = rows.rename_columns(["reasons" if n == "_reasons" else n for n in rows.column_names])
    rows = rows.append_column("status", pa.array(["open"] * rows.num_rows, pa.string()))
    rows = rows.append_column("updated_at", pa.array([now] * rows.num_rows, _US))
    return rows.select(names)


def _time(micros: Any) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros))


def _leaf_names(document: Any, path: str = "") -> set[str]:
    if isinstance(document, dict) and document:
        return {
            name for key, value in document.items() for name in _leaf_names(value, f"{path}.{key}" if path else key)
        }
    return {path}


def changed_rows(topic: str, seq: int, touched: dict[str, pa.Table], writers: dict[str, DeltaWriter]) -> pa.Table:
    """Gold rows as batch ``seq`` left them -> rows of ``_internal.gold_changes``.

    Of tables that the stores do not hold row by row, one row says that the table changed.
    """
    out: list[dict[str, Any]] = []
    for name, rows in sorted(touched.items()):
        head = {"topic": topic, "seq": seq, "table": name, "version": writers[name].version}
        if name not in MIRRORED:
            out.append({**head, "key": None, "row": None})
            continue
        keys = writers[name].table.key
        for row in rows.to_pylist():
            text = orjson.dumps(row, option=orjson.OPT_UTC_Z).decode()
            out.append({**head, "key": row_key(row, keys), "row": text})
    return pa.Table.from_pylist(out, schema=CHANGES.arrow)


def row_key(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    """A gold row's key as the stores write it: its parts joined by ``:``, times in RFC 3339, null as nothing."""
    parts = []
    for name in keys:
        value = row[name]
        if isinstance(value, datetime):
            value = value.isoformat().replace("+00:00", "Z")
        parts.append("" if value is None else str(value))
    return ":".join(parts)
