"""An HTTP/1.1 load generator: requests at scheduled times over connections that stay open, in a process of its own.

Latency counts from the time that a request was due, not from when it could be sent, so that a server that stalls pays
for those that wait (coordinated omission; G. Tene, "How NOT to Measure Latency").

    python -m lakehouse.bench.load HOST PORT RATE SECONDS CONNECTIONS   < requests.json

Reads ``{"headers": {...}, "requests": [[method, path, body or null], ...]}``, takes them in turn, and prints one JSON
object: ``{"sent", "seconds", "statuses": {code: n}, "ms": [p50, p95, p99, max]}``. RATE 0: as fast as answers come.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from itertools import cycle
from typing import Any

import httptools
import numpy as np
import orjson
import uvloop

WAITS_S = 10.0
"""How long answers may still come after the last request was due."""


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._due = 0.0

    def connection_made(self, transport: Any) -> None:
        """Ready for the first request."""
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._load.ready(self)

    def send(self, request: bytes, due: float) -> None:
        """Ask."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """An answer is whole."""
        self._load.answered(self._parser.get_status_code(), time.perf_counter() - self._due)
        self._parser = httptools.HttpResponseParser(self)
        self._load.ready(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The server has closed it: what was under way is lost."""
        self._load.statuses["closed"] += 1


class Load:
    """The schedule, and what came of it."""

    def __init__(self, requests: list[bytes], rate: float, seconds: float) -> None:
        self._requests, self._rate, self._seconds = cycle(requests), rate, seconds
        self._idle: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self.took: list[float] = []
        self.statuses: Counter[str] = Counter()
        self._began = self._end = 0.0
        self.sent = 0

    def ready(self, connection: Connection) -> None:
        """Give a connection what is due, or keep it for later."""
        if self._rate == 0 and self._began and time.perf_counter() < self._end:
            self._send(connection, time.perf_counter())
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def answered(self, status: int, took: float) -> None:
        """Count an answer."""
        self.statuses[str(status)] += 1
        self.took.append(took)

    def _send(self, connection: Connection, due: float) -> None:
        self.sent += 1
        connection.send(next(self._requests), due)

    async def run(self, host: str, port: int, connections: int) -> float:
        """Carry the schedule out; the seconds until the last answer."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: Connection(self), host, port)
        self._began = time.perf_counter()
        self._end = self._began + self._seconds
        if self._rate == 0:
            while self._idle:
                self._send(self._idle.popleft(), time.perf_counter())
            await asyncio.sleep(self._seconds)
        else:
            for number in range(round(self._rate * self._seconds)):
                due = self._began + number / self._rate
                if (pause := due - time.perf_counter()) > 0:
                    await asyncio.sleep(pause)
                if self._idle:
                    self._send(self._idle.popleft(), due)
                else:
                    self._waiting.append(due)
        late = time.perf_counter() + WAITS_S
        while (self._waiting or len(self._idle) < connections) and time.perf_counter() < late:
            await asyncio.sleep(0.01)
        if missing := self.sent - len(self.took):
            self.statuses["no answer"] += missing
        return time.perf_counter() - self._began


def main() -> None:
    """Read what to ask, ask it, print how it went."""
    host, port, rate, seconds, connections = sys.argv[1:]
    said = orjson.loads(sys.stdin.buffer.read())
    head = "".join(f"{name}: {value}\r\n" for name, value in said["headers"].items())
    requests = []
    for method, path, body in said["requests"]:
        content = b"" if body is None else orjson.dumps(body)
        length = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if body is not None else ""
        requests.append(f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{head}{length}\r\n".encode() + content)
    load = Load(requests, float(rate), float(seconds))
    took = uvloop.run(load.run(host, int(port), int(connections)))
    ms = np.array(load.took) * 1000
    found = [round(float(value), 3) for value in (*np.percentile(ms, [50, 95, 99]), ms.max())] if len(ms) else []
    print(orjson.dumps({"sent": load.sent, "seconds": took, "statuses": load.statuses, "ms": found}).decode())


if __name__ == "__main__":
    main()
