"""Tokens and scopes: who gets in, who does not, and what the answer says."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from pydantic import SecretStr

from lakehouse.settings import Api, Settings, SettingsError, load
from serving.auth import AuthError, Caller, Keys, Tokens, issue, keys, verify
from serving.problems import Problem
from tests.unit.serving.fakes import EVENT, KEYS

pytestmark = pytest.mark.anyio
HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)
CLAIMS = {
    "iss": "lakehouse",
    "aud": "lakehouse",
    "sub": "s",
    "iat": NOW,
    "exp": NOW + HOUR,
    "scope": "write:events",
}


def signed(kid: str = "new", secret: str = "n" * 32, algorithm: str = "HS256", **claims: Any) -> str:
    present = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    return jwt.encode(present, secret, algorithm, headers={"kid": kid})


def tampered() -> str:
    head, body, signature = signed(scope="read:tables").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "==")) | {"scope": "write:events"}
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.{signature}"


async def status(api: httpx2.AsyncClient, authorization: str | None) -> httpx2.Response:
    if authorization is None:
        del api.headers["Authorization"]
    else:
        api.headers["Authorization"] = authorization
    return await api.post("/v1/events", json=EVENT)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic dTpw", "Token x"])
async def test_without_a_bearer_token_the_answer_asks_for_one(
    api: httpx2.AsyncClient, authorization: str | None
) -> None:
    answer = await status(api, authorization)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lakehouse"'
    assert answer.headers["Content-Type"] == "application/problem+json"


BAD = {
    "nonsense": "x.y.z",
    "not ascii": "é",
    "tampered": tampered(),
    "another secret": signed(secret="x" * 32),
    "the secret of another key": signed(kid="old"),
    "an unknown key": signed(kid="gone"),
    "no key id": jwt.encode(CLAIMS, "n" * 32, "HS256"),
    "no signature": jwt.encode(CLAIMS, "", "none", headers={"kid": "new"}),
    "another algorithm": signed(algorithm="HS512", secret="n" * 64),
    "expired": signed(exp=NOW - HOUR),
    "not yet issued": signed(iat=NOW + HOUR),
    "not yet valid": signed(nbf=NOW + HOUR),
    "for others": signed(aud="others"),
    "of others": signed(iss="others"),
    "no end": signed(exp=...),
    "no scope": signed(scope=...),
    "no subject": signed(sub=...),
    "a number for a subject": signed(sub=5),
    "a blank subject": signed(sub="  "),
    "an invisible subject": signed(sub="a\nb"),
    "an endless subject": signed(sub="s" * 301),
    "scopes in an array": signed(scope=["write:events"]),
    "no scope but null": signed(scope=None),
    "a number for scopes": signed(scope=7),
    "scopes in an object": signed(scope={"write:events": True}),
    "nobody's user": signed(user_id=None),
    "an empty user": signed(user_id=""),
    "a number for a user": signed(user_id=7),
    "users in an array": signed(user_id=["u1"]),
    "an infinite end": signed(exp=float("inf")),
    "words for an end": signed(exp="tomorrow"),
    "too long": signed(sub="s" * 10_000),
    "a megabyte": "x" * 1_000_000,
    "a megabyte that is signed": signed(filler="x" * 1_000_000),
    "a header of brackets": base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.e30",
    "a header that is an array": base64.urlsafe_b64encode(b"[]").decode().rstrip("=") + ".e30.e30",
    "a header of rubbish": base64.urlsafe_b64encode(bytes(range(256))).decode().rstrip("=") + ".e30.e30",
    "an encrypted one": "a.b.c.d.e",
    "nothing but dots": "..",
    "a space within": "a b",
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD.keys())
async def test_a_bad_token_is_refused(api: httpx2.AsyncClient, broker: Any, token: str) -> None:
    with pytest.raises(Problem) as caught:
        verify(KEYS, token)
    assert caught.value.status == 401
    with pytest.raises(Problem) as caught:
        await Tokens(KEYS).check(token)
    assert caught.value.status == 401 and len(caught.value.detail) < 300
    if token.isascii():
        answer = await status(api, f"Bearer {token}")
        assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert broker.records == []


async def test_a_token_without_the_scope_is_forbidden(api: httpx2.AsyncClient, broker: Any) -> None:
    answer = await status(api, f"Bearer {issue(KEYS, 's', ['read:tables', 'admin'], HOUR)}")
    assert answer.status_code == 403 and broker.records == []
    assert 'error="insufficient_scope", scope="write:events"' in answer.headers["WWW-Authenticate"]


async def test_every_known_key_verifies_and_the_first_signs(api: httpx2.AsyncClient) -> None:
    assert jwt.get_unverified_header(issue(KEYS, "s", ["admin"], HOUR))["kid"] == "new"
    assert (await status(api, f"Bearer {signed(kid='old', secret='o' * 32)}")).status_code == 202


def test_a_token_says_whom_it_names_and_what_for() -> None:
    found = verify(KEYS, issue(KEYS, "me", ["read:tables", "write:events"], HOUR))
    assert found.subject == "me" and found.scopes == {"read:tables", "write:events"}


def test_a_users_token_names_the_user() -> None:
    assert verify(KEYS, issue(KEYS, "me", ["read:users"], HOUR, "u1")) == Caller("me", frozenset({"read:users"}), "u1")
    assert verify(KEYS, issue(KEYS, "me", ["read:users"], HOUR)).user_id is None


@pytest.mark.parametrize("name", ["", " ", "x" * 301, "a\nb", "\u200b"])
def test_a_token_for_nobody_is_not_issued(name: str) -> None:
    with pytest.raises(AuthError, match="a subject has 1 to 300 characters"):
        issue(KEYS, name, ["read:users"], HOUR)
    with pytest.raises(AuthError, match="a user has 1 to 300 characters"):
        issue(KEYS, "me", ["read:users"], HOUR, name)


async def test_two_tokens_in_one_request_are_refused(api: httpx2.AsyncClient, broker: Any) -> None:
    good, bad = (issue(KEYS, "s", [scope], HOUR) for scope in ("write:events", "admin"))
    twice = [("Authorization", f"Bearer {token}") for token in (good, bad)]
    del api.headers["Authorization"]
    assert (await api.post("/v1/events", json=EVENT, headers=twice)).status_code == 401
    assert broker.records == []


async def test_a_token_that_was_valid_just_now_is_not_valid_after_its_end() -> None:
    now = 0.0
    tokens = Tokens(KEYS, clock=lambda: now)
    short = signed(exp=datetime.now(UTC) + timedelta(seconds=2))
    assert (await tokens.check(short)).subject == "s"
    known = tokens._known[next(iter(tokens._known))]
    assert known[1] <= 2.0  # not for five seconds: it ends before
    with pytest.raises(Problem):
        await tokens.check(signed(exp=datetime.now(UTC) - timedelta(minutes=1)))


async def test_what_is_known_of_tokens_stays_small() -> None:
    tokens = Tokens(KEYS)
    for n in range(100):
        await tokens.check(signed(sub=f"s{n}"))
    assert len(tokens._known) == 100
    for bad in BAD.values():
        with pytest.raises(Problem):
            await tokens.check(bad)
    assert len(tokens._known) == 100


def test_a_scope_that_does_not_exist_is_not_issued() -> None:
    with pytest.raises(AuthError, match="no scope write:all: there are write:events"):
        issue(KEYS, "me", ["write:all"], HOUR)


def test_locally_a_secret_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    first = keys(Settings(home=tmp_path))
    file = tmp_path / "secrets" / "api.json"
    assert keys(Settings(home=tmp_path)) == first != keys(Settings(home=tmp_path / "other"))
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    assert [*file.parent.iterdir()] == [file]
    assert not any(secret in repr(first) for secret in first.secrets.values())


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{}", '{"k": "short"}'])
def test_a_local_secret_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "api.json").write_text(text)
    with pytest.raises(AuthError, match=r"api\.json"):
        keys(Settings(home=tmp_path))


def test_elsewhere_the_environment_has_to_hold_the_secret(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match=r"profile cluster has no secret .* set LAKEHOUSE_API__SECRETS"):
        keys(Settings(home=tmp_path, profile="cluster"))
    secret = "6b1f0c9a7d4e2835b6f1c0d9e8a74b23"
    given = Settings(home=tmp_path, profile="cluster", api=Api(secrets={"k": SecretStr(secret)}))
    assert keys(given) == Keys({"k": secret})
    assert not (tmp_path / "secrets").exists()


def test_secrets_come_from_the_environment_alone_and_are_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_API__SECRETS", json.dumps({"b": "x" * 32, "a": "y" * 32}))
    assert [*keys(load()).secrets] == ["b", "a"]
    monkeypatch.setenv("LAKEHOUSE_API__SECRETS", '{"a": "short"}')
    with pytest.raises(SettingsError, match="key 'a' is shorter than 32 bytes"):
        load()
    monkeypatch.delenv("LAKEHOUSE_API__SECRETS")
    (tmp_path / "base.yaml").write_text("api: {secrets: {a: " + "x" * 32 + "}}")
    (tmp_path / "local.yaml").write_text("")
    with pytest.raises(SettingsError, match=r"api\.secrets does not belong into a file"):
        load(tmp_path)


async def test_the_body_of_a_stranger_is_not_read(api: httpx2.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 65536

    answer = await api.post("/v1/events", content=endless(), headers={"Authorization": "Bearer x.y.z"})
    assert answer.status_code == 401 and read == 0
