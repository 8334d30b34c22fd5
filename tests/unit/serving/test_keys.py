"""Secrets: which are refused, and how keys are rotated without a gap."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from lakehouse.settings import Api, Settings
from serving.auth import Tokens, issue
from serving.keys import AuthError, keys, local_path, read, retire, rotate, weakness
from serving.problems import Problem

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    "secret",
    [
        "n" * 32,
        "x" * 1000,
        "ab" * 16,
        "abc" * 11,
        "ababababababababababababababababc",
        "changeme" * 4,
        "Change-Me-Change-Me-Please-Now-Or-Else",
        "CHANGE_ME_e8f7a6d5c4b3a2918f7e6d5c",
        "my-secret-key-that-is-long-enough-1",
        "lakehouse-5f2b8d1c9e7a3046b8d2f1c5",
        "0123456789abcdef0123456789abcdef",
        "<at least 32 bytes of your secret>",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabc",
    ],
)
def test_a_secret_that_people_guess_is_refused_outside_the_local_profile(secret: str, tmp_path: Path) -> None:
    assert weakness(secret)
    api = Api(secrets={"k": SecretStr(secret)})
    with pytest.raises(AuthError, match=r"key 'k' in LAKEHOUSE_API__SECRETS .* so it can be guessed") as caught:
        keys(Settings(home=tmp_path, profile="cluster", api=api))
    assert secret not in str(caught.value)


def test_a_random_secret_is_taken_however_it_is_written() -> None:
    for make in (lambda: secrets.token_hex(16), lambda: secrets.token_hex(32), lambda: secrets.token_urlsafe(24)):
        assert {weakness(make()) for _ in range(500)} == {None}
    assert weakness("") and weakness("7f3a9c")


async def test_a_rotated_key_signs_and_the_one_before_still_verifies(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    now, before = 0.0, keys(home)
    tokens = Tokens(before, clock=lambda: now)
    old = issue(before, "old", ["admin"], HOUR)
    kid = rotate(home, NOW)
    after = keys(home)
    assert [*after.secrets] == [kid, *before.secrets] and after.made[kid] == NOW
    new = issue(after, "new", ["admin"], HOUR)
    now = 1.0
    assert [(await tokens.check(token)).subject for token in (old, new)] == ["old", "new"]


async def test_a_retired_key_is_refused_within_a_second_by_who_serves_already(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    now, before = 0.0, keys(home)
    tokens = Tokens(before, clock=lambda: now)
    old = issue(before, "old", ["admin"], HOUR)
    assert (await tokens.check(old)).subject == "old"
    rotate(home, NOW)
    retire(home, *before.secrets)
    now = 1.0
    with pytest.raises(Problem) as caught:
        await tokens.check(old)
    assert caught.value.status == 401


async def test_a_file_that_breaks_while_it_is_served_from_changes_nothing(tmp_path: Path) -> None:
    home, now = Settings(home=tmp_path), 0.0
    found = keys(home)
    tokens = Tokens(found, clock=lambda: now)
    for n, text in enumerate(("{", "{}", None), 1):
        file = local_path(home)
        file.unlink() if text is None else file.write_text(text)
        now = float(n)
        assert (await tokens.check(issue(found, f"s{n}", ["admin"], HOUR))).subject == f"s{n}"


def test_the_key_that_signs_is_not_retired(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    (kid,) = keys(home).secrets
    with pytest.raises(AuthError, match=f"key {kid} signs new tokens: `lakehouse token --rotate` first"):
        retire(home, kid)
    with pytest.raises(AuthError, match=f"no key gone: there are {kid}"):
        retire(home, "gone")


def test_rotations_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: rotate(home, NOW), range(16))]
    found = keys(home)
    assert len(found.secrets) == 17 and set(made) < set(found.secrets)
    assert local_path(home).stat().st_mode & 0o777 == 0o600
    assert {file.name for file in local_path(home).parent.iterdir()} == {"api.json", "api.lock"}


def test_a_file_of_an_earlier_release_is_read_and_rotated(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    local_path(home).parent.mkdir()
    local_path(home).write_text(json.dumps({"local-1": "o" * 40}))
    kid = rotate(home, NOW)
    found = read(local_path(home))
    assert [*found.secrets] == [kid, "local-1"] and found.secrets["local-1"] == "o" * 40 and [*found.made] == [kid]


@pytest.mark.parametrize("profile", ["local", "cluster"])
def test_keys_of_the_environment_are_rotated_there(profile: str, tmp_path: Path) -> None:
    api = Api(secrets={"k": SecretStr(secrets.token_hex(32))})
    home = Settings(home=tmp_path, profile=profile, api=api)
    for change in (lambda: rotate(home, NOW), lambda: retire(home, "k")):
        with pytest.raises(AuthError, match="LAKEHOUSE_API__SECRETS: put a new one first"):
            change()
    assert not (tmp_path / "secrets").exists()
