"""``bench realtime``: from an event to a value in Redis, events a second, and how soon a million keys are back.

Everything runs on this machine, broker, Redis and MongoDB too; the processor has topics and databases of its own, with
a prefix, which are deleted at the end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import psutil
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from lakehouse.bench.figures import BenchError, Figure, figure
from lakehouse.bench.streams import Rate, kafka_streams, spark_streaming
from lakehouse.contracts import TOPICS
from lakehouse.running import up
from lakehouse.settings import PROJECT, Settings, load
from lakehouse.simulate import Simulation
from lakehouse.sources.topics import NOTIFICATIONS, create_topics, producer

PREFIX = "bench-"
EVENTS = PREFIX + "user-events"
RATE = 1000
WARM_S, LIVE_S = 10, 40
PROBES_PER_S = 20
DRAIN = 600_000
KEYS = 1_000_000
WITHIN_S = 300.0
_REDIS_DB = 7
ALL = ("activity", "trending", "recommendations", "notifications")


def realtime(settings: Settings) -> list[Figure]:
    """Latency, throughput and recovery.

    Raises:
        BenchError: it could not be carried out.
    """
    up(settings, servers_only=True)
    settings = load()
    return [
        *latency(settings),
        *throughput(settings),
        *recovery(settings),
    ]


class Trial:
    """A processor of its own on empty topics."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.settings, self.home = settings, home
        self.redis_url = settings.redis.url.get_secret_value().rpartition("/")[0] + f"/{_REDIS_DB}"
        self.redis: Any = redis.Redis.from_url(self.redis_url)
        self._running: psutil.Popen | None = None
        group = {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": PREFIX + "lakehouse-realtime"}
        self._asking = Consumer(group)

    def start(self, parts: tuple[str, ...]) -> psutil.Popen:
        """Start the process; it has begun to read when this returns, state included."""
        settings = self.settings
        listed = "[" + ", ".join(f'"{part}"' for part in parts) + "]"
        env = {
            "LAKEHOUSE_HOME": str(self.home),
            "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
            "LAKEHOUSE_MONGO__URI": settings.mongo.uri.get_secret_value(),
            "LAKEHOUSE_MONGO__DATABASE": "bench",
            "LAKEHOUSE_REDIS__URL": self.redis_url,
            "LAKEHOUSE_REALTIME__PREFIX": PREFIX,
            "LAKEHOUSE_REALTIME__PARTS": listed,
        }
        with (self.home / "realtime.log").open("w") as log:
            command = [sys.executable, "-m", "lakehouse.cli", "realtime", "--name", "bench"]
            self._running = psutil.Popen(command, env={**os.environ, **env}, cwd=PROJECT, stdout=log, stderr=log)
        self.until(lambda: "partitions" in self._log(), "it does not begin to read")
        return self._running

    def stop(self, kill: bool = False) -> None:
        """End the process."""
        if self._running is not None:
            self._running.kill() if kill else self._running.terminate()
            self._running.wait(30)
            self._running = None

    def _log(self) -> str:
        return (self.home / "realtime.log").read_text()

    def clear(self, keep_events: bool = False) -> None:
        """Delete all topics, groups and keys of the trial; the events stay where they are to be read again."""
        admin = AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap_servers})
        kept = {PREFIX + topic for topic in (*TOPICS, NOTIFICATIONS)} if keep_events else set()
        own = {topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(PREFIX)} - kept
        for gone in (admin.delete_topics([*own]) if own else {}).values():
            gone.result()
        while own & set(admin.list_topics(timeout=10).topics):
            time.sleep(0.1)
        deadline = time.monotonic() + 60
        while groups := [
            group.group_id for group in admin.list_consumer_groups().result().valid if group.group_id.startswith(PREFIX)
        ]:
            for left in admin.delete_consumer_groups(groups).values():
                with suppress(KafkaException):  # a member that was killed is one until its session ends
                    left.result()
            if time.monotonic() > deadline:
                raise BenchError(f"groups {', '.join(groups)} have members: another bench runs")
            time.sleep(0.5)
        self.redis.flushdb()

    def until(self, done: Any, otherwise: str) -> None:
        """Return when ``done()`` holds.

        Raises:
            BenchError: the process has ended, or it took too long: ``otherwise`` says what.
        """
        deadline = time.monotonic() + WITHIN_S
        while not done():
            words = (self._log().strip().splitlines() or ["no word in its log"])[-1][:300]
            if self._running is not None and self._running.poll() is not None:
                raise BenchError(f"the processor has ended: {words}")
            if time.monotonic() > deadline:
                raise BenchError(f"{otherwise} within {WITHIN_S:.0f} s: {words}")
            time.sleep(0.05)

    def shown(self, stage: str) -> int:
        """Offsets of a stage's topic that are in Redis, all partitions."""
        keys = [f"live:_shown:{stage}/{n}" for n in range(self.settings.kafka.partitions)]
        return sum(int(mark or 0) for mark in self.redis.mget(keys))

    def drained(self) -> None:
        """Return when all events sent so far are folded by every stage and shown."""
        self.until(lambda: self.lag() == 0, "it does not come to the end of the events")
        for stage in ("users", "posts"):
            topic = f"{PREFIX}realtime-{stage}-repartition"
            end = self._end(topic)  # what follows are heartbeats
            self.until(lambda stage=stage, end=end: self.shown(stage) >= end, f"{stage} does not come to the end")

    def _end(self, topic: str) -> int:
        places = [TopicPartition(topic, n) for n in range(self.settings.kafka.partitions)]
        try:
            return sum(int(self._asking.get_watermark_offsets(place, timeout=10)[1]) for place in places)
        except KafkaException:
            return 0  # not made yet

    def lag(self) -> int:
        """Events that it has not committed."""
        places = [TopicPartition(EVENTS, n) for n in range(self.settings.kafka.partitions)]
        done = self._asking.committed(places, timeout=10)
        return self._end(EVENTS) - sum(max(int(place.offset), 0) for place in done)


@contextmanager
def trial(settings: Settings) -> Iterator[Trial]:
    """Empty topics and databases, gone again at the end."""
    with TemporaryDirectory() as home:
        made = Trial(settings, Path(home))
        made.clear()
        create_topics(settings, PREFIX)
        try:
            yield made
        finally:
            made.stop()
            made.clear()


def _event(number: int, kind: str, user: str, at_us: int, **more: Any) -> bytes:
    at = datetime.fromtimestamp(at_us / 1e6, UTC).isoformat()
    return orjson.dumps({"event_id": f"b{number:x}", "event_type": kind, "user_id": user, "occurred_at": at, **more})


def latency(settings: Settings) -> list[Figure]:
    """From the scheduled time of sending to the value in Redis, at RATE events a second with all four parts.

    Twenty times a second there is a probe: a user of its own shares a post that only probes touch and that stands high
    enough to be shown; then follows another, who is told.
    """
    taken: dict[str, list[float]] = {"activity": [], "trending": [], "recommendations": [], "notifications": []}
    with trial(settings) as made:
        made.start(ALL)
        sender = producer(settings)
        now = time.time_ns() // 1000
        for number in range(50 * PROBES_PER_S):
            post = f"probe{number % PROBES_PER_S}"
            sender.produce(EVENTS, key=b"warm", value=_event(number, "share", f"warm{number}", now, post_id=post))
        sender.flush(10)
        load = get_context("spawn").Process(target=_load, args=(settings, RATE - 2 * PROBES_PER_S, WARM_S + LIVE_S))
        load.start()
        start = time.time() + 3  # it has begun by then
        scores: dict[str, float] = {}
        waiting: dict[str, dict[str, Any]] = {}
        for probe in range((WARM_S + LIVE_S - 3) * PROBES_PER_S):
            due = start + probe / PROBES_PER_S
            _watch(made, waiting, taken, scores, due)
            name, at, number = f"p{probe}", int(due * 1e6), 10**6 + 2 * probe
            post = f"probe{probe % PROBES_PER_S}"
            scores[post] = float(made.redis.zscore("trending:posts", post) or 0)
            key, follow = name.encode(), {"followed": f"f{name}"}
            sender.produce(EVENTS, key=key, value=_event(number, "share", name, at, post_id=post))
            sender.produce(EVENTS, key=key, value=_event(number + 1, "follow", name, at, properties=follow))
            sender.poll(0)
            if probe >= WARM_S * PROBES_PER_S:
                waiting[name] = {"due": due, "post": post, "left": set(taken)}
        end = time.time() + 10
        while waiting and time.time() < end:
            _watch(made, waiting, taken, scores, time.time() + 0.01)
        load.join(WITHIN_S)
        lost = len(waiting)
        if load.exitcode != 0:
            raise BenchError(f"the load beside the probes was not sent as fast as it should: {load.exitcode}")
    figures = []
    for part, values in taken.items():
        if not values or lost:
            raise BenchError(f"{lost} of the probes were not seen in Redis ({part}: {len(values)} were)")
        ms = np.array(values) * 1000
        figures += [
            figure(f"event to {part} in Redis, p50", float(np.percentile(ms, 50)), "ms", 20.0),
            figure(f"event to {part} in Redis, p99", float(np.percentile(ms, 99)), "ms", 150.0),
        ]
    return figures


def _load(settings: Settings, rate: int, seconds: int) -> None:
    """Send a service's events at a rate, each at its time; exit code 1 when they could not be sent as fast."""
    sender = producer(settings)
    service = Simulation(11, "bl", share_duplicates=0.02, share_late=0.02, share_broken=0.01)
    events: list[Any] = []
    start = time.time()
    for count in range(rate * seconds):
        due = start + count / rate
        if not events:
            times = np.linspace(due, due + 0.6 * 2048 / rate, 2048) * 1e6
            events = [record for record in service.block(times.astype(np.int64)) if record[0] == "user-events"][::-1]
        _, key, value, _ = events.pop()
        left = due - time.time()
        if left > 0:
            time.sleep(left)
        sender.produce(EVENTS, key=key, value=value)
        sender.poll(0)
    sender.flush(10)
    if time.time() - start > 1.02 * seconds:
        raise SystemExit(1)


def _watch(
    made: Trial,
    waiting: dict[str, dict[str, Any]],
    taken: dict[str, list[float]],
    scores: dict[str, float],
    until: float,
) -> None:
    """Look at Redis for what is still waited for until a time."""
    while True:
        if waiting:
            pipe = made.redis.pipeline(transaction=False)
            asked = []
            for name, probe in waiting.items():
                for part in probe["left"]:
                    asked.append((name, part))
                    if part == "trending":
                        pipe.zscore("trending:posts", probe["post"])
                    else:
                        key = {"activity": f"live:user:{name}", "recommendations": f"recs:{name}"}
                        pipe.exists(key.get(part, f"live:notifications:f{name}"))
            answers = pipe.execute()
            seen = time.time()
            for (name, part), answer in zip(asked, answers, strict=True):
                probe = waiting[name]
                if part == "trending":
                    answer = answer is not None and float(answer) > scores[probe["post"]] + 2
                if answer:
                    probe["left"].discard(part)
                    taken[part].append(seen - probe["due"])
            for name in [name for name, probe in waiting.items() if not probe["left"]]:
                del waiting[name]
        left = until - time.time()
        if left <= 0:
            return
        time.sleep(min(left, 0.002))


def throughput(settings: Settings) -> list[Figure]:
    """Events a second of one process that finds DRAIN of them waiting, and a processor-second, beside the baselines.

    From a tenth of the events to the last one shown, so that starting is not counted; the baselines are measured alike.
    """
    with trial(settings) as made:
        _fill(settings)
        both, rates = ("activity", "trending"), dict[tuple[str, ...], Rate]()
        figures = []
        for parts, bound in ((both, 15_000.0), (ALL, 3_000.0), (("activity",), None)):
            made.clear(keep_events=True)
            process = made.start(parts)
            made.until(lambda: made.lag() <= 0.9 * DRAIN, "it does not take events")
            first, began, used = made.lag(), time.monotonic(), sum(process.cpu_times()[:2])
            made.drained()
            seconds, used = time.monotonic() - began, sum(process.cpu_times()[:2]) - used
            memory = process.memory_info().rss / 2**20
            made.stop()
            rates[parts] = Rate(first / seconds, first / used)
            what = f"{' and '.join(parts)}, one process" if parts != ALL else "all four parts, one process"
            figures += [
                figure(what, first / seconds, "events/s", bound, least=True),
                figure(f"{what}, of a processor-second", first / used, "events"),
                figure(f"{what}, memory at the end", memory, "MB"),
            ]
        ours = rates["activity",]
        theirs = {
            "Kafka Streams": kafka_streams(settings, EVENTS, DRAIN),
            "Kafka Streams, exactly once": kafka_streams(settings, EVENTS, DRAIN, exactly_once=True),
            "Spark Structured Streaming": spark_streaming(settings, EVENTS, DRAIN),
        }
    for name, rate in theirs.items():
        figures += [
            figure(f"{name}, count by user and minute", rate.records_per_s, "events/s"),
            figure(f"{name}, of a processor-second", rate.records_per_cpu_s, "events"),
            figure(f"activity, of a processor-second, to {name}", ours[1] / rate.records_per_cpu_s, "x"),
        ]
    return figures


def _fill(settings: Settings) -> None:
    """Put DRAIN valid events of two hours on the topic: Kafka Streams dies of a time in the year 9999."""
    sender = producer(settings)
    service = Simulation(12, "bt", share_duplicates=0.02, share_late=0.02, share_broken=0.0)
    now, sent = time.time_ns() // 1000, 0
    while sent < DRAIN:
        at = now - 7_200_000_000 * (DRAIN - sent) // DRAIN
        times = np.linspace(at, at + 7_200_000_000 * 2048 // DRAIN, 4096).astype(np.int64)
        for topic, key, value, _ in service.block(times):
            if topic == "user-events" and sent < DRAIN:
                _put(sender, key, value)
                sent += 1
    if sender.flush(60):
        raise BenchError("Kafka did not take the events")


def _put(sender: Any, key: bytes | None, value: bytes | None) -> None:
    while True:
        try:
            sender.produce(EVENTS, key=key, value=value)
            return
        except BufferError:
            sender.poll(0.1)


def recovery(settings: Settings) -> list[Figure]:
    """Seconds from the start of a killed process with KEYS users in its state to a new event in Redis."""
    with trial(settings) as made:
        sender = producer(settings)
        now = time.time_ns() // 1000
        for number in range(KEYS):
            user = f"user{number:07d}"
            _put(sender, user.encode(), _event(number, "view", user, now, post_id=f"post{number % 5000}"))
        sender.flush(60)
        process = made.start(("activity",))
        made.drained()
        time.sleep(3)  # a commit more
        made.stop(kill=True)
        began = time.monotonic()
        process = made.start(("activity",))
        back = time.monotonic() - began
        _put(sender, b"after", _event(KEYS, "view", "after", time.time_ns() // 1000, post_id="post0"))
        sender.flush(10)
        made.until(lambda: made.redis.exists("live:user:after"), "the event after the restart is not shown")
        whole = time.monotonic() - began
        memory = process.memory_info().rss / 2**20
    return [
        figure(f"recovery of {KEYS:,} keys: state read back", back, "s"),
        figure(f"recovery of {KEYS:,} keys, to a new event in Redis", whole, "s", 60.0),
        figure(f"memory with {KEYS:,} keys", memory, "MB"),
    ]
