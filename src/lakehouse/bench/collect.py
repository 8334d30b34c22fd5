"""``bench collect``: what one core parses, and what travels from a log file to Kafka and Elasticsearch.

The whole path has processes, a queue and topics of its own; servers are the platform's.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from elasticsearch import Elasticsearch

from lakehouse import stack
from lakehouse.bench.figures import BenchError, Figure, figure
from lakehouse.collect.config import read
from lakehouse.collect.event import Event
from lakehouse.collect.filters import block
from lakehouse.running import beat_command, up
from lakehouse.settings import PROJECT, Settings, load
from lakehouse.sinks.logs_live import LOGS_LIVE, TEMPLATE
from lakehouse.sources.topics import CONFIG
from lakehouse.stack import ports

LINES = 100_000
WITHIN_S = 300.0
METRICS_S = 30.0
TOPIC = INDEX = "bench-collect"
SERVICE_LOGS = PROJECT / "conf" / "logstash" / "service-logs.conf"
_TIMES = "2026-01-01T00:{:02d}:{:02d}.{:03d}Z"


def service_log(number: int) -> str:
    """A record of a service's log, every twentieth with a stack trace."""
    at = _TIMES.format(number // 60_000 % 60, number // 1000 % 60, number % 1000)
    head = f"[posts,{number:016x},l-{number}] app-{number % 7} posts.access {number % 90 + 1}500000ns"
    if number % 20:
        return f"{at} INFO {head} GET /v1/posts/{number % 977} 200 {number % 90 + 1}ms"
    why = f"upstream did not answer within {number % 90} ms"
    return (
        f"{at} ERROR {head} GET /v1/posts/{number % 977} 504 {number % 90 + 1}ms "
        f"TimeoutError E504 {number:04x}: {why}\n"
        f"TimeoutError: {why}\n  at call (posts.py:{number % 400})\n  at handle (app.py:31)"
    )


def access_log(number: int) -> str:
    """A line of Apache's or nginx's combined log."""
    return (
        f"203.0.113.{number % 250} - user{number % 40} "
        f"[01/Jan/2026:00:{number // 60 % 60:02d}:{number % 60:02d} +0000] "
        f'"GET /posts/{number % 977}?page={number % 9} HTTP/1.1" 200 {number % 9000} "https://search.example/q" '
        '"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"'
    )


PARSED = {
    "grok, combined access log": (
        'grok { ecs_compatibility => disabled match => { "message" => "%{COMBINEDAPACHELOG}" } }', access_log, 20_000.0,
    ),
    "dissect, service log": (
        'dissect { mapping => { "message" => '
        '"%{ts} %{level} [%{service},%{trace},%{id}] %{host} %{dataset} %{took} %{text}" } }', service_log, 50_000.0,
    ),
}  # fmt: skip
"""What is parsed: a filter, its lines, and lines per second that are asked of one core."""


def collect(settings: Settings) -> list[Figure]:
    """Parse rates, then the whole path by each shipper with its processor time and memory.

    Raises:
        BenchError: a line was not parsed, or the path did not deliver all.
    """
    up(settings, servers_only=True)
    settings = load()
    figures = [figure(f"parse: {name}", _parsed(*how[:2]), "lines/s", how[2], True) for name, how in PARSED.items()]
    whole = SERVICE_LOGS.read_text().partition("filter {")[2].partition("\noutput {")[0].rpartition("}")[0]
    figures.append(figure("parse: all of service-logs.conf", _parsed(whole, service_log), "lines/s"))
    for shipper in ("filebeat", "ship logs"):
        if shipper != "filebeat" or stack.beat(settings, "filebeat"):
            figures += _path(settings, shipper)
    for shipper in ("metricbeat", "ship metrics"):
        if shipper != "metricbeat" or stack.beat(settings, "metricbeat"):
            figures += _metrics(settings, shipper)
    return figures


def _parsed(filters: str, line: Any) -> float:
    """Lines per second of one core, in seconds of this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "parse.conf")
        path.write_text(f"input {{ stdin {{}} }}\nfilter {{\n{filters}\n}}\noutput {{ stdout {{}} }}\n")
        apply = block(read(path, os.environ).filters)
    rates = []
    for _ in range(3):
        events: list[Event] = [{"message": line(n), "@metadata": {"id": str(n)}} for n in range(LINES // 5)]
        began = time.process_time()
        for event in events:
            apply(event)
        rates.append(len(events) / (time.process_time() - began))
        if failed := [event for event in events if event.get("tags")]:
            raise BenchError(f"a line was not parsed: {failed[0]}")
    return sorted(rates)[1]


@contextmanager
def _process(command: list[str], env: dict[str, str], log: Path) -> Iterator[psutil.Popen]:
    with log.open("w") as out:
        process = psutil.Popen(command, env={**os.environ, **env}, cwd=PROJECT, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except psutil.TimeoutExpired:
            process.kill()


def _used(process: psutil.Popen, name: str, per: str) -> list[Figure]:
    """Processor time so far, and the most memory that it had resident."""
    with process.oneshot():
        times = process.cpu_times()
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return [figure(f"{name}: CPU {per}", times.user + times.system, "s"), figure(f"{name}: memory, peak", peak, "MB")]


def _path(settings: Settings, shipper: str) -> list[Figure]:
    """A file of LINES records, from the shipper's first to the last that both outputs have."""
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    elastic = Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=60)
    with ExitStack() as last, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _clear(admin, elastic)
        last.callback(elastic.close)
        last.callback(_clear, admin, elastic)
        for made in admin.create_topics([NewTopic(TOPIC, settings.kafka.partitions, 1, config=CONFIG)]).values():
            made.result()
        elastic.indices.create(index=INDEX, **TEMPLATE)
        (home / "logs").mkdir()
        pipeline = home / "bench.conf"
        pipeline.write_text(
            _replaced(
                _replaced(SERVICE_LOGS.read_text(), '"service-logs"', f'"{TOPIC}"'), f'"{LOGS_LIVE}"', f'"{INDEX}"'
            )
        )
        chosen = ports.choose({name: 15_044 + n for n, name in enumerate(("BEATS", "TCP", "HTTP", "SYSLOG"))})
        beats = f"{ports.HOST}:{chosen['BEATS']}"
        env = {
            "LAKEHOUSE_HOME": str(home),
            "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
            "LAKEHOUSE_ELASTICSEARCH__URL": settings.elasticsearch.url.get_secret_value(),
            "LAKEHOUSE_COLLECT__BEATS": beats,
            **{f"COLLECT_{name}_PORT": str(port) for name, port in chosen.items()},
            "COLLECT_BEATS": beats,
            "LOGS": str(home / "logs"),
        }
        own = [sys.executable, "-m", "lakehouse.cli"]
        if shipper == "filebeat":
            binary = stack.beat(settings, "filebeat")
            assert binary is not None
            command = beat_command(settings.model_copy(update={"home": home}), binary)
        else:
            command = [*own, "ship", "logs", str(home / "logs" / "*.log")]
        (home / "logs" / "posts.log").write_text("".join(service_log(n) + "\n" for n in range(LINES)))
        collector = last.enter_context(_process([*own, "collect", str(pipeline)], env, home / "collect.log"))
        shipping = last.enter_context(_process(command, env, home / "shipper.log"))
        rate = _delivered(settings, elastic, home, {"collect": collector, "shipper": shipping})
        return [
            figure(f"{shipper} -> collector -> Kafka + Elasticsearch", rate, "events/s", 5_000.0, True),
            *_used(shipping, shipper, f"for {LINES:,} events"),
            *_used(collector, f"collector, behind {shipper}", f"for {LINES:,} events"),
        ]


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise BenchError(f"{SERVICE_LOGS} names {old} {text.count(old)} times, not once")
    return text.replace(old, new)


def _clear(admin: AdminClient, elastic: Elasticsearch) -> None:
    elastic.options(ignore_status=404).indices.delete(index=INDEX)
    if TOPIC in admin.list_topics(timeout=10).topics:
        for gone in admin.delete_topics([TOPIC]).values():
            gone.result()
        while TOPIC in admin.list_topics(timeout=10).topics:
            time.sleep(0.1)


def _delivered(settings: Settings, elastic: Elasticsearch, home: Path, processes: dict[str, psutil.Popen]) -> float:
    """Events per second, once Kafka and Elasticsearch have all; the clock starts when Kafka has the first."""
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "bench"})
    began: tuple[float, int] | None = None
    deadline = time.monotonic() + WITHIN_S
    try:
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    words = (home / f"{name}.log").read_text().strip().splitlines()
                    raise BenchError(f"{name} has ended: {(words or ['without a word'])[-1][:300]}")
            now = time.monotonic()
            sent = 0
            for partition in range(settings.kafka.partitions):
                with suppress(Exception):  # the topic's leader is not known at first
                    sent += consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=5)[1]
            if began is None and sent:
                began = (now, sent)
            if began and sent >= LINES:
                elastic.indices.refresh(index=INDEX)
                if elastic.count(index=INDEX)["count"] >= LINES:
                    return (LINES - began[1]) / (time.monotonic() - began[0])
            if now > deadline:
                raise BenchError(f"after {WITHIN_S:.0f} s Kafka has {sent:,} of {LINES:,} events")
            time.sleep(0.1)
    finally:
        consumer.close()


def _metrics(settings: Settings, shipper: str) -> list[Figure]:
    """Half a minute of this host's metrics, to the platform's own topic."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        env = {"KAFKA": settings.kafka.bootstrap_servers, "LAKEHOUSE_HOME": str(home)}
        env["LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS"] = settings.kafka.bootstrap_servers
        if shipper == "metricbeat":
            binary = stack.beat(settings, "metricbeat")
            assert binary is not None
            command = beat_command(settings.model_copy(update={"home": home}), binary)
        else:
            command = [sys.executable, "-m", "lakehouse.cli", "ship", "metrics"]
        with _process(command, env, home / "shipper.log") as process:
            try:
                process.wait(METRICS_S)
            except psutil.TimeoutExpired:
                return _used(process, shipper, f"for {METRICS_S:.0f} s")
            words = (home / "shipper.log").read_text().strip().splitlines()
            raise BenchError(f"{shipper} has ended: {(words or ['without a word'])[-1][:300]}")
