"""One query over HDFS, MongoDB and Elasticsearch, each asked for no more than the query needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pydantic import SecretStr
from pyspark.sql import DataFrame, SparkSession

from lakehouse.flows import TABLES
from lakehouse.query import QueryError, query_spark
from lakehouse.realtime.users import Session, User, profile
from lakehouse.session import spark_session
from lakehouse.settings import PROJECT, Settings
from lakehouse.sinks import logs_live
from lakehouse.sinks.delta import Storage
from lakehouse.sinks.elasticsearch import HEALTH, LOGS, METRICS, ElasticsearchSink
from lakehouse.sinks.mongo import MongoSink
from lakehouse.sources.analysis import StoreError, read_table, register
from lakehouse.sources.lake import LakeError
from tests.integration.lake import environment

pytestmark = pytest.mark.integration
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
HISTORY = "gold.user_activity_daily"


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def time(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def seen(name: str, start: datetime, end: datetime) -> dict[str, Any]:
    first, last = (int(at.timestamp()) * 1_000_000 for at in (start, end))
    user = User(first, last, 5, totals={"view": 5}, page="/p", device="phone", recent=["p-1", "p-2"])
    user.ended = Session(first, last, 5, 1)
    return profile(name, user, 1)


def request(number: int, at: datetime, service: str, status: int) -> dict[str, Any]:
    return {
        "@timestamp": time(at), "message": f"GET /{number} refused" if status >= 500 else f"GET /{number}",
        "log": {"level": "error" if status >= 500 else "info"}, "service": {"name": service}, "trace": {"id": "t"},
        "http": {"response": {"status_code": status}}, "url": {"path": f"/{number}"},
        "event": {"id": f"analysis-{number}", "duration": number, "dataset": "d"},
        "error": {"message": "m", "type": "t", "code": "c", "id": "i", "stack_trace": "s"},
        "lakehouse": {"topic": "service-logs", "partition": 1, "offset": number},
    }  # fmt: skip


REQUESTS = [
    request(1, ago(minutes=7), "web", 500),
    request(2, ago(minutes=7), "web", 502),
    request(3, ago(minutes=7), "web", 200),
    request(4, ago(hours=3), "api", 503),
    *[request(number, ago(days=2), "web", 500) for number in range(5, 25)],
]


@pytest.fixture(scope="module")
def held(stack: Settings) -> Iterator[Settings]:
    """A lake and a database of their own; what is put into Elasticsearch is taken out again."""
    apart = stack.model_copy(
        update={
            "hdfs": stack.hdfs.model_copy(update={"root": "/analysis"}),
            "mongo": stack.mongo.model_copy(update={"database": "analysis"}),
        }
    )
    for days in (40, 2, 1):  # a file a day
        day = {"date": ago(days=days).date(), "first_at": ago(days=days), "last_at": ago(days=days)}
        rows = [day | {"user_id": f"u-{i}", "events": 3, "sessions": 1, "posts": 1} for i in range(1, 4)]
        table = pa.Table.from_pylist(rows, schema=TABLES[HISTORY].arrow)
        write_deltalake(apart.table_uri(HISTORY), table, mode="append")
    mongo = MongoSink(apart)
    mongo.database["user_profiles"].insert_many(
        [
            seen("u-1", ago(minutes=10), ago(minutes=5)),
            seen("u-2", ago(hours=3, minutes=1), ago(hours=3)),
            *[seen(f"u-{number}", ago(days=3), ago(days=2)) for number in range(3, 50)],
        ]
    )
    row = {"date": str(NOW.date()), "user_id": "u-1", "events": 3, "sessions": 1, "posts": 1}
    mongo.upsert(TABLES[HISTORY], [("d:u-1", 7, row | {"first_at": time(NOW), "last_at": time(NOW)})])
    sink = ElasticsearchSink(apart)
    sink.prepare()
    logs_live.prepare(apart)
    sample = {"@timestamp": time(NOW), "host": {"name": "h"}, "metric": "m", "value": 0.5, "dimensions": {"a": "b"}}
    health = {"window_start": time(NOW), "service": "web", "requests": 2, "errors": 1, "error_rate": 0.5, "version": 7}
    live = {"@timestamp": time(NOW), "message": "as parsed", "tags": ["_one"], "host": {"name": "h", "ip": ["::1"]}}
    documents = [
        *[(LOGS, f"analysis-{number}", body) for number, body in enumerate(REQUESTS)],
        (METRICS, "analysis", sample),
        (HEALTH, "analysis", health),
        (logs_live.LOGS_LIVE, "analysis", live),
        (logs_live.LOGS_LIVE, "analysis-malformed", {"@timestamp": "today", "message": "malformed"}),
    ]
    for index, identity, body in documents:
        sink.index(index, [(identity, orjson.dumps(body), None)])
    sink.client.indices.refresh(index="_all")
    yield apart
    mongo.database.client.drop_database("analysis")
    for index, identity, _ in documents:
        sink.client.delete(index=index, id=identity)
    sink.client.indices.refresh(index="_all")


@pytest.fixture(scope="module")
def spark(held: Settings) -> Iterator[SparkSession]:
    session = spark_session(held, "analysis")
    yield session
    session.stop()


STORES = {"MongoTable": "mongodb", "ElasticsearchRelation": "elasticsearch", "FileScan": "delta"}


def reads(frame: DataFrame) -> dict[str, tuple[str, dict[str, int]]]:
    """Store -> the scan of it and what that took from there, once the query ran."""
    found = {}
    scans = frame._jdf.queryExecution().executedPlan().collectLeaves().iterator()
    while scans.hasNext():
        scan = scans.next()
        metrics, plan = scan.metrics(), scan.simpleString(10_000)
        numbers = {
            name: metrics.apply(name).value() for name in ("numOutputRows", "numFiles") if metrics.contains(name)
        }
        found[next(store for word, store in STORES.items() if word in plan)] = plan, numbers
    return found


def test_the_job_joins_history_with_profiles_and_logs(held: Settings) -> None:
    """Its example: who was there while a service failed."""
    place = {"LAKEHOUSE_HDFS__ROOT": held.hdfs.root, "LAKEHOUSE_MONGO__DATABASE": held.mongo.database}
    done = subprocess.run(
        [sys.executable, "jobs/analyze.py", "--json"], cwd=PROJECT, env=environment(held, **place),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert [(row["user_id"], row["days"], row["events"], row["service"], row["failures"]) for row in found] == [
        ("u-1", 2, 6, "web", 2), ("u-2", 2, 6, "api", 1),
    ]  # fmt: skip
    assert (found[0]["device"], found[0]["last_at"]) == ("phone", ago(minutes=5).isoformat().replace("+00:00", "Z"))


def test_each_store_is_asked_only_for_what_a_query_needs(held: Settings, spark: SparkSession) -> None:
    register(spark, held, [HISTORY, "mongodb.user_profiles", "elasticsearch.logs_service"])
    frame = spark.sql(
        f"""select p._id, h.events, l.message
        from mongodb.user_profiles p join {HISTORY} h on h.user_id = p._id
        join elasticsearch.logs_service l on l.`@timestamp` between p.last_session.start and p.last_session.end
        where p.last_session.end >= timestamp '{ago(minutes=30)}' and p.device = 'phone'
        and h.date = date '{ago(days=2).date()}' and l.`@timestamp` >= timestamp '{ago(minutes=30)}'"""
    )
    assert len(frame.collect()) == 3
    found = reads(frame)
    assert {store: numbers for store, (_, numbers) in found.items()} == {
        "mongodb": {"numOutputRows": 1},  # of 49
        "elasticsearch": {"numOutputRows": 3},  # of 24
        "delta": {"numOutputRows": 3, "numFiles": 1},  # of 9 in 3
    }
    assert "PushedFilters: [IsNotNull(@timestamp), GreaterThanOrEqual(@timestamp" in found["elasticsearch"][0]
    assert "EqualTo(date" in found["delta"][0]


def test_a_search_is_done_by_elasticsearch_and_structs_keep_their_fields(held: Settings, spark: SparkSession) -> None:
    search = {"elasticsearch.logs_service": "service.name:api AND message:refused"}
    register(spark, held, ["elasticsearch.logs_service"], search)
    frame = spark.sql("select * from elasticsearch.logs_service")
    (row,) = frame.collect()
    assert reads(frame)["elasticsearch"][1] == {"numOutputRows": 1}
    found = row.asDict(recursive=True)
    wanted = REQUESTS[3] | {"@timestamp": ago(hours=3).replace(tzinfo=None), "host": None}
    assert found | {"@timestamp": found["@timestamp"].replace(tzinfo=None)} == wanted | {
        "lakehouse": wanted["lakehouse"] | {"rescued": None}
    }


def test_every_name_can_be_read(held: Settings, spark: SparkSession) -> None:
    names = register(spark, held)
    counts = {name: len(spark.sql(f"select * from {name}").collect()) for name in names}
    assert counts.items() >= {
        HISTORY: 9, "mongodb.user_profiles": 49, "mongodb.user_activity": 1, "mongodb.post_engagement": 0,
        "mongodb.notifications": 0, "mongodb.recommendations": 0, "elasticsearch.logs_live": 1,
        "elasticsearch.logs_service": 24, "elasticsearch.metrics_system": 1, "elasticsearch.service_health": 1,
    }.items()  # fmt: skip
    assert spark.sql("select tags, host.name from elasticsearch.logs_live").first() == (["_one"], "h")


def test_a_table_is_read_as_it_was(held: Settings, spark: SparkSession) -> None:
    register(spark, held, [HISTORY])
    commits: dict[int, datetime] = dict(
        spark.sql(f"describe history {HISTORY}").select("version", "timestamp").collect()
    )
    versions = (None, 0, 1, commits[1])
    assert [read_table(spark, held, HISTORY, version).count() for version in versions] == [9, 3, 6, 6]
    assert spark.sql(f"select * from {HISTORY} version as of 1").count() == 6
    with pytest.raises(LakeError, match=r"not readable as of 7: .*Available versions: \[0, 2\]"):
        read_table(spark, held, HISTORY, 7)
    with pytest.raises(LakeError, match="no such table"):
        read_table(spark, held, "gold.nothing", 1)


def test_secrets_are_in_no_plan(held: Settings, spark: SparkSession) -> None:
    uri = held.mongo.uri.get_secret_value() + "?appName=hidden"
    url = held.elasticsearch.url.get_secret_value().replace("//", "//me:hidden@")
    secret = held.model_copy(
        update={
            "mongo": held.mongo.model_copy(update={"uri": SecretStr(uri)}),
            "elasticsearch": held.elasticsearch.model_copy(update={"url": SecretStr(url)}),
        }
    )
    register(spark, secret, ["mongodb.user_profiles", "elasticsearch.logs_service"])
    frame = spark.sql("select 1 from mongodb.user_profiles, elasticsearch.logs_service")
    described = spark.sql("describe extended elasticsearch.logs_service").collect()
    assert frame.count() == 49 * 24
    assert "hidden" not in frame._jdf.queryExecution().toString() + str(described)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select * from mongodb.user_profile", "no table mongodb.user_profile: did you mean mongodb.user_profiles?"),
        ("select devic from mongodb.user_profiles", "no column devic: did you mean device?"),
        ("delete from mongodb.user_profiles", "syntax error"),
    ],
)
def test_a_query_that_fails_says_why_in_one_line(held: Settings, spark: SparkSession, sql: str, words: str) -> None:
    with pytest.raises(QueryError) as caught:
        query_spark(held, sql)
    assert words.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_a_search_that_elasticsearch_does_not_understand_is_one_line(held: Settings, spark: SparkSession) -> None:
    with pytest.raises(StoreError, match=r"^elasticsearch\.logs_service cannot be searched for '\(a': .*$") as caught:
        register(spark, held, ["elasticsearch.logs_service"], {"elasticsearch.logs_service": "(a"})
    assert "\n" not in str(caught.value)


def test_a_name_on_hdfs_is_given_once_and_no_draft_is_left(held: Settings, spark: SparkSession, tmp_path: Path) -> None:
    """What every commit to a table rests on; on a local disk other code does it (see tests/streaming)."""
    storage, folder = Storage(spark, tmp_path), f"{held.hdfs.uri}/trial"
    assert [storage.put_new(text, f"{folder}/commit") for text in ("first", "second")] == [True, False]
    assert storage.read(f"{folder}/commit") == b"first" and storage.names(folder) == ["commit"]
