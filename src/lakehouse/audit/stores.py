"""Documents in MongoDB, Redis and Elasticsearch held against the rows that the fan-out took them from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal

import elasticsearch
import pyarrow as pa
import pymongo
import redis
from elasticsearch import helpers
from pymongo.errors import PyMongoError

from lakehouse.audit.gold import TABLES, key_text
from lakehouse.audit.run import TOPICS, Run, Topic
from lakehouse.settings import Settings
from lakehouse.sources.lake import LakeError

LATEST = 100
"""Rows of a gold table that Redis holds."""
Document = tuple[str, Any]
Found = dict[str, dict[str, Any]]
Times = Literal["any", "shortest", "milliseconds"]
"""How times stand in a document: RFC 3339 with Z; without a fraction that is zero; as BSON dates."""
_BATCH = 10_000
_POLL_S = 0.5
_UNREACHABLE = (PyMongoError, redis.RedisError, elasticsearch.ApiError, elasticsearch.TransportError)
_TOPIC = {table: topic for topic in TOPICS for table in topic.gold}
_MONGODB = {"post_engagement": "gold.post_engagement_daily", "user_activity": "gold.user_activity_daily"}
_INDICES = {"logs-service": "service-logs", "metrics-system": "system-metrics"}
_LOGS = (
    "message",
    "log.level",
    "service.name",
    "host.name",
    "trace.id",
    "http.response.status_code",
    "event.id",
    "event.duration",
    "event.dataset",
    "url.path",
    "error.message",
    "error.type",
    "error.code",
    "error.id",
    "error.stack_trace",
)
"""Columns of silver.service_logs, dotted, which are also the paths in the document."""
_INTEGERS = {"http.response.status_code", "event.duration"}


def _text(body: Any) -> str:
    def plain(value: Any) -> str:
        if isinstance(value, datetime):
            return (
                (value if value.tzinfo else value.replace(tzinfo=UTC))
                .astimezone(UTC)
                .isoformat()
                .replace("+00:00", "Z")
            )
        return str(value)

    try:
        text = json.dumps(body, default=plain, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except ValueError:  # a number or half a character that JSON can't hold is in no row either
        return "{}"
    return text


def load(run: Run, documents: Iterable[Document], members: Iterable[str]) -> int:
    """Fill table ``document``: id, and as JSON each member (dotted, the name of its column too); how many there are.

    All members are taken out of a body at once: DuckDB keeps a parsed batch in memory for every call.
    """
    names = list(members)
    paths = ", ".join("'$" + "".join(f'."{part}"' for part in name.split(".")) + "'" for name in names)
    columns = ", ".join(f'"{name}" json' for name in names)
    run.rows(f"create or replace table document (id varchar, {columns})")
    source, count = iter(documents), 0
    while batch := list(islice(source, _BATCH)):
        rows = pa.table({"id": [str(key) for key, _ in batch], "body": [_text(body) for _, body in batch]})
        run.db.register("document_batch", rows)
        run.rows(
            f"insert into document select id, {', '.join(f'f[{i}]' for i in range(1, len(names) + 1))} "
            f"from (select id, json_extract(body, [{paths}]) as f from document_batch)"
        )
        count += len(batch)
    return count


def _differs(kind: str, member: str, column: str, times: Times = "any") -> str:
    """SQL: whether a member of document ``d`` is not the value of a column of type ``kind``."""
    value = f'd."{member}"'
    text = f"text_of({value})"
    if kind == "TIMESTAMP WITH TIME ZONE":
        if times == "milliseconds":
            return f"rfc3339_us({text}) // 1000 is distinct from epoch_us({column}) // 1000"
        plain = f" or (epoch_us({column}) % 1000000 = 0 and contains({text}, '.'))" if times == "shortest" else ""
        return f"time_text_wrong({text}, {column}){plain}"
    if kind in ("BIGINT", "INTEGER"):
        return f"integer_wrong({value}) or integer_of({value}) is distinct from {column}"
    if kind == "DOUBLE":
        return f"kind({value}) not in ('number', 'absent') or not near(number_of({value}), {column}, null)"
    return f"string_wrong({value}) or {text} is distinct from cast({column} as varchar)"


def compare(run: Run, name: str, table: str, of: str = "true", times: Times = "any") -> None:
    """Hold the documents for which ``of`` is true against view ``expected`` (id and gold's columns)."""
    kinds = {row[0]: row[1] for row in run.rows("describe expected")}
    differs = {c: _differs(kinds[c], c, f"e.{c}", times) for c in TABLES[table].columns}
    listed = ", ".join(f"case when {sql} then '{column}' end" for column, sql in differs.items())
    run.keys(
        "store.values",
        name,
        _TOPIC[table].name,
        f"""select d.id || ': ' || case when e.id is null then 'no such row in gold'
                else concat_ws(', ', {listed}) || ' not as in gold' end as detail
        from (select * from document where {of}) as d left join expected as e on d.id = e.id
        where e.id is null or {" or ".join(f"({sql})" for sql in differs.values())}""",
    )


def missing(run: Run, name: str, table: str) -> None:
    """Note the ids of ``expected`` that have no document."""
    run.keys(
        "store.missing",
        name,
        _TOPIC[table].name,
        "select id || ': missing' as detail from expected anti join document using (id)",
    )


def _expect(run: Run, table: str, version: int | None, key: str) -> None:
    run.view("gold", table, version)
    run.rows(f"create or replace temp view expected as select {key} as id, * from gold")


def gold_documents(
    run: Run, name: str, table: str, documents: Iterable[Document], key: str, times: Times = "any"
) -> int:
    """Documents that carry a gold row and the version that it was taken from, by ``key`` (SQL); how many there are.

    Those of the cut's version or before it equal the row at the cut, newer ones the row at their version.
    """
    count = load(run, documents, (*TABLES[table].columns, "version"))
    version = run.version(table, _TOPIC[table].name)
    _expect(run, table, version, key)
    missing(run, name, table)
    at_cut = f"coalesce(integer_of(version), -1) <= {version}"
    compare(run, name, table, at_cut, times)
    run.keys(
        "store.version",
        name,
        None,
        "select id || ': no version' as detail from document where integer_of(version) is null",
    )
    newer = run.rows(f"select distinct integer_of(version) from document where not ({at_cut}) order by 1")
    for (ahead,) in newer:
        _expect(run, table, ahead, key)
        compare(run, name, table, f"integer_of(version) = {ahead}", times)
    return count


def latest(run: Run, name: str, table: str, value: bytes | str | None) -> int:
    """Redis' JSON of a gold table's newest rows; how many rows it holds."""
    topic = _TOPIC[table].name
    version = run.version(table, topic)
    try:
        body = json.loads(value) if value is not None else {"rows": [], "version": version, "table": table}
        rows, at = list(body["rows"]), int(body["version"])
        if body["table"] != table:
            raise ValueError(f"names table {body['table']}")
    except (ValueError, TypeError, KeyError) as error:
        run.problem("store.values", f"not the JSON of a gold table: {error}", table=name, topic=topic)
        return 0
    count = load(run, ((str(place), row) for place, row in enumerate(rows, 1)), TABLES[table].columns)
    run.view("gold", table, at if version is None or at > version else version)
    window, *others = TABLES[table].key
    order = ", ".join([f"{window} desc", *(f"{other} asc nulls last" for other in others)])
    run.rows(
        "create or replace temp view expected as "
        f"select cast(row_number() over (order by {order}) as varchar) as id, * from gold "
        f"qualify row_number() over (order by {order}) <= {LATEST}"
    )
    missing(run, name, table)
    compare(run, name, table, times="shortest")
    return count


def _silver_documents(
    run: Run, name: str, topic: Topic, documents: Iterable[Document], id_sql: str, differs: dict[str, str]
) -> int:
    """Documents that carry a silver row at ``lakehouse.{topic,partition,offset}``; ``differs``: what -> SQL."""
    metrics = topic.name == "system-metrics"
    places = ["lakehouse.topic", "lakehouse.partition", "lakehouse.offset", *(["metric"] if metrics else [])]
    count = load(run, documents, [*places, *differs])
    run.open(topic)
    run.rows(
        f"""create or replace temp view placed as
        select *{" replace (text_of(metric) as metric)" if metrics else ""},
            integer_of("lakehouse.partition") as partition, integer_of("lakehouse.offset") as "offset",
            coalesce(text_of("lakehouse.topic") = '{topic.name}', false) as ours
        from document"""
    )
    run.keys(
        "store.provenance",
        name,
        topic.name,
        "select id || ': lakehouse.{topic,partition,offset} names no record of the topic' as detail from placed "
        'where not ours or partition is null or "offset" is null',
    )
    listed = ", ".join(f"case when {sql} then '{what}' end" for what, sql in differs.items())
    wrong = " or ".join(f"({sql})" for sql in differs.values())
    same = 's.partition = d.partition and s."offset" = d."offset"' + (" and s.metric = d.metric" if metrics else "")
    run.offsets(
        "store.values",
        name,
        topic.name,
        f"""select d.partition, d."offset", case when s.partition is null then d.id || ': no such row in silver'
                when d.id <> {id_sql} then d.id || ': _id is not ' || {id_sql}
                else concat_ws(', ', {listed}) || ' not as in silver' end as detail
        from placed as d join ends on ends.partition = d.partition and d."offset" < end_offset
        left join silver as s on {same}
        where ours and (s.partition is null or d.id <> {id_sql} or {wrong})""",
    )
    run.offsets(
        "store.missing",
        name,
        topic.name,
        f"""select distinct partition, "offset", 'no document' as detail
        from (select *, {id_sql} as id from silver as s) as s anti join document as d on d.id = s.id""",
    )
    return count


def log_documents(run: Run, documents: Iterable[Document], name: str = "elasticsearch.logs-service") -> int:
    """Every accepted log as a document; how many documents there are."""
    paths = {path: _differs("BIGINT" if path in _INTEGERS else "VARCHAR", path, f"s.{path}") for path in _LOGS}
    rescued = "json_extract_string(d.\"lakehouse.rescued\", '$')"
    return _silver_documents(
        run,
        name,
        TOPICS[1],
        documents,
        "document_id(s.event_id)",
        {
            "@timestamp": _differs("TIMESTAMP WITH TIME ZONE", "@timestamp", "s.time"),
            **paths,
            "lakehouse.rescued": f"case when {rescued} is not distinct from s._rescued then false "
            f"else canonical_text({rescued}) is distinct from canonical_text(s._rescued) end",
        },
    )


def metric_documents(run: Run, documents: Iterable[Document], name: str = "elasticsearch.metrics-system") -> int:
    """Every accepted sample as a document; how many documents there are."""
    dimensions = (
        "case when kind(d.dimensions) = 'object' then "
        "list_sort(map_entries(cast(d.dimensions as map(varchar, varchar)))) else [] end"
    )
    return _silver_documents(
        run,
        name,
        TOPICS[2],
        documents,
        "document_id(s.record_id || ':' || s.metric)",
        {
            "@timestamp": _differs("TIMESTAMP WITH TIME ZONE", "@timestamp", "s.time"),
            "host.name": _differs("VARCHAR", "host.name", "s.host"),
            "value": _differs("DOUBLE", "value", "s.value"),
            "dimensions": f"{dimensions} is distinct from list_sort(map_entries(coalesce(s.dimensions, map {{}})))",
        },
    )


def _targets(run: Run) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """What a store must have applied at least: change batch per topic, silver offset per table and partition."""
    run.view("changes", "_internal.gold_changes", None)
    newest = run.rows("select topic, seq from (select distinct topic, seq from changes)")
    changes: dict[str, int] = {}
    for topic, seq in newest:
        if topic in run.cuts and seq <= run.cuts[topic].seq:
            changes[topic] = max(seq, changes.get(topic, 0))
    silver = {}
    for topic in TOPICS:
        if topic.name in _INDICES.values() and topic.name in run.cuts:
            run.open(topic)
            rows = run.rows('select cast(partition as varchar), max("offset") from silver group by partition')
            silver[topic.silver] = dict(rows)
    return changes, silver


def lag(progress: dict[str, Any] | None, changes: dict[str, int], silver: dict[str, dict[str, int]]) -> list[str]:
    """Where a store's progress is behind what it must have applied; empty where it is not."""
    done, read = (progress or {}).get("changes") or {}, (progress or {}).get("silver") or {}
    behind = [f"{t}: batch {done.get(t, 0)} of {seq}" for t, seq in sorted(changes.items()) if done.get(t, 0) < seq]
    for table, ends in sorted(silver.items()):
        at = read.get(table) or {}
        behind += [
            f"{table}/{p}: offset {at.get(p, 'none')} of {e}" for p, e in sorted(ends.items()) if at.get(p, -1) < e
        ]
    return behind


def _mongodb(settings: Settings) -> tuple[Callable[[], Any], Callable[[Run], Found]]:
    uri = settings.mongo.uri.get_secret_value()
    patience: dict[str, Any] = {} if "serverSelectionTimeoutMS" in uri else {"serverSelectionTimeoutMS": 5000}
    client: Any = pymongo.MongoClient(uri, **patience)
    database = client[settings.mongo.database]

    def check(run: Run) -> Found:
        found = {}
        for name, table in _MONGODB.items():
            if _TOPIC[table].name in run.cuts:
                label, before = f"mongodb.{name}", len(run.problems)
                documents = ((str(doc.pop("_id")), doc) for doc in database[name].find())
                count = gold_documents(run, label, table, documents, key_text(table, "gold"), times="milliseconds")
                found[label] = {"documents": count, "balanced": len(run.problems) == before}
        return found

    return lambda: database["_lakehouse_progress"].find_one({"_id": "fanout"}), check


def _redis(settings: Settings) -> tuple[Callable[[], Any], Callable[[Run], Found]]:
    client = redis.Redis.from_url(settings.redis.url.get_secret_value(), socket_timeout=10, socket_connect_timeout=5)

    def check(run: Run) -> Found:
        found = {}
        for table, topic in _TOPIC.items():
            if topic.name in run.cuts:
                key, before = f"gold:{table.removeprefix('gold.')}:latest", len(run.problems)
                count = latest(run, f"redis.{key}", table, client.get(key))
                found[f"redis.{key}"] = {"documents": count, "balanced": len(run.problems) == before}
        return found

    return lambda: json.loads(client.get("lakehouse:progress") or "{}"), check


def _elasticsearch(settings: Settings) -> tuple[Callable[[], Any], Callable[[Run], Found]]:
    client = elasticsearch.Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=30)

    def documents(index: str) -> Iterator[Document]:
        if client.indices.exists(index=index):
            client.indices.refresh(index=index)
            for hit in helpers.scan(client, index=index, size=5000):
                yield hit["_id"], hit["_source"]

    def progress() -> Any:
        try:
            return client.get(index="lakehouse-progress", id="fanout")["_source"]
        except elasticsearch.NotFoundError:
            return None

    def check(run: Run) -> Found:
        table = "gold.service_health_minute"
        key = "rfc3339(window_start) || ':' || coalesce(service, '')"
        checks: dict[str, tuple[str, Callable[[], int]]] = {
            "logs-service": ("service-logs", lambda: log_documents(run, documents("logs-service"))),
            "metrics-system": ("system-metrics", lambda: metric_documents(run, documents("metrics-system"))),
            "service-health": (
                "service-logs",
                lambda: gold_documents(run, "elasticsearch.service-health", table, documents("service-health"), key),
            ),
        }
        found = {}
        for index, (topic, count) in checks.items():
            if topic in run.cuts:
                before = len(run.problems)
                found[f"elasticsearch.{index}"] = {"documents": count(), "balanced": len(run.problems) == before}
        return found

    return progress, check


_STORES = {"mongodb": _mongodb, "redis": _redis, "elasticsearch": _elasticsearch}


def stores(run: Run, wait: timedelta) -> Found:
    """Audit every store of the settings: {"store.name": {"documents", "balanced"}}; problems go to ``run``.

    A store that is behind the cut has ``wait`` (from the call on, for all together) to catch up.
    """
    found: Found = {}
    try:
        changes, silver = _targets(run)
    except LakeError as error:
        run.problem("tables.readable", str(error))
        return {store: {"documents": 0, "balanced": False} for store in run.settings.stream.stores}
    deadline = time.monotonic() + wait.total_seconds()
    for store in run.settings.stream.stores:
        run.progress(f"{store}: reading every document again")
        try:
            progress, check = _STORES[store](run.settings)
            needed = silver if store == "elasticsearch" else {}
            while (behind := lag(progress(), changes, needed)) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if behind:
                run.problem("store.behind", f"still behind the cut after {wait}: {'; '.join(behind)}", table=store)
                found[store] = {"documents": 0, "balanced": False}
            else:
                found |= check(run)
        except LakeError as error:
            run.problem("tables.readable", str(error), table=store)
            found[store] = {"documents": 0, "balanced": False}
        except _UNREACHABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            run.problem("store.unreachable", f"{reason}; see `lakehouse status`", table=store)
            found[store] = {"documents": 0, "balanced": False}
    return found
