"""How often the stream was started again is remembered over processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse.runtime.restarts import said, started


def test_restarts_add_up_over_processes_and_a_first_start_is_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert said(home) is None
    started(home, again=False)
    assert (said(home) or {})["restarts"] == 0
    started(home, again=True)
    started(home, again=False)
    started(home, again=True)
    assert (said(home) or {})["restarts"] == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"started_at": 1, "restarts": "many"}'])
def test_a_file_that_is_broken_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "stream.json").write_text(text)
    assert said(tmp_path) is None
    started(tmp_path, again=True)
    assert (said(tmp_path) or {})["restarts"] == 1
