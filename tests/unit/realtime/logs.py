"""Kafka's part for tests of the processor: durable logs in memory, tasks that read them, crashes in between."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from lakehouse import alerts
from lakehouse.realtime.inbox import Inbox
from lakehouse.realtime.shown import Shown
from lakehouse.realtime.task import Context, Outbox, Stage, Task
from lakehouse.realtime.topology import wanted
from lakehouse.settings import Realtime


@dataclass(frozen=True)
class Kept:
    """A record of a log."""

    body: bytes | None
    at: int
    appended_ms: int

    def value(self) -> bytes | None:
        return self.body

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 2, self.appended_ms


class Logs:
    """Topics and their tasks; ``run`` folds everything in random batches, and dies when it is told to.

    A crash loses the state since the last commit of the task, never what it has passed on.
    """

    def __init__(self, settings: Realtime, seed: int, partitions: int = 2, rules: alerts.Alerts | None = None) -> None:
        self.random = Random(seed)
        numbers = {name: partitions for name in ("user-events", "service-logs", "system-metrics")}
        context = Context(settings, rules or alerts.read(), numbers)
        self.kinds = wanted(context)
        numbers |= {kind.name: partitions for kind in self.kinds.values()}
        self.context = context
        self.logs: dict[tuple[str, int], list[Kept]] = {
            (topic, number): [] for topic in self.kinds for number in range(partitions)
        }
        self.changelogs: dict[tuple[str, int], dict[str, bytes]] = {place: {} for place in self.logs}
        self.notifications: list[dict[str, Any]] = []
        names = {kind.name: topic for topic, kind in self.kinds.items() if issubclass(kind, Stage)}
        self.out = Outbox(self._append, names, {name: partitions for name in names})
        self.shown: Shown | None = None
        """Shows what stages make: always after a batch, and with a tick after one of three."""
        self.now_us = 0
        self.tasks = {place: self._task(place) for place in self.logs}

    def _append(self, topic: str, partition: int, value: bytes) -> None:
        self.add(topic, partition, value, 0)

    def add(self, topic: str, partition: int, value: bytes | None, appended_ms: int) -> None:
        """Append a record."""
        log = self.logs[topic, partition]
        log.append(Kept(value, len(log), appended_ms))
        self.now_us = max(self.now_us, appended_ms * 1000)

    def _task(self, place: tuple[str, int]) -> Task:
        task = self.kinds[place[0]](self.context, place[1])
        for key, value in self.changelogs[place].items():
            task.restore(key, value)
        task.restored()
        if self.shown:
            self.shown.expect(task)
        return task

    def commit(self, place: tuple[str, int]) -> None:
        """Keep a task's state."""
        task = self.tasks[place]
        for key, value in task.changes():
            if value is None:
                self.changelogs[place].pop(key, None)
            else:
                self.changelogs[place][key] = value
        if self.random.random() < 0.3:
            task.cool()
        if isinstance(task, Inbox):
            self.notifications += task.due
            task.due.clear()

    def run(self, crash: float = 0.0, commit: float = 0.3, most: int = 400) -> None:
        """Fold until nothing is left; a batch ends in a crash of its task, or a commit, with these chances."""
        while True:
            waiting = [place for place, log in self.logs.items() if self.tasks[place].next < len(log)]
            if not waiting:
                break
            place = self.random.choice(waiting)
            task = self.tasks[place]
            task.process(self.logs[place][task.next : task.next + self.random.randint(1, most)], self.out)
            if self.shown and isinstance(task, Stage):
                self.shown.write([task], self.now_us, tick=self.random.random() < 0.3)
            if self.random.random() < crash:
                self.tasks[place] = self._task(place)
            elif self.random.random() < commit:
                self.commit(place)
        for place in self.logs:
            self.commit(place)

    def pass_time(self, now_us: int) -> None:
        """Every source has been silent until now."""
        for task in self.tasks.values():
            if not isinstance(task, Stage):
                task.watermark = max(task.watermark, now_us)
                task.heartbeat(self.out)
        for _ in range(4):
            self.run()
            for task in self.tasks.values():
                task.heartbeat(self.out)
        self.run()

    def of(self, name: str) -> list[Any]:
        """The tasks of a kind."""
        return [task for task in self.tasks.values() if task.name == name]
