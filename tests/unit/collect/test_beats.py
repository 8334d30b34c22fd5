"""The lumberjack side: windows however they are cut, and no acknowledgement that is not true."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Coroutine
from typing import Any

import pytest

from lakehouse.collect.inputs import opened
from lakehouse.collect.inputs.beats import FRAME_BYTES, Beats, BeatsOptions, Frames
from lakehouse.collect.inputs.listening import ProtocolError
from lakehouse.collect.plugins import ConfigError
from lakehouse.collect.queue import Queue
from tests.unit.collect.fakes import Beat, Intake, frames, plugin, running

EVENTS = [{"message": f"m{n}", "@metadata": {"beat": "filebeat"}} for n in range(3)]


def beats(keep_alive: float = 60, **options: Any) -> Beats:
    settled = BeatsOptions(port=0, **options)
    return Beats(settled, plugin("beats", port=0, **options), keep_alive)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_frames_are_read_however_they_are_cut(compressed: bool, size: int) -> None:
    data = frames(EVENTS, compressed) + frames(EVENTS[:1], not compressed)
    reader = Frames()
    found = [item for at in range(0, len(data), size) for item in reader.feed(data[at : at + size])]
    assert [item if isinstance(item, int) else item[0] for item in found] == [3, 1, 2, 3, 1, 1]


def test_a_compressed_frame_of_any_size_is_unpacked_in_pieces() -> None:
    body = b'{"message":"' + b"x" * 1_000_000 + b'"}'
    reader = Frames()
    for number, item in enumerate(reader.feed(frames([body] * 40, compressed=True))):
        assert number == 0 or item == (number, body)
        assert len(reader._inner) < 3_000_000


def test_what_is_not_lumberjack_is_refused_with_its_reason() -> None:
    for data, said in [
        (b"1W\0\0\0\1", "version 1"),
        (b"\x16\x03\x01", "ssl_enabled"),
        (b"GET / HTTP/1.1", "version 2"),
        (b"2Z", "'Z'"),
        (b"2J" + struct.pack(">II", 1, FRAME_BYTES + 1), "larger"),
        (b"2C" + struct.pack(">I", 9) + b"not zlib!", "damaged"),
        (b"2C" + struct.pack(">I", len(cut := zlib.compress(b"2J\0\0"))) + cut, "inside an event"),
    ]:
        with pytest.raises(ProtocolError, match=said):
            list(Frames().feed(data))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_window_is_acknowledged_after_its_delivery_and_not_before(compressed: bool) -> None:
    async def test() -> None:
        intake = Intake()
        async with running(beats(), intake) as port:
            beat = await Beat.connect(port)
            await beat.send(frames(EVENTS, compressed))
            await intake.until(3)
            answer = asyncio.create_task(beat.acknowledged())
            done, _ = await asyncio.wait({answer}, timeout=0.2)
            assert not done
            intake.deliver()
            assert await answer == 3
        assert intake.messages() == ["m0", "m1", "m2"]
        assert intake.events[0]["@metadata"] == {
            "beat": "filebeat", "input": {"beats": {"host": {"ip": "127.0.0.1"}}}
        }  # fmt: skip

    run(test())


def test_windows_are_acknowledged_in_their_order() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(beats(), intake) as port:
            beat = await Beat.connect(port)
            await beat.send(frames(EVENTS) + frames(EVENTS[:2]))
            await intake.until(5)
            intake.puts[1][1].set_result(None)
            answer = asyncio.create_task(beat.acknowledged())
            done, _ = await asyncio.wait({answer}, timeout=0.1)
            assert not done
            intake.deliver()
            assert [await answer, await beat.acknowledged()] == [3, 2]

    run(test())


def test_a_beat_is_kept_waiting_alive_even_while_the_queue_is_full() -> None:
    async def test() -> None:
        async with running(beats(keep_alive=0.02), Intake(room=0)) as port:
            beat = await Beat.connect(port)
            await beat.send(frames(EVENTS))
            assert [await beat.acknowledged(), await beat.acknowledged()] == [0, 0]

    run(test())


def test_events_of_a_lost_connection_come_again_and_both_are_kept() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(beats(), intake) as port:
            beat = await Beat.connect(port)
            await beat.send(frames(EVENTS)[:-5])
            beat.writer.transport.abort()
            beat = await Beat.connect(port)
            await beat.send(frames(EVENTS))
            await intake.until(3)
            intake.deliver()
            assert await beat.acknowledged() == 3

    run(test())


def test_an_event_that_is_not_json_is_kept_and_blocks_nothing() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(beats(), intake) as port:
            beat = await Beat.connect(port)
            await beat.send(frames([b'{"a":\xff}', {"message": "good"}]))
            await intake.until(2)
        assert intake.messages() == ['{"a":\\xFF}', "good"] and intake.events[0]["tags"] == ["_jsonparsefailure"]

    run(test())


def test_a_codec_reads_the_message_and_the_beats_fields_stay() -> None:
    source = beats(codec="json", tags=["t"], add_field={"[a][b]": "%{k}"})
    (event,) = source.events(b'{"message":"{\\"k\\":1}","host":{"name":"h"}}', "10.0.0.1")
    assert (event["k"], event["host"], event["tags"], event["a"]) == (1, {"name": "h"}, ["t"], {"b": "1"})
    with pytest.raises(ConfigError, match="Filebeat's multiline"):
        opened(plugin("beats", port=5044, codec="multiline"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 5044, "add_hostname": True}, "option 'add_hostname' is not supported"),
        ({"port": 5044, "ssl_enabled": True}, "needs ssl_certificate"),
        ({}, "port: Field required"),
        ({"port": 5044, "add_field": {"[a": "b"}}, "not a field reference"),
    ],
)
def test_a_wrong_option_is_an_error_before_the_start(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(plugin("beats", **options))


def test_what_a_beat_sent_is_in_the_queue_before_it_is_delivered(tmp_path: Any) -> None:
    async def test() -> None:
        queue = Queue(tmp_path / "q.db")
        async with running(beats(), queue) as port:
            beat = await Beat.connect(port)
            await beat.send(frames(EVENTS, compressed=True))
            batch = await asyncio.to_thread(queue.take, 10)
            assert batch is not None and [e["message"] for e in batch.events] == ["m0", "m1", "m2"]
            queue.acknowledge(batch)
            assert await beat.acknowledged() == 3
        queue.close()

    run(test())
