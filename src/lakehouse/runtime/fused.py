"""All flows of a topic in one pass, on one machine: Spark reads and checks, the driver splits, folds and commits.

A batch of some hundred to a hundred thousand records is checked in Spark's workers, comes to the driver as one Arrow
table, and is written with as few round trips as the tables allow, all tables side by side, the ledger last. Its
distributed twin, a query a topic with Spark's own writer and MERGE, is ``runtime/separate.py``.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
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
from lakehouse.erasure.identifiers import Erased
from lakehouse.flows import INGEST, STORES, Flow
from lakehouse.gold import trending_posts
from lakehouse.runtime import effects
from lakehouse.runtime.batches import Batches, in_its_batch, side_by_side
from lakehouse.runtime.effects import Perform, perform
from lakehouse.runtime.fold import Change, GoldFold, TrendingFold
from lakehouse.runtime.ledger import CHANGES, LEDGER, MAX_DRIFT
from lakehouse.runtime.seen import SeenIndex
from lakehouse.silver import quarantine
from lakehouse.silver.checked import CheckedTogether
from lakehouse.sinks.delta import DataFile, DeltaWriter
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

REPLAY_HEADER = "lakehouse-replay-of"
MIRRORED = frozenset(s.table for s in STORES if s.store != "redis" and s.table.startswith("gold."))
"""Gold tables whose rows the stores hold one by one; of the others they hold the newest rows only."""
_US = pa.timestamp("us", "UTC")
_log = logging.getLogger("lakehouse.stream")


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
    starts: dict[int, int] = field(default_factory=dict)
    sealed: datetime | None = None
    """What was deleted after its retention, as ``lakehouse.sources.lake.Cut`` has it; each ledger row says it again."""

    def kept(self, partition: int) -> dict[str, Any]:
        """The ledger's columns about that."""
        return {"kept_from": self.starts.get(partition), "sealed_before": self.sealed}


class Ingest(Batches):
    """The ``foreachBatch`` of all topics: one Spark job checks their records, then each topic's pass writes its own.

    One query instead of one a topic, and one commit to each table that topics share: on two cores, what a micro-batch
    costs besides its records is most of its time. While a batch is written, Spark reads and checks the next. It then
    counts the first as done, which the ledger does not: a restart begins at the ledger's ends.

    Bronze and silver are written with every micro-batch. Gold, what topics share and the ledger follow in a cut, at
    most every ``cut_every``: a batch of the ledger may hold several of Spark's. After a failure nothing more is done.
    """

    def __init__(
        self,
        passes: dict[str, FusedPass],
        writers: Mapping[str, DeltaWriter],
        workers: int,
        scratch: Path,
        cut_every: timedelta = timedelta(0),
        erased: Erased | None = None,
    ):
        super().__init__()
        self.passes, self.writers, self.workers, self.cut_every = passes, writers, workers, cut_every
        self.check = CheckedTogether(
            {topic: replace(one.flow.parse, erased=erased) for topic, one in passes.items()}, scratch
        )
        self.pool = ThreadPoolExecutor(len(passes), thread_name_prefix="pass")
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self.landed_since: float | None = None
        """When the first micro-batch since the last cut began, by the monotonic clock."""
        self.last_cut = -math.inf
        self.failed: BaseException | None = None
        self._beginning = Lock()

    def take(self, batch: DataFrame) -> None:
        """Check one micro-batch of Kafka's records and begin to write it, once the one before is everywhere.

        Raises:
            Exception: what the batch before failed with; nothing of this one has been written.
        """
        started = time.monotonic()
        checked = self.check(landed(batch).coalesce(self.workers))
        self.written()
        self._begin(partial(self.write, checked, started))

    def rest(self, wholly: bool = False) -> None:
        """Begin a cut if one is due; ``wholly``: if anything has landed."""
        if self.landed_since is not None and (wholly or (self._due() and self.writing and self.writing.done())):
            self._begin(lambda: self.cut() if wholly or self._due() else None)

    def _begin(self, job: Callable[[], None]) -> None:
        def run() -> None:
            if self.failed:
                raise self.failed
            try:
                job()
            except BaseException as error:
                self.failed = error
                raise

        with self._beginning:
            self.writing = self.writer.submit(run)

    def _due(self) -> bool:
        return self.landed_since is not None and time.monotonic() - self.last_cut >= self.cut_every.total_seconds()

    def write(self, checked: dict[str, pa.Table], started: float) -> None:
        """Write one micro-batch of checked records to bronze and silver, and all the rest if a cut is due.

        ``started`` is when the batch began, by the monotonic clock.
        """
        landed = side_by_side(self.pool, [partial(self.passes[topic].land, rows) for topic, rows in checked.items()])
        if any(landed) and self.landed_since is None:
            self.landed_since = started
        if self._due():
            self.cut()

    def cut(self) -> None:
        """Write what has landed since the last cut to gold and to the tables that topics share, the ledger last."""
        if self.landed_since is None:
            return
        now = datetime.now(UTC)
        found = side_by_side(self.pool, [one.fold for one in self.passes.values()])
        written = [one for one in found if one is not None]
        bad = pa.concat_tables([_quarantined(one.split, now) for one in written])
        changes = pa.concat_tables(
            [changed_rows(one.topic, one.seq, one.touched, self.writers) for one in written if one.touched]
            or [CHANGES.arrow.empty_table()]
        )
        shared = ((quarantine.TABLE, bad), (CHANGES, changes))
        side_by_side(self.pool, [partial(self._append, table, rows) for table, rows in shared if rows.num_rows])
        ledgers = [self.passes[one.topic].ledger(one, self.landed_since) for one in written]
        self._append(LEDGER, pa.concat_tables(ledgers))
        for one, ledger in zip(written, ledgers, strict=True):
            self.passes[one.topic].done(one, ledger)
        self.landed_since, self.last_cut = None, time.monotonic()

    def _append(self, table: Table, rows: pa.Table) -> None:
        append(INGEST, self.writers[table.name], rows)


def append(query: str, writer: DeltaWriter, rows: pa.Table, perform: Perform = effects.perform) -> None:
    """Append rows to a table, as one effect."""

    def commit(file: DataFile) -> None:
        writer.commit([file])

    perform(query, writer.table.name, lambda: writer.stage(rows), commit)


class FusedPass:
    """Everything that a batch of one topic does: ``land`` some micro-batches, ``fold`` them, be ``done``.

    One instance serves one run; after any error make a new one.

    Guarantee: every effect is a set of rows at absolute values or under Kafka's coordinates; a batch that died half
    way is rolled back by ``runtime/recovery.py`` before its repetition, one that reached the ledger is skipped.
    """

    def __init__(
        self,
        flow: Flow,
        contract: Contract,
        lake: Lake,
        writers: Mapping[str, DeltaWriter],
        index: SeenIndex,
        progress: Progress,
        horizon: timedelta,
    ):
        self.flow, self.contract, self.lake, self.writers = flow, contract, lake, writers
        self.index, self.progress, self.horizon = index, progress, horizon
        silver_version = writers[flow.silver.name].version
        self.folds = [
            GoldFold(a, lake, writers[a.name], index, contract.duplicate_horizon, progress.sealed) for a in flow.gold
        ]
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
        self.read = dict(progress.ends)
        """The end of every partition, with what has landed since the last cut."""
        self.landed: list[tuple[Split, pa.Table]] = []
        self.silver_before = silver_version

    @in_its_batch
    def land(self, checked: pa.Table) -> bool:
        """Write one micro-batch of checked records of this topic to bronze and silver; False where none is new."""
        rows = self._unseen_offsets(checked)
        if not rows.num_rows:
            return False
        split, keys, times = self._split(rows)
        silver = self._silver(rows.filter(pa.array(split.accepted)))
        if not self.landed:
            self.silver_before = self.writers[self.flow.silver.name].version
        parts = [(self.flow.bronze, rows.select(COLUMNS.names)), (self.flow.silver, silver)]
        side_by_side(
            self.pool,
            [
                partial(append, self.flow.topic, self.writers[table.name], part)
                for table, part in parts
                if part.num_rows
            ],
        )
        self.index.add(keys, times)
        self.landed.append((split, silver))
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        for partition in np.unique(partitions).tolist():
            self.read[partition] = int(offsets[partitions == partition].max()) + 1
        return True

    def _unseen_offsets(self, rows: pa.Table) -> pa.Table:
        """Without what has landed already; in the order in which records count."""
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        keep = np.ones(rows.num_rows, dtype=bool)
        for partition, end in self.read.items():
            keep &= (partitions != partition) | (offsets >= end)
        if not keep.all():
            rows = rows.filter(pa.array(keep))
        return rows.sort_by([("timestamp", "ascending"), ("partition", "ascending"), ("offset", "ascending")])

    def _split(self, rows: pa.Table) -> tuple[Split, Any, Any]:
        """Where each record goes, and the keys that the accepted ones claim with their times."""
        valid = pc.is_null(rows.column("_reasons")).to_numpy(zero_copy_only=False)
        erased = pc.is_valid(rows.column("erased_at")).to_numpy(zero_copy_only=False)
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
        claimed = keys[kept] if len(keys) else keys
        claimed_at = arrivals[np.array(owners, dtype=int)][kept] if owners else np.empty(0, dtype=np.int64)
        return Split(rows, valid, accepted, erased, arrivals), claimed, claimed_at

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

    @in_its_batch
    def fold(self) -> Written | None:
        """Bring gold up to what has landed since the last cut; None where nothing has."""
        if not self.landed:
            return None
        query = self.flow.topic
        split = Split.of([split for split, _ in self.landed])
        silver = pa.concat_tables([rows for _, rows in self.landed])
        arrival = _time(split.arrivals.max())
        changes: dict[str, Change] = {}
        touched: dict[str, pa.Table] = {}

        def fold_gold(fold: GoldFold) -> None:
            change = fold.fold(silver, arrival, self.silver_before)
            if change is None:
                return
            changes[fold.aggregate.name], touched[fold.aggregate.name] = change, change.rows

            def commit(files: list[DataFile]) -> None:
                fold.writer.commit(files, change.removes)

            perform(query, fold.aggregate.name, lambda: fold.stage(change, self.files_pool), commit)

        def fold_trending(trending: TrendingFold) -> None:
            # Dated by silver alone, as its recomputation is: the batch's newest record may be broken or a duplicate.
            snapshot = trending.fold(silver, pc.max(silver.column("timestamp")).as_py())
            touched[trending_posts.TABLE.name] = snapshot

            def commit(file: DataFile) -> None:
                trending.writer.commit([file], trending.files)
                trending.files = [(file.path, file.size)]

            perform(query, trending_posts.TABLE.name, lambda: trending.writer.stage(snapshot), commit)

        jobs: list[Callable[[], None]] = []
        if silver.num_rows:
            jobs += [partial(fold_gold, fold) for fold in self.folds]
            jobs += [partial(fold_trending, self.trending)] if self.trending else []
        side_by_side(self.pool, jobs)
        return Written(self.flow.topic, self.progress.seq + 1, split, changes, touched)

    def ledger(self, written: Written, started: float) -> pa.Table:
        """The ledger's rows of a batch whose tables are all written: one a partition."""
        split, rows = written.split, written.split.rows
        versions = {table.name: self.writers[table.name].version for table in self.flow.tables if table is not LEDGER}
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
                    drifted.update(leaf_names(orjson.loads(text)))
            out.append(
                {
                    "topic": self.flow.topic,
                    "seq": written.seq,
                    "partition": partition,
                    "start_offset": start,
                    "end_offset": int(offsets[here].max()) + 1 if here.any() else start,
                    "records": int(here.sum()),
                    "valid": int((here & split.accepted).sum()),
                    "quarantined": int((here & split.bad).sum()),
                    "duplicates": int((here & split.valid & ~split.accepted).sum()),
                    "first_at": _time(times.min()) if len(times) else None,
                    "last_at": _time(times.max()) if len(times) else None,
                    "warnings": list(flagged.items()),
                    "drift": list(drifted.most_common(MAX_DRIFT)),
                    "versions": list(versions.items()),
                    "engine": "fused",
                    "batch_ms": int((time.monotonic() - started) * 1000),
                    "committed_at": datetime.now(UTC),
                    "erased": int((here & split.erased).sum()),
                    **self.progress.kept(partition),
                }
            )
        return pa.Table.from_pylist(out, schema=LEDGER.arrow)

    @in_its_batch
    def done(self, written: Written, ledger: pa.Table) -> None:
        """After the ledger's commit: what the batch changed is remembered for the next."""
        if bad := pc.sum(ledger.column("quarantined")).as_py():
            _log.info("%d of %d records went to quarantine", bad, pc.sum(ledger.column("records")).as_py())
        newest = int(written.split.arrivals.max())
        self.landed = []
        for fold in self.folds:
            if change := written.changes.get(fold.aggregate.name):
                fold.done(change)
                if change.members is not None and len(change.members):
                    self.index.add(change.members, np.full(len(change.members), newest))
        rows = ledger.select(["partition", "end_offset", "versions"]).to_pylist()
        self.progress.seq, self.progress.versions = written.seq, dict(rows[0]["versions"])
        self.progress.ends |= {r["partition"]: r["end_offset"] for r in rows}
        self._flush(newest)

    def _flush(self, newest: int, every: float = 30.0) -> None:
        if self.index.unflushed() > self.index.flush_rows or time.monotonic() - self.flushed_at > every:
            # By append time, not by the clock: a backlog may be older than the horizon.
            oldest = newest - (self.horizon + timedelta(days=3)) // timedelta(microseconds=1)
            self.index.flush({"seq": self.progress.seq, "ends": self.progress.ends}, oldest)
            self.flushed_at = time.monotonic()


@dataclass
class Split:
    """A batch's records and where each goes: quarantine (not valid), silver (accepted) or the count of duplicates.

    Those that name somebody who was erased (``erased``) are in none: they are not valid, and stay in bronze alone.
    """

    rows: pa.Table
    valid: Any
    accepted: Any
    erased: Any
    arrivals: Any

    @property
    def bad(self) -> Any:
        """Which records go to quarantine."""
        return ~self.valid & ~self.erased

    @staticmethod
    def of(parts: list[Split]) -> Split:
        """Several as one."""
        if len(parts) == 1:
            return parts[0]
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("valid", "accepted", "erased", "arrivals")
        }
        return Split(rows=pa.concat_tables([part.rows for part in parts]), **arrays)


@dataclass
class Written:
    """What a topic's pass has written of a batch, and what the tables that all topics share still lack of it."""

    topic: str
    seq: int
    split: Split
    changes: dict[str, Change]
    touched: dict[str, pa.Table]
    """Gold rows as the batch left them, by table."""


def _quarantined(split: Split, now: datetime) -> pa.Table:
    names = quarantine.TABLE.schema.names
    rows = split.rows.filter(pa.array(split.bad))
    rows = rows.rename_columns(["reasons" if n == "_reasons" else n for n in rows.column_names])
    rows = rows.append_column("status", pa.array(["open"] * rows.num_rows, pa.string()))
    rows = rows.append_column("updated_at", pa.array([now] * rows.num_rows, _US))
    return rows.select(names)


def _time(micros: Any) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros))


def leaf_names(document: Any, path: str = "") -> set[str]:
    """The dotted paths of a document's leaves."""
    if isinstance(document, dict) and document:
        return {name for key, value in document.items() for name in leaf_names(value, f"{path}.{key}" if path else key)}
    return {path}


def changed_rows(topic: str, seq: int, touched: dict[str, pa.Table], writers: Mapping[str, DeltaWriter]) -> pa.Table:
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
