"""Log files: a line leaves the collector as the record that would have gone to Kafka, and the truth counts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from lakehouse.collect.codecs import codec
from lakehouse.collect.config import read
from lakehouse.collect.event import delivered
from lakehouse.collect.filters import block
from lakehouse.contracts import contracts
from lakehouse.logfiles import LogFileError, LogFiles, as_text
from lakehouse.quality.checks import checker
from lakehouse.settings import PROJECT, Settings
from lakehouse.simulate import SERVICES, simulate
from tests.unit.collect.fakes import plugin

LOGS = "service-logs"
START = datetime(2024, 5, 1, 12, tzinfo=UTC)
FILTERS = block(read(PROJECT / "conf" / "logstash" / "service-logs.conf", {}).filters)
MULTILINE = plugin("multiline", "codec", pattern=r"^\d{4}-", what="previous", negate=True)


class Kept:
    """Keeps the values that are produced, and acknowledges them at once."""

    def __init__(self) -> None:
        self.values: dict[str, list[bytes | None]] = defaultdict(list)

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        self.values[topic].append(value)
        on_delivery(None, None)

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self) -> int:
        return 0


def simulated(folder: Path, logs: Path | None, **more: Any) -> tuple[Kept, dict[str, Any], dict[str, Any]]:
    """What Kafka got, the result and the truth; live as fast as it goes."""
    kept = Kept()
    arguments = {"seed": 3, "rate": 1e6, "duration": 0.01, "history": 0, "share_broken": 0} | more
    result = simulate(Settings(), truth=folder / "truth.json", transport=kept, start=START, logs=logs, **arguments)
    return kept, result, orjson.loads((folder / "truth.json").read_bytes())


def collected(folder: Path) -> list[dict[str, Any]]:
    """The records in the files, one file after the other, as the collector delivers them."""
    events = []
    for path in sorted(folder.iterdir()):
        decoder = codec(plugin("file"), MULTILINE, "stream")()
        events += [*decoder.decode(path.read_bytes()), *decoder.flush()]
    assert all(FILTERS(event) for event in events)
    return [orjson.loads(delivered(event)) for event in events]


def bare(log: dict[str, Any]) -> dict[str, Any]:
    """Without the shipper's tags and the one field that the text has no place for; the time as such."""
    own = {name: value for name, value in log.items() if name not in ("tags", "app_version")}
    return own | {"@timestamp": datetime.fromisoformat(log["@timestamp"])}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Collected records of 10,000 simulated ones, and the truth."""
    folder = tmp_path_factory.mktemp("simulated")
    _, _, truth = simulated(folder, folder / "logs")
    return collected(folder / "logs"), truth


def test_every_line_comes_out_of_the_collector_as_the_record_in_json(
    lines: tuple[list[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    kept, _, truth = simulated(tmp_path, None)
    in_json = [orjson.loads(value) for value in kept.values[LOGS] if value]
    found = lines[0]
    assert len(found) == len(in_json) == lines[1]["written"] > 2900
    assert sum("error" in log for log in found) > 20
    for log, expected in zip(found, sorted(in_json, key=lambda log: log["service"]["name"]), strict=True):
        assert log.get("tags") == (["multiline"] if "error" in log else None)
        assert bare(log) == bare(expected)
    same = ("service_requests_minute", "activity_minute", "metric_records_minute", "sentiments", "run")
    assert all(truth[name] == lines[1][name] for name in same)


def test_no_log_in_a_file_is_what_text_cannot_be(lines: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    found, truth = lines
    counts = truth["topics"][LOGS]
    assert (counts["null_keys"], counts["unknown_fields"], counts["broken"]) == (0, 0, 0)
    times = {log["event"]["id"]: log["@timestamp"] for log in found}
    late = [at for at in times.values() if datetime.fromisoformat(at) < START - timedelta(seconds=59)]
    assert len(times) == counts["valid"] and len(found) - len(times) == counts["duplicates"] > 0
    assert len(late) == counts["late"] > 0


def test_the_truth_counts_what_is_in_kafka_and_in_files(tmp_path: Path) -> None:
    faults = {"share_broken": 0.1, "share_late": 0.1, "share_duplicates": 0.1}
    kept, result, truth = simulated(
        tmp_path, tmp_path / "logs", duration=0.002, history=1, history_records=2000, **faults
    )
    live = collected(tmp_path / "logs")
    assert result["written"] == truth["written"] == len(live) > 500
    assert result["sent"] == result["acknowledged"] + result["written"] == 4000
    assert sum(map(len, kept.values.values())) == result["acknowledged"] == truth["acknowledged"]
    check = checker(contracts()[LOGS])
    now = int(START.timestamp() * 1e6)
    in_files = [check(orjson.dumps(log), now) for log in live]
    assert all(found.reasons is None for found in in_files)
    found = [check(value, now) for value in kept.values[LOGS]] + in_files
    counts = truth["topics"][LOGS]
    identities = [one.identity for one in found if one.reasons is None]
    assert counts["sent"] == len(found)
    assert counts["broken"] == len(found) - len(identities) > 0
    assert counts["valid"] == len(set(identities)) == counts["sent"] - counts["broken"] - counts["duplicates"]


def record(number: int) -> dict[str, Any]:
    return {
        "@timestamp": "2024-05-01T12:00:00.000000Z", "log": {"level": "info"}, "service": {"name": "feed"},
        "host": {"name": "web-1"}, "event": {"id": f"l{number:03}", "dataset": "feed.app"}, "message": "hello",
    }  # fmt: skip


def test_what_a_record_lacks_is_a_dash() -> None:
    assert as_text(record(1)) == "2024-05-01T12:00:00.000000Z INFO [feed,-,l001] web-1 feed.app - hello\n"


def test_a_file_is_rotated_between_records_and_who_follows_it_by_inode_reads_on(tmp_path: Path) -> None:
    texts = [as_text(record(n)) for n in range(48)]
    with LogFiles(tmp_path, ["feed"], limit=8 * len(texts[0])) as files, (tmp_path / "feed.log").open() as reader:
        for n in range(48):
            files.write(record(n))
        assert reader.read() == "".join(texts[:8])
    names = ["feed.log.3", "feed.log.2", "feed.log.1", "feed.log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert [(tmp_path / name).read_text() for name in names] == ["".join(texts[n : n + 8]) for n in (16, 24, 32, 40)]


def test_the_next_run_appends_and_ends_a_line_that_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "feed.log"
    for left in ("", "2024-05-01T12:0"):
        with LogFiles(tmp_path, ["feed"]) as files:
            files.write(record(1))
        with path.open("a") as file:
            file.write(left)
    with LogFiles(tmp_path, SERVICES) as files:
        files.write(record(2))
    assert path.read_text() == f"{as_text(record(1)) * 2}2024-05-01T12:0\n{as_text(record(2))}"


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(LogFileError, match=r"logs cannot be written \(File exists\): make room, or name another"):
        simulated(tmp_path, tmp_path / "logs")
    assert not (tmp_path / "truth.json").exists()
