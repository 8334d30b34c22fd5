"""The collector on real servers: lumberjack, disk queue, Kafka and Elasticsearch, both killed on the way."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from elasticsearch import Elasticsearch

from lakehouse import stack as servers
from lakehouse.collect import inputs, outputs
from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.inputs.beats import Beats
from lakehouse.collect.pipeline import Pipeline
from lakehouse.collect.queue import Queue
from lakehouse.settings import Settings
from lakehouse.sources.topics import CONFIG
from tests.integration.lake import records_of
from tests.unit.collect.fakes import Beat, frames, plugin

pytestmark = pytest.mark.integration
WINDOWS, SIZE = 60, 200


def topic(settings: Settings, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, settings.kafka.partitions, 1, config=CONFIG)]).values():
        future.result()


def records(settings: Settings, name: str) -> list[dict[str, object]]:
    return [orjson.loads(record.value()) for record in records_of(settings, [name])]


def collector(settings: Settings, home: Path, name: str) -> tuple[Pipeline, Beats]:
    letters = {output: DeadLetters(home / "dead-letters", output) for output in ("kafka", "elasticsearch")}
    url = settings.elasticsearch.url.get_secret_value()
    kafka = plugin("kafka", "output", topic_id=name, codec="json", bootstrap_servers=settings.kafka.bootstrap_servers)
    elastic = plugin("elasticsearch", "output", hosts=[url], index=name)
    source = inputs.opened(plugin("beats", port=0))
    assert isinstance(source, Beats)
    takers = {p.name: outputs.opened(p, letters[p.name].add) for p in (kafka, elastic)}
    line = Pipeline(
        inputs={"beats": source}, apply=lambda event: True, route=lambda event: [0, 1], outputs=takers,
        queue=Queue(home / "queue.db"), dead_letters=letters,
    )  # fmt: skip
    return line, source


async def feed(settings: Settings, line: Pipeline, source: Beats) -> None:
    """Send all windows; both servers are killed after a third of them."""
    running = asyncio.create_task(line.run())
    beat = await Beat.connect(await asyncio.wrap_future(source.port))
    for window in range(WINDOWS):
        events = [{"message": f"{window}.{n}", "value": "text" if (window, n) == (7, 7) else n} for n in range(SIZE)]
        await beat.send(frames(events, compressed=True))
        if window == WINDOWS // 3:
            for server in ("kafka", "elasticsearch"):
                servers.kill_server(settings, server, signal.SIGKILL)
        while not int.from_bytes((await asyncio.wait_for(beat.reader.readexactly(6), 180))[2:], "big"):
            pass  # kept alive
    line.stop()
    await running


def test_every_event_is_in_kafka_and_once_in_elasticsearch_though_both_are_killed(
    stack: Settings, tmp_path: Path
) -> None:
    name = f"collect-{uuid4().hex[:8]}"
    topic(stack, name)
    line, source = collector(stack, tmp_path, name)
    asyncio.run(asyncio.wait_for(feed(stack, line, source), 400))
    sent = {f"{window}.{n}" for window in range(WINDOWS) for n in range(SIZE)}
    found = records(stack, name)
    assert {record["message"] for record in found} == sent
    assert len({record["event"]["id"] for record in found}) == len(sent)  # type: ignore[index]
    with Elasticsearch(stack.elasticsearch.url.get_secret_value()) as client:
        client.indices.refresh(index=name)
        assert client.count(index=name)["count"] == len(sent) - 1
        with suppress(Exception):
            client.indices.delete(index=name)
    (letter,) = (tmp_path / "dead-letters/elasticsearch.jsonl").read_bytes().splitlines()
    assert orjson.loads(letter)["event"]["message"] == "7.7" and "400" in orjson.loads(letter)["reason"]
