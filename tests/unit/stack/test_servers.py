"""The servers' commands."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from lakehouse.settings import Settings
from lakehouse.stack import servers


def test_a_cluster_id_is_never_taken_for_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter([UUID(bytes=b"\xf8" + bytes(15)), UUID(bytes=b"\xfb" + bytes(15)), UUID(bytes=bytes(16))])
    monkeypatch.setattr(servers.uuid, "uuid4", lambda: next(ids))
    monkeypatch.setattr(servers, "_kafka", lambda place, *main: list(main))
    place = servers.Place(Settings(home=tmp_path), tmp_path, tmp_path, {})
    command = servers._kafka_format(place)
    assert command[command.index("-t") + 1] == "A" * 22
