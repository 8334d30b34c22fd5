"""The real Filebeat and Metricbeat with the project's configurations."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from lakehouse import stack as servers
from lakehouse.quality.quarantine import broken
from lakehouse.running import beat_command
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import create_topics
from lakehouse.stack.beats import SOURCES, lacking
from tests.integration.lake import StreamProcess, problems, records_of, settled, until
from tests.integration.shipping import collecting, killed_on_the_way

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def beats(stack: Settings) -> dict[str, Path]:
    """Filebeat and Metricbeat, built if they are not there yet."""
    if reason := lacking():
        pytest.skip(f"the real Beats cannot be built on this machine: {reason}")
    try:
        return {path.name: path for path in servers.build(stack)}
    except servers.StackError as error:
        if any(sign in str(error) for sign in ("dial tcp", "no such host", "timeout", "Forbidden", "x509")):
            pytest.skip(f"the real Beats cannot be built on this machine, their modules do not come: {error}")
        raise


@pytest.mark.parametrize("name", ["filebeat", "metricbeat"])
def test_the_configuration_is_valid(name: str, stack: Settings, beats: dict[str, Path]) -> None:
    done = subprocess.run(
        beat_command(stack, beats[name], "test", "config"), capture_output=True, text=True,
        env={"LOGS": "/nowhere", "PATH": ""},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "Config OK"), done.stderr


def test_lines_are_named_as_the_processor_promises(beats: dict[str, Path]) -> None:
    done = subprocess.run(["go", "test", "./lineid"], cwd=SOURCES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metricbeat_sends_records_that_keep_the_contract(stack: Settings, beats: dict[str, Path]) -> None:
    create_topics(stack)
    env = {"KAFKA": stack.kafka.bootstrap_servers}
    wanted = {f"system.{name}" for name in ("cpu", "memory", "load", "network", "uptime")}

    def records() -> list[bytes]:
        return [r.value() for r in records_of(stack, ["system-metrics"]) if b'"metricbeat"' in (r.value() or b"")]

    servers.add_program(stack, "metricbeat", beat_command(stack, beats["metricbeat"]), env)
    try:
        until(lambda: wanted <= {orjson.loads(value)["event"]["dataset"] for value in records()}, 60)
    finally:
        servers.remove_program(stack, "metricbeat")
    now = datetime.now(UTC)
    assert not [(value, reasons) for value in records() if (reasons := broken("system-metrics", value, now))]


def test_a_growing_file_arrives_once_through_kills_of_all_on_its_way(stack: Settings, beats: dict[str, Path]) -> None:
    with collecting(stack, beats["filebeat"]) as folder:
        killed_on_the_way(stack, folder, lines=6_000, patience=120)


@pytest.mark.long
def test_100_000_lines_arrive_once_and_their_repeats_are_gone_in_silver(
    stack: Settings, beats: dict[str, Path]
) -> None:
    with collecting(stack, beats["filebeat"]) as folder:
        service, repeats = killed_on_the_way(stack, folder, lines=100_000, patience=300)
    print(f"\n100,000 lines, {repeats:,} of them more than once in Kafka", flush=True)
    with StreamProcess(stack):
        audit = settled(stack, 600)
        assert audit["balanced"], problems(audit)
    sql = "select count(*), count(distinct event_id) from silver.service_logs where service.name = ?"
    assert Lake(stack).query(sql, [service.name]).fetchall() == [(100_000, 100_000)]
