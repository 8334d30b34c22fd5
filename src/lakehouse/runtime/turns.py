"""Whose turn it is to write the tables: one process at a time, and the stream gives way to whoever asks.

Two locks of the operating system, which end with the process that holds them: ``writer.lock`` is the writer's, and who
wants to be next holds ``writer.wanted`` meanwhile. The stream looks at the second every half second.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from lakehouse.settings import Settings

_POLL_S = 0.1
GIVES_WAY = timedelta(minutes=5)
"""How long the stream may take for its last batches, before whoever asks gives up."""


class TurnError(Exception):
    """Somebody else writes the tables; the message says who, and what to do."""


def _paths(settings: Settings) -> tuple[Path, Path]:
    folder = settings.locks or settings.home
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "writer.lock", folder / "writer.wanted"


def _take(file: IO[str], how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def only_writer(settings: Settings, who: str, wait: timedelta = timedelta(0)) -> Iterator[None]:
    """Held by whoever writes tables, among all that share ``settings.locks``.

    ``wait``: how long another may take to end, or the stream to give way.

    Raises:
        TurnError: somebody else holds it.
    """
    writing, wanted = _paths(settings)
    with writing.open("a+") as file, wanted.open("a+") as asking:
        until = time.monotonic() + wait.total_seconds()
        asked = False
        while not _take(file):
            asked = asked or (bool(wait) and _take(asking))
            if time.monotonic() >= until:
                file.seek(0)
                raise TurnError(
                    f"{file.read().strip() or 'another process'} is writing the tables: `lakehouse down`, then "
                    "`lakehouse up --servers`, and again"
                )
            time.sleep(_POLL_S)
        if asked:
            fcntl.flock(asking, fcntl.LOCK_UN)
        file.truncate(0)
        file.write(who)
        file.flush()
        yield


def wanted(settings: Settings) -> bool:
    """Whether somebody waits for the stream to give way."""
    with _paths(settings)[1].open("a+") as file:
        return not _take(file, fcntl.LOCK_SH)
