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

import msgspec
import orjson
import redis

from lakehouse.realtime.task import Task
from lakehouse.settings import Settings

_WRITE = """
local function sum(key, partition, at, ttl, part)
  local parts = key .. ':parts'
  redis.call('hset', parts, partition, cjson.encode(part))
  local sums = {}
  for _, one in ipairs(redis.call('hvals', parts)) do
    for field, number in pairs(cjson.decode(one)) do sums[field] = (sums[field] or 0) + number end
  end
  local old = redis.call('hget', key, 'at')
  redis.call('del', key)
  for field, number in pairs(sums) do redis.call('hset', key, field, number) end
  redis.call('hset', key, 'at', (old and old > at) and old or at)
  redis.call('expire', key, ttl)
  redis.call('expire', parts, ttl)
end
local found = {}
for i, task in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key, offset, commands = task[1], task[2], task[3]
  local mark = tonumber(redis.call('get', key) or -1)
  if mark <= offset then
    for _, command in ipairs(commands) do
      if command[1] == 'SUM' then sum(unpack(command, 2)) else redis.call(unpack(command)) end
    end
    redis.call('set', key, offset, 'EX', ARGV[2])
  end
  found[i] = mark
end
return found
"""
"""Tasks as (key of the mark, offset, commands); returns the marks that were there. What is behind its mark is left out.

``SUM key partition at ttl part``: a hash whose fields are the sums of every task's part of it.
"""
_MARK_S = 7 * 24 * 3600
_RETRY_S = (0.5, 10.0)
_log = logging.getLogger(__name__)


class Shown:
    """Writes commands of tasks; while Redis is away it keeps none of them, and shows everything again afterwards."""

    def __init__(self, settings: Settings) -> None:
        self.client: Any = redis.Redis.from_url(
            settings.redis.url.get_secret_value(), socket_timeout=5, socket_connect_timeout=2
        )
        self._write = self.client.register_script(_WRITE)
        self._marks: dict[str, int] = {}
        self._missed: set[str] = set()
        self._wait = _RETRY_S[0]
        self._again_at = 0.0

    def expect(self, task: Task) -> None:
        """A task has come: Redis should hold all that lies before it, but for what its next tick would have shown."""
        self._marks[task.source] = task.next
        self._missed.discard(task.source)
        task.tick_effects()

    def write(self, tasks: Iterable[Task], now_us: int, tick: bool) -> None:
        """Show what the tasks have to show as of now."""
        wanted = list(tasks)
        if not wanted or time.monotonic() < self._again_at:
            return
        made = []
        for task in wanted:
            if task.source in self._missed:
                task.all_effects()
            made.append((f"live:_shown:{task.source}", task.next, task.effects(now_us, tick)))
        if not any(commands for *_, commands in made):
            made = [
                shown for shown, task in zip(made, wanted, strict=True) if self._marks.get(task.source) != task.next
            ]
            wanted = [task for task in wanted if self._marks.get(task.source) != task.next]
            if not made:
                return
        try:
            marks = self._write(args=(msgspec.msgpack.encode(made), _MARK_S))
        except redis.RedisError as error:
            _log.warning("Redis does not take what is shown, tried again in %.1f s: %s", self._wait, error)
            self._missed |= {task.source for task in wanted}
            self._again_at = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, _RETRY_S[1])
            return
        self._wait = _RETRY_S[0]
        for task, mark in zip(wanted, marks, strict=True):
            if mark <= task.next:
                # It holds less than was written: it has lost something, so all is shown with the next write.
                lost = mark < self._marks.get(task.source, -1)
                (self._missed.add if lost else self._missed.discard)(task.source)
                self._marks[task.source] = task.next
            else:
                # Whoever was here before has shown what was left out now, but may have died before its tick.
                task.tick_effects()

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
