"""What the stream's tests share: Kafka's records as data, and a stream that is fed with them instead of by Kafka."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from lakehouse.bronze.landed import landed
from lakehouse.contracts import contracts
from lakehouse.erasure.identifiers import Erased
from lakehouse.flows import FLOWS, TABLES
from lakehouse.runtime.fused import FusedPass, Ingest
from lakehouse.runtime.recovery import create_tables, fill_index, roll_back
from lakehouse.runtime.seen import SeenIndex
from lakehouse.settings import Settings
from lakehouse.silver.checked import CheckedTogether
from lakehouse.sinks.delta import DataFile, DeltaWriter, Storage
from lakehouse.sources.lake import Lake

KAFKA = (
    "topic string, partition int, offset bigint, timestamp timestamp, key binary, value binary, "
    "headers array<struct<key:string,value:binary>>"
)
PARSERS = {flow.topic: flow.parse for flow in FLOWS}
VOLATILE = {
    "ops.ledger": {"batch_ms", "committed_at", "versions"},
    "silver.quarantine": {"updated_at"},
    "_internal.gold_changes": {"version"},
    "bronze.user_events": {"erased_at"},
}
"""Columns that two runs over the same records need not agree on."""


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    at: datetime
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    key: bytes | None = b"k"


def kafka(spark: SparkSession, records: Iterable[Record]) -> DataFrame:
    """Records in the shape of Spark's Kafka source."""
    rows = [
        (r.topic, r.partition, r.offset, r.at, r.key, r.value, [*r.headers] if r.headers else None) for r in records
    ]
    return spark.createDataFrame(rows, KAFKA)


def checked(spark: SparkSession, batches: Sequence[Sequence[Record]]) -> list[dict[str, pa.Table]]:
    """Each batch's checked rows by topic, as `Ingest` hands them to the passes; one Spark job for all."""
    every = [record for batch in batches for record in batch]
    with TemporaryDirectory() as scratch:
        by_topic = CheckedTogether(PARSERS, Path(scratch) / "checked")(landed(kafka(spark, every)))
    out = []
    for batch in batches:
        places = {(r.topic, r.partition, r.offset) for r in batch}
        parts = {}
        for topic, rows in by_topic.items():
            names = zip(*(rows.column(n).to_pylist() for n in ("topic", "partition", "offset")), strict=True)
            parts[topic] = rows.filter(pa.array([name in places for name in names]))
        out.append({topic: part for topic, part in parts.items() if part.num_rows})
    return out


class Cut(Exception):
    """The power went."""


class Mortal(DeltaWriter):
    """A writer whose next commit, when armed, dies before or after it counts."""

    dies: str = ""

    def commit(self, adds: Iterable[DataFile], *args: Any, **kwargs: Any) -> int:
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise Cut(self.table.name)
        version = super().commit(adds, *args, **kwargs)
        if dies == "after":
            raise Cut(self.table.name)
        return version


@dataclass
class Run:
    """The stream of one lake without Kafka: `start` recovers as runtime/stream.py does, `feed` is a micro-batch."""

    spark: SparkSession
    settings: Settings
    passes: dict[str, FusedPass] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lake, self.storage = Lake(self.settings), Storage(self.spark, self.settings.home / "tmp")

    def start(
        self, flush_rows: int = 200_000, cut_every: timedelta = timedelta(0), erased: Erased | None = None
    ) -> Run:
        created = create_tables(self.storage, self.lake)
        self.writers = {n: Mortal(self.storage, w.table, w.uri, w.version) for n, w in created.items()}
        progress = roll_back(self.lake, self.writers)
        for flow in FLOWS:
            contract = contracts()[flow.topic]
            index = SeenIndex(self.settings.home / "index" / flow.topic, flush_rows)
            fill_index(index, flow, contract, self.lake, progress[flow.topic], contract.duplicate_horizon)
            self.passes[flow.topic] = FusedPass(
                flow, contract, self.lake, self.writers, index, progress[flow.topic], contract.duplicate_horizon
            )
        self.fused = Ingest(self.passes, self.writers, 2, self.settings.home / "checked", cut_every, erased)
        return self

    def ingest(self, *batches: Sequence[Record]) -> None:
        """Micro-batches through Spark and all passes."""
        for number, batch in enumerate(batches):
            self.fused(kafka(self.spark, batch), number)
        self.fused.written()

    def feed(self, *batches: dict[str, pa.Table]) -> None:
        """Micro-batches that are checked already."""
        for batch in batches:
            self.fused.write(batch, 0.0)

    def die(self, batch: dict[str, pa.Table], *effects: tuple[str, str]) -> None:
        """A micro-batch that dies at the named moment of the first of these commits; other topics may get further."""
        for table, moment in effects:
            self.writers[table].dies = moment
        try:
            self.fused.write(batch, 0.0)
        except Cut:
            pass
        else:
            raise AssertionError(f"the batch outlived {effects}")
        for one in self.passes.values():  # a process that dies takes its threads along
            one.pool.shutdown()
            one.files_pool.shutdown()

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self.lake.dataset(name).to_table().to_pylist()

    def contents(self) -> dict[str, list[str]]:
        """Every table as sorted text, without what may differ between runs; floats to 9 digits."""
        out = {}
        for name in TABLES:
            rows = [{k: v for k, v in r.items() if k not in VOLATILE.get(name, set())} for r in self.rows(name)]
            out[name] = sorted(_text(row) for row in rows)
        return out

    def counts(self, topic: str) -> tuple[int, int, int, int]:
        """(records, valid, quarantined, duplicates) that the ledger proves."""
        rows = [r for r in self.rows("ops.ledger") if r["topic"] == topic]
        return tuple(sum(r[n] for r in rows) for n in ("records", "valid", "quarantined", "duplicates"))


def _text(row: dict[str, Any]) -> str:
    if isinstance(row.get("row"), str):
        row = row | {"row": json.loads(row["row"])}
    return json.dumps(_rounded(row), default=str, sort_keys=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def event(at: datetime, name: str, **fields: Any) -> bytes:
    body = {"event_id": name, "event_type": "view", "user_id": "u1", "post_id": "p1", "occurred_at": at.isoformat()}
    return json.dumps(body | fields).encode()


def log(at: datetime, name: str | None, **fields: Any) -> bytes:
    return json.dumps({"@timestamp": at.isoformat(), "event": {"id": name, "duration": 5_000_000}} | fields).encode()


def metric(at: datetime, host: str | None, **values: Any) -> bytes:
    return json.dumps({"@timestamp": at.isoformat(), "host": {"name": host}, "system": values}).encode()


def history(origin: datetime, seed: int = 7, each: int = 90) -> list[Record]:
    """Records of all topics, some hours of appending: valid, late (up to 12 days), duplicated, broken, drifting."""
    chance = random.Random(seed)
    makers: dict[str, Callable[[datetime, int], bytes | None]] = {
        "user-events": lambda at, i: event(
            at,
            f"e{i}",
            event_type=chance.choice(["view", "view", "like", "unlike", "comment", "share", "bookmark", "post"]),
            user_id=f"u{chance.randrange(9)}",
            post_id=f"p{chance.randrange(7)}",
            session_id=chance.choice([None, "s1", "s2", "s3"]),
            properties=chance.choice([None, {"a": "b"}]),
            **chance.choice([{}, {"colour": {"deep": 1}}]),
        ),
        "service-logs": lambda at, i: log(
            at,
            chance.choice([None, f"l{i}"]),
            event={"id": f"l{i}", "duration": chance.choice([None, chance.randrange(10**9)])},
            service=chance.choice([None, {"name": "shop"}, {"name": "cart"}]),
            http=chance.choice([None, {"response": {"status_code": chance.choice([200, 404, 500, 503])}}]),
        ),
        "system-metrics": lambda at, i: metric(
            at, chance.choice([None, "h1", "h2"]), cpu={"pct": chance.random(), "n": i}, unit=f"x{i}"
        ),
    }
    records: list[Record] = []
    for topic, make in makers.items():
        ends, kept = [0, 0], list[bytes | None]()
        for i in range(each):
            at = origin + timedelta(minutes=3 * i, seconds=chance.random() * 60)
            when = at - chance.choice([timedelta(seconds=chance.random() * 300)] * 6 + [timedelta(days=5, hours=3)])
            when = at - timedelta(days=12) if chance.random() < 0.06 else when
            value = make(when, i)
            if kept and chance.random() < 0.2:
                value = chance.choice(kept[-20:])
            elif chance.random() < 0.1:
                value = chance.choice([None, b"", b"{", b"[]", b'{"event_id": 5}', b"\xff"])
            kept.append(value)
            partition = chance.randrange(2)
            records.append(Record(topic, partition, ends[partition], at, value))
            ends[partition] += chance.choice([1, 1, 1, 2])  # a transaction marker leaves a gap
    return records


def split(records: Sequence[Record], parts: int, seed: int = 3) -> list[list[Record]]:
    """The records in batches of growing offsets, each batch shuffled."""
    chance, size = random.Random(seed), -(-len(records) // parts)
    ordered = sorted(records, key=lambda r: (r.at, r.partition, r.offset))
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [chance.sample(batch, len(batch)) for batch in batches]


def again(record: Record, offset: int, after: timedelta = timedelta(minutes=1), **changes: Any) -> Record:
    """The same record appended once more."""
    return replace(record, offset=offset, at=record.at + after, **changes)
