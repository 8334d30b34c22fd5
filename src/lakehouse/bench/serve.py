"""``bench serve``: how soon the API answers, and how often, beside a plain endpoint without our caching.

Server and load generator have a core each; broker, stores and HDFS take what is left of both. The tables are made for
it, in a lake root and a Redis database of their own, which are emptied at the end.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import psutil
import pyarrow as pa
import redis
from deltalake import write_deltalake
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import PyFileSystem

from lakehouse.bench.figures import BenchError, Figure, figure
from lakehouse.flows import TABLES
from lakehouse.ops.access_log import TABLE as ACCESSES
from lakehouse.running import up
from lakehouse.settings import PROJECT, Settings, load

LARGE = 1_000_000
"""Rows of the large table: hosts' metrics."""
SERVICES, MINUTES = 6, 2880
RATE = 500
CONNECTIONS = 32
SECONDS = 20
SERVER, CLIENT = 0, 1
"""The cores of server and load generator."""
MANY = 100_000
LARGE_PATH = "/v1/hosts/host-{}/utilization?limit=100&filter=metric:eq:system.metric.{}&filter=avg:gt:0"
TWENTY = """query ($name: String!) { service(name: $name) { health(first: 20) {
    version nodes { windowStart service requests errors errorRate p50Ms p95Ms p99Ms } } } }"""
_REDIS_DB = 8
_ROOT = "/bench-serve"
Request = tuple[str, str, Any]


def serve(settings: Settings) -> list[Figure]:
    """Latencies, throughput beside the plain endpoint, memory.

    Raises:
        BenchError: it could not be carried out.
    """
    up(settings, servers_only=True)
    settings = load()
    with TemporaryDirectory() as home:
        trial = Trial(settings, Path(home))
        trial.fill()
        try:
            return trial.figures()
        finally:
            trial.clear()


class Trial:
    """Tables, keys, and servers that read them."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.home = home
        self.redis_url = settings.redis.url.get_secret_value().rpartition("/")[0] + f"/{_REDIS_DB}"
        hdfs = settings.hdfs.model_copy(update={"root": f"{_ROOT}-{os.getpid()}"})
        self.settings = settings.model_copy(update={"hdfs": hdfs, "home": home})
        self._env = {
            **os.environ,
            "LAKEHOUSE_HOME": str(home),
            "LAKEHOUSE_HDFS__URI": settings.hdfs.uri,
            "LAKEHOUSE_HDFS__ROOT": hdfs.root,
            "LAKEHOUSE_REDIS__URL": self.redis_url,
            "LAKEHOUSE_MONGO__URI": settings.mongo.uri.get_secret_value(),
            "LAKEHOUSE_ELASTICSEARCH__URL": settings.elasticsearch.url.get_secret_value(),
            "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
            # Limits of rates are counted as ever, and are far away.
            "LAKEHOUSE_API__RATE__READ__PER_MINUTE": "1000000",
            "LAKEHOUSE_API__RATE__READ__BURST": "1000000",
            "LAKEHOUSE_API__RATE__PREDICT__PER_MINUTE": "1000000",
            "LAKEHOUSE_API__RATE__PREDICT__BURST": "1000000",
        }

    # --- what is read ------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Make the tables and the keys."""
        rng = np.random.default_rng(1)
        newest = datetime.now(UTC).replace(second=0, microsecond=0)
        self._health(newest, MINUTES, rng)
        hosts, metrics = 50, 10
        minutes = LARGE // (hosts * metrics)
        at = np.repeat(np.arange(minutes), hosts * metrics)
        times = np.datetime64(newest.replace(tzinfo=None), "us") - at * np.timedelta64(60_000_000, "us")
        count = minutes * hosts * metrics
        table = pa.table(
            {
                "window_start": pa.array(times, pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
                "host": np.tile(np.repeat([f"host-{n}" for n in range(hosts)], metrics), minutes),
                "metric": np.tile([f"system.metric.{n}" for n in range(metrics)], hosts * minutes),
                "avg": rng.random(count),
                "max": 1 + rng.random(count),
                "samples": np.full(count, 6),
            }
        )
        self._write("gold.host_utilization_minute", table)
        self._write(ACCESSES.name, ACCESSES.arrow.empty_table())  # reads of what is a user's are kept there
        client: Any = redis.Redis.from_url(self.redis_url)
        items = [{"post_id": f"p{number}", "score": 1 / (number + 1)} for number in range(20)]
        body = orjson.dumps({"model_version": "1", "at": newest, "items": items}, option=orjson.OPT_UTC_Z)
        client.mset({f"recs:u{number}": body for number in range(1000)})

    def _health(self, newest: datetime, minutes: int, rng: np.random.Generator) -> None:
        at = [newest - timedelta(minutes=number // SERVICES) for number in range(minutes * SERVICES)]
        requests = rng.integers(50, 500, len(at))
        table = pa.table(
            {
                "window_start": at,
                "service": [f"s{number % SERVICES}" for number in range(len(at))],
                "requests": requests,
                "errors": requests // 50,
                "error_rate": (requests // 50) / requests,
                **{
                    name: rng.gamma(2, scale, len(at))
                    for name, scale in (("p50_ms", 9), ("p95_ms", 40), ("p99_ms", 90))
                },
            }
        )
        self._write("gold.service_health_minute", table)

    def _write(self, name: str, rows: pa.Table) -> None:
        write_deltalake(self.settings.table_uri(name), rows.cast(TABLES[name].arrow), mode="append")

    @contextmanager
    def moving(self) -> Iterator[None]:
        """The small table gets a minute a second meanwhile, as while a stream writes it."""
        leaving = threading.Event()
        rng = np.random.default_rng(2)

        def write() -> None:
            minute = 0
            while not leaving.wait(1.0):
                minute += 1
                self._health(datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=minute), 1, rng)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            leaving.set()
            thread.join(10)

    def clear(self) -> None:
        """Empty the Redis database and the lake root."""
        redis.Redis.from_url(self.redis_url).flushdb()
        for layer in ("gold", "ops"):
            PyFileSystem(DeltaStorageHandler(self.settings.root)).delete_dir(layer)

    # --- servers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def server(self, plain: bool = False) -> Iterator[tuple[int, psutil.Process]]:
        """A server's port and process: ours, or the plain one."""
        port = _free()
        run = (
            ["-m", "lakehouse.bench.plain_api", str(port), str(SERVER)]
            if plain
            else ["-m", "lakehouse.cli", "serve", "--port", str(port)]
        )
        with (self.home / "serve.log").open("ab") as log:
            process = psutil.Popen([sys.executable, *run], env=self._env, cwd=PROJECT, stdout=log, stderr=log)
        try:
            process.cpu_affinity([SERVER])
            deadline = time.monotonic() + 60
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"the server does not start: {self._log()}")
                time.sleep(0.1)
            yield port, process
        finally:
            process.terminate()
            process.wait(30)

    def _log(self) -> str:
        return (self.home / "serve.log").read_text()[-2000:]

    def token(self) -> str:
        """A token that may read."""
        scopes = [word for scope in ("read:metrics", "read:users", "predict") for word in ("--scope", scope)]
        command = [sys.executable, "-m", "lakehouse.cli", "token", *scopes]
        return subprocess.run(
            command, env=self._env, cwd=PROJECT, capture_output=True, text=True, check=True
        ).stdout.strip()

    def ask(
        self, port: int, requests: Sequence[Request], rate: float, seconds: float, connections: int = CONNECTIONS
    ) -> dict[str, Any]:
        """What the load generator says.

        Raises:
            BenchError: an answer was not 200.
        """
        said = orjson.dumps({"headers": {"Authorization": f"Bearer {self._token}"}, "requests": requests})
        given = (port, rate, seconds, connections)
        command = [sys.executable, "-m", "lakehouse.bench.load", "127.0.0.1", *map(str, given)]
        process = psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._env, cwd=PROJECT)
        process.cpu_affinity([CLIENT])
        out, _ = process.communicate(said)
        found: dict[str, Any] = orjson.loads(out)
        if set(found["statuses"]) - {"200", "closed"}:
            raise BenchError(f"not all answers were 200: {found['statuses']}; {self._log()}")
        return found

    # --- figures -----------------------------------------------------------------------------------------------------

    def figures(self) -> list[Figure]:
        """All of them."""
        self._token = self.token()
        health = [("GET", f"/v1/services/s{n}/health?limit=60", None) for n in range(SERVICES)]
        with self.server(plain=True) as (port, _):
            self.ask(port, health, 0, 3, 8)
            plain = self.ask(port, health, 0, SECONDS, 8)
        with self.server() as (port, process):
            self.ask(port, health, RATE, 3)
            with self.moving():
                cached = self.ask(port, health, RATE, SECONDS)
                most = self.ask(port, health, 0, SECONDS, 8)
            large = [("GET", f"{LARGE_PATH.format(n % 50, n % 10)}.{n:06d}", None) for n in range(5000)]
            self.ask(port, large[-20:], 10, 2, 4)
            uncached = self.ask(port, large[:-20], 10, SECONDS, 4)
            wanted = [("GET", f"/v1/users/u{n}/recommendations", None) for n in range(1000)]
            recommendations = self.ask(port, wanted, RATE, SECONDS)
            queries = [("POST", "/graphql", {"query": TWENTY, "variables": {"name": f"s{n}"}}) for n in range(SERVICES)]
            with self.moving():
                self.ask(port, queries, 20, 2, 4)
                graphql = self.ask(port, queries, 50, SECONDS, 8)
            self.ask(port, health, 0, 10, 8)
            before, asked = process.memory_info().rss, 0
            while asked < MANY:
                asked += self.ask(port, health, 0, 10, 8)["sent"]
            after = process.memory_info().rss
        return [
            *_latencies(f"cached gold read at {RATE} requests/s, the table moving", cached, 10),
            figure("cached gold read, most", most["sent"] / most["seconds"], "requests/s"),
            figure("the plain endpoint, most", plain["sent"] / plain["seconds"], "requests/s"),
            figure("ratio", most["sent"] / most["seconds"] / (plain["sent"] / plain["seconds"]), "x", 4, least=True),
            *_latencies("filtered read of a million rows, never cached, at 10 requests/s", uncached, 150),
            *_latencies(f"recommendations at {RATE} requests/s", recommendations, 10),
            *_latencies("GraphQL, 20 rows, at 50 requests/s, the table moving", graphql, 30),
            figure(f"memory grown over {asked:,} requests", (after - before) / 2**20, "MiB", 16),
        ]


def _latencies(name: str, found: dict[str, Any], bound: float) -> list[Figure]:
    p50, _, p99, _ = found["ms"]
    return [figure(f"{name}, p50", p50, "ms"), figure(f"{name}, p99", p99, "ms", bound)]


def _free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
