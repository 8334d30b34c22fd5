"""No secret in a log line, whoever writes it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from pydantic import SecretStr

from lakehouse.logs import JsonLines
from lakehouse.settings import PROJECT, Api, Mongo, Redis, Settings
from serving.auth import Keys, issue, keys
from serving.redact import HIDDEN, Redacting, install, secrets_of

SECRET = "5ec2e7" * 10 + "beef"
PASSWORDS = {name: f"pw-{name}-{secrets.token_hex(6)}" for name in ("redis", "mongo", "elastic")}
TOKEN = issue(Keys({"k": SECRET}), "tester", ["read:metrics", "read:users", "read:logs"], timedelta(hours=1))


def hide(text: str) -> str:
    return Redacting(logging.Formatter(), [SECRET, "short"]).hide(text)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        f"authorization: bearer {TOKEN}",
        f"[(b'host', b'x'), (b'authorization', b'Bearer {TOKEN}')]",
        f"{{'Authorization': 'Bearer {TOKEN}'}}",
        f"GET /v1/stream?access_token={TOKEN}&x=1",
        f"GET /v1/stream?token={TOKEN}",
        f"GET /{TOKEN}/x",
        f"the token {TOKEN[:-20]}... was cut",
        f"key {SECRET} signs",
        f"a{SECRET}b",
        "Bearer%20" + TOKEN,
    ],
)
def test_what_is_secret_is_taken_out_wherever_it_stands(text: str) -> None:
    hidden = hide(text)
    assert HIDDEN in hidden and SECRET not in hidden
    assert not any(part in hidden for part in TOKEN.split(".") if len(part) > 20)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET /x?api_key=abc123&limit=3", f"GET /x?api_key={HIDDEN}&limit=3"),
        ("password=hunter22, user=ann", f"password={HIDDEN}, user=ann"),
        ('{"secret": "abc def"}', f'{{"secret": "{HIDDEN} def"}}'),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {HIDDEN}"),
        ("redis://:pass@host:6379/0 is away", f"redis://{HIDDEN}@host:6379/0 is away"),
        ("mongodb://ann:pa%40ss@h1,h2/db", f"mongodb://{HIDDEN}@h1,h2/db"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, hidden: str) -> None:
    assert hide(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/tables/gold.activity_minute 200 12 ms request 0123456789abcdef0123456789abcdef",
        "serving on http://127.0.0.1:8000",
        "keys of tokens are now local-20261126-abcdef",
        "no topic user-events at kafka:9092: see LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS",
        "a short word stays",
        "ann@example.org wrote to https://example.org/a@b",
    ],
)
def test_an_ordinary_line_stays_as_it_is(text: str) -> None:
    assert hide(text) == text


def test_traces_are_redacted_too() -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(Redacting(logging.Formatter("%(message)s"), [SECRET]))
    log = logging.Logger("t")
    log.addHandler(handler)
    try:
        raise ValueError(f"cannot use {SECRET} and Bearer {TOKEN}")
    except ValueError:
        log.exception("failed with %s", SECRET)
    assert SECRET not in said.getvalue() and TOKEN not in said.getvalue() and "Traceback" in said.getvalue()


def test_every_secret_of_the_settings_is_known(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        api=Api(secrets={"k": SecretStr(SECRET)}),
        redis=Redis(url=SecretStr("redis://:red%40is-pass@h/0")),
        mongo=Mongo(uri=SecretStr("mongodb://ann:mongo-pass@h/")),
    )
    found = {*secrets_of(settings)}
    assert {SECRET, "red%40is-pass", "red@is-pass", "mongo-pass", "mongodb://ann:mongo-pass@h/"} <= found
    local = keys(Settings(home=tmp_path))
    assert {*secrets_of(Settings(home=tmp_path))} == {*local.secrets.values()}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """`lakehouse serve` whose stores are away, with passwords in every address; its address and its log so far."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT}/src:{PROJECT}",
        "LAKEHOUSE_HOME": str(tmp_path_factory.mktemp("home")),
        "LAKEHOUSE_SERVERS": "existing",
        "LAKEHOUSE_API__SECRETS": json.dumps({"k": SECRET}),
        "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "LAKEHOUSE_HDFS__URI": "hdfs://127.0.0.1:1",
        "LAKEHOUSE_REDIS__URL": f"redis://:{PASSWORDS['redis']}@127.0.0.1:1/0",
        "LAKEHOUSE_MONGO__URI": f"mongodb://ann:{PASSWORDS['mongo']}@127.0.0.1:1/?serverSelectionTimeoutMS=200",
        "LAKEHOUSE_ELASTICSEARCH__URL": f"http://ann:{PASSWORDS['elastic']}@127.0.0.1:1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "lakehouse.cli", "serve", "--port", "0"],
        cwd=PROJECT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    log, found = [], threading.Event()

    def follow() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            if "serving on" in line:
                found.set()
        found.set()

    reader = threading.Thread(target=follow)
    reader.start()
    assert found.wait(60)
    at = re.search(r"serving on (http://\S+)", "".join(log))
    assert at, "".join(log)
    yield at.group(1), log
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    reader.join()
    assert process.returncode == 0


def test_a_process_that_meets_nothing_but_errors_logs_no_secret(served: tuple[str, list[str]]) -> None:
    url, log = served
    mine = {"Authorization": f"Bearer {TOKEN}"}
    other = issue(Keys({"k": secrets.token_hex(32)}), "evil", ["admin"], timedelta(hours=1))
    with httpx2.Client(base_url=url, timeout=60) as api:
        for path in (
            "/v1/activity", "/v1/activity/live", "/v1/posts/trending", "/v1/users/u1/activity",
            "/v1/users/u1/notifications", "/v1/users/u1/recommendations", "/v1/logs/search?q=x", "/readyz",
            f"/v1/tables?access_token={TOKEN}", f"/{TOKEN}", f"/v1/tables/{quote(SECRET)}", f"/x?password={SECRET}",
            "/a%0a2026-11-26T00:00:00Z%20INFO%20forged:%20line", "/%ff%00%1b[31m",
        ):  # fmt: skip
            for headers in (mine, {"Authorization": f"Bearer {other}"}, {"Authorization": f"Basic {SECRET}"}, {}):
                answer = api.get(path, headers=headers)
                assert SECRET not in answer.text or SECRET in path
                assert not any(password in answer.text for password in PASSWORDS.values())
        api.post("/v1/events", headers=mine, content=f'{{"token": "{TOKEN}"}}')
        with suppress(httpx2.HTTPError):
            api.get("/", headers={"Authorization": "Bearer " + "x" * 40_000})
        last = api.get("/healthz", headers={"X-Request-Id": "the-last"})
        assert last.status_code == 200
    for _ in range(500):
        if any("the-last" in line for line in log):
            break
        threading.Event().wait(0.01)
    text = "".join(log)
    assert "the-last" in text and len(log) > 50
    for secret in (SECRET, TOKEN, TOKEN.split(".")[2], other, other.split(".")[2], *PASSWORDS.values()):
        assert secret not in text
    assert not any(line.startswith("2026-11-26T00:00:00Z INFO forged") for line in log) and "\x1b" not in text


def test_a_json_line_stays_json_when_secrets_are_taken_out_of_it() -> None:
    secret = f'pass"word\\{secrets.token_hex(6)}'
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    handler.setFormatter(JsonLines())
    before, root.handlers = root.handlers, [handler]
    try:
        install(Settings(api=Api(secrets={"k": SecretStr(SECRET)}), redis=Redis(url=SecretStr(f"redis://:{secret}@a"))))
        logging.getLogger("x").warning('password=%s" and key %s of redis://:%s@a, Bearer a"b', secret, SECRET, secret)
    finally:
        root.handlers = before
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)["message"]
    assert HIDDEN in found and SECRET not in found and secret.rpartition("\\")[2] not in found
