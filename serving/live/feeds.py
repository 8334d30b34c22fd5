"""Where the live stream's things come from: one poll of Redis a second, one reader of Kafka, one look at tables.

Each says when its store is away and when it is back, and none ends for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import orjson
import redis.asyncio
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from lakehouse.alerts import read
from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from lakehouse.sources.topics import NOTIFICATIONS
from serving.live.hub import Feed, Hub, Record
from serving.live.position import MARK_BYTES
from serving.live.wording import ByRules
from serving.problems import Problem
from serving.served import Served, Snapshot

EVERY_S = 1.0
TRENDING = 20
KEPT_BYTES = 16 * 1024 * 1024
"""Of each partition's notifications, beside the setting's number."""
MOST = 500
"""Records that are handed over at a time."""
LOOKS_S = 15.0
"""How often the topic itself is looked at: whether it is still the same one, and has as many partitions."""
_ANSWER_S = 5.0
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


# --- Redis ---------------------------------------------------------------------------------------------------------


class RedisFeed:
    """``live`` and ``trending``, as the real-time processor shows them."""

    def __init__(self, settings: Settings, every_s: float = EVERY_S) -> None:
        self._url, self._every_s = settings.redis.url.get_secret_value(), every_s

    async def run(self, hub: Hub) -> None:
        """See :class:`serving.live.hub.Feed`."""
        client = redis.asyncio.Redis.from_url(
            self._url, decode_responses=True, encoding_errors="replace", socket_timeout=2, socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        try:
            while True:
                began = time.monotonic()
                if hub.wanted("redis"):
                    try:
                        await self._look(client, hub)
                    except (RedisError, OSError) as error:
                        hub.store("redis", False, str(error))
                await asyncio.sleep(max(0.05, self._every_s - (time.monotonic() - began)))
        finally:
            await client.aclose()

    async def _look(self, client: Any, hub: Hub) -> None:
        asking = client.pipeline(transaction=False)
        asking.hgetall("live:site")
        asking.zrevrange("trending:posts", 0, TRENDING - 1, withscores=True)
        site, posts = await asking.execute()
        hub.store("redis", True)
        hub.show("live", live(site))
        hub.show("trending", trending(posts))


def live(site: dict[str, str]) -> dict[str, Any]:
    """The event ``live`` of the hash ``live:site``: as ``GET /v1/activity/live`` answers."""
    active = site.get("active_users")
    counts = {name.removeprefix("events_1m:"): int(n) for name, n in site.items() if name.startswith("events_1m:")}
    return {"at": site.get("at"), "active_users": active and int(active), "events_1m": counts}


def trending(posts: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The event ``trending``; to a hundredth, so that scores that only decay are not told each second."""
    found = [{"rank": rank, "post_id": post, "score": round(score, 2)} for rank, (post, score) in enumerate(posts, 1)]
    return {"data": found}


# --- tables --------------------------------------------------------------------------------------------------------


class Version(Protocol):
    """A version of a table."""

    @property
    def name(self) -> str:
        """``layer.name``."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def at(self) -> datetime:
        """When it was committed."""


class TableFeed:
    """``table``: the versions that are served.

    Args:
        served: the version of each table now; called from a thread, once a second while somebody wants to know. What
            it raises means that the lake is away.
    """

    def __init__(self, served: Callable[[], Iterable[Version]], every_s: float = EVERY_S) -> None:
        self._served, self._every_s = served, every_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="live-tables")

    async def run(self, hub: Hub) -> None:
        """See :class:`serving.live.hub.Feed`."""
        loop = asyncio.get_running_loop()
        while True:
            if hub.wanted("lake"):
                try:
                    found = await loop.run_in_executor(self._pool, lambda: list(self._served()))
                except Exception as error:
                    hub.store("lake", False, str(error))
                else:
                    hub.store("lake", True)
                    for one in found:
                        at = one.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                        hub.show("table", {"name": one.name, "version": one.version, "at": at}, one.name)
            await asyncio.sleep(self._every_s)


def versions(served: Served) -> Callable[[], list[Snapshot]]:
    """What :class:`TableFeed` asks: the tables of gold, and what else is being read."""
    gold = [name for name in TABLES if name.startswith("gold.")]

    def now() -> list[Snapshot]:
        found = {one.name: one for one in served.held()}
        for name in {*gold, *found}:
            try:
                found[name] = served.snapshot(name)
            except Problem as problem:
                if problem.status != 404:  # of a table that is yet to be made
                    raise
        return list(found.values())

    return now


# --- Kafka ---------------------------------------------------------------------------------------------------------


class KafkaFeed:
    """``notification`` and ``alert``: the topic ``notifications``, read by a consumer without a group, in a thread."""

    def __init__(self, settings: Settings, topic: str = NOTIFICATIONS) -> None:
        self._servers, self._topic = settings.kafka.bootstrap_servers, topic
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="live-kafka")

    async def run(self, hub: Hub) -> None:
        """See :class:`serving.live.hub.Feed`. Ends, to be started again, when the topic is another one."""
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._pool, _Reader(self._servers, self._topic, hub, loop, stop, self._pool).run)
        try:
            await asyncio.shield(reading)
        except KafkaException as error:
            hub.store("kafka", False, error.args[0].str())
        finally:
            stop.set()


class _Left(Exception):
    """It is time to end."""


class _Reader:
    """Reads the topic in a thread until told to stop, and hands over to the event loop."""

    def __init__(
        self,
        servers: str,
        topic: str,
        hub: Hub,
        loop: asyncio.AbstractEventLoop,
        stop: threading.Event,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._servers, self._topic, self._hub = servers, topic, hub
        self._loop, self._stop, self._pool = loop, stop, pool
        self._away: str | None = None
        # It tells of each lost connection; the hub tells once that Kafka is away.
        self._quiet = logging.getLogger("lakehouse.kafka.live")
        self._quiet.setLevel(logging.CRITICAL)

    def run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "lakehouse-live",  # a name that is needed; nothing is joined or committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 100,
                "reconnect.backoff.max.ms": 2000,
                "queued.max.messages.kbytes": 8192,
                "error_cb": self._trouble,
            },
            logger=self._quiet,
        )
        try:
            self._read(consumer)
        except _Left:
            pass
        finally:
            consumer.close()

    def _trouble(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._away = error.str()

    def _read(self, consumer: Consumer) -> None:
        mark, count = self._topic_now()
        marks = [self._marks(consumer, partition) for partition in range(count)]
        lows, highs = [low for low, _ in marks], [high for _, high in marks]
        starts = self._tell(self._hub.begin, mark, lows, highs, partial(self._ends, consumer, count))
        consumer.assign([TopicPartition(self._topic, partition, at) for partition, at in enumerate(starts)])
        at_end: set[int] = set()
        caught_up, told_away, looked = False, False, time.monotonic()
        while not self._stop.is_set():
            records, at, ends = self._taken(consumer)
            at_end |= ends
            if records or at:
                self._tell(self._hub.take, records, at)
            if not caught_up and len(at_end) == count:
                self._tell(self._hub.caught_up)
                caught_up = True
            if self._away and not told_away:
                self._tell(self._hub.store, "kafka", False, self._away)
                told_away = True
            now = time.monotonic()
            if now - looked > (1.0 if told_away else LOOKS_S):
                looked = now
                try:
                    found = self._topic_now()
                except KafkaException as error:
                    if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
                    self._away = error.args[0].str()
                    continue
                if found != (mark, count):
                    _log.info("the topic %s has changed: it is read anew", self._topic)
                    return
                if told_away:
                    self._away, told_away = None, False
                    self._tell(self._hub.store, "kafka", True)

    def _taken(self, consumer: Consumer) -> tuple[list[Record], dict[int, int], set[int]]:
        """What has come, how far partitions were read, and which of them to their end."""
        first = consumer.poll(0.25)
        records: list[Record] = []
        at: dict[int, int] = {}
        ends: set[int] = set()
        for message in [] if first is None else [first, *consumer.consume(MOST - 1, 0)]:
            error = message.error()
            if error is None:
                at[message.partition()] = message.offset() + 1
                if found := record(message):
                    records.append(found)
                else:
                    self._hub.counts["passed over"] += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                at[message.partition()] = max(at.get(message.partition(), 0), message.offset())
                ends.add(message.partition())
            elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                raise KafkaException(error)
        return records, at, ends

    def _topic_now(self) -> tuple[bytes, int]:
        """The mark of the topic, and how many partitions it has."""
        admin = AdminClient({"bootstrap.servers": self._servers}, logger=self._quiet)
        asked = admin.describe_topics(TopicCollection([self._topic]), request_timeout=_ANSWER_S)
        found = asked[self._topic].result()
        named = hashlib.blake2b(str(found.topic_id).encode(), digest_size=MARK_BYTES)
        return named.digest(), len(found.partitions)

    def _marks(self, consumer: Consumer, partition: int) -> tuple[int, int]:
        low, high = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_ANSWER_S)
        return low, high

    async def _ends(self, consumer: Consumer, count: int) -> Sequence[int]:
        return await self._loop.run_in_executor(
            self._pool, lambda: [self._marks(consumer, partition)[1] for partition in range(count)]
        )

    def _tell(self, call: Callable[..., _T], *args: Any) -> _T:
        """Call in the event loop, and wait for the answer: a loop that is busy is not handed more."""

        async def called() -> _T:
            return call(*args)

        try:
            waiting = asyncio.run_coroutine_threadsafe(called(), self._loop)
        except RuntimeError:
            raise _Left from None  # the loop is closed
        while True:
            try:
                return waiting.result(0.25)
            except TimeoutError:
                if self._stop.is_set():
                    waiting.cancel()
                    raise _Left from None


def record(message: Message) -> Record | None:
    """A record of the topic; None for one that is no notification, or was marked so that it disturbs nobody."""
    value = message.value() or b""
    try:
        document = orjson.loads(value)
        user_id = document["user_id"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(user_id, str) or not isinstance(document.get("id"), str) or document.get("suppressed"):
        return None
    return Record(message.partition(), message.offset(), user_id, value)


def hub(
    settings: Settings,
    pseudonym: Callable[[str], str],
    served: Callable[[], Iterable[Version]] | None = None,
    topic: str = NOTIFICATIONS,
) -> Hub:
    """The hub of a process, with its feeds.

    Args:
        settings: where Redis and Kafka are.
        pseudonym: what stands for a user's id, to those who must not see it.
        served: see :class:`TableFeed`; without it there are no events ``table``.
        topic: where notifications are.

    Raises:
        AlertsError: the rules, which tell alerts from other notifications, are wrong.
    """
    feeds: list[Feed] = [RedisFeed(settings), KafkaFeed(settings, topic)]
    if served is not None:
        feeds.append(TableFeed(served))
    api = settings.api
    kept, most = (api.stream_kept, KEPT_BYTES), (api.streams, api.streams_per_caller)
    return Hub(ByRules(read(), pseudonym), feeds, kept, most)
