"""The pipeline: every event reaches every output it is meant for, whatever fails in between."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.event import Event
from lakehouse.collect.inputs.beats import Beats, BeatsOptions
from lakehouse.collect.pipeline import Pipeline, PipelineError
from lakehouse.collect.plugins import Away, Intake
from lakehouse.collect.queue import Queue
from tests.unit.collect.fakes import Beat, Taker, frames, plugin


class Source:
    """Puts messages, a batch each, and ends; ``delivered`` are their futures."""

    def __init__(self, *batches: list[str]) -> None:
        self.batches = batches
        self.delivered: list[Future[None]] = []

    async def run(self, intake: Intake) -> None:
        for batch in self.batches:
            events: list[Event] = [{"@timestamp": datetime.now(UTC), "message": message} for message in batch]
            self.delivered.append(await intake.put(events))


class Endless:
    async def run(self, intake: Intake) -> None:
        await asyncio.Event().wait()


def pipeline(folder: Path, source: Any, *outputs: Any, **more: Any) -> Pipeline:
    named = {f"out{n}": output for n, output in enumerate(outputs)}
    given = {
        "apply": lambda event: True,
        "route": lambda event: list(range(len(outputs))),
        "queue": Queue(folder / "queue.db", batch_events=more.pop("batch_events", 2)),
        "dead_letters": {name: DeadLetters(folder / "dead-letters", name) for name in named},
        "pauses": (0.0,),
        **more,
    }
    return Pipeline(inputs={"in": source}, outputs=named, **given)


def run(line: Pipeline) -> dict[str, Any]:
    asyncio.run(asyncio.wait_for(line.run(), 20))
    return line.stats()


def test_each_output_gets_each_event_once_and_the_sources_hear_of_it(tmp_path: Path) -> None:
    source, one, two = Source(["a", "b"], ["c"], []), Taker(), Taker()
    stats = run(pipeline(tmp_path, source, one, two, report=tmp_path / "collect.json"))
    assert one.taken == two.taken == ["a", "b", "c"] and one.closed
    assert all(future.done() for future in source.delivered)
    assert stats["events"] == {
        "in": 3, "out": 6, "filtered": 3, "dropped": 0, "filter_errors": 0, "dead": 0, "retries": 0
    }  # fmt: skip
    written = orjson.loads((tmp_path / "collect.json").read_bytes())
    assert written["queue"]["events"] == 0 and written["outputs"]["out1"]["events"] == 3


def test_an_output_that_is_away_is_tried_again_and_the_others_not_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    down, up = Taker(away=3), Taker()
    stats = run(pipeline(tmp_path, Source(["a", "b"], ["c"]), down, up))
    assert down.taken == up.taken == ["a", "b", "c"] and up.calls <= 2
    assert stats["outputs"]["out0"]["retries"] == 3 and stats["outputs"]["out0"]["away"] is None
    assert [record.message.split(",")[0] for record in caplog.records] == ["output out0 is away", "output out0 is back"]


def test_only_what_an_output_did_not_take_is_sent_again(tmp_path: Path) -> None:
    slow = Taker(part=2)
    run(pipeline(tmp_path, Source([str(n) for n in range(7)]), slow))
    assert slow.taken == [str(n) for n in range(7)]


def test_an_event_that_breaks_an_output_is_a_dead_letter_and_blocks_nothing(tmp_path: Path) -> None:
    broken, fine = Taker(poison="c"), Taker()
    stats = run(pipeline(tmp_path, Source(["a", "b", "c", "d", "e"]), broken, fine, batch_events=9))
    assert broken.taken == ["a", "b", "d", "e"] and fine.taken == ["a", "b", "c", "d", "e"]
    (letter,) = (tmp_path / "dead-letters/out0.jsonl").read_bytes().splitlines()
    assert orjson.loads(letter)["event"]["message"] == "c" and "poison" in orjson.loads(letter)["reason"]
    assert stats["events"]["dead"] == 1


def test_a_filter_drops_routes_and_changes(tmp_path: Path) -> None:
    def apply(event: Event) -> bool:
        event["message"] += "!"
        return bool(event["message"] != "b!")

    one, two = Taker(), Taker()
    stats = run(pipeline(tmp_path, Source(["a", "b", "c"]), one, two, apply=apply, route=lambda e: [1]))
    assert one.taken == [] and two.taken == ["a!", "c!"] and stats["events"]["dropped"] == 1


def test_a_filter_that_breaks_lets_the_event_go_on_as_it_came(tmp_path: Path) -> None:
    seen: list[Event] = []

    class Keeper(Taker):
        def send(self, events: list[Event]) -> None:
            seen.extend(events)

    def apply(event: Event) -> bool:
        event["message"] = "half done"
        raise RuntimeError("a bug")

    run(pipeline(tmp_path, Source(["a"]), Keeper(), apply=apply))
    assert seen[0]["message"] == "a" and seen[0]["tags"] == ["_filter_error"]


def test_an_event_keeps_its_own_id_or_has_the_queues(tmp_path: Path) -> None:
    ids: list[str] = []

    class Keeper(Taker):
        def send(self, events: list[Event]) -> None:
            ids.extend(event["event"]["id"] for event in events)

    def apply(event: Event) -> bool:
        if event["message"] == "own":
            event["event"] = {"id": "mine"}
        return True

    run(pipeline(tmp_path, Source(["own", "other"]), Keeper(), apply=apply))
    assert ids[0] == "mine" and len(ids[1]) == 32


def test_what_was_not_delivered_at_a_stop_is_delivered_at_the_next_start(tmp_path: Path) -> None:
    source = Source(["a"], ["b"])
    line = pipeline(tmp_path, source, Taker(away=10**9), pauses=(0.01,))

    async def stopped() -> None:
        running = asyncio.create_task(line.run())
        while line.stats()["events"]["in"] < 2:
            await asyncio.sleep(0.01)
        line.stop()
        await running

    asyncio.run(asyncio.wait_for(stopped(), 20))
    assert not any(future.done() for future in source.delivered)
    later = Taker()
    run(pipeline(tmp_path, Source(), later))
    assert later.taken == ["a", "b"]


def test_one_output_that_is_away_holds_no_more_batches_than_may_be_in_flight(tmp_path: Path) -> None:
    open_again = threading.Event()

    class Gate(Taker):
        def send(self, events: list[Event]) -> None:
            if not open_again.is_set():
                raise Away("closed")
            super().send(events)

    up, gate = Taker(), Gate()
    source = Source(*([str(n)] for n in range(20)))
    line = pipeline(tmp_path, source, gate, up, in_flight=3, batch_events=1, pauses=(0.01,))

    async def test() -> None:
        running = asyncio.create_task(line.run())
        while len(up.taken) < 3:
            await asyncio.sleep(0.01)
        assert up.taken == ["0", "1", "2"] and not any(future.done() for future in source.delivered)
        open_again.set()
        await running

    asyncio.run(asyncio.wait_for(test(), 20))
    assert gate.taken == up.taken == [str(n) for n in range(20)]


@pytest.mark.parametrize("broken", ["input", "queue"])
def test_what_can_not_go_on_ends_with_its_reason(tmp_path: Path, broken: str) -> None:
    class Broken:
        async def run(self, intake: Intake) -> None:
            raise RuntimeError("no more")

    source = Broken() if broken == "input" else Endless()
    line = pipeline(tmp_path, source, Taker())
    if broken == "queue":
        line._queue.take = _raise  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match="input in: no more" if broken == "input" else "damaged"):
        run(line)


def _raise(timeout: float) -> Any:
    raise RuntimeError("damaged")


def test_a_beat_hears_of_its_events_when_the_last_output_has_them(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(Taker):
        def send(self, events: list[Event]) -> None:
            gate.wait(10)
            super().send(events)

    source, fast, slow = Beats(BeatsOptions(port=0), plugin("beats"), 0.05), Taker(), Slow()
    line = pipeline(tmp_path, source, fast, slow, batch_events=1000)

    async def test() -> None:
        running = asyncio.create_task(line.run())
        beat = await Beat.connect(await asyncio.wrap_future(source.port))
        await beat.send(frames([{"message": str(n)} for n in range(100)], compressed=True))
        while len(fast.taken) < 100:
            assert await beat.acknowledged() == 0
        assert await beat.acknowledged() == 0
        gate.set()
        while (sequence := await beat.acknowledged()) == 0:
            pass
        assert sequence == 100 and len(slow.taken) == 100
        line.stop()
        await running

    asyncio.run(asyncio.wait_for(test(), 20))
