"""tcp, udp, http and stdin: what is sent is kept, and a full queue is heard of."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest

from lakehouse.collect.codecs import text_of
from lakehouse.collect.event import delivered
from lakehouse.collect.inputs import INPUTS, opened
from lakehouse.collect.inputs.http import Http, HttpOptions
from lakehouse.collect.inputs.listening import InputError
from lakehouse.collect.inputs.stdin import Stdin, StdinOptions
from lakehouse.collect.plugins import ConfigError
from tests.unit.collect.fakes import Intake, plugin, running


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def send(port: int, data: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_tcp_keeps_every_line_and_the_last_one_without_an_end() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(opened(plugin("tcp", port=0, type="app")), intake) as port:
            await send(port, b"one\ntwo\xff\nthree")
            await intake.until(3)
        assert intake.messages() == ["one", "two\\xFF", "three"]
        assert intake.events[0]["type"] == "app"
        assert intake.events[0]["@metadata"]["input"]["tcp"]["source"]["ip"] == "127.0.0.1"

    run(test())


def test_tcp_cuts_a_flood_without_newlines() -> None:
    async def test() -> None:
        intake = Intake()
        codec = plugin("line", "codec", decode_size_limit_bytes=100_000)
        async with running(opened(plugin("tcp", port=0, codec=codec)), intake) as port:
            await send(port, b"\0" * 1_050_000)
            await intake.until(11)
        assert [len(m) for m in intake.messages()] == [100_000] * 10 + [50_000]
        assert all(event["tags"] == ["_cut"] for event in intake.events)

    run(test())


def test_whatever_lines_come_each_is_an_event_that_can_be_delivered() -> None:
    chance = random.Random(7)
    lines = [chance.randbytes(chance.randrange(400)).replace(b"\n", b"") for _ in range(3000)]
    lines += [chance.randbytes(1_000_000).replace(b"\n", b""), b'{"a":' * 3000, b"\xf0\x9f" * 500]

    async def test() -> None:
        intake = Intake()
        async with running(opened(plugin("tcp", port=0)), intake) as port:
            await send(port, b"\n".join(lines) + b"\n")
            await intake.until(len(lines))
        assert intake.messages() == [text_of(line) for line in lines]
        assert all(orjson.loads(delivered(event)) for event in intake.events)

    run(test())


def test_tcp_completes_a_joined_event_after_silence() -> None:
    async def test() -> None:
        intake = Intake()
        codec = plugin("multiline", "codec", pattern=r"^\s", what="previous", auto_flush_interval=0.05)
        async with running(opened(plugin("tcp", port=0, codec=codec)), intake) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"a\n b\n")
            await intake.until(1)
            writer.close()
        assert intake.messages() == ["a\n b"]

    run(test())


def test_tcp_reads_no_further_while_the_queue_is_full() -> None:
    async def test() -> None:
        intake = Intake(room=1)
        async with running(opened(plugin("tcp", port=0)), intake) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"first\n")
            await intake.until(1)
            writer.write(b"x" * 50_000_000)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.3)
            writer.transport.abort()

    run(test())


def test_udp_makes_an_event_of_a_datagram() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(opened(plugin("udp", port=0, codec="json")), intake) as port:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for data in (b'{"message":"a"}', b"\xff\x00", b'[{"message":"b","host":"h"},{"message":"c"}]'):
                    sender.sendto(data, ("127.0.0.1", port))
            await intake.until(4)
        assert intake.messages() == ["a", "\\xFF\0", "b", "c"]
        assert [event["host"] for event in intake.events] == [{"ip": "127.0.0.1"}] * 2 + ["h", {"ip": "127.0.0.1"}]

    run(test())


async def request(port: int, method: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} /logs HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, text = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), text


def test_http_answers_ok_once_the_events_are_kept() -> None:
    async def test() -> None:
        intake = Intake()
        async with running(opened(plugin("http", port=0)), intake) as port:
            json = {"Content_Type": "application/json; charset=utf-8"}
            assert await request(port, "POST", b'[{"message":"a"},{"message":"b"}]', **json) == (200, b"ok")
            assert await request(port, "PUT", b"plain\n") == (200, b"ok")
            assert await request(port, "POST", b"{", **json) == (200, b"ok")
            assert (await request(port, "GET", b""))[0] == 405
        assert intake.messages() == ["a", "b", "plain\n", "{"]
        assert intake.events[3]["tags"] == ["_jsonparsefailure"] and intake.events[0]["host"] == {"ip": "127.0.0.1"}

    run(test())


def test_http_says_when_the_queue_is_full_or_the_body_too_long_or_the_user_unknown() -> None:
    async def test() -> None:
        source = Http(HttpOptions(port=0, max_content_length=100, user="u", password="p"), plugin("http"), busy=0.05)  # type: ignore[arg-type]
        async with running(source, Intake(room=0)) as port:
            known = {"Authorization": "Basic dTpw"}
            assert (await request(port, "POST", b"a"))[0] == 401
            assert (await request(port, "POST", b"a", **known))[0] == 429
            assert (await request(port, "POST", b"a" * 101, **known))[0] == 413

    run(test())


def test_stdin_ends_with_its_bytes() -> None:
    async def test() -> None:
        read, write = os.pipe()
        os.write(write, b"a\nb")
        os.close(write)
        intake = Intake()
        await Stdin(StdinOptions(), plugin("stdin"), read).run(intake)
        os.close(read)
        assert intake.messages() == ["a", "b"]
        assert intake.events[0]["host"]["hostname"] == socket.gethostname()

    run(test())


def test_a_taken_port_is_an_error_that_names_it() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for name in ("tcp", "beats", "http"):
                with pytest.raises(InputError, match=rf"can't listen on 127.0.0.1:{port}: Address already in use"):
                    async with running(opened(plugin(name, port=port)), Intake()):
                        pass

    run(test())


def test_inputs_listen_on_the_loopback_unless_told_otherwise() -> None:
    for model, _ in INPUTS.values():
        if "host" in model.model_fields:
            assert model.model_fields["host"].default == "127.0.0.1"


def test_an_unknown_input_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ConfigError, match="input 'syslog' is not supported; known are beats, file"):
        opened(plugin("syslog"))


CERTIFICATE = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"


def test_tls_is_spoken_where_it_is_asked_for(tmp_path: Path) -> None:
    import shutil
    import ssl
    import subprocess

    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(CERTIFICATE.split(), cwd=tmp_path, check=True, capture_output=True)

    async def test() -> None:
        intake = Intake()
        files = {"ssl_certificate": str(tmp_path / "cert.pem"), "ssl_key": str(tmp_path / "key.pem")}
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        context.check_hostname = False
        async with running(opened(plugin("tcp", port=0, ssl_enabled=True, **files)), intake) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"secret\n")
            await intake.until(1)
            writer.close()
        async with running(opened(plugin("http", port=0, ssl_enabled=True, **files)), intake) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
            assert (await reader.readline()).split()[1] == b"200"
            writer.close()
        required = {"ssl_client_authentication": "required", "ssl_certificate_authorities": files["ssl_certificate"]}
        async with running(opened(plugin("tcp", port=0, ssl_enabled=True, **files, **required)), intake) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                writer.write(b"no certificate\n")
                await writer.drain()
                if not await reader.read(1):
                    raise ConnectionError
        assert intake.messages() == ["secret", "x"]

    run(test())
