"""One writer at a time, and the stream hears who waits."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.runtime.turns import TurnError, only_writer, wanted
from lakehouse.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_who_does_not_wait_is_told_who_writes(settings: Settings) -> None:
    second = only_writer(settings, "lakehouse rebuild")
    with (
        only_writer(settings, "lakehouse stream"),
        pytest.raises(TurnError, match="lakehouse stream is writing"),
        second,
    ):
        pass


def test_who_waits_is_heard_and_gets_its_turn(settings: Settings) -> None:
    had = threading.Event()

    def ask() -> None:
        with only_writer(settings, "lakehouse erase", timedelta(seconds=20)):
            had.set()

    asking = threading.Thread(target=ask)
    with only_writer(settings, "lakehouse stream"):
        assert not wanted(settings)
        asking.start()
        while not wanted(settings):
            assert asking.is_alive()
        assert not had.is_set()
    asking.join(20)
    assert had.is_set() and not wanted(settings)
    with only_writer(settings, "lakehouse stream"):
        pass


def test_who_waits_too_long_gives_up_and_is_no_longer_heard(settings: Settings) -> None:
    with only_writer(settings, "lakehouse stream"):
        with pytest.raises(TurnError), only_writer(settings, "lakehouse erase", timedelta(seconds=0.3)):
            pass
        assert not wanted(settings)


def test_machines_that_share_a_folder_of_locks_take_turns(settings: Settings, tmp_path: Path) -> None:
    one, other = (Settings(home=tmp_path / name, locks=tmp_path / "shared" / ".locks") for name in ("a", "b"))
    with only_writer(one, "lakehouse stream"):
        with pytest.raises(TurnError, match="lakehouse stream is writing"), only_writer(other, "lakehouse maintain"):
            pass
        with only_writer(settings, "lakehouse maintain"):  # one of its own
            pass
    with only_writer(other, "lakehouse maintain"):
        pass
