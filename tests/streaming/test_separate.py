"""The distributed engine: the same sets as the fused pass, across crashes, and back to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakehouse.contracts import contracts
from lakehouse.erasure.identifiers import Erased, digest
from lakehouse.flows import FLOWS
from lakehouse.runtime.effects import perform
from lakehouse.runtime.fused import REPLAY_HEADER
from lakehouse.runtime.recovery import create_tables, roll_back
from lakehouse.runtime.separate import MAX_SPANS, SeparatePass, repeated, spans, within
from lakehouse.settings import Hdfs, Settings
from tests.streaming.feed import Cut, Record, Run, again, event, history, kafka, log, split
from tests.streaming.test_fused import places

AT = datetime(2026, 10, 1, 12, 0, 30, tzinfo=UTC)
MINUTE, WEEK = timedelta(minutes=1), timedelta(days=7)
TOPICS = [flow.topic for flow in FLOWS]


@dataclass
class Separate(Run):
    """The same lake under the other engine: `begin` recovers, `take` is a micro-batch of each topic's query."""

    queries: dict[str, SeparatePass] = field(default_factory=dict)
    dies: tuple[str, str] | None = None

    def perform(self, query: str, effect: str, prepare: Callable[[], Any], commit: Callable[[Any], None]) -> None:
        """The effect, or the end of the process before or after its commit."""
        if self.dies == (effect, "before"):
            raise Cut(effect)
        perform(query, effect, prepare, commit)
        if self.dies == (effect, "after"):
            raise Cut(effect)

    def begin(
        self, topics: Iterable[str] = TOPICS, dies: tuple[str, str] | None = None, erased: Erased | None = None
    ) -> Separate:
        self.dies, writers = dies, create_tables(self.storage, self.lake)
        progress = roll_back(self.lake, writers)
        self.queries = {}
        for flow in FLOWS:
            if flow.topic in topics:
                contract, at = contracts()[flow.topic], progress[flow.topic]
                self.queries[flow.topic] = SeparatePass(
                    self.spark, flow, contract, self.lake, writers, at, contract.duplicate_horizon, self.perform,
                    erased,
                )  # fmt: skip
        return self

    def take(self, *batches: Sequence[Record]) -> None:
        for number, batch in enumerate(batches):
            for topic, query in self.queries.items():
                query(kafka(self.spark, [r for r in batch if r.topic == topic]), number)


def lake(spark: SparkSession, base: Settings, folder: Any) -> Separate:
    folder.mkdir(exist_ok=True)
    return Separate(spark, base.model_copy(update={"home": folder / "home", "hdfs": Hdfs(uri=f"file://{folder}")}))


@pytest.fixture(autouse=True)
def interpreted(spark: SparkSession) -> Iterator[None]:
    """Plans run as they are: for a hundred records, compiling them costs more than all else."""
    small = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    for key, value in small.items():
        spark.conf.set(key, value)
    yield
    for key in small:
        spark.conf.unset(key)


@pytest.fixture
def separate(spark: SparkSession, base: Settings, tmp_path: Any) -> Separate:
    return lake(spark, base, tmp_path)


def replayed(records: list[Record]) -> list[Record]:
    """With replays of one place all through the records: under a new identity, again, under a known one; or none."""
    places = [i for i, r in enumerate(records) if r.topic == "user-events" and r.partition == 0][2::4]
    names = ["fixed", "fixed again", "plain", "e5", "fixed", "plain"]
    out = list(records)
    for i, name in zip(places, names * len(places), strict=False):
        header = ((REPLAY_HEADER, b"user-events/0/0"),) if name != "plain" else ()
        out[i] = replace(out[i], value=event(out[i].at, name), headers=header)
    return out


def same(found: Run, wanted: Run) -> None:
    """All tables equal as sets; of the ledger and the changes, what does not name the engine or a version."""
    a, b = found.contents(), wanted.contents()
    for contents in (a, b):
        contents["ops.ledger"] = [row.replace('"fused"', '"separate"') for row in contents["ops.ledger"]]
    assert (
        {n: rows for n, rows in a.items() if rows != b[n]} == {n: rows for n, rows in b.items() if rows != a[n]} == {}
    )


def test_both_engines_make_the_same_tables_of_the_same_records_in_turns_and_after_crashes(
    run: Run, spark: SparkSession, base: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second, third = split(replayed(history(AT, each=60)), 3)
    run.start().ingest(first, second, third)
    turns = lake(spark, base, tmp_path_factory.mktemp("turns"))
    turns.start().ingest(first)
    turns.begin(dies=("_internal.gold_changes", "after"))
    with pytest.raises(Cut):  # of user-events, all but the ledger is written
        turns.take(second)
    turns.begin(["service-logs"], dies=("ops.ledger", "after"))
    with pytest.raises(Cut):
        turns.take(second)
    turns.begin().take(second)  # logs are in the ledger: they are passed over
    turns.start(flush_rows=0).ingest(third)
    same(turns, run)
    assert [turns.counts(topic) for topic in TOPICS] == [run.counts(topic) for topic in TOPICS]


def versions(run: Run) -> list[int]:
    found = sorted(run.rows("ops.ledger"), key=lambda row: row["seq"])
    return [dict(row["versions"])["silver.service_logs"] for row in found]


def test_an_identity_is_known_for_the_horizon_and_new_again_after_it(separate: Separate) -> None:
    request = {"http": {"response": {"status_code": 500}}, "service": {"name": "shop"}}
    first = Record("service-logs", 0, 0, AT, log(AT, "same", **request))
    separate.begin(["service-logs"])
    separate.take([first, again(first, 1, WEEK)], [again(first, 2, WEEK), again(first, 3, WEEK + MINUTE)])
    assert places(separate, "silver.service_logs") == [(0, 0), (0, 3)]
    assert separate.counts("service-logs") == (4, 2, 0, 2)
    assert [row["requests"] for row in separate.rows("gold.service_health_minute")] == [2]
    rows = [separate.lake.dataset("silver.service_logs", version).count_rows() for version in versions(separate)]
    assert rows == [1, 2]  # what the ledger names holds the batch


# What needs no tables.


def decided(*rows: tuple[str, int, int, list[str]], size: int = 2) -> list[int]:
    """Offsets that `repeated` finds with a horizon of 10, the rows cut into batches of ``size``."""
    names = ["group", "at", "partition", "offset", "claims"]
    table = pa.Table.from_pylist([dict(zip(names, (g, at, 0, o, c), strict=True)) for g, at, o, c in rows])
    return [o for batch in repeated(table.to_batches(max_chunksize=size), 10) for o in batch["offset"].to_pylist()]


def test_only_accepted_records_claim_and_a_group_goes_on_across_arrow_batches() -> None:
    rows = [("a", 0, 0, ["a"]), ("a", 6, 1, ["a"]), ("a", 10, 2, ["a"]), ("a", 11, 3, ["a"]), ("b", 11, 4, ["b"])]
    assert decided(*rows) == decided(*rows, size=1) == [1, 2]


def test_a_record_is_repeated_if_any_of_its_claims_is_held_and_then_claims_nothing() -> None:
    rows = [("", 0, 0, ["a", "origin"]), ("", 1, 1, ["b", "origin"]), ("", 2, 2, ["b"]), ("", 3, 3, ["a"])]
    assert decided(*rows) == [1, 3]


def test_spans_hold_whole_windows_and_become_their_hull_when_they_are_many() -> None:
    def at(*hours: int) -> list[datetime]:
        return [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in hours]

    assert spans([7, 5, 4], MINUTE) == [tuple(at(4, 6)), tuple(at(7, 8))]
    assert spans([30, 50], timedelta(days=1)) == [tuple(at(24, 72))]
    assert spans(range(0, 4 * MAX_SPANS, 2), MINUTE) == [tuple(at(0, 4 * MAX_SPANS - 1))]
    assert (
        within("date", "date", spans([30], timedelta(days=1)))
        == "(date >= date'1970-01-02' and date < date'1970-01-03')"
    )


def test_who_was_erased_stays_out_of_both(run: Run, separate: Separate) -> None:
    key = b"k" * 32
    gone = Erased(key, [digest(key, "u3")])
    records = [r for r in history(AT, each=30) if r.topic == "user-events"]
    run.start(erased=gone).ingest(records)
    separate.begin(["user-events"], erased=gone).take(records)
    same(separate, run)
    for one in (run, separate):
        rows = [row for row in one.rows("bronze.user_events") if row["erased_at"]]
        assert len(rows) == sum(row["erased"] for row in one.rows("ops.ledger")) > 0
        assert all(row["key"] is row["value"] is row["headers"] is None for row in rows)
