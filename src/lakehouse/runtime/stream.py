"""The long-running stream: the ingest by the engine that the settings name, fan-out, compaction, and a watchdog."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from lakehouse.contracts import Contract, contracts
from lakehouse.erasure.identifiers import Erased
from lakehouse.erasure.tombstones import erased
from lakehouse.flows import FLOWS, INGEST, Flow
from lakehouse.runtime.batches import Batches
from lakehouse.runtime.checkpoints import Generation
from lakehouse.runtime.compaction import Compactor, checkpoint
from lakehouse.runtime.detect import QUERY, detect
from lakehouse.runtime.fanout import FANOUT
from lakehouse.runtime.fused import FusedPass, Ingest, Progress
from lakehouse.runtime.recovery import create_tables, fill_index, roll_back
from lakehouse.runtime.seen import SeenIndex
from lakehouse.runtime.separate import SeparatePass, in_pool
from lakehouse.runtime.turns import wanted
from lakehouse.settings import FlowRun, Settings
from lakehouse.sinks.delta import DeltaWriter, Storage
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import create_topics
from lakehouse.upkeep import deployed

log = logging.getLogger("lakehouse.stream")
STOP_WITHIN = 60.0
"""Seconds that a batch is given to end."""
STORES_WAIT = 60.0
"""Seconds that a store's next batch waits while the ingest has a backlog: the tables come first."""


class StreamFailed(Exception):
    """The stream ended on an error; the message is the cause."""


_TOO_FAR_BEHIND = ("earliest available version", "FileNotFoundException", "DELTA_MISSING")
"""What Delta says when a log entry or a file that a stream wants has been cleaned up."""


class Stream:
    """All queries of one process. ``start`` recovers and starts; ``watch`` returns when asked to stop, or raises."""

    def __init__(self, spark: SparkSession, settings: Settings):
        self.spark, self.settings = spark, settings
        self.lake = Lake(settings)
        self.storage = Storage(spark, settings.home / "tmp")
        self.queries: list[StreamingQuery] = []
        self.writers: dict[str, DeltaWriter] = {}
        self.stopping = threading.Event()
        self.caught_up = threading.Event()
        self.caught_up.set()
        self.followers: dict[str, Follower] = {}
        self.ingests: list[Batches] = []

    def start(self, until_drained: bool = False) -> None:
        """Create what is missing, go back to the last cut, and start every query.

        ``until_drained``: stop by themselves once everything that is in Kafka now is in the tables.
        """
        create_topics(self.settings)
        self.writers = create_tables(self.storage, self.lake)
        deployed.record(self.settings)
        progress = roll_back(self.lake, self.writers)
        # At the start too: a stream that dies early each time would leave an ever longer log.
        checkpoint(self.lake, self.writers)
        gone = erased(self.settings, self.lake)
        if self.settings.stream.engine == "separate":
            for flow in FLOWS:
                topic, one = flow.topic, self._separate(flow, progress[flow.topic], gone)
                self.ingests.append(one)
                with in_pool(self.spark, topic):  # a query takes on the pool of the thread that starts it
                    query = self._query(f"{INGEST}-{topic}", {topic: progress[topic]}, one, until_drained)
                self.queries.append(query)
        else:
            master = self.spark.sparkContext.master
            if not (master or "").startswith("local"):
                raise StreamFailed(
                    f"stream.engine fused runs on one machine, spark.master is {master}: set stream.engine to separate"
                )
            passes = {flow.topic: self._fused(flow, progress[flow.topic]) for flow in FLOWS}
            scratch = self.settings.home / "tmp" / "checked"
            workers, cut_every = self.settings.spark.shuffle_partitions, self.settings.stream.cut_every
            ingest = Ingest(passes, self.writers, workers, scratch, cut_every, gone)
            self.ingests.append(ingest)
            self.queries.append(self._query(INGEST, progress, ingest, until_drained))

        if not until_drained:
            names = (*self.settings.stream.stores, *([QUERY] if self.settings.stream.detect else []))
            self.followers = {name: Follower(name, self) for name in names}
            threading.Thread(target=self._compact, name="compaction", daemon=True).start()

    def _compact(self) -> None:
        stream = self.settings.stream
        compactor = Compactor(self.lake, self.writers, stream.compact_above_files, stream.time_travel)
        while not self.stopping.wait(self.settings.stream.compact_every.total_seconds()):
            try:
                merged = compactor.round()
                if merged:
                    log.info("compacted %s", merged)
            except Exception as error:  # files stay small for a while; the stream must not stop for that
                log.warning("compaction: %s", error)

    def _contract(self, flow: Flow) -> tuple[Contract, timedelta]:
        """A topic's contract, and for how long its records are told from their duplicates."""
        contract = contracts()[flow.topic]
        return contract, max(contract.duplicate_horizon, self.settings.stream.duplicate_horizon)

    def _fused(self, flow: Flow, progress: Progress) -> FusedPass:
        contract, horizon = self._contract(flow)
        index = SeenIndex(self.settings.home / "index" / flow.topic)
        added = fill_index(index, flow, contract, self.lake, progress, horizon)
        log.info(
            "%s: at batch %d, offsets %s, index %d keys (%d from silver)",
            flow.topic,
            progress.seq,
            progress.ends,
            len(index),
            added,
        )
        return FusedPass(flow, contract, self.lake, self.writers, index, progress, horizon)

    def _separate(self, flow: Flow, progress: Progress, gone: Erased) -> SeparatePass:
        contract, horizon = self._contract(flow)
        log.info("%s: at batch %d, offsets %s", flow.topic, progress.seq, progress.ends)
        return SeparatePass(self.spark, flow, contract, self.lake, self.writers, progress, horizon, erased=gone)

    def _query(
        self,
        name: str,
        progress: dict[str, Progress],
        write: Batches,
        until_drained: bool,
    ) -> StreamingQuery:
        settings = self.settings
        run = settings.stream.flow(next(iter(progress))) if len(progress) == 1 else FlowRun()
        source = (
            self.spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
            .option("subscribe", ",".join(progress))
            .option("startingOffsets", self._starting(progress))
            .option("failOnDataLoss", "true")
            .option("includeHeaders", "true")
            .option("maxOffsetsPerTrigger", str(run.max_records_per_batch or settings.stream.max_records_per_batch))
            .option("kafka.isolation.level", "read_committed")
            .option("kafka.fetch.max.wait.ms", "20")
            .option("kafka.max.poll.records", "20000")
            .option("kafka.max.partition.fetch.bytes", str(16 << 20))
            .option("fetchOffset.retryIntervalMs", "10")
            .load()
        )
        writer = (
            source.writeStream.queryName(name)
            .option("checkpointLocation", Generation.begin(self.storage, settings, name).checkpoint)
            .foreachBatch(write)
        )
        if until_drained:
            return writer.trigger(availableNow=True).start()
        # The ledger says where a run goes on, so nobody waits for Spark to write down how far it is.
        writer = (
            writer.option("asyncProgressTrackingEnabled", "true")
            .option("asyncProgressTrackingCheckpointIntervalMs", "60000")
            .option("_asyncProgressTrackingOverrideSinkSupportCheck", "true")
        )
        every = run.trigger or settings.stream.trigger
        return writer.trigger(processingTime=f"{every // timedelta(milliseconds=1)} milliseconds").start()

    def _starting(self, progress: dict[str, Progress]) -> str:
        """Kafka's start as Spark wants it: every partition, -2 where it has not been read yet."""
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap_servers})
        topics = admin.list_topics(timeout=30).topics
        return json.dumps(
            {name: {str(p): at.ends.get(p, -2) for p in topics[name].partitions} for name, at in progress.items()}
        )

    def watch(self, poll: float = 0.5) -> bool:
        """Wait until :meth:`stop`, until drained queries end, or until another wants to write the tables: then True.

        Raises:
            StreamFailed: a query died, or made no progress for ``stream.stall_after`` while records wait.
        """
        active = {query.name: time.monotonic() for query in self.queries}
        batches: dict[str, Any] = {}
        stream = self.settings.stream
        most = {f"{INGEST}-{flow.topic}": stream.flow(flow.topic).max_records_per_batch for flow in FLOWS}
        while not self.stopping.wait(poll):
            if wanted(self.settings):
                self._give_way()
                return True
            for follower in self.followers.values():
                follower.keep_running()
            behind = False
            for query in self.queries:
                if not query.isActive:
                    error = query.exception()
                    if error is not None:
                        raise StreamFailed(f"{query.name}: {cause(error)}")
                    active.pop(query.name, None)
                    continue
                latest = query.lastProgress
                behind |= (latest or {}).get("numInputRows", 0) >= 0.9 * (
                    most.get(query.name) or stream.max_records_per_batch
                )
                now = (latest or {}).get("batchId"), query.status["isTriggerActive"]
                # A query that waits for data is well; one whose trigger runs without end is not.
                if not now[1] or batches.get(query.name) != now:
                    active[query.name] = time.monotonic()
                batches[query.name] = now
                if time.monotonic() - active[query.name] > self.settings.stream.stall_after.total_seconds():
                    raise StreamFailed(f"{query.name}: no progress for {self.settings.stream.stall_after}; see its log")
            self.caught_up.clear() if behind else self.caught_up.set()
            for ingest in self.ingests:
                # A failed batch is raised by the next one's call, which may be long in coming.
                if failure := ingest.failure():
                    raise StreamFailed(f"{INGEST}: {cause(failure)}")
                ingest.rest(wholly=not active)
            if not active:
                for ingest in self.ingests:
                    ingest.written()
                return False
        return False

    def _give_way(self) -> None:
        """Bring the tables to a last cut and the stores up to it, as far as they take it."""
        self.caught_up.set()
        for ingest in self.ingests:
            ingest.close(STOP_WITHIN)
        following = [one.query for one in self.followers.values() if one.query is not None and one.query.isActive]
        waits = [threading.Thread(target=_to_the_end, args=(query,), daemon=True) for query in following]
        until = time.monotonic() + STOP_WITHIN
        for thread in waits:
            thread.start()
        for thread in waits:
            thread.join(max(until - time.monotonic(), 0))

    def stop(self) -> None:
        """Ask :meth:`watch` to return and end every query after its current batch.

        Raises:
            TimeoutError: a batch does not end.
        """
        self.stopping.set()
        self.caught_up.set()
        for ingest in self.ingests:
            ingest.close(STOP_WITHIN)
        followers = [one.query for one in self.followers.values() if one.query is not None]
        for query in [*self.queries, *followers]:
            if query.isActive:
                query.stop()


class Follower:
    """A query that follows the tables, a store's or the detector's; while it fails, started again ever more slowly."""

    FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0

    def __init__(self, name: str, stream: Stream):
        self.name, self.stream = name, stream
        self.query: StreamingQuery | None = None
        self.failed = ""
        self.pause, self.again_at = self.FIRST_PAUSE, 0.0

    def keep_running(self) -> None:
        """Start the query if it is not running and its pause is over."""
        if self.query is not None and self.query.isActive:
            if self.query.lastProgress:
                self.pause, self.failed = self.FIRST_PAUSE, ""
            return
        if self.query is not None:
            self._failed(self.query.exception())
            self.query = None
        if time.monotonic() < self.again_at:
            return
        settings = self.stream.settings
        try:
            own = Generation.current(self.stream.storage, settings, self.name)
            make = detect if self.name == QUERY else FANOUT[self.name]
            source, write = make(self.stream.spark, settings, own.since)

            def write_in_turn(batch: DataFrame, batch_id: int) -> None:
                self.stream.caught_up.wait(STORES_WAIT)
                write(batch, batch_id)

            self.query = (
                source.writeStream.queryName(self.name)
                .option("checkpointLocation", own.checkpoint)
                .foreachBatch(write_in_turn)
                .trigger(processingTime=f"{self._every() // timedelta(milliseconds=1)} milliseconds")
                .start()
            )
        except Exception as error:
            self._failed(error)

    def _every(self) -> timedelta:
        """Each its own period: Spark starts all triggers of one period at the same moment."""
        place = [*self.stream.followers].index(self.name)
        return self.stream.settings.stream.fanout_trigger * (1 + 0.05 * place)

    def _failed(self, error: Exception | None) -> None:
        self.failed = cause(error) if error else "stopped"
        if any(sign in str(error) for sign in _TOO_FAR_BEHIND):
            mends = f"`lakehouse rebuild --store {self.name}` fills it"
            if self.name == QUERY:
                mends = "`lakehouse reset detector` lets it begin anew, `lakehouse score anomaly` fills it"
            self.failed += f"; what it has missed is no longer there: {mends}"
        log.warning("%s is behind: %s; next attempt in %.0f s", self.name, self.failed, self.pause)
        self.again_at = time.monotonic() + self.pause
        self.pause = min(self.pause * 2, self.LONGEST_PAUSE)


def _to_the_end(query: StreamingQuery) -> None:
    """Wait until a query has written all that lies before it; one that fails has said so."""
    with suppress(Exception):
        query.processAllAvailable()


def cause(error: BaseException) -> str:
    """The line that says what went wrong: of a Python traceback its last, of a failed call what the JVM threw."""
    text = str(error)
    if type(error).__module__.startswith("lakehouse."):
        return text
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("at ", "... "))
    ]
    if "Traceback (most recent call last)" in text:
        found = next((line for line in reversed(lines) if "Error" in line or "Exception" in line), lines[-1])
    elif len(lines) > 1 and lines[0].startswith("An error occurred while calling"):  # py4j's own line comes first
        found = lines[1]
    else:
        found = lines[0] if lines else type(error).__name__
    return found.removeprefix(": ")[:500]
