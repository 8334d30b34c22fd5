"""The sending side of lumberjack, on loopback against our own `beats` input or a peer that misbehaves as told."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lakehouse.collect.event import Event
from lakehouse.collect.inputs import opened as opened_input
from lakehouse.collect.inputs.beats import FRAME_BYTES, Beats, BeatsOptions, Frames
from lakehouse.collect.outputs import opened
from lakehouse.collect.outputs.lumberjack import LumberjackOptions, LumberjackOutput
from lakehouse.collect.plugins import Away, ConfigError
from tests.unit.collect.fakes import Acknowledging, Intake, plugin, running

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 "
    "-subj /CN=localhost"
)


def events(count: int, size: int = 1) -> list[Event]:
    return [{"message": f"m{n}", "padding": "x" * size, "@metadata": {"id": str(n)}} for n in range(count)]


def lumberjack(port: int, timeout: float = 10, refused: list[Any] | None = None, **more: Any) -> LumberjackOutput:
    chosen = {"hosts": ["127.0.0.1"], "port": port, **more}
    refuse = [] if refused is None else refused
    return LumberjackOutput(LumberjackOptions(**chosen), plugin("lumberjack", "output"), refuse.extend, timeout)


def beats(keep_alive: float = 60, **options: Any) -> Beats:
    return Beats(BeatsOptions(port=0, **options), plugin("beats", port=0, **options), keep_alive)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


class Peer:
    """Takes one window a connection, answers it with bytes, and closes; ``closed`` counts."""

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.answers = answers
        self.closed = threading.Semaphore(0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        for answer in self.answers:
            connection, _ = self.listener.accept()
            with connection:
                frames, expected = Frames(), -1
                while expected:
                    for item in frames.feed(connection.recv(1 << 16)):
                        expected = item if isinstance(item, int) else expected - 1
                connection.sendall(answer)
            self.closed.release()


@contextmanager
def peer(*answers: bytes) -> Iterator[Peer]:
    made = Peer(answers)
    made.thread.start()
    try:
        yield made
    finally:
        made.thread.join(10)
        made.listener.close()


def acknowledge(*numbers: int) -> bytes:
    return b"".join(b"2A" + number.to_bytes(4, "big") for number in numbers)


def test_events_are_sent_once_the_peers_outputs_have_them_and_not_before() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(beats(), intake) as port:
            output = lumberjack(port, flush_size=2)
            sending = asyncio.create_task(asyncio.to_thread(output.send, events(5)))
            for count in (2, 4, 5):
                await intake.until(count)
                assert not sending.done() and len(intake.events) == count  # one window at a time
                intake.deliver()
            await sending
            output.close()
        assert intake.messages() == ["m0", "m1", "m2", "m3", "m4"]
        assert intake.events[0]["@metadata"] == {"input": {"beats": {"host": {"ip": "127.0.0.1"}}}}

    run(test())


def test_a_window_ends_before_it_grows_large() -> None:
    async def test() -> None:
        intake = Acknowledging()
        async with running(beats(), intake) as port:
            output = lumberjack(port)
            await asyncio.to_thread(output.send, [*events(5, 1_900_000), *events(1, 9_000_000), *events(1)])
            output.close()
        assert [len(put) for put, _ in intake.puts] == [2, 2, 1, 1, 1]

    run(test())


def test_a_peer_that_dies_leaves_exactly_what_it_has_not_acknowledged() -> None:
    sent = events(7)
    with peer(acknowledge(0, 2, 0, 3)) as half:
        output = lumberjack(half.port, flush_size=5)
        with pytest.raises(Away, match="closed the connection") as away:
            output.send(sent)
    assert away.value.left == sent[3:]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", acknowledge(6), b"2A\0"])
def test_an_answer_that_acknowledges_nothing_leaves_all(answer: bytes) -> None:
    sent = events(5)
    with peer(answer) as other, pytest.raises(Away, match="beats input at") as away:
        lumberjack(other.port).send(sent)
    assert away.value.left == sent


def test_a_peer_that_ended_an_idle_connection_is_not_away() -> None:
    with peer(acknowledge(1), acknowledge(1)) as short:
        output = lumberjack(short.port)
        output.send(events(1))
        assert short.closed.acquire(timeout=10)
        output.send(events(1))
        output.close()


def test_a_peer_that_nobody_is_leaves_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sent = events(2)
    with pytest.raises(Away, match="refused") as away:
        lumberjack(port).send(sent)
    assert away.value.left == sent


def test_silence_is_an_outage_and_a_keep_alive_is_none() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(beats(), intake) as port:
            with pytest.raises(Away, match=r"no answer within 0.05 s"):
                await asyncio.to_thread(lumberjack(port, timeout=0.05).send, events(1))
        async with running(beats(keep_alive=0.02), intake) as port:
            sending = asyncio.create_task(asyncio.to_thread(lumberjack(port, timeout=0.3).send, events(1)))
            done, _ = await asyncio.wait({sending}, timeout=0.5)
            assert not done
            intake.deliver()
            await sending

    run(test())


def test_what_can_not_be_sent_is_a_dead_letter_and_the_rest_goes_on() -> None:
    async def test() -> None:
        intake, refused = Acknowledging(), list[Any]()
        sent = [*events(1), {"message": "deep", "x": DEEP}, *events(1, FRAME_BYTES), *events(1)]
        async with running(beats(), intake) as port:
            await asyncio.to_thread(lumberjack(port, refused=refused).send, sent)
        assert intake.messages() == ["m0", "m0"]
        assert [event for event, _ in refused] == sent[1:3] and "limit" in refused[1][1]

    run(test())


def test_tls_is_spoken_to_a_peer_whose_certificate_is_named(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(CERTIFICATE.split(), cwd=tmp_path, check=True, capture_output=True)
    files = {"ssl_certificate": str(tmp_path / "cert.pem"), "ssl_key": str(tmp_path / "key.pem")}

    async def test() -> None:
        intake = Acknowledging()
        source = opened_input(plugin("beats", port=0, ssl_enabled=True, **files))
        async with running(source, intake) as port:
            named: dict[str, Any] = {"hosts": ["localhost"], "ssl_certificate": tmp_path / "cert.pem"}
            output = lumberjack(port, flush_size=1, **named)
            await asyncio.to_thread(output.send, events(3))
            output.close()
            with pytest.raises(Away, match="certificate"):
                await asyncio.to_thread(lumberjack(port, **named | {"hosts": ["127.0.0.1"]}).send, events(1))
        assert intake.messages() == ["m0", "m1", "m2"]

    run(test())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 5044}, "hosts: Field required"),
        ({"hosts": [], "port": 5044}, "hosts: "),
        ({"hosts": "a..b", "port": 5044}, "hosts: "),
        ({"hosts": "h", "port": 5044, "codec": "json"}, "option 'codec' is not supported"),
        ({"hosts": "h", "port": 5044, "ssl_certificate": "/nowhere.pem"}, "/nowhere.pem can't be read"),
    ],
)
def test_a_wrong_option_is_an_error_before_the_start(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(plugin("lumberjack", "output", **options), lambda refused: None)
