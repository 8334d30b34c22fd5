"""The baselines of ``bench realtime``: events per user and minute of event time, by Kafka Streams and by Spark.

Both read one topic of user events from its beginning, keep a window open for five minutes, hold their state as they do
by default, and write updates to a topic of their own. Both are measured alike: their processes say when they have
processed a tenth and when all, and between the two the time and the processor time of the whole process tree count. So
starting and the first fetches are not held against them, nor is what they had not committed at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka.admin import AdminClient, NewTopic

from lakehouse import stack
from lakehouse.bench.figures import BenchError
from lakehouse.settings import PROJECT, Settings

WITHIN_S = 600.0
SOURCE = Path(__file__).with_name("java") / "StreamsCount.java"


class Rate(NamedTuple):
    """Records per second of time, and per second of processor time: a core's share of the work."""

    records_per_s: float
    records_per_cpu_s: float


class Mark(NamedTuple):
    """How far a process is: records, seconds by its own clock, seconds of processor time so far."""

    records: int
    at: float
    cpu: float


def kafka_streams(
    settings: Settings, topic: str, records: int, *, exactly_once: bool = False, commit_ms: int = 1000
) -> Rate:
    """The count by Kafka Streams, one stream thread, RocksDB with a changelog topic (``java/StreamsCount.java``).

    Raises:
        BenchError: it failed, or took longer than WITHIN_S.
        StackError: its jars could not be had.
    """
    jars = [*stack.fetch_section(settings, "kafka-streams"), *stack.jar_paths(settings, "kafka")]
    with _place(settings) as (name, folder):
        stack.compile_java(settings, SOURCE, jars, folder / "classes")
        command = [
            *(str(stack.java(settings)), "-Xmx1g", f"-Djava.io.tmpdir={folder}"),  # unpacks RocksDB's library there
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-Djava.net.preferIPv4Stack=true"),
            *("-cp", os.pathsep.join(map(str, (folder / "classes", *jars))), "StreamsCount"),
            *(settings.kafka.bootstrap_servers, topic, name, name, str(folder / "state")),
            *("exactly_once_v2" if exactly_once else "at_least_once", str(commit_ms)),
        ]
        return measured("Kafka Streams", command, records, folder)


def spark_streaming(settings: Settings, topic: str, records: int) -> Rate:
    """The count by Spark Structured Streaming in update mode, to a Kafka topic (``spark_count.py``).

    Raises:
        BenchError: it failed, or took longer than WITHIN_S.
    """
    with _place(settings) as (name, folder):
        command = [sys.executable, "-m", "lakehouse.bench.spark_count", topic, name, folder.as_uri()]
        return measured("Spark", command, records, folder)


def measured(name: str, command: Sequence[str], records: int, folder: Path, within_s: float = WITHIN_S) -> Rate:
    """Run a command with two more arguments, a tenth of ``records`` and ``records``, and measure between the two.

    It prints ``processed COUNT NANOS`` once it has processed so many or more; its words go to a file in ``folder``.

    Raises:
        BenchError: it ended early, or took longer than ``within_s`` seconds.
    """
    log, late = folder / "log", threading.Event()
    warm = max(1, records // 10)
    with log.open("w") as err:
        whole = [*command, str(warm), str(records)]
        process = psutil.Popen(whole, cwd=PROJECT, stdout=subprocess.PIPE, stderr=err, text=True)

    def stop() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(within_s, stop)
    timer.start()
    marks: list[Mark] = []
    try:
        for line in process.stdout:
            if line.startswith("processed "):
                _, count, nanos = line.split()
                marks.append(Mark(int(count), int(nanos) / 1e9, _cpu(process)))
                if int(count) >= records:
                    break
        else:
            words = log.read_text().strip().splitlines() or ["without a word"]
            at = f"{marks[-1].records:,}" if marks else f"fewer than {warm:,}"
            why = f"took longer than {within_s:.0f} s" if late.is_set() else f"has ended: {words[-1][:300]}"
            raise BenchError(f"{name} {why}; it had processed {at} of {records:,} records")
        with suppress(psutil.TimeoutExpired):
            process.wait(30)  # it leaves its group and flushes
    finally:
        timer.cancel()
        _kill(process)
        process.stdout.close()
    return rate(marks)


def rate(marks: Sequence[Mark]) -> Rate:
    """What was processed between the first mark and the last, by time and by processor time.

    Raises:
        BenchError: nothing was, because all came at once: too few records to measure with.
    """
    first, last = marks[0], marks[-1]
    if last.records == first.records or last.at <= first.at or last.cpu <= first.cpu:
        raise BenchError(f"{last.records:,} records were processed at once: measure with more")
    count = last.records - first.records
    return Rate(count / (last.at - first.at), count / (last.cpu - first.cpu))


def _cpu(process: psutil.Process) -> float:
    """Seconds of processor time of a process and of what it started, PySpark's JVM for instance."""
    spent = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        tree = [*process.children(recursive=True), process]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(tree, 10)


@contextmanager
def _place(settings: Settings) -> Iterator[tuple[str, Path]]:
    """A name that nobody has, an output topic of that name, and a folder; all gone after, with topics it prefixes."""
    name = f"bench-count-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for made in admin.create_topics([NewTopic(name, settings.kafka.partitions, settings.kafka.replication)]).values():
        made.result()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            yield name, Path(folder)
        finally:
            ours = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(name)]
            for gone in [*admin.delete_topics(ours).values(), *admin.delete_consumer_groups([name]).values()]:
                with suppress(Exception):  # Spark has no group; one that was killed is still a member of its own
                    gone.result()
            deadline = time.monotonic() + 10
            while set(ours) & set(admin.list_topics(timeout=10).topics) and time.monotonic() < deadline:
                time.sleep(0.1)
