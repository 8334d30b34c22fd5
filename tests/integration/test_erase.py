"""Erasing users while everything runs and records keep coming: nobody is named anywhere, and nobody comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pymongo import MongoClient

from lakehouse.erasure import run
from lakehouse.inspect import wait
from lakehouse.realtime import look
from lakehouse.settings import PROJECT, Settings
from lakehouse.simulate import simulate
from lakehouse.sources.topics import create_topics
from tests.integration.lake import StreamProcess, environment, problems, settled, until

pytestmark = [pytest.mark.integration, pytest.mark.long]
USERS = [f"u{n:05d}" for n in range(100)]


@contextmanager
def running(stack: Settings, *verb: str) -> Iterator[subprocess.Popen[bytes]]:
    """A verb in a process of its own, ended afterwards."""
    with (stack.home / "logs" / f"{verb[0]}-under-test.log").open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lakehouse.cli", *verb], cwd=PROJECT, env=environment(stack), stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def erase(stack: Settings) -> dict[str, object]:
    named = [part for user in USERS for part in ("--user", user)]
    done = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", "erase", *named, "--json"],
        cwd=PROJECT, env=environment(stack), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout, done.stderr
    receipt: dict[str, object] = json.loads(done.stdout)
    assert done.returncode == (3 if receipt["left"] else 0)
    return receipt


def test_a_hundred_users_are_erased_under_load(stack: Settings, tmp_path: Path) -> None:
    create_topics(stack)
    with StreamProcess(stack), running(stack, "realtime"):
        simulate(stack, 5, 300, 5, 0.5, tmp_path / "truth.json", history_records=12_000)
        assert settled(stack)["balanced"]
        until(lambda: look.processors(stack), 60)
        before = run.scan(stack, USERS)
        places = {place.split(":")[0] for place in before}
        assert {
            "bronze.user_events",
            "silver.user_events",
            "gold.user_activity_daily",
            "mongodb",
            "redis",
            "kafka",
        } <= places
        with running(stack, "simulate", "--rate", "100", "--duration", "600", "--seed", "6"):
            receipt = erase(stack)
            assert receipt["left"] == {}
            assert str(receipt["realtime"]).startswith("forgotten")
            assert wait(stack, 120) == []
        after = settled(stack)
        assert after["balanced"], problems(after)
        assert after["topics"]["user-events"]["erased"] > 100
        # Those who came late are in Kafka, as everybody has to read them first, and nowhere else.
        assert {place.split(":")[0] for place in run.scan(stack, USERS)} <= {"kafka"}
        assert erase(stack)["left"] == {}
        last = settled(stack)
        assert last["balanced"], problems(last)
        assert run.scan(stack, USERS) == {}
    text = next((stack.home / "erasures").glob("*.json")).read_text()
    assert not any(user in text for user in USERS)
    receipts = [*(stack.home / "erasures").glob("*.json")]
    assert len(receipts) == 2 and all(run.verify(stack, path) for path in receipts)
    receipts[0].write_text(receipts[0].read_text().replace('"left"', '"Left"'))
    assert not run.verify(stack, receipts[0])
    profiles = MongoClient[dict[str, object]](stack.mongo.uri.get_secret_value())[stack.mongo.database]["user_profiles"]
    assert profiles.count_documents({}) > 0
