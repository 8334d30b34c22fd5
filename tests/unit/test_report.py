"""What a terminal shows."""

from __future__ import annotations

import pytest

from lakehouse.report import show_maintenance


@pytest.mark.parametrize(
    ("expires", "deleted", "words"),
    [
        (False, False, "90 days and would be deleted if stream.expire were on\n"),
        (True, False, "90 days and would be deleted\n"),
        (True, True, "90 days and were deleted\n"),
    ],
)
def test_maintenance_says_whether_old_records_go(
    expires: bool, deleted: bool, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    past = {"records": 1200, "retention_days": 90, "until": "", "expires": expires, "deleted": deleted}
    show_maintenance({"tables": {}, "retention": {"service-logs": past}})
    assert f"service-logs: 1,200 records are older than the contract's {words}" in capsys.readouterr().out
