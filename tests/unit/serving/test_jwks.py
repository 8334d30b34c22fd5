"""Tokens of an identity provider: which are taken, and what its absence costs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from lakehouse.settings import Api
from serving.auth import Caller, Tokens, issue
from serving.jwks import FRESH_S, KEPT_S, LARGEST, REST_S, Provider, fetcher, public_keys
from serving.problems import Problem
from tests.unit.serving.fakes import KEYS

pytestmark = pytest.mark.anyio
HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
API = Api(jwks_url="https://idp.example/keys", issuer="https://idp.example", audience="lake")
CLAIMS = {"iss": "https://idp.example", "aud": "lake", "sub": "ann", "iat": NOW, "exp": NOW + HOUR, "scope": "admin"}


def jwk(make: Any, key: Any, kid: str, **more: Any) -> dict[str, Any]:
    return {**make.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


SET = [
    jwk(RSAAlgorithm, RSA, "r", use="sig", alg="RS256"),
    jwk(ECAlgorithm, EC, "e"),
    jwk(OKPAlgorithm, ED, "d"),
]


def signed(algorithm: str = "RS256", key: Any = RSA, kid: str = "r", **claims: Any) -> str:
    present = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    return jwt.encode(present, key, algorithm, headers={"kid": kid})


def header_of(token: str, **changed: Any) -> str:
    """The token with another header."""
    head, rest = token.split(".", 1)
    told = json.loads(base64.urlsafe_b64decode(head + "==")) | changed
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=") + "." + rest


class Away:
    """A provider whose answers are given; counts what is asked of it."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys: list[dict[str, Any]] | Exception = list(keys)
        self.fetched, self.now = 0, 1000.0

    def fetch(self) -> bytes:
        self.fetched += 1
        if isinstance(self.keys, Exception):
            raise self.keys
        return json.dumps({"keys": self.keys}).encode()

    def tokens(self, api: Api = API) -> Tokens:
        return Tokens(KEYS, api, Provider(self.fetch, lambda: self.now), lambda: self.now)


async def status(tokens: Tokens, token: str) -> int:
    try:
        await tokens.check(token)
    except Problem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize(("algorithm", "key", "kid"), [("RS256", RSA, "r"), ("ES256", EC, "e"), ("EdDSA", ED, "d")])
async def test_a_providers_token_names_its_subject(algorithm: str, key: Any, kid: str) -> None:
    found = await Away(*SET).tokens().check(signed(algorithm, key, kid, scope="read:users predict"))
    assert found == Caller("https://idp.example#ann", frozenset({"read:users", "predict"}))


async def test_our_own_tokens_go_on_beside_a_provider_and_need_nothing_of_it() -> None:
    away = Away()
    assert (await away.tokens().check(issue(KEYS, "me", ["admin"], HOUR))).subject == "me" and away.fetched == 0


async def test_claims_are_those_that_the_settings_name() -> None:
    api = API.model_copy(update={"scope_claim": "scp", "user_claim": "sub"})
    found = await Away(*SET).tokens(api).check(signed(scp=["read:users", "predict"], scope=...))
    assert (found.scopes, found.user_id) == (frozenset({"read:users", "predict"}), "ann")


PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def confused(secret: bytes, **header: Any) -> str:
    """A token signed with a public key as if it were a shared secret, which PyJWT itself refuses to make."""
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "r", **header}, CLAIMS | {"iat": 1, "exp": 2**33}]
    text = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


BAD = {
    "the public key as a secret": confused(PEM),
    "the public key as a secret, stripped": confused(PEM.strip()),
    "the modulus as a secret": confused(SET[0]["n"].encode()),
    "RS256 in name alone": header_of(confused(PEM), alg="RS256"),
    "no signature": jwt.encode(CLAIMS, "", "none", headers={"kid": "r"}),
    "no signature, and nothing where it stood": signed().rsplit(".", 1)[0] + ".",
    "None": header_of(signed(), alg="None"),
    "nOnE without a signature": header_of(signed().rsplit(".", 1)[0] + ".", alg="nOnE"),
    "a key of another kind": header_of(signed(), kid="e"),
    "an algorithm of another kind": header_of(signed(), alg="ES256"),
    "a longer hash": signed("RS512"),
    "another padding": signed("PS256"),
    "a stranger's key": signed(key=rsa.generate_private_key(65537, 2048)),
    "a key of its own": header_of(signed(key=ED, algorithm="EdDSA"), jwk=jwk(OKPAlgorithm, ED, "r")),
    "a set of its own": header_of(signed(), jku="https://evil.example/keys", kid="x"),
    "the name of our key": signed(kid="new"),
    "our name": signed(iss="lakehouse"),
    "another issuer": signed(iss="https://idp.example.evil"),
    "another audience": signed(aud="others"),
    "no audience": signed(aud=...),
    "expired": signed(exp=NOW - HOUR),
    "not yet valid": signed(nbf=NOW + HOUR),
    "no end": signed(exp=...),
    "no subject": signed(sub=...),
    "no scopes": signed(scope=...),
    "scopes of numbers": signed(scope=[1]),
    "scopes in an object": signed(scope={"admin": 1}),
    "a user that is null": signed(user_id=None),
    "another header": header_of(signed(), typ="at+jwt"),
    "a critical word": jwt.encode(CLAIMS, RSA, "RS256", headers={"kid": "r", "crit": ["new"], "new": 1}),
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD.keys())
async def test_a_bad_token_of_a_provider_is_refused(token: str) -> None:
    assert await status(Away(*SET).tokens(), token) == 401


async def test_our_secret_does_not_sign_for_the_provider_nor_its_key_for_us() -> None:
    tokens = Away(*SET).tokens()
    ours: dict[str, Any] = {"iss": "lakehouse", "aud": "lakehouse", "sub": "me", "iat": NOW, "exp": NOW + HOUR,
                            "scope": "admin"}  # fmt: skip
    assert await status(tokens, signed(**ours)) == 401
    assert await status(tokens, jwt.encode(CLAIMS, "n" * 32, "HS256", headers={"kid": "new"})) == 401


async def test_without_a_provider_its_tokens_are_nobodys() -> None:
    assert await status(Tokens(KEYS), signed()) == 401


# --- fetching --------------------------------------------------------------------------------------------------------


async def test_a_flood_of_unknown_keys_is_one_fetch_in_thirty_seconds() -> None:
    away = Away(*SET)
    tokens = away.tokens()
    assert {await status(tokens, signed(kid=f"k{n}")) for n in range(200)} == {401}
    assert await asyncio.gather(*(status(tokens, signed(kid=f"a{n}")) for n in range(50))) == [401] * 50
    assert away.fetched == 1
    away.now += REST_S
    assert {await status(tokens, signed(kid=f"b{n}")) for n in range(200)} == {401} and away.fetched == 2


async def test_a_flood_while_the_provider_is_away_is_one_fetch_too() -> None:
    away = Away()
    away.keys = OSError("unreachable")
    tokens = away.tokens()
    assert await asyncio.gather(*(status(tokens, signed(kid=f"a{n}")) for n in range(50))) == [503] * 50
    assert {await status(tokens, signed(kid=f"b{n}")) for n in range(50)} == {503} and away.fetched == 1


async def test_a_key_that_the_provider_added_is_found() -> None:
    away = Away(SET[1])
    tokens = away.tokens()
    assert await status(tokens, signed("ES256", EC, "e")) == 200
    away.keys = SET
    assert await status(tokens, signed()) == 401  # within the rest
    away.now += REST_S
    assert await status(tokens, signed()) == 200 and away.fetched == 2


async def test_while_the_provider_is_away_known_keys_go_on_and_others_are_503() -> None:
    away = Away(*SET)
    tokens = away.tokens()
    assert await status(tokens, signed()) == 200
    away.keys = OSError("unreachable")
    away.now += FRESH_S
    assert await status(tokens, signed(sub="bob")) == 200
    await asyncio.sleep(0)
    while tokens._provider is not None and tokens._provider._fetching is not None:
        await asyncio.sleep(0.001)
    with pytest.raises(Problem) as caught:
        await tokens.check(signed(kid="new-one"))
    assert caught.value.status == 503 and 1 <= int(caught.value.headers["Retry-After"]) <= REST_S
    assert await status(tokens, signed(sub="cy")) == 200
    away.now += KEPT_S
    assert await status(tokens, signed(sub="dee")) == 503
    away.keys = SET
    away.now += REST_S
    assert await status(tokens, signed(sub="eve")) == 200


async def test_a_key_that_the_provider_took_back_is_no_longer_good() -> None:
    away = Away(*SET)
    tokens = away.tokens()
    assert await status(tokens, signed()) == 200
    away.keys = SET[1:]
    away.now += FRESH_S
    await status(tokens, signed("ES256", EC, "e"))  # begins the fetch
    while tokens._provider is not None and tokens._provider._fetching is not None:
        await asyncio.sleep(0.001)
    away.now += 10
    assert await status(tokens, signed()) == 401


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [1, null, {}]}', b"[" * 100_000, b"\xff"],
)
async def test_an_answer_that_is_no_set_takes_no_known_key_away(text: bytes) -> None:
    with pytest.raises(ValueError):
        public_keys(text)
    answers = [json.dumps({"keys": SET}).encode(), text]
    now = 0.0
    provider = Provider(lambda: answers.pop(0), lambda: now)
    assert await provider.key("r", "RS256")
    now = REST_S
    with pytest.raises(Problem):
        await provider.key("x", "RS256")
    assert await provider.key("r", "RS256")


def test_only_public_keys_for_signatures_that_are_taken_are_kept() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    others = [
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        {"kty": "oct", "kid": "r2", "k": "c2VjcmV0", "alg": "RS256"},
        jwk(RSAAlgorithm, weak, "weak"),
        jwk(RSAAlgorithm, RSA, "encrypts", use="enc"),
        jwk(RSAAlgorithm, RSA, "signs", key_ops=["sign"]),
        jwk(RSAAlgorithm, RSA, "longer", alg="RS512"),
        jwk(RSAAlgorithm, RSA, "hs", alg="HS256"),
        jwk(RSAAlgorithm, RSA, "none", alg="none"),
        jwk(RSAAlgorithm, RSA, "x" * 201),
        jwk(ECAlgorithm, ec.generate_private_key(ec.SECP384R1()), "p384"),
        jwk(ECAlgorithm, ec.generate_private_key(ec.SECP384R1()), "p384 as 256", alg="ES256"),
        {"kty": "RSA", "kid": "half", "n": "AQAB"},
        {"kty": "??", "kid": "odd"},
    ]
    private = {**RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "private"}
    private.pop("key_ops", None)
    found = public_keys(json.dumps({"keys": [*others, private, *SET]}).encode())
    assert set(found) == {"r", "e", "d", "private"}
    assert isinstance(found["private"].key, rsa.RSAPublicKey)


async def test_the_set_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": SET}))
    api = API.model_copy(update={"jwks_url": str(file)})
    assert (await Tokens(KEYS, api).check(signed())).subject == "https://idp.example#ann"


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/keys"
    finally:
        server.shutdown()
        server.server_close()


def test_the_set_is_fetched_over_http_and_bounded() -> None:
    with answering(200, json.dumps({"keys": SET}).encode()) as url:
        assert set(public_keys(fetcher(url)())) == {"r", "e", "d"}
    with answering(200, b" " * (LARGEST + 1)) as url, pytest.raises(ValueError, match="over 262,144 bytes"):
        fetcher(url)()
    for status, headers in ((500, {}), (404, {}), (302, {"Location": "file:///etc/passwd"})):
        with answering(status, b'{"keys": []}', **headers) as url, pytest.raises(Exception, match=str(status)):
            fetcher(url)()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"jwks_url": "https://i/k"}, "issuer and audience"),
        ({"jwks_url": "https://i/k", "issuer": "i"}, "issuer and audience"),
        ({"jwks_url": "http://idp.example/k", "issuer": "i", "audience": "a"}, "https"),
        ({"jwks_url": "ftp://idp.example/k", "issuer": "i", "audience": "a"}, "https"),
        ({"jwks_url": "https://i/k", "issuer": "lakehouse", "audience": "a"}, "another name"),
    ],
)
def test_settings_of_a_provider_are_whole(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Api(**given)
