"""The queue on disk: what was put is there after kill -9, in order, until it is acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lakehouse.collect.queue import Queue, QueueError

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def event(number: Any, **fields: Any) -> dict[str, Any]:
    return {"@timestamp": AT, "message": str(number), **fields}


def messages(queue: Queue) -> list[str]:
    found: list[str] = []
    while (batch := queue.take(0.05)) is not None:
        found += [e["message"] for e in batch.events]
    return found


def put(queue: Queue, *batches: list[dict[str, Any]], mark: tuple[str, Any] | None = None) -> list[Any]:
    async def run() -> list[Any]:
        return [await queue.put(batch, mark) for batch in batches]

    return asyncio.run(run())


def test_what_was_put_comes_back_whole_and_in_order_until_it_is_acknowledged(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", batch_events=2)
    put(queue, [event(1, tags=["a"], **{"@metadata": {"beat": "f"}})], [event(2), event(3)], [event(4)])
    first = queue.take(1)
    assert first is not None
    stored = first.events[0]
    assert stored["@timestamp"] == AT and stored["tags"] == ["a"] and stored["@metadata"]["beat"] == "f"
    queue.acknowledge(first)
    assert messages(queue) == ["4"]
    queue.close()
    again = Queue(tmp_path / "q.db")
    assert messages(again) == ["4"] and again.events == 1
    again.close()


def test_an_event_has_one_id_through_every_repeat(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db")
    put(queue, [event(1), event(2), event(3, **{"@metadata": {"id": "mine"}})])
    first = queue.take(1)
    queue.close()
    again = Queue(tmp_path / "q.db")
    second = again.take(1)
    assert first is not None and second is not None
    ids = [e["@metadata"]["id"] for e in first.events]
    assert ids == [e["@metadata"]["id"] for e in second.events] and len(set(ids)) == 3 and ids[2] == "mine"
    again.close()


def test_a_put_is_delivered_when_its_batch_is_acknowledged(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", batch_events=1)
    one, two, nothing = put(queue, [event(1)], [event(2)], [])
    assert nothing.done() and not one.done()
    first, second = queue.take(1), queue.take(1)
    assert first is not None and second is not None
    queue.acknowledge(second)
    assert two.done() and not one.done()
    queue.acknowledge(first)
    assert one.done()
    queue.close()


def test_a_full_queue_makes_puts_wait_in_their_order(tmp_path: Path) -> None:
    async def run() -> None:
        queue = Queue(tmp_path / "q.db", max_bytes=1000, batch_events=1)
        await queue.put([event("x" * 2000)])  # an empty queue takes a larger one
        waiting = [asyncio.create_task(queue.put([event(n)])) for n in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        assert not done and queue.events == 1
        waiting[1].cancel()
        await asyncio.wait({waiting[1]})
        batch = await asyncio.to_thread(queue.take, 1)
        assert batch is not None
        queue.acknowledge(batch)
        await asyncio.gather(waiting[0], waiting[2])
        assert messages(queue) == ["0", "2"]
        queue.close()

    asyncio.run(run())


def test_a_mark_is_stored_with_its_events(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db")
    put(queue, [event(1)], mark=("file", {"offset": 7}))
    put(queue, [], mark=("other", 1))
    put(queue, [], mark=("other", None))
    assert queue.mark("file") == {"offset": 7}
    queue.close()
    again = Queue(tmp_path / "q.db")
    assert (again.mark("file"), again.mark("other")) == ({"offset": 7}, None)
    again.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from datetime import datetime, UTC
from lakehouse.collect.queue import Queue
async def one(queue, lane):
    for n in range(10**9):
        events = [{"@timestamp": datetime.now(UTC), "message": f"{lane} {n}"}] * 3
        await queue.put([dict(e) for e in events], (str(lane), n))
        print(lane, n, flush=True)
async def run():
    queue = Queue(Path(sys.argv[1]))
    await asyncio.gather(*(one(queue, lane) for lane in range(4)))
asyncio.run(run())
"""


def test_kill_9_loses_nothing_that_a_put_returned_for_and_marks_agree(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "q.db")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    returned: dict[str, int] = {}
    for _ in range(200):
        lane, number = child.stdout.readline().split()
        returned[lane] = int(number)
    child.send_signal(signal.SIGKILL)
    for line in child.stdout.read().splitlines(keepends=True):
        if line.endswith("\n"):
            lane, number = line.split()
            returned[lane] = int(number)
    child.wait()
    queue = Queue(tmp_path / "q.db")
    found = messages(queue)
    for lane, least in returned.items():
        last = queue.mark(lane)
        assert last >= least
        assert [m for m in found if m.startswith(f"{lane} ")] == [f"{lane} {n}" for n in range(last + 1) for _ in "abc"]
    queue.close()


def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(QueueError, match=r"the queue is damaged .* move the file away"):
        Queue(tmp_path / "q.db")


def test_two_collectors_do_not_share_a_queue(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db")
    with pytest.raises(QueueError, match="another `lakehouse collect`"):
        Queue(tmp_path / "q.db")
    queue.close()
    Queue(tmp_path / "q.db").close()


def test_puts_after_the_end_fail(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db")
    queue.close()
    with pytest.raises(QueueError, match="stops"):
        put(queue, [event(1)])
