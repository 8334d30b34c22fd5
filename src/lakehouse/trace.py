"""Where one record went: Kafka, bronze, then silver, quarantine or a duplicate's winner, ledger, gold, stores."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, STORES, TABLES, Flow
from lakehouse.gold.aggregate import Aggregate
from lakehouse.quality.checks import checker
from lakehouse.quality.quarantine import REPLAY_HEADER, Id, QuarantineError, decoded, parse_id, show_id
from lakehouse.query import query, rows
from lakehouse.runtime.fused import row_key
from lakehouse.runtime.ledger import LEDGER
from lakehouse.settings import Settings
from lakehouse.silver.quarantine import TABLE as QUARANTINE
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake

FOUND = 20
"""Records that one id may name, in the answer."""


class TraceError(Exception):
    """No record has the id."""


def trace(settings: Settings, wanted: str) -> dict[str, Any]:
    """Follow every record that ``wanted`` names: an ``event_id``, ``event.id``, metric record id or
    ``topic/partition/offset``.

    Returns:
        ``{"id", "records": [...]}``; a record has ``id`` (its coordinates), ``outcome`` (valid, quarantined, duplicate,
        erased, expired: deleted after its retention, waiting, absent), ``bronze``, ``silver``, ``quarantine``,
        ``duplicate_of``, ``ledger``, ``gold`` and ``stores``.

    Raises:
        TraceError: nothing is known by that id.
        LakeError: the tables cannot be read.
    """
    try:
        found = [parse_id(wanted)]
    except QuarantineError:
        found = _by_identity(settings, wanted) or _by_bytes(settings, wanted)
    if not found:
        raise TraceError(
            f"no record is known as {wanted!r}: give an event_id, event.id, metric record id or "
            "topic/partition/offset; `lakehouse status` shows what is still on its way"
        )
    return {"id": wanted, "records": [_record(settings, one) for one in found]}


def _flow(topic: str) -> Flow:
    return next(flow for flow in FLOWS if flow.topic == topic)


def _identity_column(flow: Flow) -> str:
    return "record_id" if contracts()[flow.topic].samples else "event_id"


def _by_identity(settings: Settings, identity: str) -> list[Id]:
    """Accepted records of an identity, in any topic."""
    found: list[Id] = []
    for flow in FLOWS:
        answer = query(
            settings,
            f'select distinct topic, partition, "offset" from {flow.silver.name} where {_identity_column(flow)} = ?',
            [identity],
        )
        found += [(topic, partition, offset) for topic, partition, offset in answer.rows]
    return sorted(found)[:FOUND]


def _by_bytes(settings: Settings, identity: str) -> list[Id]:
    """Records whose bytes hold the identity and that silver does not know by it: a scan of bronze."""
    if len(identity) < 4:
        return []
    found: list[Id] = []
    for flow in FLOWS:
        data = pruned_dataset(Lake(settings).table(flow.bronze.name))
        holds = pc.match_substring(pc.field("value"), identity)
        for batch in data.to_batches(columns=["topic", "partition", "offset"], filter=holds):
            found += [(row["topic"], row["partition"], row["offset"]) for row in batch.to_pylist()]
            if len(found) >= FOUND:
                return found[:FOUND]
    return found


def _record(settings: Settings, record: Id) -> dict[str, Any]:
    topic, partition, offset = record
    flow = _flow(topic)
    here = 'where topic = ? and partition = ? and "offset" = ?'
    bronze = rows(settings, f"select * from {flow.bronze.name} {here}", record)
    silver = rows(settings, f"select * from {flow.silver.name} {here}", record)
    quarantined = rows(settings, f"select reasons, status, updated_at from {QUARANTINE.name} {here}", record)
    ledger = rows(
        settings,
        f"select seq, start_offset, end_offset, batch_ms, committed_at from {LEDGER.name} "
        "where topic = ? and partition = ? and start_offset <= ? and ? < end_offset",
        (topic, partition, offset, offset),
    )
    found: dict[str, Any] = {
        "id": show_id(record),
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "outcome": "",
        "bronze": None,
        "silver": silver,
        "quarantine": quarantined[0] if quarantined else None,
        "duplicate_of": None,
        "ledger": ledger[0] if ledger else None,
        "gold": [],
        "stores": [],
    }
    if bronze:
        row = bronze[0]
        found["bronze"] = {
            "timestamp": row["timestamp"],
            "key": decoded(row["key"]),
            "value": decoded(row["value"]),
            "headers": [{"key": h["key"], "value": decoded(h["value"])} for h in row["headers"] or []],
        }
    if not ledger:
        found["outcome"] = "waiting"  # what a batch at work has written already may still be taken back
    elif silver:
        found["outcome"] = "valid"
    elif quarantined:
        found["outcome"] = "quarantined"
    elif bronze and bronze[0]["erased_at"]:
        found["outcome"] = "erased"
    elif bronze:
        found["outcome"] = "duplicate"
        found["duplicate_of"] = _accepted(settings, flow, bronze[0])
    elif offset < Lake(settings).cuts()[topic].starts.get(partition, 0):
        found["outcome"] = "expired"
    else:
        found["outcome"] = "absent"  # a transaction's marker, or expired before it was read
    if silver:
        found["gold"] = _gold(settings, flow, silver)
        found["stores"] = _stores(settings, flow, silver, found["gold"])
    return found


def _accepted(settings: Settings, flow: Flow, row: dict[str, Any]) -> dict[str, Any] | None:
    """The record that stands in silver for a duplicate: of its identity, or a replay of the same original."""
    at: datetime = row["timestamp"]
    identity = checker(contracts()[flow.topic])(row["value"], int(at.timestamp() * 1e6)).identity
    columns = 's.topic, s.partition, s."offset", s.timestamp'
    nearest = "order by abs(epoch_us(s.timestamp) - epoch_us(cast(? as timestamptz))) limit 1"
    same = rows(
        settings,
        f"select {columns} from {flow.silver.name} s where {_identity_column(flow)} = ? {nearest}",
        (identity, at),
    )
    origins = [h["value"] for h in row["headers"] or [] if h["key"] == REPLAY_HEADER]
    if not same and origins:
        replays = f"select *, unnest(headers) as h from {flow.bronze.name} where headers is not null"
        same = rows(
            settings,
            f'select {columns} from ({replays}) b join {flow.silver.name} s using (topic, partition, "offset") '
            f"where b.h.key = '{REPLAY_HEADER}' and b.h.value = ? {nearest}",
            (origins[0], at),
        )
    if not same:
        return None
    one = same[0]
    return {
        "id": show_id((one["topic"], one["partition"], one["offset"])),
        "timestamp": one["timestamp"],
        "identity": identity,
    }


# --- gold ----------------------------------------------------------------------------------------------------------


def gold_keys(aggregate: Aggregate, silver: pa.Table) -> list[dict[str, Any]]:
    """The keys of a gold table that silver rows count in; none where they do not count."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("silver", silver)
        keys = ", ".join(f"{expression} as {name}" for name, (_, expression) in aggregate.keys.items())
        answer = connection.execute(f"select distinct {keys} from silver where {aggregate.where} order by all")
        return [dict(zip(aggregate.keys, row, strict=True)) for row in answer.fetchall()]


def _gold(settings: Settings, flow: Flow, silver: list[dict[str, Any]]) -> list[dict[str, Any]]:
    counted = pa.Table.from_pylist(silver, schema=flow.silver.arrow)
    found = []
    for aggregate in flow.gold:
        for key in gold_keys(aggregate, counted):
            found.append(_current(settings, aggregate.name, key))
    for snapshot in flow.snapshots:
        for post in sorted({row["post_id"] for row in silver if row.get("post_id")}):
            found.append(_current(settings, snapshot.name, {"post_id": post}))
    return found


def _current(settings: Settings, table: str, key: dict[str, Any]) -> dict[str, Any]:
    same = " and ".join(f'"{name}" is not distinct from ?' for name in key)
    found = rows(settings, f"select * from {table} where {same}", list(key.values()))
    return {"table": table, "key": key, "row": found[0] if found else None}


# --- stores --------------------------------------------------------------------------------------------------------


def _stores(
    settings: Settings, flow: Flow, silver: list[dict[str, Any]], gold: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The documents that mirror the record and its gold rows: there or not, and at which version of their table."""
    wanted: list[tuple[str, str, str]] = []
    for key in STORES:
        if key.store not in settings.stream.stores:
            continue
        if key.table == flow.silver.name:
            wanted += [(key.store, key.name, _document(flow, row)) for row in silver]
        for one in gold:
            if one["table"] == key.table:
                table = TABLES[key.table]
                wanted.append((key.store, key.name, "" if key.store == "redis" else row_key(one["key"], table.key)))
    found = []
    away: dict[str, str] = {}
    for store, name, document in dict.fromkeys(wanted):
        entry: dict[str, Any] = {"store": store, "name": name, "id": document or None, "present": None, "version": None}
        try:
            if store in away:
                raise ConnectionError(away[store])
            entry["present"], entry["version"] = _ask(settings, store, name, document)
        except Exception as error:  # each client has errors of its own for a store that is away
            away[store] = entry["error"] = (str(error).splitlines() or [type(error).__name__])[0][:200]
        found.append(entry)
    return found


def _document(flow: Flow, row: dict[str, Any]) -> str:
    return f"{row['record_id']}:{row['metric']}" if contracts()[flow.topic].samples else str(row["event_id"])


def _ask(settings: Settings, store: str, name: str, document: str) -> tuple[bool, int | None]:
    if store == "mongodb":
        from lakehouse.sinks.mongo import MongoSink

        one = MongoSink(settings).database[name].find_one({"_id": document}, {"version": 1})
        return one is not None, one.get("version") if one else None
    if store == "redis":
        from lakehouse.sinks.redis import RedisSink

        value: Any = RedisSink(settings).client.get(name)
        return value is not None, orjson.loads(value)["version"] if value else None
    from lakehouse.sinks.elasticsearch import ElasticsearchSink, document_id

    answer = ElasticsearchSink(settings).client.options(ignore_status=404).get(index=name, id=document_id(document))
    source = answer.body.get("_source") or {}
    return bool(answer.body.get("found")), source.get("version")


# --- for people ----------------------------------------------------------------------------------------------------


def render(found: dict[str, Any]) -> str:
    """The answer as text, a paragraph a record."""
    from lakehouse.query import text

    lines = []
    for one in found["records"]:
        lines.append(f"{one['id']}: {one['outcome']}")
        if bronze := one["bronze"]:
            lines.append(f"  arrived    {text(bronze['timestamp'])}, key {text(bronze['key']) or 'null'}")
            lines.append(f"  bronze     {text(bronze['value'])[:500]}")
        if ledger := one["ledger"]:
            lines.append(f"  ledger     batch {ledger['seq']}, committed {text(ledger['committed_at'])}")
        else:
            lines.append("  ledger     in no batch yet")
        for row in one["silver"]:
            shown = {k: v for k, v in row.items() if v is not None and k not in ("topic", "partition", "offset")}
            lines.append(f"  silver     {text(shown)}")
        if quarantine := one["quarantine"]:
            lines.append(f"  quarantine {quarantine['status']}: {'; '.join(quarantine['reasons'])}")
        if one["outcome"] == "duplicate":
            lines.append(
                f"  duplicate  of {(one['duplicate_of'] or {}).get('id', 'a record that silver no longer holds')}"
            )
        for gold in one["gold"]:
            row = "not in the newest snapshot" if gold["row"] is None else text(gold["row"])
            lines.append(f"  gold       {gold['table']} {row}")
        for document in one["stores"]:
            what = {True: "there", False: "not there", None: f"unknown: {document.get('error')}"}[document["present"]]
            version = f", version {document['version']}" if document["version"] is not None else ""
            lines.append(f"  {document['store']:<13} {document['name']} {document['id'] or ''}: {what}{version}")
    return "\n".join(lines)
