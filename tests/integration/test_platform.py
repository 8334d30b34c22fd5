"""The whole platform on real servers: nothing lost, nothing twice, through kills of everything."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from lakehouse import openlineage
from lakehouse import stack as servers
from lakehouse.audit import audit
from lakehouse.doctor import examine
from lakehouse.flows import FLOWS, STORES, TABLES, effects
from lakehouse.inspect import wait
from lakehouse.openlineage import Names, as_json
from lakehouse.query import query
from lakehouse.runtime.effects import MOMENTS
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.settings import PROJECT, Settings
from lakehouse.simulate import simulate
from lakehouse.sinks.elasticsearch import ElasticsearchSink
from lakehouse.sinks.mongo import MongoSink
from lakehouse.sinks.redis import RedisSink
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import create_topics
from serving.keys import examined
from tests.integration.lake import StreamProcess, environment, event, mixed, problems, send, settled, until

pytestmark = pytest.mark.integration
KILLS = 4
TIDIED_EVERY = 15
"""Deaths after which a stream may tidy up."""
STREAM_STARTS_IN = 120.0


@pytest.fixture(scope="class")
def stream(stack: Settings) -> Iterator[StreamProcess]:
    create_topics(stack)
    with StreamProcess(stack) as process:
        yield process


@pytest.mark.usefixtures("stream")
class TestBesideOneStream:
    """One start of the stream for all; the last may end it."""

    def test_a_simulated_service_is_accounted_for_and_gold_is_its_truth(self, stack: Settings, tmp_path: Path) -> None:
        truth_file = tmp_path / "truth.json"
        until(lambda: DeltaTable.is_deltatable(stack.table_uri(LEDGER.name)), STREAM_STARTS_IN)
        before, events = settled(stack)["topics"], "select coalesce(sum(events), 0) from gold.activity_minute"
        events_before = query(stack, events).rows[0][0]
        began = datetime.now(UTC)
        simulate(stack, 7, 300, 5, 0.5, truth_file, history_records=12_000)
        result = settled(stack)
        assert result["balanced"], problems(result)
        truth = json.loads(truth_file.read_text())
        for topic, sent in truth["topics"].items():
            there = before.get(topic, {})
            found = {name: count - there.get(name, 0) for name, count in result["topics"][topic].items()}
            assert found["records"] == sent["sent"]
            assert (found["valid"], found["quarantined"], found["duplicates"]) == (
                sent["valid"], sent["broken"], sent["duplicates"],
            )  # fmt: skip
        assert query(stack, events).rows[0][0] - events_before == truth["topics"]["user-events"]["valid"]
        told_everywhere(stack, began)

    def test_quarantine_is_fixed_and_replayed_once(self, stack: Settings) -> None:
        send(stack, ("user-events", event("mend-me", rating=9)))
        settled(stack)
        [[topic, partition, offset]] = query(
            stack,
            'select topic, partition, "offset" from silver.quarantine '
            "where array_to_string(reasons, ' ') like '%/rating%' and decode(value) like '%mend-me%'",
        ).rows
        for extra in ((), ("--again",)):
            done = lakehouse(
                stack, "quarantine", "replay", f"{topic}/{partition}/{offset}", "--set", "/rating=4.5", *extra
            )
            assert done.returncode == 0, done.stderr
        result = settled(stack)
        assert result["balanced"], problems(result)
        assert query(stack, "select rating from silver.user_events where event_id = 'e-mend-me'").rows == [(4.5,)]
        status = f'select status from silver.quarantine where "offset" = {offset} and partition = {partition}'
        assert ("replayed",) in query(stack, f"{status} and topic = 'user-events'").rows

    def test_killed_servers_lose_nothing(self, stack: Settings) -> None:
        for name in ("mongodb", "redis", "elasticsearch", "kafka", "datanode", "namenode"):
            send(stack, *mixed(f"before-{name}"))
            servers.kill_server(stack, name)
            until(lambda name=name: servers.status(stack)[name]["ready"], 60)
            send(stack, *mixed(f"after-{name}"))
        result = settled(stack)
        assert result["balanced"], problems(result)


def lakehouse(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lakehouse.cli", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment(settings), capture_output=True, text=True, timeout=300)


def told_everywhere(stack: Settings, since: datetime) -> None:
    """OpenLineage's events lead from every topic to every table and every key of the stores that follow them."""
    events = [json.loads(as_json(event)) for event in openlineage.told(stack, since, datetime.now(UTC))]
    runs = [event for event in events if event.get("eventType") == "COMPLETE"]
    of = Names(stack).of
    read = {(one["namespace"], one["name"]) for run in runs for one in run["inputs"]}
    written = {(one["namespace"], one["name"]) for run in runs for one in run["outputs"]}
    tables = {table.name for flow in FLOWS for table in flow.tables} - {CHANGES.name, LEDGER.name}
    assert {of(f"kafka:{flow.topic}") for flow in FLOWS} <= read
    assert {of(table) for table in tables} | {of(f"{key.store}:{key.name}") for key in STORES} <= written
    assert len({run["run"]["runId"] for run in runs}) == len(runs)


def test_every_kill_leaves_a_balanced_lake(stack: Settings) -> None:
    """Some of the kill points each time, by a seed that is printed; `make test-long` goes through all."""
    seed = random.SystemRandom().randrange(10_000)
    print(f"kill points of seed {seed}")
    chosen = random.Random(seed).sample([f"{e}:{m}" for e in effects() for m in MOMENTS], KILLS)
    die_at(stack, chosen)


def die_at(stack: Settings, points: list[str], engine: str = "fused", alone: bool = False) -> None:
    """A stream dies at each point; the cut that it leaves is balanced each time, the stores are equal in the end.

    Now and then one lives for long enough to merge small files: those that die early never do, and leave ever more.

    ``alone``: beside a query of a store or topic that dies no other one works, for each takes its time to start.
    """
    extra = {"LAKEHOUSE_STREAM__ENGINE": engine}

    def balanced_after(point: str | None) -> None:
        if point and Lake(stack).cuts():
            left = audit(stack, stores=False)
            assert left["balanced"], f"{point}: {problems(left)}"

    before: str | None = None
    for number, point in enumerate(points):
        if number and number % TIDIED_EVERY == 0:
            tidying = {"LAKEHOUSE_STREAM__COMPACT_EVERY": "PT1S", "LAKEHOUSE_STREAM__COMPACT_ABOVE_FILES": "5"}
            with StreamProcess(stack, **extra, **tidying):
                settled(stack)
        query, records = point.partition(":")[0], mixed(f"{engine}-{point}-{number}")
        less = dict[str, str]()
        if alone:
            less["LAKEHOUSE_STREAM__STORES"] = json.dumps([query] if query in stack.stream.stores else [])
            if engine == "separate":
                records = [record for record in records if record[0] == query]
        send(stack, *records)
        process = StreamProcess(stack, LAKEHOUSE_KILL=point, **extra, **less)
        try:
            # The cut that the last one left is looked at while this one starts, which takes longer.
            balanced_after(before)
        finally:
            code = process.died(STREAM_STARTS_IN)
        print(f"{number + 1}/{len(points)} {point}")
        assert code == -signal.SIGKILL, f"{point}: exit {code}\n{process.tail()}"
        before = point
    balanced_after(before)
    with StreamProcess(stack, **extra):
        result = settled(stack)
    assert result["balanced"], f"{points}: {problems(result)}"


def test_mongodb_keeps_the_newest_version_of_a_document(stack: Settings) -> None:
    """Among many others too: the stand-in finds the candidates by an index of ours."""
    apart = stack.model_copy(update={"mongo": stack.mongo.model_copy(update={"database": "apart"})})
    sink, table = MongoSink(apart), TABLES["gold.post_engagement_daily"]
    rows = [(f"2026-01-01:p-{i}", 2, {"post_id": f"p-{i}", "views": 2}) for i in range(3000)]
    sink.upsert(table, rows)
    sink.upsert(table, [(key, 1, row | {"views": 1}) for key, _, row in rows[:10]])
    sink.upsert(table, [(key, 3, row | {"views": 3}) for key, _, row in rows[10:20]])
    sink.upsert(table, rows[:10])
    found = sink.database["post_engagement"]
    assert [found.count_documents({"views": views}) for views in (1, 2, 3)] == [0, 2990, 10]
    assert found.count_documents({"_id": {"$in": [rows[0][0], rows[15][0]]}, "version": {"$gte": 3}}) == 1


def test_what_is_wrong_in_a_store_is_found_and_mended_by_a_rebuild(stack: Settings) -> None:
    send(stack, *mixed("stores"))
    with StreamProcess(stack):
        settled(stack)
    mongo, redis, elastic = MongoSink(stack), RedisSink(stack), ElasticsearchSink(stack)
    one = mongo.database["user_activity"].find_one({})
    assert one is not None
    key = one["_id"]
    mongo.database["user_activity"].delete_one({"_id": key})
    mongo.database["post_engagement"].update_one({}, {"$inc": {"views": 1}})
    latest = json.loads(redis.client.get("gold:activity_minute:latest"))
    latest["rows"][0]["events"] += 1
    redis.client.set("gold:activity_minute:latest", json.dumps(latest))
    for index in ("logs-service", "metrics-system", "service-health"):
        found = elastic.client.search(index=index, size=1)["hits"]["hits"][0]
        elastic.client.delete(index=found["_index"], id=found["_id"], refresh=True)
    result = audit(stack, kafka=False)
    unbalanced = {name for name, store in result["stores"].items() if not store["balanced"]}
    assert unbalanced == {
        "mongodb.user_activity", "mongodb.post_engagement", "redis.gold:activity_minute:latest",
        "elasticsearch.logs-service", "elasticsearch.metrics-system", "elasticsearch.service-health",
    }  # fmt: skip
    assert any(key in str(problem) for problem in result["problems"])
    for store in stack.stream.stores:
        done = lakehouse(stack, "rebuild", "--store", store)
        assert done.returncode == 0, done.stderr
    mended = audit(stack, kafka=False)
    assert mended["balanced"], problems(mended)
    send(stack, *mixed("after the rebuild"))
    with StreamProcess(stack):
        result = settled(stack)
    assert result["balanced"], problems(result)


def test_the_doctor_finds_nothing_wrong_and_says_what_is(stack: Settings) -> None:
    create_topics(stack)
    assert [one for one in examine(stack, {"secrets": examined}) if one.level == "problem"] == []
    kafka = stack.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    away = examine(stack.model_copy(update={"kafka": kafka}))
    assert "topics" in {one.check for one in away if one.level == "problem"}


@pytest.mark.long  # two minutes and a half: five starts of the stream and three rebuilds
def test_a_store_that_is_too_far_behind_says_so_and_goes_on_after_a_rebuild(stack: Settings) -> None:
    send(stack, *mixed("before the gap"))
    with StreamProcess(stack):
        settled(stack)
    before = Lake(stack).table(CHANGES.name).version()
    send(stack, *mixed("in the gap"))
    with StreamProcess(stack, LAKEHOUSE_STREAM__STORES="[]"):
        assert not wait(stack.model_copy(update={"stream": stack.stream.model_copy(update={"stores": ()})}), 120)
        newest = Lake(stack).table(CHANGES.name)
        newest.create_checkpoint()
    files = DeltaStorageHandler.from_table(newest._table)
    for version in range(newest.version()):
        files.delete_file(f"_delta_log/{version:020d}.json")
    assert newest.version() > before
    with StreamProcess(stack) as stream:
        until(lambda: "lakehouse rebuild --store mongodb" in stream.tail(), 120)
    for store in stack.stream.stores:
        done = lakehouse(stack, "rebuild", "--store", store)
        assert done.returncode == 0, done.stderr
    send(stack, *mixed("after the gap"))
    with StreamProcess(stack):
        result = settled(stack)
    assert result["balanced"], problems(result)
