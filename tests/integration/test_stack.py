"""The local servers: kept data, quick repeats, strangers left alone. Real servers, killed for real."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable, write_deltalake
from elasticsearch import Elasticsearch
from pydantic import SecretStr
from pymongo import MongoClient
from redis import Redis

from lakehouse import stack as servers
from lakehouse.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

COUNT = 50


def kafka_write(settings: Settings) -> None:
    address = {"bootstrap.servers": settings.kafka.bootstrap_servers}
    admin = AdminClient(address)
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    producer = Producer({**address, "acks": "all"})
    for i in range(COUNT):
        producer.produce("kept", str(i))
    assert producer.flush(20) == 0


def kafka_count(settings: Settings) -> int:
    group = {"group.id": str(time.time()), "auto.offset.reset": "earliest"}
    with closing(Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, **group})) as consumer:
        consumer.subscribe(["kept"])
        return len(consumer.consume(COUNT, timeout=30))


def hdfs_write(settings: Settings) -> None:
    write_deltalake(settings.table_uri("test.kept"), pa.table({"id": range(COUNT)}))


def hdfs_count(settings: Settings) -> int:
    return DeltaTable(settings.table_uri("test.kept")).to_pyarrow_table().num_rows


def elasticsearch_write(settings: Settings) -> None:
    with Elasticsearch(settings.elasticsearch.url.get_secret_value()) as client:
        operations = [part for i in range(COUNT) for part in ({"index": {"_id": str(i)}}, {"value": i})]
        assert not client.bulk(index="kept", operations=operations)["errors"]


def elasticsearch_count(settings: Settings) -> int:
    with Elasticsearch(settings.elasticsearch.url.get_secret_value()) as client:
        client.indices.refresh(index="kept")
        return int(client.count(index="kept")["count"])


def mongodb_write(settings: Settings) -> None:
    with MongoClient[dict[str, Any]](settings.mongo.uri.get_secret_value()) as client:
        client.test.kept.insert_many({"_id": i} for i in range(COUNT))


def mongodb_count(settings: Settings) -> int:
    with MongoClient[dict[str, Any]](settings.mongo.uri.get_secret_value()) as client:
        return client.test.kept.count_documents({})


def redis_write(settings: Settings) -> None:
    with Redis.from_url(settings.redis.url.get_secret_value()) as client:
        client.mset({f"kept:{i}": i for i in range(COUNT)})


def redis_count(settings: Settings) -> int:
    with Redis.from_url(settings.redis.url.get_secret_value()) as client:
        return sum(1 for _ in client.scan_iter("kept:*"))


STORES = {
    "kafka": (kafka_write, kafka_count),
    "hdfs": (hdfs_write, hdfs_count),
    "elasticsearch": (elasticsearch_write, elasticsearch_count),
    "mongodb": (mongodb_write, mongodb_count),
    "redis": (redis_write, redis_count),
}


@pytest.fixture(scope="module")
def written(stack: Settings) -> Settings:
    for write, _ in STORES.values():
        write(stack)
    return stack


@pytest.mark.parametrize("name", ["kafka", "namenode", "datanode", "elasticsearch", "mongodb", "redis"])
def test_a_killed_server_comes_back_with_its_data(written: Settings, name: str) -> None:
    before = servers.status(written)[name]
    servers.kill_server(written, name)
    servers.up(written, progress=False)
    after = servers.status(written)[name]
    assert after["pid"] != before["pid"]
    assert after["restarts"] == before["restarts"] + 1
    _, count = STORES["hdfs" if name.endswith("node") else name]
    assert count(written) == COUNT


def test_all_data_and_addresses_outlive_down_and_up(written: Settings) -> None:
    before = {name: server["address"] for name, server in servers.status(written).items()}
    servers.down(written)
    assert {server["state"] for server in servers.status(written).values()} == {"STOPPED"}
    servers.up(written, progress=False)
    assert {name: server["address"] for name, server in servers.status(written).items()} == before
    assert {name: count(written) for name, (_, count) in STORES.items()} == dict.fromkeys(STORES, COUNT)


def test_up_when_all_is_up_starts_nothing_and_is_quick(stack: Settings) -> None:
    before = {name: server["pid"] for name, server in servers.status(stack).items()}
    started = time.monotonic()
    servers.up(stack, progress=False)
    assert time.monotonic() - started < 3
    assert {name: server["pid"] for name, server in servers.status(stack).items()} == before


def test_a_watcher_killed_with_its_servers_running_is_replaced(written: Settings) -> None:
    before = {name: server["pid"] for name, server in servers.status(written).items()}
    (watcher,) = {psutil.Process(pid).ppid() for pid in before.values()}
    psutil.Process(watcher).kill()
    servers.up(written, progress=False)
    assert [name for name, pid in before.items() if pid is None or psutil.pid_exists(pid)] == []
    assert mongodb_count(written) == COUNT
    assert all(server["ready"] for server in servers.status(written).values())


def test_fresh_wipes_only_what_is_stopped(written: Settings) -> None:
    with pytest.raises(servers.StackError, match="redis still running"):
        servers.up(written, fresh=True, only=["redis"], progress=False)
    assert redis_count(written) == COUNT


@pytest.fixture
def alone(stack: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A second home, for tests that need nothing but Redis."""
    settings = Settings(home=tmp_path / "home", jars=stack.jars)
    yield settings
    servers.down(settings)


def test_a_strangers_port_is_left_alone_and_ours_moves(alone: Settings) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        wanted = alone.model_copy(
            update={"redis": type(alone.redis)(url=SecretStr(f"redis://127.0.0.1:{stranger.getsockname()[1]}/0"))}
        )
        moved = servers.up(wanted, only=["redis"], progress=False)
        assert urlsplit(moved.redis.url.get_secret_value()).port != stranger.getsockname()[1]
        servers.down(wanted)
        socket.create_connection(stranger.getsockname()).close()


def until(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_a_program_runs_with_its_environment_and_is_started_again(alone: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import os, time; open({str(out)!r}, 'a').write(os.environ['WORD'] + ' '); time.sleep(600)"
    servers.add_program(alone, "writer", [sys.executable, "-c", code], {"WORD": "it's 100%"}, "true")
    assert until(lambda: out.exists() and out.read_text() == "it's 100% ")
    assert until(lambda: servers.program_states(alone)["writer"]["state"] == "RUNNING")
    servers.kill_server(alone, "writer", signal.SIGTERM)
    assert until(lambda: out.read_text() == "it's 100% it's 100% ")
    assert servers.program_states(alone)["writer"]["restarts"] == 1
    servers.remove_program(alone, "writer")
    assert servers.program_states(alone) == {}


def test_a_program_that_cannot_start_is_given_up(alone: Settings) -> None:
    servers.add_program(alone, "broken", [sys.executable, "-c", "raise SystemExit(3)"], {}, start_retries=1)
    assert until(lambda: servers.program_states(alone)["broken"]["state"] == "FATAL")


def test_down_ends_nothing_but_our_own(alone: Settings) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    servers.up(alone, only=["redis"], progress=False)
    servers.down(alone)
    assert stranger.poll() is None
    stranger.communicate(b"\n")
    assert stranger.wait(10) == 0


def test_an_existing_server_that_does_not_answer_is_named_with_its_setting(alone: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so no one else's, and not listening
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        existing = alone.model_copy(
            update={"servers": "existing", "kafka": type(alone.kafka)(bootstrap_servers=where)},
        )
        with pytest.raises(servers.StackError, match=rf"kafka.bootstrap_servers \({where}\).*LAKEHOUSE_KAFKA__"):
            servers.up(existing)
