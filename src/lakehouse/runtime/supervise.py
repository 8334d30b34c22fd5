"""Keeping the stream running: bounded restarts with backoff, then a non-zero exit; never a silent end."""

from __future__ import annotations

import logging
import os
import signal
import time
from datetime import timedelta
from threading import Event
from types import FrameType

from lakehouse import logs
from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS
from lakehouse.runtime import restarts
from lakehouse.runtime.stream import Stream, cause
from lakehouse.runtime.turns import TurnError, only_writer, wanted
from lakehouse.session import spark_session
from lakehouse.settings import Settings, SettingsError

log = logging.getLogger("lakehouse.stream")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
HEALTHY_AFTER = 300.0
"""Seconds without a failure after which earlier restarts no longer count."""


def run(settings: Settings, until_drained: bool = False) -> int:
    """Run the stream until SIGTERM or SIGINT (exit code 0), or until ``stream.restarts`` failures in a row (1).

    Each restart goes back to the last cut first, so a crash half way through a batch costs nothing but time.
    """
    contracts()
    stopping, running = Event(), list[Stream]()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()
        for stream in running:
            stream.stopping.set()

    wait = timedelta(0)
    while not stopping.is_set():
        try:
            with only_writer(settings, "lakehouse stream", wait):
                signal.signal(signal.SIGTERM, stop)
                signal.signal(signal.SIGINT, stop)
                code = _run(settings, until_drained, stopping, running)
        except TurnError:
            if not wait:
                raise
            continue
        if code is not None:
            return code
        log.info("gave way to another writer; going on after it")
        wait = timedelta(seconds=1)
        while wanted(settings) and not stopping.wait(0.1):
            pass
    return 0


def _run(settings: Settings, until_drained: bool, stopping: Event, running: list[Stream]) -> int | None:
    """An exit code, or None where the stream has given way."""
    topics = {flow.topic: settings.stream.flow(flow.topic) for flow in FLOWS}
    if unknown := sorted(settings.stream.flows.keys() - topics.keys()):
        raise SettingsError(f"setting stream.flows: no topic {unknown[0]}; there are {', '.join(topics)}")
    pools = {topic: (run.weight, run.min_share) for topic, run in topics.items()}
    spark = spark_session(settings, "lakehouse-stream", executors=settings.spark.executors, pools=pools)
    stream = Stream(spark, settings)
    running[:] = [stream]
    failures, pause = 0, FIRST_PAUSE
    while True:
        started = time.monotonic()
        restarts.started(settings.home, again=failures > 0)
        try:
            stream.start(until_drained)
            gave_way = stream.watch()
            _end(stream)
            return None if gave_way else 0
        except Exception as error:
            if stopping.is_set():
                return 0
            log.error("%s", cause(error), exc_info=log.isEnabledFor(logging.DEBUG), extra=logs.of(error))
            _end(stream)
            if time.monotonic() - started > HEALTHY_AFTER:
                failures, pause = 0, FIRST_PAUSE
            failures += 1
            if failures > settings.stream.restarts:
                log.error("gave up after %d restarts; `lakehouse status` and the lines above say where", failures - 1)
                return 1
            log.warning("restart %d of %d in %.0f s", failures, settings.stream.restarts, pause)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            stream = Stream(spark, settings)
            running[:] = [stream]
            if stopping.is_set():
                return 0


def _end(stream: Stream) -> None:
    """Stop the stream, or this process where a batch hangs: the next start goes back to the last cut."""
    try:
        stream.stop()
    except TimeoutError as hangs:
        log.error("%s; this process ends at once, and the next goes back to the last cut", hangs)
        logging.shutdown()
        os._exit(1)
