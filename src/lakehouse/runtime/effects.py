"""The ordered effects of a batch, and the points where a test may cut its power.

Every effect of the stream runs through :func:`perform`, so that the kill tests derive their kill points from the
runtime itself: ``<query>:<effect>:before|middle|after``. ``LAKEHOUSE_KILL`` names one point, with an optional
``#n`` for the n-th time it is passed; the process then dies as from ``kill -9``.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

Result = TypeVar("Result")
Perform = Callable[[str, str, Callable[[], Any], Callable[[Any], None]], None]
"""The type of :func:`perform`."""
log = logging.getLogger("lakehouse.effects")
MOMENTS = ("before", "middle", "after")
_passed: Counter[str] = Counter()
_lock = Lock()


def passing(query: str, effect: str, moment: str) -> None:
    """Dies here if this point is the one that ``LAKEHOUSE_KILL`` names."""
    wanted = os.environ.get("LAKEHOUSE_KILL")
    if not wanted:
        return
    point, _, count = wanted.partition("#")
    if point != f"{query}:{effect}:{moment}":
        return
    with _lock:
        _passed[point] += 1
        if _passed[point] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def perform(query: str, effect: str, prepare: Callable[[], Result], commit: Callable[[Result], None]) -> None:
    """Carry out one effect in its two halves; ``middle`` lies between what nobody sees yet and what counts."""
    log.debug("%s:%s", query, effect)
    passing(query, effect, "before")
    prepared = prepare()
    passing(query, effect, "middle")
    commit(prepared)
    passing(query, effect, "after")
