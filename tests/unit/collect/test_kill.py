"""The collector killed again and again: a Beat that sends again what was not acknowledged loses nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import orjson

from tests.unit.collect.fakes import Beat, frames

COLLECTOR = """
import asyncio, sys
from pathlib import Path
from tests.unit.collect.fakes import plugin
from lakehouse.collect import inputs, outputs
from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.pipeline import Pipeline
from lakehouse.collect.queue import Queue

home = Path(sys.argv[1])
letters = {name: DeadLetters(home / "dead-letters", name) for name in ("one", "two")}
source = inputs.opened(plugin("beats", port=0))
takers = {name: outputs.opened(plugin("file", "output", path=f"{home}/{name}.jsonl"), letters[name].add)
          for name in letters}

async def run():
    line = Pipeline(inputs={"beats": source}, apply=lambda event: True, route=lambda event: [0, 1], outputs=takers,
                    queue=Queue(home / "queue.db", batch_events=50), dead_letters=letters)
    running = asyncio.create_task(line.run())
    print(await asyncio.wrap_future(source.port), flush=True)
    await running

asyncio.run(run())
"""
WINDOWS, SIZE = 120, 20


def start(home: Path) -> tuple[subprocess.Popen[str], int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-c", COLLECTOR, str(home)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    return child, int(child.stdout.readline())


async def feed(port: int, at: int, kill_at: int, child: subprocess.Popen[str]) -> int:
    """Send windows from ``at`` on, two ahead of their acknowledgements; the first one not acknowledged."""
    beat = await Beat.connect(port)
    sent = at
    try:
        while at < WINDOWS:
            while sent < min(at + 2, WINDOWS):
                await beat.send(frames([{"message": f"{sent}.{n}"} for n in range(SIZE)], compressed=True))
                sent += 1
                if sent == kill_at:
                    child.kill()
            if await beat.acknowledged():
                at += 1
    except (ConnectionError, EOFError):
        pass
    return at


def test_nothing_is_lost_when_the_collector_is_killed(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    kills = sorted(random.Random(seed).sample(range(5, WINDOWS - 5), 4))
    at, child = 0, None
    for kill_at in [*kills, -1]:
        child, port = start(tmp_path)
        at = asyncio.run(asyncio.wait_for(feed(port, at, kill_at, child), 60))
        if kill_at >= 0:
            child.kill()
            child.wait()
    assert child is not None and at == WINDOWS
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    sent = {f"{window}.{n}" for window in range(WINDOWS) for n in range(SIZE)}
    for name in ("one", "two"):
        lines = (tmp_path / f"{name}.jsonl").read_bytes().splitlines()
        assert {orjson.loads(line)["message"] for line in lines} == sent
