"""How the platform is, now: servers, lag up to gold, tables, stores; and where one record went."""

from __future__ import annotations

import logging
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson
import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition

from lakehouse import components, stack
from lakehouse.contracts import TOPICS
from lakehouse.flows import TABLES
from lakehouse.query import query
from lakehouse.realtime import look
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.schedule import runs
from lakehouse.settings import Settings
from lakehouse.sources.lake import Cut, Lake, LakeError
from lakehouse.sources.topics import TopicError

RECENT_BATCHES = 50
_ANSWER_S = 10.0
_POLL_S = 0.2
FOLLOWED = ("silver.service_logs", "silver.system_metrics")
"""Silver tables that Elasticsearch holds row by row."""


class Store(Protocol):
    """What is asked of a sink."""

    def progress(self) -> dict[str, Any]:
        """How far its fan-out is: ``changes`` by topic, ``silver`` by table and partition."""


def open_store(settings: Settings, name: str) -> Store:
    """The sink of a store, for its progress."""
    if name == "mongodb":
        from lakehouse.sinks.mongo import MongoSink

        return MongoSink(settings)
    if name == "redis":
        from lakehouse.sinks.redis import RedisSink

        return RedisSink(settings)
    from lakehouse.sinks.elasticsearch import ElasticsearchSink

    return ElasticsearchSink(settings)


# --- Kafka beside the ledger ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting:
    """The records of one partition that are not in a cut: ``end`` is the offset after the last one, ``oldest_ms`` the
    append time of the first; none where ``oldest_ms`` is None."""

    end: int
    records: int
    oldest_ms: int | None


class Broker:
    """Reads the ends of topics as a consumer of committed records sees them; joins no group."""

    def __init__(self, settings: Settings):
        self.servers = settings.kafka.bootstrap_servers
        self._consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "lakehouse-inspect",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.message.max.bytes": 1 << 20,
                "fetch.wait.max.ms": 20,
            },
            logger=logging.getLogger("lakehouse.kafka"),
        )

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()

    def waiting(self, topic: str, ends: Mapping[int, int]) -> dict[int, Waiting]:
        """What lies beyond ``ends`` in every partition of a topic.

        Raises:
            TopicError: Kafka does not answer or has no such topic.
        """
        try:
            known = self._consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
            if known.error:
                raise TopicError(f"Kafka has no topic {topic}: `lakehouse up` creates the platform's")
            return {p: self._partition(TopicPartition(topic, p), ends.get(p, 0)) for p in sorted(known.partitions)}
        except KafkaException as error:
            raise TopicError(f"no Kafka broker answers at {self.servers} ({error.args[0].str()})") from None

    def _partition(self, partition: TopicPartition, cut: int) -> Waiting:
        low, high = self._consumer.get_watermark_offsets(partition, timeout=_ANSWER_S)
        cut = max(cut, low)
        if high <= cut:
            return Waiting(cut, 0, None)
        first = next(self._read(partition, cut), None)
        if first is None:  # only the markers of transactions
            return Waiting(cut, 0, None)
        back = 1
        while True:
            start = max(first[0], high - back)
            last = first if start == first[0] else None
            for record in self._read(partition, start):
                last = record
            if last is not None:
                return Waiting(last[0] + 1, last[0] + 1 - cut, first[1])
            back *= 4

    def _read(self, partition: TopicPartition, start: int) -> Iterator[tuple[int, int]]:
        """(offset, append time) of the records from an offset up to the end."""
        self._consumer.assign([TopicPartition(partition.topic, partition.partition, start)])
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline:
            message = self._consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                if message.error().name() == "_PARTITION_EOF":
                    return
                raise KafkaException(message.error())
            yield message.offset(), message.timestamp()[1]
        raise TopicError(f"Kafka at {self.servers} does not deliver from {partition.topic}/{partition.partition}")


@contextmanager
def _broker(settings: Settings) -> Iterator[Broker]:
    from lakehouse.stack import probes

    try:
        host, _, port = settings.kafka.bootstrap_servers.split(",")[0].strip().rpartition(":")
        probes.listens(host, int(port))
    except OSError as error:
        raise TopicError(
            f"no Kafka broker answers at {settings.kafka.bootstrap_servers} ({error}): start it with `lakehouse up`"
        ) from None
    broker = Broker(settings)
    try:
        yield broker
    finally:
        broker.close()


# --- status --------------------------------------------------------------------------------------------------------


def status(settings: Settings, now: datetime | None = None) -> dict[str, Any]:
    """Everything about a running platform that is cheap to know; what cannot be asked holds ``error`` in its place.

    ``topics`` count records that are in Kafka but not in a cut (``lag_records``, ``lag_seconds``: age of the oldest),
    ``stores`` how long the oldest change they lack has been in gold.
    """
    now = now or datetime.now(UTC)
    with ThreadPoolExecutor(4) as pool:
        servers = pool.submit(_or_error, lambda: dict(stack.status(settings)))
        programs = pool.submit(_or_error, lambda: dict(stack.program_states(settings)))
        lake = pool.submit(_or_error, lambda: pipeline(settings, now))
        summary = lake.result()
        return {
            "at": _rfc3339(now),
            "servers": servers.result(),
            "programs": programs.result(),
            "off": list(settings.off),
            "api": {"url": _api(settings) if components.on(settings, "serve") else None},
            "collect": _collect(settings) if components.on(settings, "collect") else None,
            "realtime": _or_error(lambda: look.processors(settings)) if components.on(settings, "realtime") else {},
            "lineage": _lineage(settings),
            **summary,
            "runs": runs(settings).latest(),
        }


def _api(settings: Settings) -> str | None:
    """Where the API is; None when nothing answers there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api.host, settings.api.host)
    tls = settings.api.tls_certificate is not None
    url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{settings.api.port}"
    # Whether it answers, not who: the certificate is of the name that clients call it by.
    context = ssl._create_unverified_context() if tls else None
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=1, context=context) as answer:
            return url if answer.status == 200 else None
    except OSError:
        return None


def _collect(settings: Settings) -> dict[str, Any] | None:
    """What the collector last said of itself, and where it listens by default; None where none has run."""
    collect = settings.collect
    try:
        said = dict(orjson.loads((settings.home / "collect.json").read_bytes()))
    except (OSError, ValueError):
        return None
    host = collect.beats.rpartition(":")[0]
    others = {"tcp": collect.tcp_port, "http": collect.http_port, "syslog": collect.syslog_port}
    return said | {"listens": {"beats": collect.beats} | {name: f"{host}:{port}" for name, port in others.items()}}


def _lineage(settings: Settings) -> dict[str, Any] | None:
    """How telling OpenLineage's backend goes; None where none is or was configured."""
    try:
        said = orjson.loads((settings.home / "lineage.json").read_bytes())
    except (OSError, ValueError):
        return None
    return {name: said.get(name) for name in ("at", "sent", "refused", "failing_since", "error", "marks")}


def _or_error(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except Exception as error:
        return {"error": _line(error)}


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _rfc3339(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None


def pipeline(settings: Settings, now: datetime) -> dict[str, Any]:
    """``topics``, ``tables`` and ``stores`` of :func:`status`."""
    lake = Lake(settings)
    cuts: dict[str, Cut] = {}
    problem: str | None = None
    try:
        reachable(settings)
        cuts = lake.cuts()
    except LakeError as error:
        problem = _line(error)
    topics: dict[str, Any] = {topic: {} for topic in TOPICS}
    batches = {} if problem else _batches(settings)
    try:
        with _broker(settings) as broker:
            for topic in TOPICS:
                cut = cuts.get(topic)
                waiting = broker.waiting(topic, cut.ends if cut else {}).values()
                ages = [now.timestamp() - w.oldest_ms / 1000 for w in waiting if w.oldest_ms is not None]
                topics[topic] = {
                    "lag_records": sum(w.records for w in waiting),
                    "lag_seconds": round(max([0.0, *ages]), 3),
                }
    except TopicError as error:
        topics = {topic: {"lag_records": None, "lag_seconds": None, "error": _line(error)} for topic in TOPICS}
    for topic, facts in topics.items():
        cut = cuts.get(topic)
        facts |= {
            "last_cut_at": _rfc3339(cut.committed_at) if cut else None,
            "cut_age_seconds": round((now - cut.committed_at).total_seconds(), 3) if cut else None,
            "seq": cut.seq if cut else None,
            "batches": batches.get(topic),
        }
        if problem:
            facts["lag_records"] = facts["lag_seconds"] = None
            facts.setdefault("error", problem)
    with ThreadPoolExecutor(4) as pool:
        rows = pool.submit(_or_error, lambda: {t.pop("table"): t for t in tables(settings)}) if not problem else None
        stores = pool.map(lambda name: _store(settings, cuts, name, now, problem), settings.stream.stores)
        return {
            "topics": topics,
            "tables": rows.result() if rows else {"error": problem},
            "stores": dict(zip(settings.stream.stores, stores, strict=True)),
        }


def reachable(settings: Settings) -> None:
    """Return when the lake's storage accepts connections.

    Raises:
        LakeError: it does not, in words that delta-rs lacks.
    """
    from lakehouse.stack import probes

    try:
        probes.hdfs(settings.hdfs.uri)
    except OSError as error:
        raise LakeError(f"{settings.hdfs.uri} does not answer ({error}): start it with `lakehouse up`") from None


def _batches(settings: Settings) -> dict[str, dict[str, Any]]:
    answer = query(
        settings,
        f"""with batches as (select topic, seq, any_value(batch_ms) as ms, sum(records) as records from {LEDGER.name}
                             group by topic, seq
                             qualify row_number() over (partition by topic order by seq desc) <= {RECENT_BATCHES})
            select topic, quantile_cont(ms, 0.5), quantile_cont(ms, 0.95), sum(records)::bigint, count(*)
            from batches group by topic""",
    )
    return {
        topic: {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "records": records, "batches": count}
        for topic, p50, p95, records, count in answer.rows
    }


def _store(settings: Settings, cuts: dict[str, Cut], name: str, now: datetime, problem: str | None) -> dict[str, Any]:
    try:
        progress = open_store(settings, name).progress()
    except Exception as error:
        return {"reachable": False, "behind_seconds": None, "progress": None, "error": _line(error)}
    facts: dict[str, Any] = {"reachable": True, "behind_seconds": None, "progress": progress}
    if not problem:
        missing = behind(targets(settings, cuts, name, progress), progress)
        since = _since(settings, missing)
        facts["behind_seconds"] = round((now - since).total_seconds(), 3) if since else 0.0
        facts["behind"] = [gap.text for gap in missing]
    return facts


# --- what stores must hold -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """What a store lacks: of ``topic``, batches beyond ``seq``, or silver rows of ``partition`` from ``offset`` on."""

    topic: str
    text: str
    seq: int | None = None
    partition: int | None = None
    offset: int | None = None


Targets = dict[str, Any]
"""As a store's progress: ``changes`` by topic -> batch, ``silver`` by table -> partition -> offset."""


def targets(settings: Settings, cuts: Mapping[str, Cut], store: str, known: Mapping[str, Any] | None = None) -> Targets:
    """The progress that a store must reach to hold everything in the cuts.

    Of silver only the rows beyond the ``known`` progress are looked at; without it, all.
    """
    found: Targets = {"changes": {}, "silver": {}}
    if not cuts:
        return found
    upto = " or ".join(f"(topic = '{cut.topic}' and seq <= {cut.seq})" for cut in cuts.values())
    rows = query(settings, f"select topic, max(seq) from {CHANGES.name} where {upto} group by topic").rows
    found["changes"] = dict(rows)
    if store != "elasticsearch":
        return found
    for table in FOLLOWED:
        cut = cuts.get(table.removeprefix("silver.").replace("_", "-"))
        if cut is None:
            continue
        past = known["silver"].get(table, {}) if known else {}
        below = " or ".join(
            f'(partition = {p} and "offset" > {past.get(str(p), -1)} and "offset" < {end})'
            for p, end in cut.ends.items()
        )
        rows = query(settings, f'select partition, max("offset") from {table} where {below} group by partition').rows
        found["silver"][table] = {str(partition): offset for partition, offset in rows}
    return found


def behind(wanted: Targets, progress: Mapping[str, Any]) -> list[Gap]:
    """What a store with this progress still lacks."""
    gaps = []
    for topic, seq in wanted["changes"].items():
        at = progress["changes"].get(topic, 0)
        if at < seq:
            gaps.append(Gap(topic, f"batches {at + 1} to {seq} of {topic}", seq=at))
    for table, partitions in wanted["silver"].items():
        topic = table.removeprefix("silver.").replace("_", "-")
        for partition, offset in partitions.items():
            at = progress["silver"].get(table, {}).get(partition, -1)
            if at < offset:
                text = f"{table} rows of partition {partition} from offset {at + 1} to {offset}"
                gaps.append(Gap(topic, text, partition=int(partition), offset=at + 1))
    return gaps


def _since(settings: Settings, gaps: list[Gap]) -> datetime | None:
    """When the oldest of the gaps came into the tables."""
    if not gaps:
        return None
    conditions = [
        f"(topic = '{gap.topic}' and "
        + (
            f"seq > {gap.seq})"
            if gap.seq is not None
            else f"partition = {gap.partition} and end_offset > {gap.offset})"
        )
        for gap in gaps
    ]
    rows = query(settings, f"select min(committed_at) from {LEDGER.name} where {' or '.join(conditions)}").rows
    found: datetime | None = rows[0][0]
    return found


# --- wait ----------------------------------------------------------------------------------------------------------


def wait(settings: Settings, timeout: float) -> list[str]:
    """Return when all that is in Kafka now is in gold and in every store, and Elasticsearch shows it; else what is not.

    Empty means done. ``timeout`` is in seconds.

    Raises:
        TopicError: Kafka does not answer.
        LakeError: the tables cannot be read.
    """
    deadline = time.monotonic() + timeout
    lake = Lake(settings)
    reachable(settings)
    with _broker(settings) as broker:
        wanted = {t: {p: w.end for p, w in broker.waiting(t, {}).items() if w.records} for t in TOPICS}
    while True:
        cuts = _cuts(lake)
        missing = _not_in_gold(wanted, cuts)
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    if missing:
        return missing
    waiting = {name: targets(settings, cuts, name) for name in settings.stream.stores}
    stores: dict[str, Store] = {}
    while True:
        missing = []
        for name in list(waiting):
            try:
                store = stores.get(name) or stores.setdefault(name, open_store(settings, name))
                gaps = behind(waiting[name], store.progress())
                if gaps:
                    missing += [f"{name} lacks {gap.text}" for gap in gaps]
                    continue
                if hasattr(store, "refresh") and any(waiting[name].values()):
                    store.refresh()
                del waiting[name]
            except Exception as error:  # each client has errors of its own for a store that is away
                missing.append(f"{name} does not answer: {_line(error)}")
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(_POLL_S)


def _cuts(lake: Lake) -> dict[str, Cut]:
    try:
        return lake.cuts()
    except LakeError as error:
        if "no such table" in str(error):  # the stream makes the tables when it starts
            return {}
        raise


def _not_in_gold(wanted: Mapping[str, Mapping[int, int]], cuts: Mapping[str, Cut]) -> list[str]:
    missing = []
    for topic, ends in wanted.items():
        at = cuts[topic].ends if topic in cuts else {}
        lacking = {p: (at.get(p, 0), end) for p, end in ends.items() if at.get(p, 0) < end}
        missing += [f"gold lacks {topic}/{p} from offset {have} to {end - 1}" for p, (have, end) in lacking.items()]
    return missing


# --- tables --------------------------------------------------------------------------------------------------------


def tables(settings: Settings) -> list[dict[str, Any]]:
    """Every table: rows, bytes, live files, version and the time of its newest commit, from metadata alone.

    Raises:
        LakeError: the storage does not answer.
    """
    reachable(settings)
    lake = Lake(settings)
    names = [name for name in TABLES if not name.startswith("_")]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda name: _table(lake, name), names))


def _table(lake: Lake, name: str) -> dict[str, Any]:
    try:
        handle = lake.table(name)
    except LakeError as error:
        return {"table": name, "error": _line(error)}
    adds = pa.table(handle.get_add_actions(flatten=True))
    newest = handle.history(1)[0]
    return {
        "table": name,
        "rows": sum(adds.column("num_records").to_pylist()),
        "bytes": sum(adds.column("size_bytes").to_pylist()),
        "files": adds.num_rows,
        "version": handle.version(),
        "committed_at": _rfc3339(datetime.fromtimestamp(newest["timestamp"] / 1000, UTC)),
    }
