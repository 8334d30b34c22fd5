"""The collector on real servers: lumberjack, disk queue, Kafka and Elasticsearch, both killed on the way."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from elasticsearch import Elasticsearch

from lakehouse import stack as servers
from lakehouse.bench.collect import access_log
from lakehouse.collect import inputs, outputs
from lakehouse.collect.collector import collector as collector_of
from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.inputs.beats import Beats
from lakehouse.collect.pipeline import Pipeline
from lakehouse.collect.queue import Queue
from lakehouse.settings import PROJECT, Settings
from lakehouse.sinks import logs_live
from lakehouse.sinks.logs_live import TEMPLATE
from lakehouse.sources.topics import CONFIG
from tests.integration.fuzz import fuzzed
from tests.integration.lake import records_of
from tests.unit.collect.fakes import Beat, frames, plugin

pytestmark = pytest.mark.integration
WINDOWS, SIZE = 60, 200


def topic(settings: Settings, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, settings.kafka.partitions, 1, config=CONFIG)]).values():
        future.result()


def records(settings: Settings, name: str) -> list[dict[str, object]]:
    return [json.loads(record.value()) for record in records_of(settings, [name])]  # numbers of any size


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


def piped(settings: Settings, home: Path, name: str, lines: Path) -> tuple[Pipeline, float]:
    """Run conf/logstash/service-logs.conf over the lines of a file, to its end; the pipeline, and the seconds."""
    text = (PROJECT / "conf" / "logstash" / "service-logs.conf").read_text()
    filters = text[text.index("filter {") : text.index("output {")]
    outputs = text[text.index("output {") :].replace('"service-logs"', f'"{name}"').replace('"logs-live"', f'"{name}"')
    source = f'input {{ file {{ path => "{lines}" start_position => "beginning" stat_interval => 0.05 }} }}\n'
    (home / f"{lines.stem}.conf").write_text(source + filters + outputs)
    line = collector_of(settings.model_copy(update={"home": home}), home / f"{lines.stem}.conf")
    count = lines.read_bytes().count(b"\n")

    async def run() -> float:
        running, began = asyncio.create_task(line.run()), time.monotonic()
        while line.stats()["events"]["out"] < 2 * count:
            assert not running.done(), running
            await asyncio.sleep(0.05)
        line.stop()
        await running
        return time.monotonic() - began

    return line, asyncio.run(asyncio.wait_for(run(), 300))


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_what_no_service_means_to_write_neither_stops_nor_slows_the_collector(
    count: int, stack: Settings, tmp_path: Path
) -> None:
    name, seed = f"fuzz-{uuid4().hex[:8]}", time.time_ns() % 10_000
    print(f"\nfuzzed lines of seed {seed}")
    topic(stack, name)
    meant, fuzz = tmp_path / "meant.log", tmp_path / "fuzz.log"
    lines = list(fuzzed(seed, count))
    fuzz.write_bytes(b"".join(line + b"\n" for line in lines))
    meant.write_text("".join(access_log(n) + "\n" for n in range(count)))
    with Elasticsearch(stack.elasticsearch.url.get_secret_value()) as client:
        client.indices.create(index=name, **TEMPLATE)
        piped(stack, tmp_path, name, meant)  # connections and index are made
        _, usual = piped(stack, tmp_path, name, meant.rename(tmp_path / "again.log"))
        line, took = piped(stack, tmp_path, name, fuzz)
        events = line.stats()["events"]
        assert (events["in"], events["filter_errors"], events["dropped"]) == (count, 0, 0)
        # Kafka refuses nothing, Elasticsearch only what is no document of its mapping; both say why.
        assert events["out"] == 2 * count and line.stats()["outputs"]["kafka"]["dead"] == 0
        client.indices.refresh(index=name)
        documents = client.count(index=name)["count"]
        client.indices.delete(index=name)
    found = records(stack, name)
    assert len(found) == 3 * count
    # A mutated line may bear the id of another, also one that is refused.
    ids = len({record["event"]["id"] for record in found})  # type: ignore[index]
    assert ids - events["dead"] <= documents <= ids
    # As many bytes as usual lines, some of them a thousand times as long, take no longer than those did.
    size = fuzz.stat().st_size / (tmp_path / "again.log").stat().st_size
    print(f"{count:,} lines: {took:.1f} s, usual ones {usual:.1f} s, bytes {size:.1f} times as many")
    assert took < max(1, size) * usual * 2


def test_logs_live_keeps_a_document_for_a_day_after_it_last_arrived(stack: Settings) -> None:
    logs_live.prepare(stack)
    run, now = uuid4().hex[:8], datetime.now(UTC)
    with Elasticsearch(stack.elasticsearch.url.get_secret_value()) as client:

        def arrive(*names: str) -> None:
            for name in names:
                document = {"@timestamp": "2015-01-01T00:00:00Z", "service": {"name": run}, "odd": {"n": "x"}}
                client.index(index=logs_live.LOGS_LIVE, id=f"{run}-{name}", document=document)

        def there() -> set[str]:
            client.indices.refresh(index=logs_live.LOGS_LIVE)
            hits = client.search(index=logs_live.LOGS_LIVE, query={"term": {"service.name": run}})["hits"]["hits"]
            return {hit["_id"].rpartition("-")[2] for hit in hits}

        arrive("old", "again")
        logs_live.expire(stack, now)
        arrive("new", "again")
        assert logs_live.expire(stack, now + timedelta(hours=23)) == 0
        assert there() == {"old", "again", "new"}
        assert logs_live.expire(stack, now + timedelta(hours=25)) >= 1
        assert there() == {"again", "new"}
        assert logs_live.expire(stack, now + timedelta(hours=48)) >= 2
        assert there() == set()
