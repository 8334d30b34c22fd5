"""The real-time processor on real servers, killed and joined by others, against one computation over all records."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson
import pytest
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import SecretStr
from pymongo import MongoClient

from lakehouse import stack as servers
from lakehouse.realtime.shown import Shown
from lakehouse.realtime.task import Command, Context, Stage, Task
from lakehouse.settings import PROJECT, Realtime, Settings
from lakehouse.simulate import Incident, Simulation
from lakehouse.sources.topics import create_topics, producer

from ..unit.realtime.test_stages import fed
from .realtime_batch import MINUTE, Batch

pytestmark = pytest.mark.integration
PREFIX = "trial-"
TOPICS = ("user-events", "service-logs", "system-metrics")
SESSION_S = 10
"""Seconds without a word after which Kafka gives a process's partitions to others (``processor.py``)."""
LATENESS_US, GAP_US = 30_000_000, 30 * MINUTE


def feed(settings: Settings, events: int, seed: int) -> set[bytes]:
    """Send two hours of a service that ended ten minutes ago, a few thousand records out of order; the broken ones."""
    create_topics(settings, PREFIX)
    end = (time.time_ns() // 1000 // MINUTE - 10) * MINUTE
    start = end - 120 * MINUTE
    service = Simulation(seed, f"rt{seed}", share_duplicates=0.03, share_late=0.03, share_broken=0.01)
    trouble = start + 40 * MINUTE
    service.incidents = [Incident("gateway", None, trouble, trouble + 10 * MINUTE, "errors", 0.3, False)]
    times = np.linspace(start, end, round(events / 0.6)).astype(np.int64)
    made = [record for at in range(0, len(times), 4096) for record in service.block(times[at : at + 4096])]
    order = random.Random(seed)
    places = sorted(range(len(made)), key=lambda place: place + order.uniform(0, 2000))
    sender = producer(settings)
    for topic, key, value, _ in (made[place] for place in places):
        # A repeat of a record without a key goes where the record went, so that which of them is late is no accident.
        partition = crc32(key or value or b"") % settings.kafka.partitions
        while True:
            try:
                sender.produce(PREFIX + topic, value=value, key=key, partition=partition)
                break
            except BufferError:
                sender.poll(0.1)
    assert sender.flush(60) == 0
    return {value or b"" for _, _, value, kind in made if kind.startswith("broken")}


def records(settings: Settings, broken: set[bytes]) -> Iterator[tuple[Any, ...]]:
    """What Kafka has, for the batch."""
    for topic in TOPICS:
        for message in read(settings, PREFIX + topic):
            value = message.value() or b""
            valid = value not in broken
            document = orjson.loads(value) if valid else {}
            at = document.get("occurred_at") or document.get("@timestamp", "")
            identity = document.get("event_id") or document.get("event", {}).get("id")
            yield (
                topic, message.partition(), message.offset(), message.timestamp()[1] * 1000,
                round(datetime.fromisoformat(at).timestamp() * 1e6) if valid else None,
                identity if topic != "system-metrics" else None, valid, value.decode() if valid else "{}",
            )  # fmt: skip


def read(settings: Settings, topic: str) -> Iterator[Any]:
    """All committed records of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "trial-reader",
            "isolation.level": "read_committed", "enable.partition.eof": True, "enable.auto.commit": False,
        }
    )  # fmt: skip
    left = settings.kafka.partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in range(left)])
    while left:
        for message in consumer.consume(10_000, 1):
            if message.error() is None:
                yield message
            else:
                left -= 1
    consumer.close()


@contextmanager
def processors(settings: Settings, folder: Path) -> Iterator[Any]:
    """A function that starts a process by name; all end with the block."""
    env = {
        **os.environ,
        "LAKEHOUSE_HOME": str(folder),
        "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "LAKEHOUSE_MONGO__URI": settings.mongo.uri.get_secret_value(),
        "LAKEHOUSE_REDIS__URL": settings.redis.url.get_secret_value().rpartition("/")[0] + "/5",
        "LAKEHOUSE_MONGO__DATABASE": "trial",
        "LAKEHOUSE_REALTIME__PREFIX": PREFIX,
    }
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "lakehouse.cli", "realtime", "--name", name]
            running.append(subprocess.Popen(command, env=env, cwd=PROJECT, stdout=log, stderr=log))
        return running[-1]

    try:
        yield start
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(30)


def lag(settings: Settings) -> int:
    """Records of the three topics that the processor has not committed."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": PREFIX + "lakehouse-realtime"}
    )
    places = [TopicPartition(PREFIX + topic, n) for topic in TOPICS for n in range(settings.kafka.partitions)]
    try:
        ends = [consumer.get_watermark_offsets(place, timeout=20)[1] for place in places]
        committed = consumer.committed(places, timeout=20)
    except KafkaException as error:
        # The first who asks for a group on a new broker has it make the topic that groups are kept in.
        if error.args[0].code() not in (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS):
            raise
        return sum(ends)
    finally:
        consumer.close()
    return sum(end - max(place.offset, 0) for place, end in zip(committed, ends, strict=True))


def until(what: Any, seconds: float, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        dead = [p for p in processes if p.poll() is not None]
        logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
        assert not dead, f"a processor has ended by itself:\n{logs}"
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s:\n{logs}"
        time.sleep(0.25)


def trial(settings: Settings, folder: Path, events: int, seed: int) -> None:
    broken = feed(settings, events, seed)
    client: Any = redis.Redis.from_url(settings.redis.url.get_secret_value().rpartition("/")[0] + "/5")
    mongo = MongoClient[dict[str, Any]](settings.mongo.uri.get_secret_value(), tz_aware=True)["trial"]
    whole = lag(settings)
    with processors(settings, folder) as start:
        alive = {"one": start("one")}
        steps = [(0.9, "kill", "one"), (0.75, "kill", "redis"), (0.65, "start", "two"), (0.55, "kill", "two"),
                 (0.45, "kill", "mongodb"), (0.35, "kill", "one"), (0.25, "pause", "two")]  # fmt: skip
        for left, deed, name in steps:
            until(lambda left=left: lag(settings) <= left * whole, 300, list(alive.values()), folder)
            if deed == "pause":
                outlive(alive[name])
            elif name not in ("one", "two"):
                servers.kill_server(settings, name)
                continue
            elif deed == "kill":
                alive[name].kill()
                alive[name].wait()
            alive[name] = start(name)
        until(lambda: lag(settings) == 0, 300, list(alive.values()), folder)
        batch = Batch(records(settings, broken), LATENESS_US, GAP_US)
        profiles, processes = batch.profiles(), list(alive.values())
        wanted = batch.told_of_events()
        ends = batch.rows("select max(happened) from events")[0][0]
        # All minutes are closed once the idle partitions' time has gone past the last one and the lateness.
        until(lambda: site_time(client) > ends + 3 * MINUTE, 60, processes, folder)
        due = len(wanted) + len(batch.bursts()) + len(batch.failing())
        until(lambda: mongo.notifications.count_documents({}) >= due, 60, processes, folder)
        until(lambda: mongo.user_profiles.count_documents({}) == len(profiles), 60, processes, folder)
        time.sleep(3)  # whatever would still change, by mistake, has come
        shown = client.pipeline().get("live:trending:as_of").zrange("trending:posts", 0, -1, withscores=True)
        as_of, scores = shown.execute()
        said = [orjson.loads(words)["tasks"] for words in client.hvals("live:processors")]
    poison = sum(words.get(topic, {}).get("quarantined", 0) for words in said for topic in TOPICS)
    assert poison == batch.rows("select count(*) from records where not valid")[0][0] > 0
    hold_profiles({d["_id"]: d for d in mongo.user_profiles.find()}, batch)
    hold_windows(client, batch)
    hold_trending(int(as_of), dict(scores), batch)
    hold_notifications(settings, mongo, batch, wanted)


def outlive(process: subprocess.Popen[bytes]) -> None:
    """Pause a process until the group has given its partitions to another; it must see that and end."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(SESSION_S + 3)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 1


def site_time(client: Any) -> float:
    at = client.hget("live:site", "at")
    return datetime.fromisoformat(at.decode()).timestamp() * 1e6 if at else 0.0


def us(at: datetime) -> int:
    return round(at.replace(tzinfo=UTC).timestamp() * 1e6)


def hold_profiles(profiles: dict[str, dict[str, Any]], batch: Batch) -> None:
    mine = {
        user: (
            d["events"], d["late_events"], d["sessions"], pytest.approx(d["session_s"], abs=1e-6),
            us(d["last_session"]["end"]) // 1000 if d["last_session"] else None,
            d["last_session"]["events"] if d["last_session"] else None,
        )
        for user, d in profiles.items()
    }  # fmt: skip
    theirs = {u: (*p[:4], p[4] and p[4] // 1000, p[5]) for u, p in batch.profiles().items()}  # BSON has milliseconds
    assert mine == theirs
    assert {(u, k): n for u, d in profiles.items() for k, n in d["by_type"].items()} == batch.by_type()


def hold_windows(client: Any, batch: Batch) -> None:
    mine = {}
    for key in client.scan_iter("live:user:*"):
        live = orjson.loads(client.get(key))
        if live["minute"]:
            minute = int(datetime.fromisoformat(live["minute"]).timestamp()) // 60
            mine[key.decode().removeprefix("live:user:")] = (minute, live["events_1m"], live["events_15m"])
    assert mine == batch.windows()
    site = batch.site()
    newest = max(site)
    for minute in range(newest - 50, newest + 1):
        assert site_minute(client, utc(minute)) == site.get(minute, {}), utc(minute)


def utc(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def site_minute(client: Any, minute: str) -> dict[str, int]:
    return {k.decode(): int(v) for k, v in client.hgetall(f"live:site:{minute}").items() if k != b"at"}


def hold_trending(as_of: int, scores: dict[bytes, float], batch: Batch) -> None:
    assert len(scores) >= 100
    mine = {post.decode(): score for post, score in scores.items()}
    # Each process shows its posts as of a second of its own, the same or a neighbour.
    there = [batch.trending((as_of + second) * 1_000_000) for second in (-2, -1, 0, 1, 2)]
    assert [p for p, s in mine.items() if all(s != pytest.approx(t[p], rel=1e-9) for t in there)] == []
    best = sorted(there[2].items(), key=lambda pair: -pair[1])[:95]  # the last few may change places in a second
    assert {post for post, _ in best} <= mine.keys()


def hold_notifications(settings: Settings, mongo: Any, batch: Batch, events: set[tuple[str, str, str]]) -> None:
    told = [orjson.loads(m.value()) for m in read(settings, PREFIX + "notifications")]
    assert len({n["id"] for n in told}) == len(told)
    assert {d["_id"] for d in mongo.notifications.find()} == {n["id"] for n in told}
    mine = {
        (n["rule"], n["user_id"], n["subject"]) for n in told if n["rule"] in ("new follower", "comment on my post")
    }
    assert mine == events
    bursts = {(n["subject"], at_us(n)) for n in told if n["rule"] == "your post is trending"}
    assert bursts == batch.bursts()
    failing = {(n["subject"], at_us(n)) for n in told if n["rule"] == "service error rate" and n["kind"] == "fired"}
    assert failing == batch.failing() and failing
    lately = [n for n in told if at_us(n) > (time.time() - 20 * 3600) * 1e6]  # what is a day old is kept, but not told
    hours = Counter((n["user_id"], at_us(n) // (60 * MINUTE)) for n in lately)
    heard = Counter((n["user_id"], at_us(n) // (60 * MINUTE)) for n in lately if not n["suppressed"])
    assert heard == {key: min(count, 20) for key, count in hours.items()}


def at_us(notification: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(notification["at"]).timestamp() * 1e6)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("events", [200_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_after_kills_a_rebalance_and_a_pause_all_is_as_computed_at_once(
    stack: Settings, tmp_path: Path, events: int
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    print(f"{events:,} events of seed {seed}")
    trial(stack, tmp_path, events, seed)


class Counting(Task):
    """A task whose key holds how far it is."""

    name = "counting"

    def __init__(self, at: int) -> None:
        super().__init__(Context(Realtime(), None, {}), 0)  # type: ignore[arg-type]
        self.next, self.again = at, 0

    def all_effects(self) -> None:
        self.again += 1

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        return [("SET", "counted", self.next)]


@pytest.fixture
def shown(stack: Settings) -> Iterator[Any]:
    url = stack.redis.url.get_secret_value().rpartition("/")[0] + "/6"
    made = Shown(stack.model_copy(update={"redis": stack.redis.model_copy(update={"url": SecretStr(url)})}))
    made.client.flushdb()
    yield made
    made.close()


def test_a_replay_of_what_is_shown_changes_nothing(shown: Any) -> None:
    shown.write([Counting(10)], 0, tick=False)
    late = Counting(7)  # another process, whose state is older
    shown.expect(late)
    shown.write([late], 0, tick=False)
    assert shown.client.get("counted") == b"10"
    late.next = 11
    shown.write([late], 0, tick=False)
    assert shown.client.get("counted") == b"11"


@pytest.mark.parametrize("seed", [1, 2])
def test_the_site_is_shown_as_it_is_known_whoever_dies_between_two_ticks(shown: Any, seed: int) -> None:
    logs = fed(seed)
    logs.shown = shown
    logs.run(crash=0.2, commit=0.1, most=5)
    stages = [task for task in logs.tasks.values() if isinstance(task, Stage)]
    shown.write(stages, logs.now_us, tick=True)
    known: dict[str, Counter[str]] = {}
    for task in logs.of("users"):
        for minute, site in task.site.items():
            known.setdefault(utc(int(minute)), Counter()).update({"users": site.users, **site.events})
    assert len(known) >= 60
    assert {minute: site_minute(shown.client, minute) for minute in known} == known


def test_a_redis_that_lost_its_keys_is_shown_everything_again(shown: Any) -> None:
    task = Counting(10)
    shown.write([task], 0, tick=False)
    before = task.again
    shown.write([task], 0, tick=False)
    assert task.again == before
    shown.client.flushdb()
    for _ in range(3):
        shown.write([task], 0, tick=False)
    assert task.again == before + 1


def test_parts_of_a_sum_add_up_and_are_replaced(shown: Any) -> None:
    class Part(Counting):
        def effects(self, now_us: int, tick: bool) -> list[Command]:
            return [("SUM", "total", self.partition, "2026-01-01", 60, {"n": self.next})]

    one, two = Part(1), Part(5)
    two.partition, two.source = 1, "counting/1"
    shown.write([one, two], 0, tick=False)
    one.next = 3
    shown.write([one], 0, tick=False)
    assert shown.client.hgetall("total") == {b"n": b"8", b"at": b"2026-01-01"}
