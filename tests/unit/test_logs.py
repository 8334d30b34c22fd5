"""What a process logs: one JSON object a line, whatever is in it, with what it is about."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse import logs
from lakehouse.runtime.batches import in_its_batch
from lakehouse.settings import SettingsError, load

LOG = logging.getLogger("tests.logs")


class Kept(logging.Handler):
    def __init__(self, hide: Any = str) -> None:
        super().__init__()
        self.setFormatter(logs.JsonLines(hide))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def last(self) -> dict[str, Any]:
        assert "\n" not in self.lines[-1]
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    yield handler
    LOG.removeHandler(handler)


def test_a_line_has_time_level_logger_and_message(kept: Kept) -> None:
    LOG.warning("%d of %s", 3, "five")
    assert kept.last | {"time": ""} == {"time": "", "level": "warning", "logger": "tests.logs", "message": "3 of five"}
    assert kept.last["time"].endswith("Z") and len(kept.last["time"]) == 24


@settings(deadline=None)
@given(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
def test_whatever_is_logged_is_one_json_object_on_one_line(text: str, value: Any) -> None:
    handler = Kept()
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s", (text + "\n\ud800\x00",), None)
    with logs.about(topic=value):
        line = handler.format(record)
    assert "\n" not in line and set(json.loads(line)) == {"time", "level", "logger", "message", "topic"}


def test_lines_say_what_the_work_is_for_and_no_longer(kept: Kept) -> None:
    with logs.about(request_id="r1"):
        with logs.about(topic="user-events", seq=7):
            LOG.info("within")
            assert (kept.last["request_id"], kept.last["topic"], kept.last["seq"]) == ("r1", "user-events", 7)
        LOG.info("after")
        assert "topic" not in kept.last and kept.last["request_id"] == "r1"
    LOG.info("later")
    assert "request_id" not in kept.last


def test_what_a_line_is_about_cannot_pass_for_what_it_is(kept: Kept) -> None:
    with logs.about(level="critical", message="forged"):
        LOG.info("true")
    assert (kept.last["level"], kept.last["message"]) == ("info", "true")


def test_an_error_carries_what_it_ended_to_where_it_is_logged_even_out_of_threads(kept: Kept) -> None:
    class Pass:
        flow, progress = SimpleNamespace(topic="user-events"), SimpleNamespace(seq=41)

        @in_its_batch
        def land(self) -> None:
            raise RuntimeError("the disk is full")

    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(Pass().land).exception()
    assert error is not None
    LOG.error("%s", error, extra=logs.of(error))
    assert (kept.last["topic"], kept.last["seq"], kept.last["message"]) == ("user-events", 42, "the disk is full")


def test_a_trace_is_a_field_and_secrets_are_taken_out_of_texts_not_out_of_json() -> None:
    handler = Kept(lambda text: text.replace('a"secret', "[hidden]"))
    try:
        raise ValueError('a"secret')
    except ValueError:
        line = handler.format(logging.LogRecord("a", 40, "", 0, 'got a"secret', (), sys.exc_info()))
    found = json.loads(line)
    assert found["message"] == "got [hidden]" and "ValueError: [hidden]" in found["error"] and 'a\\"secret' not in line


CODE = """
import logging, warnings
from lakehouse import logs
logs.configure("json")
logging.getLogger("x").info("hello")
warnings.warn("old")
raise RuntimeError("at last")
"""


def test_a_process_that_logs_json_says_warnings_and_its_last_error_as_json_too() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env={**os.environ})
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["logger"] for line in found] == ["x", "py.warnings", "lakehouse"] and ended.returncode == 1
    assert found[-1]["message"] == "at last" and "Traceback" in found[-1]["error"]


def test_a_verb_that_fails_tells_so_in_the_format_of_its_log() -> None:
    env = {**os.environ, "LAKEHOUSE_LOG_FORMAT": "json", "LAKEHOUSE_API__HOST": "999.0.0.1"}
    ended = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", "serve"], capture_output=True, text=True, env=env, timeout=120
    )
    assert ended.returncode == 1
    last = [json.loads(line) for line in ended.stderr.splitlines()][-1]
    assert last["level"] == "critical" and "999.0.0.1" in last["message"]


def test_the_format_is_a_setting_and_no_other_word_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_LOG_FORMAT", "json")
    assert load().log_format == "json"
    monkeypatch.setenv("LAKEHOUSE_LOG_FORMAT", "yaml")
    with pytest.raises(SettingsError, match="log_format"):
        load()
