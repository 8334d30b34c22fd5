"""Holds the collector together: inputs fill the queue, the filters run, every output takes what is routed to it.

An event is acknowledged to its input when every output has it or has put it into its dead letters. An output that is
away is tried again until it is back; the others go on meanwhile, up to the batches that may be in flight, then all
wait: the queue fills, and inputs wait for room.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue as handover
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.event import METADATA, Event, iso, tag
from lakehouse.collect.plugins import Away, Filter, Input, Intake, Output, Route
from lakehouse.collect.queue import Batch, Queue

FILTER_ERROR = "_filter_error"
IN_FLIGHT = 8
STATS_S = 5.0
_TAKE_S = 0.1
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STOP_S = 5.0
_log = logging.getLogger(__name__)


class PipelineError(Exception):
    """The collector can't go on; the message says which part, and why."""


@dataclass
class _Counted:
    """An :class:`~lakehouse.collect.plugins.Intake` that counts what comes through."""

    intake: Intake
    events: int = 0

    async def put(self, events: list[Event], mark: tuple[str, Any] | None = None) -> Future[None]:
        delivered = await self.intake.put(events, mark)
        self.events += len(events)
        return delivered

    def mark(self, key: str) -> Any:
        return self.intake.mark(key)


@dataclass
class _Flight:
    """A batch on its way; ``waits`` counts the outputs that have not all of it yet."""

    batch: Batch
    waits: int


@dataclass
class _Sender:
    """An output with its thread and its place in line."""

    name: str
    output: Output
    dead: DeadLetters
    line: handover.SimpleQueue[tuple[_Flight, list[Event]] | None] = field(default_factory=handover.SimpleQueue)
    events: int = 0
    retries: int = 0
    away: str | None = None


class Pipeline:
    """Runs until it is stopped or its inputs have ended.

    Args:
        inputs: by name, each to run as long as the pipeline.
        apply: the filters: changes an event in place, False drops it.
        route: the outputs, by their number, that an event goes to.
        outputs: by name, in the order that ``route`` counts them.
        queue: opened for this pipeline, which closes it.
        dead_letters: by output's name; the outputs were given their ``add``.
        report: the file that :meth:`stats` is written to, if any.
        in_flight: how many batches may wait for outputs at once.
        pauses: seconds between attempts at an output that is away; the last holds for all later ones.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, Input],
        apply: Filter,
        route: Route,
        outputs: Mapping[str, Output],
        queue: Queue,
        dead_letters: Mapping[str, DeadLetters],
        report: Path | None = None,
        in_flight: int = IN_FLIGHT,
        pauses: tuple[float, ...] = _PAUSES_S,
    ) -> None:
        self._inputs, self._apply, self._route, self._queue = dict(inputs), apply, route, queue
        self._senders = [_Sender(name, output, dead_letters[name]) for name, output in outputs.items()]
        self._intakes = {name: _Counted(queue) for name in inputs}
        self._report, self._pauses = report, pauses
        self._room = threading.Semaphore(in_flight)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._stopped: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Run until :meth:`stop`, SIGTERM or SIGINT, or until every input has ended and all it brought is delivered.

        What is in the queue at a stop stays there for the next start.

        Raises:
            PipelineError: an input or the queue has failed.
        """
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(name, self.stop)
        threads = [threading.Thread(target=self._dispatch, name="collect-filter", daemon=True)]
        threads += [
            threading.Thread(target=self._deliver, args=(sender,), name=f"collect-{sender.name}", daemon=True)
            for sender in self._senders
        ]
        for thread in threads:
            thread.start()
        tasks = {asyncio.create_task(self._input(name), name=name) for name in self._inputs}
        reporter = asyncio.create_task(self._reported())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await self._until_over(tasks, stopped)
        finally:
            self._stopping.set()
            for task in (*tasks, reporter, stopped):
                task.cancel()
            await asyncio.gather(*tasks, reporter, stopped, return_exceptions=True)
            await asyncio.to_thread(self._end, threads)
            self._write_stats()
        if self._failure is not None:
            raise PipelineError(str(self._failure)) from self._failure

    async def _until_over(self, tasks: set[asyncio.Task[None]], stopped: asyncio.Task[Any]) -> None:
        waiting = set(tasks)
        while waiting:
            done, _ = await asyncio.wait({*waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped in done:
                return
            waiting -= done
            for task in done:
                if (error := task.exception()) is not None:
                    self._failure = PipelineError(f"input {task.get_name()}: {error}")
                    self._failure.__cause__ = error
                    return
        while self._queue.events and not stopped.done():  # what has ended is delivered first
            await asyncio.wait({stopped}, timeout=0.05)

    async def _input(self, name: str) -> None:
        await self._inputs[name].run(self._intakes[name])

    def stop(self) -> None:
        """Stop soon, from any thread."""
        self._stopping.set()
        if self._loop is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop()

    def _end(self, threads: list[threading.Thread]) -> None:
        """Let threads finish what they send; one that hangs on its output is left behind, its batch in the queue."""
        for sender in self._senders:
            sender.line.put(None)
        for thread in threads:
            thread.join(_STOP_S)
        for sender, thread in zip(self._senders, threads[1:], strict=True):
            if not thread.is_alive():
                sender.output.close()
        if not threads[0].is_alive():
            self._queue.close()

    # The filter thread: takes batches from the queue and gives each output its part.

    def _dispatch(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._room.acquire(timeout=_TAKE_S):
                    continue
                batch = self._queue.take(_TAKE_S)
                if batch is None:
                    self._room.release()
                    continue
                self._hand_over(batch)
        except Exception as error:
            _log.debug("the filter thread ends", exc_info=True)
            self._fail(error)

    def _hand_over(self, batch: Batch) -> None:
        shares: list[list[Event]] = [[] for _ in self._senders]
        for number, event in enumerate(batch.events):
            for output in self._filtered(batch, number, event, shares):
                shares[output].append(batch.events[number])
        parts = [(sender, share) for sender, share in zip(self._senders, shares, strict=True) if share]
        flight = _Flight(batch, len(parts))
        if not parts:
            self._land(flight)
        for sender, share in parts:
            sender.line.put((flight, share))

    def _filtered(self, batch: Batch, number: int, event: Event, shares: list[list[Event]]) -> list[int]:
        """The outputs for an event after the filters; it is replaced in the batch where a filter failed."""
        name = event[METADATA]["id"]
        try:
            if not self._apply(event):
                self._counts["dropped"] += 1
                return []
            _identify(event, name)
            to = self._route(event)
        except Exception as error:
            if not self._counts["filter_errors"]:
                _log.warning("a filter failed, the event goes on as it came, tagged %s", FILTER_ERROR, exc_info=True)
            self._counts["filter_errors"] += 1
            event = batch.events[number] = batch.original(number)
            tag(event, [FILTER_ERROR])
            event[METADATA]["filter_error"] = f"{type(error).__name__}: {error}"
            _identify(event, name)
            to = list(range(len(shares)))
        self._counts["filtered"] += 1
        return to

    # One thread an output.

    def _deliver(self, sender: _Sender) -> None:
        try:
            while (item := sender.line.get()) is not None:
                flight, events = item
                if not self._sent(sender, events):
                    return
                sender.events += len(events)
                with self._lock:
                    flight.waits -= 1
                    landed = not flight.waits
                if landed:
                    self._land(flight)
        except Exception as error:
            _log.debug("the thread of output %s ends", sender.name, exc_info=True)
            self._fail(PipelineError(f"output {sender.name}: {error}"))

    def _land(self, flight: _Flight) -> None:
        self._queue.acknowledge(flight.batch)
        self._room.release()

    def _sent(self, sender: _Sender, events: list[Event]) -> bool:
        """Send until all of it is there; False when the pipeline stops before."""
        attempt = 0
        while True:
            try:
                self._offer(sender, events)
                if sender.away is not None:
                    _log.warning("output %s is back", sender.name)
                    sender.away = None
                return True
            except (Away, OSError) as error:
                if sender.away is None:
                    _log.warning("output %s is away, tried again until it is back: %s", sender.name, error)
                sender.away = str(error)
                if isinstance(error, Away) and error.left is not None:
                    attempt = 0 if len(error.left) < len(events) else attempt
                    events = error.left
            sender.retries += 1
            if self._stopping.wait(self._pauses[min(attempt, len(self._pauses) - 1)]):
                return False
            attempt += 1

    def _offer(self, sender: _Sender, events: list[Event]) -> None:
        """Send once; where an output breaks over its events, find the one and put it into the dead letters."""
        try:
            sender.output.send(events)
        except (Away, OSError):
            raise
        except Exception as error:
            if len(events) == 1:
                _log.warning("output %s failed over an event, see %s", sender.name, sender.dead.path, exc_info=True)
                sender.dead.add([(events[0], f"{type(error).__name__}: {error}")])
                return
            middle = len(events) // 2
            for start, half in ((0, events[:middle]), (middle, events[middle:])):
                try:
                    self._offer(sender, half)
                except (Away, OSError) as away:
                    left = getattr(away, "left", None)
                    rest = events[start + len(half) :]
                    raise Away(str(away), (half if left is None else left) + rest) from None

    # What is told about it.

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and the queue now (bytes of JSON, events)."""
        outputs = {
            sender.name: {
                "events": sender.events,
                "dead": sender.dead.count,
                "retries": sender.retries,
                "away": sender.away,
            }
            for sender in self._senders
        }
        return {
            "at": iso(datetime.now(UTC)),
            "pid": os.getpid(),
            "events": {
                "in": sum(intake.events for intake in self._intakes.values()),
                "out": sum(sender.events for sender in self._senders),
                "filtered": self._counts["filtered"],
                "dropped": self._counts["dropped"],
                "filter_errors": self._counts["filter_errors"],
                "dead": sum(sender.dead.count for sender in self._senders),
                "retries": sum(sender.retries for sender in self._senders),
            },
            "queue": {"bytes": self._queue.bytes, "max_bytes": self._queue.max_bytes, "events": self._queue.events},
            "inputs": {name: {"events": intake.events} for name, intake in self._intakes.items()},
            "outputs": outputs,
        }

    async def _reported(self) -> None:
        while True:
            self._write_stats()
            await asyncio.sleep(STATS_S)

    def _write_stats(self) -> None:
        if self._report is None:
            return
        beside = self._report.with_suffix(".tmp")
        try:
            beside.write_bytes(orjson.dumps(self.stats()))
            beside.replace(self._report)
        except OSError as error:
            _log.warning("%s: %s", self._report, error.strerror)


def _identify(event: Event, name: str) -> None:
    """``[event][id]`` is the id that the queue gave, unless filters or source have set one."""
    holder = event.setdefault("event", {})
    if isinstance(holder, dict) and holder.get("id") in (None, ""):
        holder["id"] = name
