"""Redis, the lake's keys: the newest rows of every gold table.

Guarantee: a key is set whole, and never to an older ``version`` of its table than it holds.
"""

from __future__ import annotations

from typing import Any

import orjson
import redis

from lakehouse.settings import Settings

PROGRESS = "lakehouse:progress"
NEWEST_ROWS = 100
_SET_IF_NEWER = """
local old = redis.call('get', KEYS[1])
if old and cjson.decode(old)['version'] > tonumber(ARGV[1]) then return 0 end
redis.call('set', KEYS[1], ARGV[2])
return 1
"""


class RedisSink:
    """Writes snapshots of gold tables."""

    def __init__(self, settings: Settings):
        self.client = redis.Redis.from_url(
            settings.redis.url.get_secret_value(), socket_timeout=10, socket_connect_timeout=3
        )
        self._set_if_newer = self.client.register_script(_SET_IF_NEWER)

    def put_latest(self, table: str, version: int, at: str, rows: list[dict[str, Any]]) -> None:
        """Set ``gold:<table>:latest`` to the rows of one version; ``at`` is the RFC 3339 time of writing."""
        key = f"gold:{table.removeprefix('gold.')}:latest"
        body = orjson.dumps({"table": table, "version": version, "at": at, "rows": rows}, option=orjson.OPT_UTC_Z)
        self._set_if_newer(keys=[key], args=[version, body])

    def progress(self) -> dict[str, Any]:
        """How far the fan-out to this store is."""
        found: Any = self.client.get(PROGRESS)
        return orjson.loads(found) if found else {"changes": {}, "silver": {}}

    def advance(self, progress: dict[str, Any]) -> None:
        """Record progress, after the keys."""
        self.client.set(PROGRESS, orjson.dumps(progress))
