"""Connections: what is refused before it is a request, whom a proxy may speak for, and where the API may listen."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr, ValidationError

from lakehouse.settings import Api, Settings
from serving import listen
from serving.headers import SecurityHeaders
from serving.listen import LARGEST_HEAD, LONGEST_URL, MOST_HEADERS, ListenError


class Echo:
    """Answers with what it was asked, once the body is there."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
        told = {
            "path": scope["path"],
            "client": scope["client"][0],
            "scheme": scope["scheme"],
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
        }
        body = orjson.dumps(told)
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(**api: Any) -> Iterator[int]:
    """A real server on a port of its own, in a thread."""
    settings = Settings(api=Api(port=0, **api))
    with listen.listen(settings) as listening:
        config = uvicorn.Config(SecurityHeaders(Echo()), **(listen.options(settings) | {"loop": "asyncio"}))
        server = uvicorn.Server(config)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: loop.run_until_complete(server._serve([listening])))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            loop.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as found:
        yield found


def say(port: int, *parts: bytes, within: float = 5.0) -> bytes:
    """What is answered until the connection ends, or nothing comes for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=within) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            while chunk := connection.recv(65536):
                answer += chunk
        except (TimeoutError, ConnectionError):
            pass
        return answer


def request(path: str = "/", *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1") + body


CLOSE = "Connection: close"


def test_an_ordinary_request_is_served_again_and_again_on_a_connection(port: int) -> None:
    answer = say(port, request() * 3 + request("/last", CLOSE))
    assert answer.count(b"HTTP/1.1 200 OK") == 4 and b'"/last"' in answer


def test_as_much_as_is_allowed_is_served(port: int) -> None:
    long = "/" + "a" * (LONGEST_URL - 1)
    many = [f"X-{n}: {n}" for n in range(MOST_HEADERS - 2)]
    large = "X-Large: " + "x" * (LARGEST_HEAD - 2000)
    for text in (request(long, CLOSE), request("/", *many, CLOSE), request("/", large, CLOSE)):
        assert say(port, text).startswith(b"HTTP/1.1 200 ")
    body = b"x" * 3_000_000
    assert say(port, request("/", CLOSE, f"Content-Length: {len(body)}", body=body)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("parts", "status", "name"),
    [
        ((request("/" + "a" * LONGEST_URL),), 414, "url-too-long"),
        ((b"GET /" + b"a" * 200_000,), 414, "url-too-long"),
        ((request("/", *[f"X-{n}: {n}" for n in range(MOST_HEADERS)]),), 431, "headers-too-large"),
        ((request("/", "X: " + "x" * LARGEST_HEAD),), 431, "headers-too-large"),
        ((b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,), 431, "headers-too-large"),
        ((b"GET / HTTP/1.1\r\n" + b"x" * 200_000,), 431, "headers-too-large"),
        ((b"\r\n" * 100_000,), 431, "headers-too-large"),
        (
            (request("/", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\nX: "), b"x" * 200_000),
            431,
            "headers-too-large",
        ),
        (
            (request("/", "Transfer-Encoding: chunked", body=b"1;"), b"x" * 200_000),
            431,
            "headers-too-large",
        ),
        ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),), 400, "malformed"),
        ((b"SSH-2.0-x\r\n\r\n",), 400, "malformed"),
        ((request("/", "Content-Length: 1", "Content-Length: 2"),), 400, "malformed"),
        ((request("/", "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),), 400, "malformed"),
        ((request("/", "Content-Length: -1"),), 400, "malformed"),
        ((b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",), 400, "malformed"),
    ],
)  # fmt: skip
def test_what_is_too_long_or_no_request_is_a_problem_and_the_end(
    port: int, parts: tuple[bytes, ...], status: int, name: str
) -> None:
    head, _, body = say(port, *parts).partition(b"\r\n\r\n")
    told = orjson.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head.lower()
    assert (told["status"], told["type"]) == (status, f"urn:lakehouse:problem:{name}")
    assert told["request_id"].encode() in head and b"application/problem+json" in head


def test_a_trailer_is_no_header(port: int) -> None:
    text = request("/", CLOSE, "Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    assert b"uthorization" not in say(port, text)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", request()])
def test_a_head_that_does_not_come_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.listen.HEAD_S", 0.1)
    monkeypatch.setattr("serving.listen.IDLE_S", 0)
    with serving() as port:
        answer = say(port, sent)
    if sent == request():
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1") == 1  # idle, it is closed as it was
    else:
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout")


def test_more_connections_than_are_taken_are_told_to_come_again() -> None:
    with serving(max_connections=2) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for connection in held:
            connection.sendall(request())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        answer = say(port, request())
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer.lower()
        for connection in held:
            connection.close()
        while not say(port, request("/", CLOSE)).startswith(b"HTTP/1.1 200 "):
            pass


# --- proxies and TLS -------------------------------------------------------------------------------------------------

FORWARDED = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", CLOSE)


def test_nobody_speaks_for_others_unless_there_is_a_proxy(port: int) -> None:
    told = orjson.loads(say(port, request("/", *FORWARDED)).partition(b"\r\n\r\n")[2])
    assert (told["client"], told["scheme"]) == ("127.0.0.1", "http")


def test_a_proxy_that_is_trusted_tells_the_client_and_another_does_not() -> None:
    with serving(behind_proxy=True) as port:
        head, _, body = say(port, request("/", *FORWARDED)).partition(b"\r\n\r\n")
        assert (orjson.loads(body)["client"], orjson.loads(body)["scheme"]) == ("203.0.113.9", "https")
        assert b"strict-transport-security" in head
        # What the client wrote itself stands before what the proxy added.
        lied = ("X-Forwarded-For: 127.0.0.1, 10.9.9.9, 203.0.113.9", CLOSE)
        assert orjson.loads(say(port, request("/", *lied)).partition(b"\r\n\r\n")[2])["client"] == "203.0.113.9"
    with serving(behind_proxy=True, proxies=("10.0.0.0/8",)) as port:
        told = orjson.loads(say(port, request("/", *FORWARDED)).partition(b"\r\n\r\n")[2])
        assert (told["client"], told["scheme"]) == ("127.0.0.1", "http")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_with_a_certificate_the_api_speaks_tls_alone(certificate: tuple[Path, Path]) -> None:
    with serving(tls_certificate=certificate[0], tls_key=certificate[1]) as port:
        context = ssl.create_default_context(cafile=certificate[0])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(request("/", CLOSE))
            answer = b"".join(iter(lambda: tls.recv(65536), b""))
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert orjson.loads(body)["scheme"] == "https" and b"strict-transport-security: max-age=31536000" in head
        assert b"200 OK" not in say(port, request("/", CLOSE))


# --- where it may listen ---------------------------------------------------------------------------------------------

GOOD = {"key-1": SecretStr(secrets.token_hex(32))}


@pytest.mark.parametrize(
    ("api", "words"),
    [
        ({"host": "0.0.0.0"}, "tokens would cross the network in the clear"),
        ({"host": "0.0.0.0", "secrets": GOOD}, "tokens would cross the network in the clear"),
        ({"host": "::", "secrets": GOOD}, "in the clear"),
        ({"host": "", "secrets": GOOD}, "in the clear"),
        ({"host": "lake.example.org", "secrets": GOOD}, "in the clear"),
        ({"host": "192.0.2.1", "behind_proxy": True}, "set LAKEHOUSE_API__SECRETS"),
        ({"host": "0.0.0.0", "behind_proxy": True, "secrets": {"k": SecretStr("c" * 32)}}, "so it can be guessed"),
        ({"host": "127.0.0.1", "tls_certificate": Path("/nowhere.pem")}, "TLS is not possible"),
    ],
)
def test_the_api_does_not_listen_where_others_could_read_or_make_tokens(api: dict[str, Any], words: str) -> None:
    with pytest.raises(ListenError, match=words) as caught:
        listen.check(Settings(api=Api(**api)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "api",
    [
        {},
        {"host": "::1"},
        {"host": "127.0.0.9"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "behind_proxy": True, "secrets": GOOD},
    ],
)
def test_it_listens_on_loopback_and_behind_a_proxy_with_a_good_secret(api: dict[str, Any]) -> None:
    listen.check(Settings(api=Api(**api)))


def test_it_listens_for_others_with_tls_and_a_good_secret(certificate: tuple[Path, Path]) -> None:
    api = Api(host="0.0.0.0", secrets=GOOD, tls_certificate=certificate[0], tls_key=certificate[1])
    listen.check(Settings(api=api))
    with pytest.raises(ListenError, match="TLS is not possible"):
        listen.check(Settings(api=api.model_copy(update={"tls_key": certificate[0]})))


def test_a_key_without_a_certificate_is_a_wrong_setting() -> None:
    with pytest.raises(ValidationError, match="tls_key needs tls_certificate"):
        Api(tls_key=Path("key.pem"))
