"""``drop``: the event goes nowhere (Logstash Reference 8, "Drop filter plugin")."""

from __future__ import annotations

import random
from collections.abc import Callable

from lakehouse.collect.event import Event
from lakehouse.collect.options import FilterOptions
from lakehouse.collect.plugins import Plugin, options


class DropOptions(FilterOptions):
    """``percentage`` of the events that are dropped."""

    percentage: float = 100


def drop(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Drops an event, or a share of them by chance."""
    chosen = options(plugin, DropOptions)
    if chosen.percentage >= 100:
        return chosen, lambda event: None
    return chosen, lambda event: None if random.random() * 100 < chosen.percentage else True
