"""`make test-long`: a death at every point of every effect, in both engines, and a soak with random kills."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lakehouse import stack as servers
from lakehouse.flows import FLOWS, effects
from lakehouse.runtime.effects import MOMENTS
from lakehouse.settings import Settings
from lakehouse.simulate import simulate
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import create_topics
from tests.integration.lake import StreamProcess, problems, settled, until
from tests.integration.test_platform import die_at

pytestmark = [pytest.mark.integration, pytest.mark.long]
SOAK_SECONDS = 60 * float(os.environ.get("LAKEHOUSE_SOAK_MINUTES", "6"))
KILL_EVERY = 45.0


@pytest.mark.timeout(3600)
def test_every_kill_point_of_the_fused_engine(stack: Settings) -> None:
    die_at(stack, shuffled(effects()), alone=True)


@pytest.mark.timeout(3600)
def test_every_kill_point_of_the_separate_engine(stack: Settings) -> None:
    """Those of the tables; the stores are written by the same code in both engines."""
    topics = {flow.topic for flow in FLOWS}
    own = [effect for effect in effects("separate") if effect.partition(":")[0] in topics]
    assert own
    die_at(stack, shuffled(own), "separate", alone=True)


def shuffled(of: Iterable[str]) -> list[str]:
    """All points of these effects, in an order by a seed that is printed: of deaths without a cut between them, each
    leaves more to take back."""
    seed = random.SystemRandom().randrange(10_000)
    print(f"kill points of seed {seed}")
    points = [f"{effect}:{moment}" for effect in of for moment in MOMENTS]
    return random.Random(seed).sample(points, len(points))


@pytest.mark.timeout(1800)
def test_a_soak_with_kills_of_servers_stays_balanced_and_bounded(stack: Settings, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10_000)
    print(f"kills of seed {seed}")
    create_topics(stack)
    with StreamProcess(stack, LAKEHOUSE_STREAM__RESTARTS="50") as stream:  # as many in a row as there are kills
        with kills(stack, random.Random(seed)) as killed, memory(stream.process.pid) as seen:
            simulate(stack, seed, 300, SOAK_SECONDS, 0.1, tmp_path / "truth.json", history_records=20_000)
        result = settled(stack, 300)
        assert stream.process.poll() is None, f"the stream ended\n{stream.tail()}"
    assert result["balanced"], f"{killed}: {problems(result)}"
    assert len(killed) >= SOAK_SECONDS // KILL_EVERY - 2
    third = len(seen) // 3
    assert max(seen[-third:]) < 1.5 * max(seen[third : 2 * third]), f"memory in MB, each 5 s: {seen}"
    limit = stack.stream.compact_above_files + 3 * stack.stream.compact_every.total_seconds()
    files = {flow.silver.name: len(Lake(stack).table(flow.silver.name).file_uris()) for flow in FLOWS}
    assert max(files.values()) < limit, files


@contextmanager
def kills(stack: Settings, rng: random.Random) -> Iterator[list[str]]:
    """Kill -9 of a random server every :data:`KILL_EVERY` seconds, while the block runs."""
    done: list[str] = []

    def kill() -> None:
        name = rng.choice(("mongodb", "redis", "elasticsearch", "kafka", "datanode", "namenode"))
        servers.kill_server(stack, name)
        until(lambda: servers.status(stack)[name]["ready"], 60)
        done.append(name)

    with every(KILL_EVERY, kill):
        yield done


@contextmanager
def memory(pid: int) -> Iterator[list[float]]:
    """Resident MB of a process and its children, every five seconds, while the block runs."""
    seen: list[float] = []
    process = psutil.Process(pid)

    def look() -> None:
        seen.append(sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 2**20)

    with every(5, look):
        yield seen


@contextmanager
def every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Do something every so many seconds in a thread of its own, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
