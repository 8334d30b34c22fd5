"""The process: reads, lets tasks fold, passes entries on, shows, and commits.

State and place of all its tasks are committed together in one Kafka transaction, fenced by the consumer group
(KIP-447), once a second. What tasks make for each other goes out at once and is not part of it: whoever reads it knows
by its offsets what is made again (see ``task.py``).
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from lakehouse import alerts
from lakehouse.erasure.tombstones import latest
from lakehouse.predict import Champion, Neighbours
from lakehouse.realtime import notify
from lakehouse.realtime.follow import followers
from lakehouse.realtime.inbox import Inbox
from lakehouse.realtime.posts import Posts
from lakehouse.realtime.recommend import Item, Items, Recommend
from lakehouse.realtime.route import Route
from lakehouse.realtime.shown import Shown
from lakehouse.realtime.state import Change
from lakehouse.realtime.task import Context, Outbox, Stage, Task
from lakehouse.realtime.topology import changelog, wanted
from lakehouse.realtime.users import Users
from lakehouse.settings import Settings
from lakehouse.sources.topics import MAX_BYTES, NOTIFICATIONS, producer, require_topics

GROUP = "lakehouse-realtime"
ITEMS = "realtime-items"
MOST = 1000
"""Messages folded between two looks at the clock."""
TICK_S = 1.0
PURGE_S = 30.0
COOL_EVERY = 30
"""Commits after which objects that were not used go back to rest."""
_SOON_S = 0.1
"""How soon a notification that is due is committed."""
_WAIT_S = 10.0
ERASED_S = 5.0
"""How often a process asks who was erased."""
_log = logging.getLogger(__name__)


class RealtimeError(Exception):
    """The processor cannot go on; the message says why and what mends it. State is as of the last commit."""


class Processor:
    """One process of the processor; any number share the work by partitions.

    Args:
        settings: everything.
        name: of this process, kept over restarts: its partitions then wait for it instead of moving.
    """

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        self.settings = settings
        self.name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        rules = alerts.read()
        self.context = Context(settings.realtime, rules, {})
        self.prefix = settings.realtime.prefix
        self.kinds = {self.prefix + topic: kind for topic, kind in wanted(self.context).items()}
        self.tasks: dict[tuple[str, int], Task] = {}
        self._failed: str | None = None
        self._gone = self.context.erased
        self._warm: dict[tuple[str, int], tuple[Task, int]] = {}
        self._commits = 0
        self._closing = False
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._committing: Future[None] | None = None
        self._at_end: set[tuple[str, int]] = set()
        """Partitions whose every record so far was folded."""
        self._admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers}, logger=_log)

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop.

        Raises:
            RealtimeError: it cannot go on; starting it again goes on from the last commit.
            TopicError: Kafka does not answer, or has not the platform's topics.
        """
        # Folding must not wait 5 ms, the default, for a thread that makes documents of MongoDB.
        sys.setswitchinterval(0.0002)
        settings = self.settings
        self.context.erased = self._gone = latest(settings)
        require_topics(settings, {topic for topic, kind in self.kinds.items() if issubclass(kind, Route)})
        self.context.partitions.update(self._topics())
        names = {kind.name: topic for topic, kind in self.kinds.items() if issubclass(kind, Stage)}
        self._hops = producer(
            settings, **{"linger.ms": 0, "socket.nagle.disable": True, "on_delivery": self._delivered}
        )
        self._out = Outbox(self._pass_on, names, {name: self.context.partitions[name] for name in names})
        self._shown = Shown(settings)
        self._items: Items | None = None
        self._recommend: Recommend | None = None
        if self.context.does("recommendations"):
            reader = Consumer(self._reading(f"{self.name}-items", "read_uncommitted"), logger=_log)
            self._items = Items(reader, self.prefix + ITEMS, self.context.partitions["users"])
            self._recommend = Recommend(self._items, Champion(settings.published / "recommender", Neighbours))
        following = followers(settings, self.name)
        leaving = threading.Event()
        courier = threading.Thread(target=self._deliver, args=(leaving,), name="notify", daemon=True)
        if self.context.does("notifications") and not self.prefix:
            courier.start()
        threading.Thread(target=self._ask_who_is_gone, args=(leaving,), name="erased", daemon=True).start()
        self._transactions = Producer(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "transactional.id": f"{self.prefix}{GROUP}-{self.name}",
                "transaction.timeout.ms": 15_000,
                "linger.ms": 0,
                "compression.type": "lz4",
                "message.max.bytes": MAX_BYTES,
                "queue.buffering.max.messages": 1_000_000,
            },
            logger=_log,
        )
        self._consumer = Consumer(
            {
                **self._reading(self.prefix + GROUP, "read_committed"),
                "client.id": self.name,
                "group.instance.id": self.name,
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 2_000,
                "partition.assignment.strategy": "range",
                "enable.partition.eof": True,
                "socket.nagle.disable": True,
                # Little is fetched ahead: what tasks make for each other must not queue behind a backlog.
                "queued.min.messages": 2 * MOST,
                "queued.max.messages.kbytes": 16_384,
                "fetch.wait.max.ms": 100,
            },
            logger=_log,
        )
        try:
            self._transactions.init_transactions(30)
            self._consumer.subscribe(
                list(self.kinds), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            self._loop(stop, following)
            self._commit()
        except KafkaException as error:
            raise RealtimeError(f"Kafka: {error.args[0].str()}; what was not committed is done again") from error
        finally:
            self._closing = True
            self._keeper.shutdown()
            self._consumer.close()
            leaving.set()
            for follower in following:
                follower.close()
            if courier.is_alive():
                courier.join(_WAIT_S)
            if self._items:
                self._items.close()
            self._shown.close()

    # --- the loop --------------------------------------------------------------------------------------------------

    def _loop(self, stop: threading.Event, following: list[Any]) -> None:
        commit_s = self.settings.realtime.commit_every.total_seconds()
        tick_at = commit_at = purge_at = time.monotonic()
        while not stop.is_set():
            message = self._consumer.poll(max(0.0, min(tick_at - time.monotonic(), 0.1)))
            if message is not None:
                touched = self._fold([message, *self._consumer.consume(MOST - 1, 0)])
                self._shown.write(touched, _now_us(), tick=False)
            self._hops.poll(0)
            if self._failed:
                raise RealtimeError(self._failed)
            now = time.monotonic()
            if now >= tick_at:
                tick_at = max(tick_at + TICK_S, now)
                self._tick()
                if dead := [follower for follower in following if not follower.alive]:
                    raise RealtimeError(f"{len(dead)} writers to MongoDB have ended; the log says why")
            due = any(isinstance(task, Inbox) and task.due for task in self.tasks.values())
            if now - commit_at >= (min(_SOON_S, commit_s) if due else commit_s) and (
                self._committing is None or self._committing.done()
            ):
                self._finish_commit()
                self._begin_commit()
                commit_at = now
            if now - purge_at >= PURGE_S:
                purge_at = now
                self._purge()

    def _deliver(self, stop: threading.Event) -> None:
        try:
            notify.deliver(self.settings, stop)
        except Exception as error:
            self._failed = f"notifications are no longer delivered: {error}"

    def _ask_who_is_gone(self, stop: threading.Event) -> None:
        while not stop.wait(ERASED_S):
            try:
                self._gone = latest(self.settings)
            except Exception as error:  # it is asked again; who was known to be gone still is
                _log.warning("who was erased since cannot be read: %s", error)

    def _forget(self) -> None:
        """Take those who were erased since out of every task, and keep that before anything else."""
        self.context.erased = self._gone
        for task in self.tasks.values():
            task.forget(self._gone)
        self._commit()

    def _fold(self, messages: Iterable[Message]) -> list[Task]:
        groups: dict[tuple[str, int], list[Message]] = {}
        for message in messages:
            error = message.error()
            place = (message.topic(), message.partition())
            if error is None:
                groups.setdefault(place, []).append(message)
                self._at_end.discard(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end.add(place)
            elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                raise RealtimeError(f"Kafka: {error.str()}")
        touched = []
        for place, records in groups.items():
            task = self.tasks.get(place)
            if task is not None:
                task.process(records, self._out)
                touched.append(task)
        return [task for task in touched if isinstance(task, Stage)]

    def _tick(self) -> None:
        now_us = _now_us()
        if self._gone.digests != self.context.erased.digests:
            self._forget()
        if self._recommend:
            self._recommend.look()
        for place, task in self.tasks.items():
            if isinstance(task, Route) and place in self._at_end:
                task.idle(now_us)
            task.heartbeat(self._out)
            if isinstance(task, Posts) and task.items:
                self._publish(task)
        stages = [task for task in self.tasks.values() if isinstance(task, Stage)]
        self._shown.write(stages, now_us, tick=True)
        self._shown.say(self.prefix + self.name, self._words(now_us))

    def _words(self, now_us: int) -> dict[str, Any]:
        """How this process is: of each kind of task its partitions, its counts, and what waits for it."""
        found: dict[str, dict[str, Any]] = {}
        for (topic, partition), task in self.tasks.items():
            words = found.setdefault(task.name, {"partitions": [], "waiting": 0})
            words["partitions"].append(partition)
            end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)[1]
            words["waiting"] += max(end - task.next, 0)
            for what, number in task.counts.items():
                words[what] = words.get(what, 0) + number
        return {"at": now_us / 1e6, "tasks": found, "erased": len(self.context.erased.digests)}

    def _publish(self, task: Posts) -> None:
        """Tell every process how the items stand that changed."""
        if self._items is not None:
            for name in task.items:
                post = task.posts.get(name)
                if post is not None:
                    item = Item(post.visits, post.score.value, post.score.at, post.together)
                    self._produce(self._hops, self.prefix + ITEMS, task.partition, msgspec.msgpack.encode(item), name)
        task.items.clear()

    def _commit(self) -> None:
        """Keep state, places and notifications, all or nothing; what is under way first."""
        self._finish_commit()
        self._begin_commit()
        self._finish_commit()

    def _finish_commit(self) -> None:
        if self._committing is not None:
            self._committing.result()
            self._committing = None

    def _begin_commit(self) -> None:
        """Take what changed, and have it kept by a thread while the next records are folded."""
        changed = {place: list(task.changes()) for place, task in self.tasks.items()}
        if not any(changed.values()):
            return
        inboxes = [task for task in self.tasks.values() if isinstance(task, Inbox)]
        due = [document for inbox in inboxes for document in inbox.due]
        for inbox in inboxes:
            inbox.due = []
        places = [TopicPartition(*place, self.tasks[place].next) for place, records in changed.items() if records]
        group = self._consumer.consumer_group_metadata()
        self._committing = self._keeper.submit(self._keep, changed, due, places, group)
        self._commits += 1
        if self._commits % COOL_EVERY == 0:
            for task in self.tasks.values():
                task.cool()

    def _keep(
        self,
        changed: dict[tuple[str, int], list[Change]],
        due: list[dict[str, Any]],
        places: list[TopicPartition],
        group: Any,
    ) -> None:
        # What tasks have made for each other up to here must be kept before the place that says so.
        if self._hops.flush(30) or self._failed:
            raise RealtimeError(self._failed or "Kafka has not acknowledged entries within 30 s")
        transaction = self._transactions
        transaction.begin_transaction()
        for (topic, partition), records in changed.items():
            log = self._changelog(topic)
            for key, value in records:
                self._produce(transaction, log, partition, value, key)
        for document in due:
            value, user = orjson.dumps(document), document["user_id"]
            self._produce(transaction, self.prefix + NOTIFICATIONS, None, value, user)
        transaction.send_offsets_to_transaction(places, group, _WAIT_S)
        transaction.commit_transaction(_WAIT_S)

    def _purge(self) -> None:
        """Let Kafka delete entries that are folded and committed; not those of inboxes, which are few."""
        done = [
            TopicPartition(topic, partition, task.next)
            for (topic, partition), task in self.tasks.items()
            if isinstance(task, Stage) and not isinstance(task, Inbox) and task.next
        ]
        self._commit()
        if done:
            self._admin.delete_records(done)  # what fails is tried again with the next

    # --- partitions come and go ------------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        began = time.monotonic()
        new: dict[tuple[str, int], Task] = {}
        ends = self._changelog_ends(partitions)
        for place in ((p.topic, p.partition) for p in partitions):
            warm = self._warm.pop(place, None)
            # Nobody has written its changelog since: nobody had it in between.
            if warm and warm[1] == ends[place]:
                self.tasks[place] = warm[0]
            else:
                new[place] = self.kinds[place[0]](self.context, place[1])
        self._warm.clear()
        self._restore(new, ends)
        self.tasks |= new
        self._at_end.clear()
        for task in self.tasks.values():
            self._shown.expect(task)
            if isinstance(task, Users):
                task.recommend = self._recommend
        for partition in partitions:
            task = self.tasks[partition.topic, partition.partition]
            partition.offset = task.next or OFFSET_BEGINNING
            if task.next and isinstance(task, Stage):
                first = consumer.get_watermark_offsets(partition, timeout=_WAIT_S)[0]
                if first > task.next:
                    raise RealtimeError(
                        f"{partition.topic}/{partition.partition} begins at {first}, but only what lies before "
                        f"{task.next} is in the state: entries between are gone"
                    )
        consumer.assign(partitions)
        _log.info("%d partitions, %d read back, in %.1f s", len(partitions), len(new), time.monotonic() - began)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            return
        self._commit()
        ends = self._changelog_ends(partitions)
        for place in ((p.topic, p.partition) for p in partitions):
            task = self.tasks.pop(place, None)
            if task is not None:
                self._warm[place] = (task, ends[place])

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        raise RealtimeError("this process was away for so long that others took its partitions: start it again")

    def _changelog_ends(self, partitions: list[TopicPartition]) -> dict[tuple[str, int], int]:
        """The end of each place's changelog, records of unfinished transactions included."""
        reader = Consumer(self._reading(f"{self.name}-restore", "read_uncommitted"), logger=_log)
        try:
            return {
                (p.topic, p.partition): _end(reader, TopicPartition(self._changelog(p.topic), p.partition))
                for p in partitions
            }
        finally:
            reader.close()

    def _restore(self, tasks: dict[tuple[str, int], Task], ends: dict[tuple[str, int], int]) -> None:
        """Read the state of tasks back, to the end that their changelogs have now, transactions under way included."""
        by_log = {(self._changelog(topic), number): (topic, number) for topic, number in tasks}
        left = {log for log, place in by_log.items() if ends[place]}
        if left:
            reader = Consumer(
                {
                    **self._reading(f"{self.name}-restore", "read_committed"),
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": 65_536,
                    "fetch.message.max.bytes": 8_388_608,
                },
                logger=_log,
            )
            try:
                reader.assign([TopicPartition(*log, OFFSET_BEGINNING) for log in left])
                while left:
                    for message in reader.consume(10_000, 0.5):
                        log = (message.topic(), message.partition())
                        if message.error() is None:
                            tasks[by_log[log]].restore(message.key().decode(), message.value())
                        elif message.error().code() == KafkaError._PARTITION_EOF:
                            if message.offset() >= ends[by_log[log]]:
                                left.discard(log)
                        else:
                            raise RealtimeError(f"{log[0]}: {message.error().str()}")
            finally:
                reader.close()
        for task in tasks.values():
            task.restored()
            if self.context.erased:
                task.forget(self.context.erased)

    # --- Kafka -----------------------------------------------------------------------------------------------------

    def _reading(self, group: str, isolation: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.settings.kafka.bootstrap_servers,
            "group.id": group,
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }

    def _changelog(self, topic: str) -> str:
        return self.prefix + changelog(self.kinds[topic])

    def _pass_on(self, topic: str, partition: int, value: bytes) -> None:
        self._produce(self._hops, topic, partition, value, None)

    def _produce(self, to: Producer, topic: str, partition: int | None, value: bytes | None, key: str | None) -> None:
        where = {} if partition is None else {"partition": partition}
        while True:
            try:
                to.produce(topic, value=value, key=key, **where)
                return
            except BufferError:
                to.poll(0.05)

    def _delivered(self, error: Any, _message: Message) -> None:
        if error is not None:
            self._failed = f"an entry was not kept by Kafka: {error.str()}"

    def _topics(self) -> dict[str, int]:
        """Make the topics that are missing; how many partitions each task's input has, by the task's name."""
        kafka = self.settings.kafka
        admin = self._admin
        there = admin.list_topics(timeout=_WAIT_S).topics
        kept = {"max.message.bytes": str(MAX_BYTES), "min.insync.replicas": str(kafka.min_in_sync)}
        compact = {**kept, "cleanup.policy": "compact", "segment.ms": "600000"}
        log = {**kept, "retention.ms": "-1"}
        new: dict[str, NewTopic] = {}
        for topic in self.kinds:
            number = len(there[topic].partitions) if topic in there else kafka.partitions
            state = self._changelog(topic)
            new[state] = NewTopic(state, number, kafka.replication, config=compact)
            if topic not in there:
                new[topic] = NewTopic(topic, number, kafka.replication, config=log)
        new[self.prefix + ITEMS] = NewTopic(self.prefix + ITEMS, kafka.partitions, kafka.replication, config=compact)
        missing = [made for name, made in new.items() if name not in there]
        for name, done in (admin.create_topics(missing) if missing else {}).items():
            try:
                done.result(_WAIT_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise RealtimeError(f"topic {name} could not be made: {error.args[0].str()}") from None
        deadline = time.monotonic() + _WAIT_S
        while not new.keys() <= (there := admin.list_topics(timeout=_WAIT_S).topics).keys():
            if time.monotonic() > deadline:
                raise RealtimeError("Kafka does not show the topics that it has made")
            time.sleep(0.05)
        return {kind.name: len(there[topic].partitions) for topic, kind in self.kinds.items()}


def _end(reader: Consumer, place: TopicPartition) -> int:
    """The end of a partition; one that was made just now may have no leader yet."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            found: int = reader.get_watermark_offsets(place, timeout=_WAIT_S)[1]
            return found
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _now_us() -> int:
    return time.time_ns() // 1000
