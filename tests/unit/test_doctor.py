"""Each check finds what is wrong, says what to do, and finds nothing where all is well."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from lakehouse import doctor, stack
from lakehouse.doctor import Finding, examine
from lakehouse.runtime.ledger import LEDGER
from lakehouse.settings import Api, Settings
from lakehouse.sources.topics import topic_config
from lakehouse.stack import jdk
from serving import keys
from tests.unit.local_lake import local_lake, write

Levels = list[tuple[str, str]]


def levels(found: Iterator[Finding]) -> Levels:
    made = list(found)
    assert all(bool(one.remedy) == (one.level != "ok") for one in made)
    return [(one.level, one.said) for one in made]


def test_a_check_that_cannot_look_is_a_problem_and_hides_no_other(tmp_path: Path) -> None:
    def fails(_: Settings) -> Iterator[Finding]:
        raise OSError("no route\nto anywhere")

    found = examine(Settings(home=tmp_path), {name: fails for name in doctor.CHECKS} | {"space": doctor.space})
    assert {one.check for one in found} == {*doctor.CHECKS, "disk", "memory"} - {"space"}
    assert [one.said for one in found if one.check == "hdfs"] == ["could not be looked at (OSError: no route)"]


def test_packages_that_are_not_as_locked_and_a_java_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    monkeypatch.setattr(jdk, "find", lambda environ: (Path("/j/bin/java"), []))
    assert [level for level, _ in levels(doctor.versions(settings))] == ["ok"]
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == "fastapi" else real(name))
    monkeypatch.setattr(jdk, "find", lambda environ: (None, ["/x is version 11, not 17"]))
    (package, java) = levels(doctor.versions(settings))
    assert package[0] == "problem" and "fastapi 0.0 (locked: " in package[1]
    assert java[0] == "problem" and "version 11" in java[1]


def test_jars_that_are_missing(tmp_path: Path) -> None:
    assert levels(doctor.jar_files(Settings(home=tmp_path, jars=tmp_path)))[0][0] == "problem"


@pytest.mark.parametrize(("free", "level"), [(1 << 30, "problem"), (5 << 30, "warning"), (50 << 30, "ok")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert levels(doctor.space(Settings(home=tmp_path / "not" / "there")))[0][0] == level


@pytest.mark.parametrize(("available", "level"), [(1 << 30, "warning"), (9 << 30, "ok")])
def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int, level: str) -> None:
    memory = SimpleNamespace(available=available, total=16 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert levels(doctor.space(Settings(home=tmp_path)))[1][0] == level


def test_secrets_and_spools_that_others_can_read(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert [level for level, _ in levels(doctor.private_files(settings))] == ["ok"]
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "api.json").touch(0o600)
    (tmp_path / "spool" / "access").mkdir(parents=True)
    (spooled := tmp_path / "spool" / "access" / "x").touch(0o600)
    assert [level for level, _ in levels(doctor.private_files(settings))] == ["ok"]
    spooled.chmod(0o640)
    (tmp_path / "secrets").chmod(0o755)
    assert [level for level, _ in levels(doctor.private_files(settings))] == ["problem", "problem"]


def test_servers_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(_: Settings) -> dict[str, Any]:
        one = {"state": "RUNNING", "ready": True, "address": "a:1", "log": "l"}
        return {
            "kafka": one,
            "redis": {**one, "ready": False},
            "hdfs": {**one, "state": "EXISTING", "ready": False, "log": ""},
        }

    monkeypatch.setattr(stack, "status", status)
    found = list(doctor.servers(Settings()))
    assert [one.level for one in found] == ["ok", "problem", "problem"]
    assert [one.remedy for one in found[1:]] == [
        "lakehouse up --servers; its log: l",
        "start it there, or mend its address",
    ]


def test_ports_that_others_took(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(home=tmp_path, api=Api(port=port))
        found = levels(doctor.free_ports(settings))
        assert ("warning", f"{port}, for the API, is taken") in found
    assert f"{port}, for the API, is taken" not in [said for _, said in levels(doctor.free_ports(settings))]
    assert [level for level, _ in levels(doctor.free_ports(Settings(servers="existing")))] == ["ok"]


WELL = {
    "MissingBlocks": 0, "CorruptBlocks": 0, "UnderReplicatedBlocks": 0, "DeadNodes": "{}", "LiveNodes": '{"a": {}}',
    "CapacityRemaining": 90, "CapacityTotal": 100, "BlocksTotal": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({}, ["ok"]),
        ({"MissingBlocks": 2}, ["problem"]),
        ({"CorruptBlocks": 2, "UnderReplicatedBlocks": 1}, ["problem", "warning"]),
        ({"DeadNodes": '{"b": {}}'}, ["warning"]),
        ({"LiveNodes": "{}"}, ["problem"]),
        ({"CapacityRemaining": 9}, ["warning"]),
        ({"Safemode": "Safe mode is ON"}, ["problem"]),
    ],
)
def test_hdfs(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], wanted: list[str]) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"beans": [{**WELL, "Safemode": "", **facts}]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(doctor, "_namenode_web", lambda settings: f"127.0.0.1:{server.server_port}")
        assert [level for level, _ in levels(doctor.hdfs(Settings()))] == wanted
        server.shutdown()


@pytest.mark.parametrize(("off", "level"), [(0.0, "ok"), (30.0, "problem"), (-30.0, "problem")])
def test_clocks(monkeypatch: pytest.MonkeyPatch, off: float, level: str) -> None:
    monkeypatch.setattr(doctor, "_redis_time", lambda settings: time.time() + off)
    monkeypatch.setattr(doctor, "_mongo_time", lambda settings: time.time())
    assert [found for found, _ in levels(doctor.clocks(Settings()))] == [level, "ok"]


NAMES = ("user-events", "service-logs", "system-metrics", "notifications")


def broker(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = NAMES, copies: int = 1, **config: str) -> None:
    """A broker with these topics, the first of which has this configuration, and an out-of-sync copy for two copies."""
    partition = SimpleNamespace(replicas=[*range(copies)], isrs=[0])

    class Admin:
        def __init__(self, _: dict[str, Any]) -> None:
            pass

        def list_topics(self, timeout: float) -> Any:
            return SimpleNamespace(topics={name: SimpleNamespace(partitions={0: partition}) for name in names})

        def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, Any]:
            def told(resource: Any) -> dict[str, Any]:
                said = {**topic_config(Settings()), **(config if resource.name == names[0] else {})}
                return {key: SimpleNamespace(value=value) for key, value in said.items()}

            return {one: SimpleNamespace(result=lambda one=one: told(one)) for one in resources}

    monkeypatch.setattr(doctor, "AdminClient", Admin)
    monkeypatch.setattr("lakehouse.stack.probes.kafka", lambda servers: None)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ({}, ["ok"]),
        ({"names": NAMES[:2]}, ["problem"]),
        ({"message.timestamp.type": "CreateTime"}, ["problem"]),
        ({"retention.ms": "1000"}, ["warning"]),
        ({"copies": 2}, ["warning"] * 4),
    ],
)
def test_topics(monkeypatch: pytest.MonkeyPatch, made: dict[str, Any], wanted: list[str]) -> None:
    broker(monkeypatch, **made)
    assert [level for level, _ in levels(doctor.topics(Settings()))] == wanted


def test_fewer_copies_of_a_topic_than_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    broker(monkeypatch)
    settings = Settings()
    wanted = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"replication": 3})})
    assert [level for level, _ in levels(doctor.topics(wanted))] == ["warning"] * 4


@pytest.mark.parametrize(
    ("low", "high", "level", "words"),
    [
        (0, 10, "ok", "agree"),
        (5, 12, "ok", "agree"),
        (0, 4, "problem", "made anew"),
        (11, 20, "problem", "the rest is gone"),
    ],
)
def test_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: int, high: int, level: str, words: str) -> None:
    class Reader:
        def __init__(self, _: dict[str, Any]) -> None:
            pass

        def get_watermark_offsets(self, partition: Any, timeout: float) -> tuple[int, int]:
            return low, high

        def close(self) -> None:
            pass

    monkeypatch.setattr(doctor, "Consumer", Reader)
    settings = local_lake(tmp_path)
    assert levels(doctor.offsets(settings)) == [("ok", "nothing has been read yet")]
    row = {
        "topic": "user-events",
        "seq": 1,
        "partition": 0,
        "end_offset": 10,
        "versions": [("gold.activity_minute", 1)],
    }
    write(settings, LEDGER.name, [row])
    [(found, said)] = levels(doctor.offsets(settings))
    assert found == level and words in said


def test_the_lake_is_written_and_read(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    write(settings, LEDGER.name, [])
    assert [level for level, _ in levels(doctor.lake(settings))] == ["ok"]
    assert not [path for path in tmp_path.rglob("_doctor/*")]


GOOD = SecretStr("f0e1d2c3b4a5968778695a4b3c2d1e0f")
OLD_SECRET = {"k": {"secret": "5ec2e7" * 10 + "beef", "made_at": "2020-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda home: Settings(home=home), ["ok"]),
        (lambda home: Settings(home=home, profile="cluster"), ["problem"]),
        (lambda home: Settings(home=home, api=Api(secrets={"k": SecretStr("x" * 40)})), ["warning"]),
        (
            lambda home: Settings(home=home, api=Api(secrets={"k": SecretStr("f0e1d2c3b4a5968778695a4b3c2d1e0f")})),
            ["ok"],
        ),
    ],
)
def test_secrets(tmp_path: Path, made: Callable[[Path], Settings], wanted: list[str]) -> None:
    assert [level for level, _ in levels(keys.examined(made(tmp_path)))] == wanted


def test_a_secret_that_signs_for_years(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    keys.local_path(settings).parent.mkdir()
    keys.local_path(settings).write_text(json.dumps(OLD_SECRET))
    [(level, said)] = levels(keys.examined(settings))
    assert level == "warning" and "2020-01-01" in said
