"""Keeping the stream running: bounded restarts with backoff, then a non-zero exit; never a silent end."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

from lakehouse import logs
from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS
from lakehouse.runtime import restarts
from lakehouse.runtime.rebuild import only_writer
from lakehouse.runtime.stream import Stream
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
    with only_writer(settings, "lakehouse stream"):
        return _run(settings, until_drained)


def _run(settings: Settings, until_drained: bool) -> int:
    topics = {flow.topic: settings.stream.flow(flow.topic) for flow in FLOWS}
    if unknown := sorted(settings.stream.flows.keys() - topics.keys()):
        raise SettingsError(f"setting stream.flows: no topic {unknown[0]}; there are {', '.join(topics)}")
    pools = {topic: (run.weight, run.min_share) for topic, run in topics.items()}
    spark = spark_session(settings, "lakehouse-stream", executors=settings.spark.executors, pools=pools)
    stopping = False
    stream = Stream(spark, settings)

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        stream.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    failures, pause = 0, FIRST_PAUSE
    while True:
        started = time.monotonic()
        restarts.started(settings.home, again=failures > 0)
        try:
            stream.start(until_drained)
            stream.watch()
            _end(stream)
            return 0
        except Exception as error:
            if stopping:
                return 0
            log.error("%s", error, exc_info=log.isEnabledFor(logging.DEBUG), extra=logs.of(error))
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


def _end(stream: Stream) -> None:
    """Stop the stream, or this process where a batch hangs: the next start goes back to the last cut."""
    try:
        stream.stop()
    except TimeoutError as hangs:
        log.error("%s; this process ends at once, and the next goes back to the last cut", hangs)
        logging.shutdown()
        os._exit(1)
