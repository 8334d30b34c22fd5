"""How the pipeline is: what waits in Kafka, the newest cut and batches of every topic, versions of tables, stores.

It is asked of Kafka, the ledger and the stores for everybody at once, in the background while somebody wants to know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from lakehouse.contracts import TOPICS
from lakehouse.inspect import Broker, Store, open_store
from lakehouse.runtime.ledger import LEDGER
from lakehouse.settings import Settings
from lakehouse.sources.topics import TopicError
from serving import formats
from serving.auth import Caller
from serving.catalog import find
from serving.problems import Problem
from serving.reads import age_s
from serving.service import Service, in_thread, now

Found = TypeVar("Found")
FRESH_S = 2.0
STALE_S = 15.0
"""What is older is not shown: who asks waits."""
ANSWERS_S = 3.0
"""What does not answer in this time is said not to."""
_OURSELVES = Caller("lakehouse", frozenset({"admin"}))
_CUTS = """
select topic, seq, partition, end_offset, versions, committed_at from rows
qualify rank() over (partition by topic order by seq desc) = 1
"""
_BATCHES = """
select topic, seq, sum(records)::bigint as records, sum(valid)::bigint as valid,
  sum(quarantined)::bigint as quarantined, sum(duplicates)::bigint as duplicates,
  any_value(batch_ms) as batch_ms, max(committed_at) as committed_at
from rows group by topic, seq qualify row_number() over (partition by topic order by seq desc) <= 60
order by topic, seq
"""
_TOTALS = """
select topic, sum(records)::bigint as records, sum(valid)::bigint as valid, sum(quarantined)::bigint as quarantined,
  sum(duplicates)::bigint as duplicates from rows group by topic order by topic
"""


class Status:
    """Knows the state; what cannot be asked holds ``error`` in its place."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service, self._settings = service, settings
        self._made = float("-inf")
        self._kept: dict[str, Any] = {}
        self._asking: asyncio.Task[None] | None = None
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._broker: Broker | None = None
        self._stores_known: dict[str, Store] = {}

    async def now(self) -> dict[str, Any]:
        """``{"at", "topics", "tables", "stores", "batches", "totals"}``, no older than 15 s."""
        age = time.monotonic() - self._made
        if age > FRESH_S and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask())
        if age > STALE_S and self._asking is not None:
            await asyncio.shield(self._asking)
        return self._kept

    async def close(self) -> None:
        """Let go of the consumer, unless it is being asked: then it ends with the process."""
        if self._asking is not None:
            self._asking.cancel()
        if self._broker is not None and "kafka" not in self._under_way:
            self._broker.close()

    async def _ask(self) -> None:
        ledger, stores = await asyncio.gather(self._ledger(), self._stores())
        error, cuts, batches, totals = ledger
        ends = {topic: {row["partition"]: row["end_offset"] for row in rows} for topic, rows in cuts.items()}
        late = {topic: {"error": f"Kafka does not answer within {ANSWERS_S:.0f} s"} for topic in TOPICS}
        waiting = await self._answer("kafka", lambda: self._waiting(ends), late)
        at = now()
        topics, tables = {}, []
        for topic in TOPICS:
            cut = cuts.get(topic)
            topics[topic] = {
                **_lag(waiting.get(topic) if error is None else {"error": error}, at),
                "seq": cut[0]["seq"] if cut else None,
                "last_cut_at": cut[0]["committed_at"] if cut else None,
                "cut_age_s": age_s(cut[0]["committed_at"], at) if cut else None,
            }
            for name, version in sorted(((cut[0]["versions"] or {}) if cut else {}).items()):
                if not name.startswith("_"):
                    known = {"name": name, "version": version, "at": cut[0]["committed_at"]} if cut else {}
                    tables.append({**known, "age_s": topics[topic]["cut_age_s"]})
        newest = {topic: facts["seq"] for topic, facts in topics.items()}
        self._kept = {
            "at": at,
            "topics": topics,
            "tables": list(
                {table["name"]: table for table in sorted(tables, key=lambda t: (t["name"], t["version"]))}.values()
            ),
            "stores": {name: _behind(found, newest) for name, found in stores.items()},
            "batches": batches,
            "totals": totals,
        }
        self._made = time.monotonic()

    async def _ledger(self) -> tuple[str | None, dict[str, list[dict[str, Any]]], list[Any], list[Any]]:
        table = find(LEDGER.name)
        try:
            rows, batches, totals = [
                formats.objects((await self._service.query(_OURSELVES, table, sql, []))[0])
                for sql in (_CUTS, _BATCHES, _TOTALS)
            ]
        except Problem as problem:
            return problem.detail, {}, [], []
        cuts: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            cuts.setdefault(row["topic"], []).append(row)
        return None, cuts, batches, totals

    async def _stores(self) -> dict[str, dict[str, Any]]:
        names = self._settings.stream.stores
        asked = [self._answer(name, partial(self._progress, name), _silent(name)) for name in names]
        return dict(zip(names, await asyncio.gather(*asked), strict=True))

    def _progress(self, name: str) -> dict[str, Any]:
        try:
            store = self._stores_known.get(name) or self._stores_known.setdefault(
                name, open_store(self._settings, name)
            )
            return {"reachable": True, "changes": store.progress().get("changes", {})}
        except Exception as error:  # a store's own
            self._stores_known.pop(name, None)
            return {"reachable": False, "error": f"{name} does not answer ({type(error).__name__})"}

    def _waiting(self, ends: dict[str, dict[int, int]]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for topic in TOPICS:
            try:
                self._broker = self._broker or Broker(self._settings)
                waiting = self._broker.waiting(topic, ends.get(topic, {})).values()
                ages = [one.oldest_ms for one in waiting if one.oldest_ms is not None]
                found[topic] = {"records": sum(one.records for one in waiting), "oldest_ms": min(ages, default=None)}
            except TopicError as error:
                return {topic: {"error": str(error)} for topic in TOPICS}
        return found

    async def _answer(self, name: str, call: Callable[[], Found], late: Found) -> Found:
        """What a call says in time; one that is still under way is waited for, not made again."""
        answer: asyncio.Future[Found] | None = self._under_way.get(name)
        if answer is None:
            answer = self._under_way[name] = in_thread(call)
            answer.add_done_callback(lambda _: self._under_way.pop(name, None))
        done, _ = await asyncio.wait([answer], timeout=ANSWERS_S)
        return answer.result() if done else late


def _lag(waiting: dict[str, Any] | None, at: datetime) -> dict[str, Any]:
    if waiting is None or "error" in waiting:
        return {"lag_records": None, "lag_seconds": None, **(waiting or {})}
    oldest = waiting["oldest_ms"]
    seconds = 0.0 if oldest is None else max(round(at.timestamp() - oldest / 1000, 3), 0.0)
    return {"lag_records": waiting["records"], "lag_seconds": seconds}


def _silent(name: str) -> dict[str, Any]:
    return {"reachable": False, "error": f"{name} does not answer within {ANSWERS_S:.0f} s"}


def _behind(found: dict[str, Any], newest: dict[str, int | None]) -> dict[str, Any]:
    """How many batches of each topic a store lacks."""
    if not found["reachable"]:
        return found
    changes = found["changes"]
    behind = {topic: max((seq or 0) - int(changes.get(topic, 0)), 0) for topic, seq in newest.items()}
    return {"reachable": True, "behind_batches": behind}
