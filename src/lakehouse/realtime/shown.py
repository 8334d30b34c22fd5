"""Redis: what the tasks show, written once and never set back.

Guarantee: beside a task's keys Redis holds up to which offset of its input they are; all of a batch is written together
with that, or nothing. A replay of records that are shown already, and a process that lost its partition without
knowing, change nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import orjson
import redis

from lakehouse.realtime.task import Command, Task
from lakehouse.settings import Settings

_SUM = """
redis.call('hset', KEYS[2], ARGV[1], ARGV[4])
local sums = {}
for _, part in ipairs(redis.call('hvals', KEYS[2])) do
  for field, number in pairs(cjson.decode(part)) do sums[field] = (sums[field] or 0) + number end
end
local old = redis.call('hget', KEYS[1], 'at')
redis.call('del', KEYS[1])
for field, number in pairs(sums) do redis.call('hset', KEYS[1], field, number) end
redis.call('hset', KEYS[1], 'at', (old and old > ARGV[2]) and old or ARGV[2])
redis.call('expire', KEYS[1], ARGV[3])
redis.call('expire', KEYS[2], ARGV[3])
"""
"""A key whose fields are the sums of every task's part: (key, its parts), (partition, time, ttl in seconds, part)."""
_MARK_S = 7 * 24 * 3600
_RETRY_S = (0.5, 10.0)
_log = logging.getLogger(__name__)


class Shown:
    """Writes commands of tasks; while Redis is away it keeps none of them, and shows everything again afterwards."""

    def __init__(self, settings: Settings) -> None:
        self.client: Any = redis.Redis.from_url(
            settings.redis.url.get_secret_value(), socket_timeout=5, socket_connect_timeout=2
        )
        self._sum = self.client.register_script(_SUM)
        self._marks: dict[str, int] = {}
        self._missed: set[str] = set()
        self._wait = _RETRY_S[0]
        self._again_at = 0.0

    def expect(self, source: str, offset: int) -> None:
        """A task has come whose state is as of an offset: Redis should hold all that lies before."""
        self._marks[source] = offset
        self._missed.discard(source)

    def write(self, tasks: Iterable[Task], now_us: int, tick: bool) -> None:
        """Show what the tasks have to show as of now."""
        wanted = list(tasks)
        if not wanted or time.monotonic() < self._again_at:
            return
        try:
            self._write(wanted, now_us, tick)
        except redis.WatchError:
            self.write(wanted, now_us, tick)  # another process wrote between: its marks decide
        except redis.RedisError as error:
            _log.warning("Redis does not take what is shown, tried again in %.1f s: %s", self._wait, error)
            self._missed |= {task.source for task in wanted}
            self._again_at = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, _RETRY_S[1])

    def _write(self, tasks: list[Task], now_us: int, tick: bool) -> None:
        keys = [f"live:_shown:{task.source}" for task in tasks]
        with self.client.pipeline(transaction=True) as pipe:
            pipe.watch(*keys)
            marks = [int(mark or -1) for mark in pipe.mget(keys)]
            ready: list[tuple[Task, str]] = []
            for task, key, mark in zip(tasks, keys, marks, strict=True):
                if mark > task.next:
                    continue  # a replay of what is shown already
                if task.source in self._missed or mark < self._marks.get(task.source, -1):
                    task.all_effects()
                ready.append((task, key))
            self._missed -= {task.source for task, _ in ready}
            commands: list[Command] = []
            for task, key in ready:
                made = task.effects(now_us, tick)
                if made or self._marks.get(task.source) != task.next:
                    commands += made
                    commands.append(("SET", key, task.next, "EX", _MARK_S))
            if commands:
                pipe.multi()
                for command in commands:
                    if command[0] == "SUM":
                        _, name, *arguments = command
                        self._sum(keys=[name, f"{name}:parts"], args=arguments, client=pipe)
                    else:
                        pipe.execute_command(*command)
                self._missed |= {task.source for task, _ in ready}  # until they are known to be written
                pipe.execute()
                self._missed -= {task.source for task, _ in ready}
        self._marks |= {task.source: task.next for task, _ in ready}
        self._wait = _RETRY_S[0]

    def say(self, name: str, words: dict[str, Any]) -> None:
        """Leave word of how a process is, for a minute."""
        try:
            self.client.hset("live:processors", name, orjson.dumps(words))
            self.client.expire("live:processors", 60)
        except redis.RedisError:
            return  # what is shown says so

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
