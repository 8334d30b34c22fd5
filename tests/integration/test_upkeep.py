"""Upkeep on real servers: beside the stream, and without each component in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pytest
import redis
from confluent_kafka.admin import AdminClient, NewTopic

from lakehouse import running
from lakehouse import stack as servers
from lakehouse.alerting.database import database
from lakehouse.audit import audit
from lakehouse.doctor import servers as asked
from lakehouse.inspect import status, wait
from lakehouse.settings import PROJECT, Component, Settings
from lakehouse.sinks import mongo_ttl
from lakehouse.sinks.elasticsearch import MAPPINGS, ElasticsearchSink
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import create_topics
from lakehouse.upkeep import reset
from lakehouse.upkeep.backup import restore
from lakehouse.upkeep.plan import plan
from tests.integration.lake import StreamProcess, environment, mixed, problems, send, settled

pytestmark = pytest.mark.integration

LATER = (
    "import json, sys; from datetime import UTC, datetime, timedelta; from lakehouse.settings import load; "
    "from lakehouse.upkeep.maintain import maintain; "
    "print(json.dumps(maintain(load(), now=datetime.now(UTC) + timedelta(days=int(sys.argv[1]), hours=1))))"
)


def run(settings: Settings, *command: str, code: int = 0, **extra: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=PROJECT, env=environment(settings, **extra), capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == code, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def cli(settings: Settings, *command: str, code: int = 0) -> str:
    return run(settings, "-m", "lakehouse.cli", *command, code=code)


def test_documents_past_their_time_go_and_no_others(stack: Settings) -> None:
    collection = database(stack)["ttl_trial"]
    collection.create_index([("at", 1)], expireAfterSeconds=60)
    now = datetime.now(UTC)
    old, young = now - timedelta(seconds=61), now - timedelta(seconds=59)
    collection.insert_many(
        [{"_id": i, "at": old} for i in range(2500)]
        + [{"_id": "young", "at": young}, {"_id": "text", "at": "2020"}, {"_id": "none"}]
        + [{"_id": "earliest", "at": [young, old]}]
    )
    assert mongo_ttl.sweep(stack, now, dry_run=True)["ttl_trial"] == 2501
    assert mongo_ttl.sweep(stack, now)["ttl_trial"] == 2501
    assert {one["_id"] for one in collection.find()} == {"young", "text", "none"}
    collection.drop()


def test_documents_of_expired_records_go_and_no_others(stack: Settings) -> None:
    sink = ElasticsearchSink(stack)
    sink.prepare()
    index = "logs-service-expiry-trial"
    properties = {"lakehouse": MAPPINGS["logs-service"]["lakehouse"]}
    sink.client.indices.create(index=index, mappings={"dynamic": False, "properties": properties})
    for partition, offset in ((0, 9), (0, 10), (1, 19), (1, 20), (2, 0)):
        place = {"topic": "service-logs", "partition": partition, "offset": offset}
        sink.client.index(index=index, id=f"{partition}/{offset}", document={"lakehouse": place})
    sink.client.indices.refresh(index=index)
    assert sink.expire(index, {0: 10, 1: 20}) == 2 and sink.expire(index, {0: 10, 1: 20}) == 0
    left = sink.client.search(index=index, size=9)["hits"]["hits"]
    assert {one["_id"] for one in left} == {"0/10", "1/20", "2/0"}
    sink.client.indices.delete(index=index)


def test_real_time_state_begins_again(stack: Settings) -> None:
    create_topics(stack)
    admin = AdminClient({"bootstrap.servers": stack.kafka.bootstrap_servers})
    mine = ["realtime-users-changelog", "realtime-users-repartition"]
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in mine]).values():
        made.result()
    profiles = database(stack)["user_profiles"]
    profiles.insert_one({"_id": "reset-trial", "version": 7})
    with redis.Redis.from_url(stack.redis.url.get_secret_value()) as client:
        client.set("live:_shown:users/0", 100)
        assert {*mine} <= {*reset.realtime(stack)["topics"]}
        assert client.get("live:_shown:users/0") is None
    there = admin.list_topics(timeout=10).topics
    assert not {*mine} & {*there} and "user-events" in there
    assert profiles.find_one({"_id": "reset-trial"})["version"] == -1
    profiles.delete_one({"_id": "reset-trial"})


def test_a_maintained_lake_on_hdfs_balances_and_its_backup_becomes_another(stack: Settings, tmp_path: Path) -> None:
    with StreamProcess(stack):
        send(stack, *mixed(uuid4().hex[:6]))
        settled(stack)
        before = Lake(stack).dataset("silver.user_events").count_rows()
        found = json.loads(run(stack, "-c", LATER, "1").splitlines()[-1])  # DuckDB may draw a bar before
        assert found["problems"] == [] and found["tables"]["silver.user_events"]["compacted"], found
        assert Lake(stack).dataset("silver.user_events").count_rows() == before
        assert json.loads(cli(stack, "maintain", "--json"))["problems"] == []
        send(stack, *mixed(uuid4().hex[:6]))
        result = settled(stack)
        assert result["balanced"], problems(result)
        assert plan(stack) == []
        kept = json.loads(cli(stack, "backup", "--all", "--to", f"{stack.hdfs.uri}/kept", "--json"))
        assert json.loads(cli(stack, "backup", "--all", "--to", f"{stack.hdfs.uri}/kept", "--json"))["bytes"]
        cli(stack, "restore", "--all", "--from", f"{stack.hdfs.uri}/kept", "--force", code=1)  # the stream runs
    other = stack.model_copy(update={"hdfs": stack.hdfs.model_copy(update={"root": "/other"})})
    restore(other.model_copy(update={"home": tmp_path}), f"{stack.hdfs.uri}/kept")
    assert kept["tables"] and Lake(other).cuts() == Lake(stack).cuts()
    result = audit(other, stores=False)
    assert result["balanced"], problems(result)
    # Months later, in that lake alone.
    alone = {"HDFS__ROOT": "/other", "STREAM__EXPIRE": "true", "STREAM__STORES": "[]", "OFF": '["mongodb"]'}
    there: dict[str, Any] = {f"LAKEHOUSE_{name}": value for name, value in alone.items()}
    found = json.loads(run(stack, "-c", LATER, "95", **there).splitlines()[-1])
    assert found["problems"] == [] and found["retention"]["service-logs"]["deleted"], found
    left = audit(other, stores=False, kafka=False)
    assert left["balanced"], problems(left)
    assert left["topics"]["service-logs"]["past_retention"] == result["topics"]["service-logs"]["bronze"] > 0
    assert left["topics"]["user-events"]["bronze"] == result["topics"]["user-events"]["bronze"]


@pytest.mark.long
@pytest.mark.parametrize("off", get_args(Component))
def test_the_platform_works_without(tmp_path: Path, stack: Settings, off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes each: servers and programs of their own."""
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_JARS", str(stack.jars))
    monkeypatch.setenv("LAKEHOUSE_OFF", json.dumps([off]))
    settings = Settings(home=tmp_path, jars=stack.jars, off=(off,))  # type: ignore[arg-type]
    try:
        up = running.up(settings)
        send(up, *mixed(uuid4().hex[:6]))
        missing = wait(up, 300)
        assert not missing
        found = status(up)
        assert "error" not in found["servers"] and off not in found["servers"] and off not in found["stores"]
        assert {state["state"] for state in found["programs"].values()} == {"RUNNING"}
        assert not [one for one in asked(up) if one.level != "ok"]
        result = audit(up)
        assert result["balanced"], problems(result)
    finally:
        servers.down(settings)
