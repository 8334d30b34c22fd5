"""Log files arrive as Filebeat sends them, each record once by its id, whatever stops in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lakehouse.collect.inputs.beats import Beats, BeatsOptions
from lakehouse.collect.pipeline import Pipeline
from lakehouse.settings import Collect, Settings
from lakehouse.ship.logs import ShipError, shipper
from tests.unit.collect.fakes import Acknowledging, Intake, plugin, running

RECORDS = [
    "2026-11-25T16:00:00.123Z ERROR [shop,-,-] web-1 shop.access - no answer\nTimeout: no answer\n  at handle (a.py:7)",
    "2026-11-25T16:00:01.000Z INFO [shop,-,-] web-1 shop.app - good",
]
LAST = "2026-11-25T16:00:09.000Z ends the record before it"


def beats() -> Beats:
    return Beats(BeatsOptions(port=0), plugin("beats", port=0))


async def started(home: Path, port: int, *paths: str, **more: str) -> tuple[Pipeline, asyncio.Task[None]]:
    pipeline = shipper(Settings(home=home, collect=Collect(beats=f"127.0.0.1:{port}")), paths, **more)
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)  # it runs, so it can be stopped
    return pipeline, task


async def stopped(pipeline: Pipeline, task: asyncio.Task[None]) -> None:
    pipeline.stop()
    await asyncio.wait_for(task, 20)


def test_a_record_arrives_as_filebeat_sends_it(tmp_path: Path) -> None:
    log = tmp_path / "service-logs" / "shop.log"
    log.parent.mkdir()
    log.write_text("\n".join(["", *RECORDS, LAST, ""]))

    async def test() -> None:
        intake = Acknowledging()
        async with running(beats(), intake) as port:
            shipping = await started(tmp_path, port)
            await intake.until(2)
            await stopped(*shipping)
        assert intake.messages() == RECORDS  # the empty line before them is no event
        first, second = intake.events
        assert first["log"]["file"]["path"] == str(log) and first["host"]["name"] == first["agent"]["name"]
        assert (first["agent"]["type"], first["input"]["type"]) == ("filebeat", "filestream")
        assert first["ecs"]["version"] == "1.12.0" and "tags" not in first
        assert len(first["event"]["id"]) == 32 and first["event"]["id"] != second["event"]["id"]

    asyncio.run(test())


def test_what_was_not_acknowledged_comes_again_by_the_same_ids_past_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("\n".join([*RECORDS, LAST, ""]))

    async def test() -> None:
        before, after = Intake(), Acknowledging()
        async with running(beats(), before) as port:
            shipping = await started(tmp_path, port, str(log))
            await before.until(2)
        await stopped(*shipping)  # its peer is gone, and had acknowledged nothing
        log.rename(tmp_path / "a.1.log")
        with (tmp_path / "a.1.log").open("a") as old:
            old.write(LAST + "\n")
        log.write_text(f"2026-11-25T16:01:00.000Z in the new file\n{LAST}\n")
        async with running(beats(), after) as port:
            shipping = await started(tmp_path, port, str(tmp_path))
            await after.until(4)
            await stopped(*shipping)
        assert after.events[:2] == before.events
        assert sorted(after.messages()[2:]) == [LAST, "2026-11-25T16:01:00.000Z in the new file"]
        assert len({event["event"]["id"] for event in after.events}) == 4

    asyncio.run(test())


def test_each_line_is_a_record_where_none_is_said_to_begin_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a":1}\n{"a":2}\n')

    async def test() -> None:
        intake = Acknowledging()
        async with running(beats(), intake) as port:
            shipping = await started(tmp_path, port, str(tmp_path / "*.json"), begins="", name="json")
            await intake.until(2)
            await stopped(*shipping)
        assert intake.messages() == ['{"a":1}', '{"a":2}']

    asyncio.run(test())


def test_two_shippers_need_two_names(tmp_path: Path) -> None:
    async def test() -> None:
        shipping = await started(tmp_path, 1)
        with pytest.raises(ShipError, match="another --name"):
            shipper(Settings(home=tmp_path))
        await stopped(*shipping)

    asyncio.run(test())


def test_a_name_can_not_lead_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ShipError, match="letters"):
        shipper(Settings(home=tmp_path), name="../x")


def test_the_followed_folder_is_a_setting(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).service_logs == tmp_path / "service-logs"
    assert Settings(home=tmp_path, collect=Collect(logs=Path("/var/log/shop"))).service_logs == Path("/var/log/shop")
