"""Alerts on real servers: lag from Kafka and the ledger, kept in MongoDB by two evaluators, told once, silenced."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pymongo.errors import PyMongoError

from lakehouse import stack as servers
from lakehouse.alerting.database import StandingsError, database, micros, moment
from lakehouse.alerting.evaluate import Alert
from lakehouse.alerting.now import alerts_now
from lakehouse.alerting.run import Runner, runner
from lakehouse.alerting.silences import Silences, new
from lakehouse.alerting.standings import MongoStore, Place
from lakehouse.alerts import read
from lakehouse.flows import TABLES
from lakehouse.realtime.follow import followers
from lakehouse.settings import PROJECT, Mongo, Realtime, Settings
from lakehouse.sources.topics import Outbox, create_topics, producer
from tests.integration.lake import environment, until

pytestmark = pytest.mark.integration
RULES = read()
MINUTE = timedelta(minutes=1)
READ = ("ops.ledger", "gold.activity_minute", "gold.service_health_minute", "gold.host_utilization_minute",
        "gold.anomalies", "gold.forecasts", "gold.recommendations")  # fmt: skip
STANDING = Alert("pipeline lags", "user-events", "freshness/topics", "warning", 1, 0, 1, 0, False, 1, 2.5, "é 수")


def put(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    schema = TABLES[name].arrow
    full = [{column: row.get(column) for column in schema.names} for row in rows]
    write_deltalake(settings.table_uri(name), pa.Table.from_pylist(full, schema=schema), mode="append")


def own(settings: Settings, name: str) -> Settings:
    """The same servers, with a database of a test's own."""
    return settings.model_copy(update={"mongo": Mongo(uri=settings.mongo.uri, database=name)})


def trial(settings: Settings, name: str) -> Settings:
    """The same servers, with topics, tables and a database of a test's own."""
    hdfs = settings.hdfs.model_copy(update={"root": f"/{name}"})
    realtime = Realtime(prefix=f"{name}-", parts=("notifications",))
    return own(settings, name).model_copy(update={"hdfs": hdfs, "realtime": realtime})


# --- MongoDB -------------------------------------------------------------------------------------------------------


def test_a_place_is_replaced_only_by_who_knew_the_one_before(stack: Settings) -> None:
    settings = own(stack, "alerts-places")
    database(settings).client.drop_database("alerts-places")
    first, second = MongoStore(database(settings)), MongoStore(database(settings))
    begun = Place("freshness/topics", 60, (STANDING,), ({"id": "a", "text": "é"},))
    assert first.decide(None, begun) and not second.decide(None, begun)
    assert second.places() == {"freshness/topics": begun}
    later = replace(begun, next_us=120, due=())
    assert second.decide(begun, later) and not first.decide(begun, replace(later, next_us=180))
    first.told(begun)  # too late: it changes nothing
    assert first.places() == {"freshness/topics": later}
    first.forget("freshness/topics")
    assert second.places() == {}


def test_a_document_of_another_version_is_said(stack: Settings) -> None:
    settings = own(stack, "alerts-odd")
    database(settings)["alerts"].replace_one({"_id": "quality"}, {"_id": "quality", "next_us": 1}, upsert=True)
    with pytest.raises(StandingsError, match="alerts/quality is not as this version writes it"):
        MongoStore(database(settings)).places()
    with pytest.raises(StandingsError, match="alerts/quality"):
        alerts_now(database(settings), RULES)


def test_silences_are_kept_and_end_once(stack: Settings) -> None:
    settings = own(stack, "alerts-silences")
    database(settings).client.drop_database("alerts-silences")
    kept, now = Silences(database(settings)), datetime(2026, 11, 26, 12, tzinfo=UTC)
    made = new(RULES, "pipeline lags", "사용자", timedelta(hours=2), "ann", "moving", now)
    kept.add(made)
    kept.add(made)
    assert kept.all(now) == [made] and kept.all(now + timedelta(hours=2)) == []
    kept.end(made, "bob", now + timedelta(hours=1))
    kept.end(made, "eve", now + timedelta(hours=3))
    assert kept.all() == [replace(made, until=now + timedelta(hours=1), ended_by="bob")]


def test_only_what_a_user_was_told_counts_against_the_limit(stack: Settings) -> None:
    settings = own(stack, "alerts-had")
    database(settings).client.drop_database("alerts-had")
    noon = datetime(2026, 11, 26, 12, tzinfo=UTC)
    told = [("ops", "2026-11-26T12:00:00Z", False), ("ops", "2026-11-26T12:30:00Z", True),
            ("ann", "2026-11-26T12:30:00Z", False), ("ops", "2026-11-26T13:00:00Z", False)]  # fmt: skip
    database(settings)["notifications"].insert_many(
        [{"_id": str(n), "user_id": user, "at": at, "suppressed": mark} for n, (user, at, mark) in enumerate(told)]
    )
    assert MongoStore(database(settings)).had("ops", noon, noon + timedelta(hours=1)) == 1


# --- all of it -----------------------------------------------------------------------------------------------------


def test_lag_is_told_once_by_two_evaluators_and_its_end_too(stack: Settings) -> None:
    settings = trial(stack, "alerts-trial")
    create_topics(settings, "alerts-trial-")
    for name in READ:
        put(settings, name, [])
    sender = Outbox(producer(settings))
    for number in range(5):
        sender.send("alerts-trial-user-events", b"u1", orjson.dumps({"event_id": f"a{number}"}))
    sender.finish()
    following = followers(settings, "alerts-test")
    try:
        told_of_a_lag(settings, lambda: servers.kill_server(stack, "mongodb"))
    finally:
        for follower in following:
            follower.close()


def told_of_a_lag(settings: Settings, kill: Callable[[], Any]) -> None:
    now = datetime.now(UTC).replace(second=30, microsecond=0) + 2 * MINUTE
    pair: list[Runner] = [runner(settings), runner(settings)]
    for minute in range(6):
        for one in pair:
            assert one.turn(now + minute * MINUTE) == []
    told = database(settings)["notifications"]

    def kinds() -> Counter[str]:
        return Counter(one["kind"] for one in told.find({"rule": "pipeline lags", "subject": "user-events"}))

    until(lambda: kinds() == {"fired": 1}, 30)
    [row] = [row for row in alerts_now(database(settings), RULES, now + 6 * MINUTE) if row["rule"] == "pipeline lags"]
    assert (row["state"], row["subject"], row["silenced"]) == ("firing", "user-events", False)
    assert row["value"] > 60 and "5 records wait for gold" in row["text"]

    # MongoDB dies and comes back: nothing is decided meanwhile, nothing is lost.
    def answers() -> bool:
        try:
            return bool(told.database.client.admin.command("ping"))
        except PyMongoError:
            return False

    kill()
    try:
        pair[0].turn(now + 6 * MINUTE)
    except StandingsError as error:
        assert "lakehouse up" in str(error)
    until(lambda: answers() and kinds() == {"fired": 1}, 60)

    # A silence holds back the recovery; the second time it is told.
    silenced = new(RULES, "pipeline lags", None, timedelta(hours=1), "ann", "moving", datetime.now(UTC))
    Silences(database(settings)).add(silenced)
    end = micros(now + 6 * MINUTE)
    put(settings, "ops.ledger", [
        {"topic": "user-events", "seq": 1, "partition": partition, "start_offset": 0, "end_offset": 10**6,
         "records": 5, "valid": 5, "quarantined": 0, "duplicates": 0, "first_at": moment(end), "last_at": moment(end),
         "warnings": [], "drift": [], "versions": [], "engine": "fused", "batch_ms": 1, "committed_at": moment(end)}
        for partition in range(settings.kafka.partitions)
    ])  # fmt: skip
    for one in pair:
        assert one.turn(now + 8 * MINUTE) == []
    until(lambda: kinds() == {"fired": 1, "recovered": 1}, 30)
    ended = told.find_one({"rule": "pipeline lags", "kind": "recovered"})
    assert ended["suppressed"] and ended["silenced"]

    names = {"LAKEHOUSE_HDFS__ROOT": settings.hdfs.root, "LAKEHOUSE_MONGO__DATABASE": settings.mongo.database,
             "LAKEHOUSE_REALTIME__PREFIX": settings.realtime.prefix}  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", "alerts", "--json"],
        cwd=PROJECT, env=environment(settings, **names), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert {"pipeline lags"} == {row["rule"] for row in orjson.loads(shown.stdout)}
