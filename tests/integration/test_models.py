"""Champions on real servers: trained on tables, written to gold and stores, answering at once, switched by alias."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import redis
from deltalake import write_deltalake
from pymongo import MongoClient
from pyspark.sql import SparkSession

from lakehouse import predict
from lakehouse import stack as servers
from lakehouse.flows import TABLES
from lakehouse.runtime.detect import detect
from lakehouse.session import spark_session
from lakehouse.settings import PROJECT, Mlflow, Settings
from lakehouse.simulate import DAY, Simulation, history_times
from lakehouse.sinks.elasticsearch import ANOMALIES, FORECASTS, ElasticsearchSink
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import create_topics, producer
from models import lifecycle
from models.registry import Registry, decisions
from models.scoring import score
from tests.integration.lake import environment, until

pytestmark = pytest.mark.integration
PREFIX = "models-"
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
MINUTES = 600


def put(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to a table, which is made; columns left out are null."""
    schema = TABLES[name].arrow
    full = [{column: row.get(column) for column in schema.names} for row in rows]
    write_deltalake(settings.table_uri(name), pa.Table.from_pylist(full, schema=schema), mode="append")


def user_events(seed: int) -> list[dict[str, Any]]:
    """A day of a simulated service, as silver has it."""
    world = Simulation(seed, f"m{seed}", share_duplicates=0, share_late=0, share_broken=0)
    end = int(NOW.timestamp()) * 1_000_000
    records = (record for times in history_times(world.rng, end - DAY, end, 30_000) for record in world.block(times))
    events = (orjson.loads(value) for topic, _, value, _ in records if topic == "user-events" and value)
    return [{**event, "occurred_at": datetime.fromisoformat(event["occurred_at"])} for event in events]


@pytest.fixture(scope="module")
def lived(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Tables in which a service has lived for a day, in a lake of their own; MLflow without a server."""
    folder = tmp_path_factory.mktemp("mlflow")
    apart = stack.model_copy(
        update={
            "home": tmp_path_factory.mktemp("models"),
            "jars": stack.jars or stack.home / "jars",
            "hdfs": stack.hdfs.model_copy(update={"root": "/models"}),
            "mongo": stack.mongo.model_copy(update={"database": "models"}),
            "mlflow": Mlflow(uri=f"sqlite:///{folder}/mlflow.db"),
        }
    )
    rng = np.random.default_rng(1)
    times = [NOW - timedelta(minutes=MINUTES - at) for at in range(MINUTES)]
    put(apart, "silver.user_events", user_events(1))
    put(apart, "gold.activity_minute", [
        {"window_start": at, "event_type": kind, "events": int(rng.poisson(40)), "users": 9}
        for at in times for kind in ("view", "like")
    ])  # fmt: skip
    put(apart, "gold.service_health_minute", [
        {"window_start": at, "service": service, "requests": 200, "errors": 2,
         "error_rate": abs(rng.normal(0.01, 0.002)), "p50_ms": 20.0, "p95_ms": rng.normal(50, 1), "p99_ms": 70.0}
        for at in times for service in ("feed", "search")
    ])  # fmt: skip
    put(apart, "gold.host_utilization_minute", [
        {"window_start": at, "host": host, "metric": metric, "avg": rng.normal(0.4, 0.01), "max": 0.5, "samples": 6}
        for at in times for host in ("web-1", "db-1")
        for metric in ("system.cpu.total.norm.pct", "system.memory.actual.used.pct")
    ])  # fmt: skip
    put(apart, "silver.service_logs", [
        {"time": at, "message": f"job {number} finished after {number * 7} ms", "service": {"name": "feed"},
         "log": {"level": "info"}}
        for number, at in enumerate(times)
    ])  # fmt: skip
    put(apart, "silver.system_metrics", [
        {"time": at, "host": host, "metric": metric, "value": rng.normal(0.4, 0.01)}
        for at in times for host in ("web-1", "db-1")
        for metric in ("system.cpu.total.norm.pct", "system.memory.actual.used.pct")
    ])  # fmt: skip
    for name in (
        "_internal.gold_changes",
        "gold.recommendations",
        "gold.anomalies",
        "gold.forecasts",
        "ops.promotions",
    ):
        put(apart, name, [])
    create_topics(apart)
    before = Path.cwd()
    os.chdir(folder)  # where MLflow without a server keeps artefacts
    yield apart
    os.chdir(before)


@pytest.fixture(scope="module")
def spark(lived: Settings) -> Iterator[SparkSession]:
    os.environ.setdefault("JAVA_HOME", str(servers.java(lived).resolve().parents[1]))
    session = spark_session(lived, "models")
    yield session
    session.stop()


def rows(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    return Lake(settings).query(sql).fetchall()


@pytest.mark.timeout(600)
def test_all_three_are_trained_promoted_and_write_what_they_say(lived: Settings, spark: SparkSession) -> None:
    for model in ("recommender", "anomaly", "trend"):
        lifecycle.train(lived, model, spark)
        decision = lifecycle.promote(lived, model, spark, "test", "the first")
        assert decision.action == "promoted", f"{model}: {decision.reasons}"
        score(lived, model, spark)
        assert lifecycle.outdated(lived, model, spark) == []
    users, most, versions = rows(lived, "select count(distinct user_id), max(rank), min(model_version) from "
                                        "gold.recommendations")[0]  # fmt: skip
    assert users > 100 and most == 20 and versions == "1"
    documents = MongoClient[dict[str, Any]](lived.mongo.uri.get_secret_value())["models"]["recommendations"]
    one = documents.find_one()
    assert documents.count_documents({}) == users and one is not None and len(one["items"]) == 20
    client_of_redis = redis.Redis.from_url(lived.redis.url.get_secret_value(), decode_responses=True)
    posts = {key: client_of_redis.hgetall(key) for key in client_of_redis.scan_iter("features:post:*", 1000)}
    first = next(key for key, fields in posts.items() if fields["rank"] == "1")
    assert posts[first].keys() >= {"at", "interactions", "users"} and 0 < client_of_redis.ttl(first) <= 86400
    forecasts = rows(lived, "select count(*), count(distinct series), min(time) from gold.forecasts")[0]
    assert forecasts[1] >= 10 and forecasts[0] >= 12 * forecasts[1]  # an hour ahead at least
    client = ElasticsearchSink(lived).client
    client.indices.refresh(index=[FORECASTS, ANOMALIES])
    assert client.count(index=FORECASTS)["count"] == forecasts[0]
    # The same again changes nothing.
    score(lived, "anomaly", spark)
    alarms = rows(lived, "select count(*) from gold.anomalies")[0][0]
    client.indices.refresh(index=ANOMALIES)
    assert client.count(index=ANOMALIES)["count"] == alarms


@pytest.fixture
def promoted(lived: Settings, spark: SparkSession) -> Settings:
    if not decisions(lived, "recommender"):
        pytest.skip("the models were not promoted: the test before says why")
    return lived


def another(settings: Settings, model: str, **manifest: Any) -> str:
    """A second version: the first with something changed."""
    registry = Registry(settings)
    first = registry.read(model, "1")
    from models.trained import Trained

    kind = __import__(f"models.{model}.kind", fromlist=["KIND"]).KIND
    inputs: dict[str, dict[str, Any]] = {
        "recommender": {"history": [first.manifest.get("items", ["a"])[:2]], "n": [3]},
        "anomaly": {"time": [0.0], "values": [[1.0, 2.0]]},
    }
    import pandas as pd

    frame = pd.DataFrame(inputs[model])
    changed = {**first.manifest, **manifest}
    outputs = kind.call(kind.answers(changed, first.arrays), frame)
    trained = Trained(model, changed, first.arrays, {}, first.data, first.until, frame, outputs)
    return registry.register(trained, {})


@pytest.mark.timeout(300)
def test_the_processor_answers_by_the_champion_and_switches_with_the_alias(promoted: Settings) -> None:
    settings = promoted
    create_topics(settings, PREFIX)
    client: Any = redis.Redis.from_url(settings.redis.url.get_secret_value().rpartition("/")[0] + "/7")
    env = environment(
        settings,
        LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS=settings.kafka.bootstrap_servers,
        LAKEHOUSE_REDIS__URL=settings.redis.url.get_secret_value().rpartition("/")[0] + "/7",
        LAKEHOUSE_MONGO__URI=settings.mongo.uri.get_secret_value(),
        LAKEHOUSE_MONGO__DATABASE="models",
        LAKEHOUSE_REALTIME__PREFIX=PREFIX,
    )
    items = predict.read(settings.published / "recommender" / "1")[0]["items"]
    sender = producer(settings, **{"linger.ms": 0})

    def like(number: int) -> None:
        event = {
            "event_id": f"models-{number}", "event_type": "like", "user_id": "ann", "post_id": items[number],
            "occurred_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        sender.produce(f"{PREFIX}user-events", key=b"ann", value=orjson.dumps(event))
        assert sender.flush(10) == 0

    def answered_by() -> tuple[str, list[str]]:
        found = orjson.loads(client.get("recs:ann") or b'{"model_version": "", "items": []}')
        return found["model_version"], [item["post_id"] for item in found["items"]]

    with (settings.home / "realtime.log").open("ab") as log:
        command = [sys.executable, "-m", "lakehouse.cli", "realtime", "--name", "models"]
        process = subprocess.Popen(command, env=env, cwd=PROJECT, stdout=log, stderr=log)
    try:
        like(0)
        until(lambda: answered_by()[0] == "1", 60)
        assert items[0] not in answered_by()[1] and len(answered_by()[1]) == 20
        second = another(settings, "recommender", decay=0.5)
        Registry(settings).decide("recommender", second, "promoted", "test", "switched by hand")
        time.sleep(1.5)  # the processor looks once a second
        like(1)
        until(lambda: answered_by()[0] == second, 10)
        lifecycle.rollback(settings, "recommender", "test", "back")
        time.sleep(1.5)
        like(2)
        until(lambda: answered_by()[0] == "1", 10)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def samples(settings: Settings, first: int, last: int, jump: int) -> None:
    cpu = "system.cpu.total.norm.pct"
    rng = np.random.default_rng(first)
    put(settings, "silver.system_metrics", [
        {"time": at(minute), "host": "app-9", "metric": cpu, "value": 0.95 if minute == jump else rng.normal(0.4, 0.01)}
        for minute in range(first, last)
    ])  # fmt: skip


@pytest.mark.timeout(300)
def test_the_stream_finds_by_the_champion_and_switches_with_the_alias(promoted: Settings, spark: SparkSession) -> None:
    settings = promoted
    found, write = detect(spark, settings, {})

    def drain() -> None:
        writer = found.writeStream.foreachBatch(write).trigger(availableNow=True)
        query = writer.option("checkpointLocation", f"{settings.root}/_checkpoints/anomalies-test").start()
        assert query.awaitTermination(200) and query.exception() is None

    def alarms() -> dict[datetime, str]:
        series = "host/app-9/system.cpu.total.norm.pct"
        return dict(rows(settings, f"select time, model_version from gold.anomalies where series = '{series}'"))

    put(settings, "gold.anomalies", [])
    write_deltalake(
        settings.table_uri("gold.anomalies"), TABLES["gold.anomalies"].arrow.empty_table(), mode="overwrite"
    )
    samples(settings, 0, 300, jump=200)
    drain()
    before = alarms()
    assert before[at(200)] == "1" and set(before.values()) == {"1"}
    second = another(settings, "anomaly", limits={"deviate": 6.0})
    Registry(settings).decide("anomaly", second, "promoted", "test", "switched by hand")
    samples(settings, 300, 500, jump=400)
    drain()
    after = {minute: version for minute, version in alarms().items() if minute not in before}
    assert after[at(400)] == second and set(after.values()) == {second}


def at(minute: int) -> datetime:
    return NOW - timedelta(minutes=MINUTES - minute)
