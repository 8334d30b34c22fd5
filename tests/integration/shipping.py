"""Collector and Filebeat as supervised programs of the test stack, and a log file that lives as log files do."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from elasticsearch import Elasticsearch

from lakehouse import stack as servers
from lakehouse.running import beat_command
from lakehouse.settings import Settings
from lakehouse.sinks import logs_live
from lakehouse.sources.topics import create_topics
from lakehouse.stack import ports
from tests.integration.lake import environment, records_of

BURST = 200
"""Lines written at once."""


@contextmanager
def collecting(settings: Settings, filebeat: Path) -> Iterator[Path]:
    """The collector with conf/logstash/service-logs.conf and the real Filebeat, until left; the folder it follows."""
    create_topics(settings)
    logs_live.prepare(settings)
    folder = settings.home / "logs-of-services"
    folder.mkdir(exist_ok=True)
    chosen = ports.choose({name: 25_044 + n for n, name in enumerate(("BEATS", "TCP", "HTTP", "SYSLOG"))})
    at = f"{ports.HOST}:{chosen['BEATS']}"
    own = {name: value for name, value in environment(settings).items() if name.startswith("LAKEHOUSE_")}
    own |= {f"COLLECT_{name}_PORT": str(port) for name, port in chosen.items()}
    # A program that is killed at once, more than once, is no program that cannot start.
    again: dict[str, Any] = {"autorestart": "true", "start_retries": 20}
    command = [sys.executable, "-m", "lakehouse.cli", "collect"]
    try:
        servers.add_program(settings, "collect", command, own, **again)
        beats = {"LOGS": str(folder), "COLLECT_BEATS": at}
        servers.add_program(settings, "filebeat", beat_command(settings, filebeat), beats, **again)
        yield folder
    finally:
        for name in ("filebeat", "collect"):
            servers.remove_program(settings, name)


class Service:
    """A service that writes its log: equal lines in plenty, renamed and emptied on the way."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.name = f"svc-{uuid4().hex[:12]}"
        self.path = folder / f"{self.name}.log"
        self.written: Counter[str] = Counter()
        self._settings, self._seen = settings, 0
        self._file = self.path.open("ab", buffering=0)
        self._elastic = Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=10)

    def write(self, lines: int) -> None:
        """Append lines, a burst at a time; every second one says the same as all of its kind."""
        for first in range(0, lines, BURST):
            texts = [self._text(n) for n in range(first, min(first + BURST, lines))]
            self._file.write(b"".join(text.encode() + b"\n" for text in texts))
            self.written.update(text.rpartition(" - ")[2] for text in texts)
            time.sleep(0.02)  # the pace of the writer, not a wait

    def _text(self, number: int) -> str:
        said = "nothing new" if number % 2 else f"number {self.written.total() + number}"
        return f"2026-11-25T12:00:00.000Z INFO [{self.name},-,-] host-1 svc.app - {said}"

    def rotate(self) -> None:
        """Rename the file and go on in a new one."""
        self.path.rename(self.path.with_suffix(".log.1"))
        self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def empty(self) -> None:
        """Truncate the file in place."""
        self._file.truncate(0)

    def close(self) -> None:
        self._file.close()
        self._elastic.close()

    def documents(self) -> int:
        """How many there are in logs-live; -1 while Elasticsearch is away."""
        try:
            self._elastic.indices.refresh(index=logs_live.LOGS_LIVE)
            query = {"term": {"service.name": self.name}}
            return int(self._elastic.count(index=logs_live.LOGS_LIVE, query=query)["count"])
        except Exception:
            return -1

    def arrived(self, seconds: float) -> None:
        """Return when every line so far is in logs-live, or say what there is instead."""
        self._until(lambda: self.documents() >= self.written.total(), seconds)

    def flows(self, seconds: float) -> None:
        """Return when some line more is in logs-live than at the last call."""
        self._until(lambda: self.documents() > self._seen, seconds)
        self._seen = self.documents()

    def _until(self, there: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"{self.documents()} of {self.written.total()} lines arrived"
            time.sleep(0.3)

    def in_kafka(self) -> dict[str, list[str]]:
        """id -> the messages that came with it, repeats included."""
        found: dict[str, list[str]] = {}
        for record in records_of(self._settings, ["service-logs"]):
            body = orjson.loads(record.value()) if (record.value() or b"").startswith(b'{"') else {}
            if isinstance(body, dict) and body.get("service", {}).get("name") == self.name:
                found.setdefault(body["event"]["id"], []).append(body["message"])
        return found


def killed_on_the_way(settings: Settings, folder: Path, lines: int, patience: float) -> tuple[Service, int]:
    """Let a service write its lines while everything on their way is killed once; it, and the repeats in Kafka."""
    service = Service(settings, folder)
    killed = {0: ["filebeat"], 2: ["collect"], 4: ["kafka"], 6: ["elasticsearch"], 8: ["filebeat", "collect"]}
    try:
        for step in range(10):
            service.write(lines // 10)
            if step in killed:
                service.flows(patience)  # some of it has come, the rest is on its way
                for name in killed[step]:
                    servers.kill_server(settings, name)
            if step == 1:
                service.rotate()
            if step == 5:
                service.arrived(patience)
                service.empty()
        service.arrived(patience)
        found = service.in_kafka()
        assert service.documents() == len(found) == service.written.total()
        assert all(len(set(said)) == 1 for said in found.values())
        assert Counter(said[0] for said in found.values()) == service.written
        return service, sum(map(len, found.values())) - len(found)
    finally:
        service.close()
