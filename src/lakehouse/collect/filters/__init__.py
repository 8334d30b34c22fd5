"""The filters by name, and a block of them as one function of an event."""

from __future__ import annotations

from collections.abc import Callable

from lakehouse.collect.config import Block, Branch
from lakehouse.collect.event import Event, append, get, put, reference, remove, tag, template
from lakehouse.collect.filters.date import date
from lakehouse.collect.filters.dissect import dissect
from lakehouse.collect.filters.drop import drop
from lakehouse.collect.filters.fingerprint import fingerprint
from lakehouse.collect.filters.grok import grok
from lakehouse.collect.filters.json import json
from lakehouse.collect.filters.kv import kv
from lakehouse.collect.filters.mutate import mutate
from lakehouse.collect.options import FilterOptions
from lakehouse.collect.plugins import Filter, Plugin

Apply = Callable[[Event], bool | None]
"""Changes an event in place: True if it succeeded, False if not, None to drop the event."""
FILTERS: dict[str, Callable[[Plugin], tuple[FilterOptions, Apply]]] = {
    "date": date,
    "dissect": dissect,
    "drop": drop,
    "fingerprint": fingerprint,
    "grok": grok,
    "json": json,
    "kv": kv,
    "mutate": mutate,
}


def block(items: Block) -> Filter:
    """A block of filters and branches as one function, which returns False for an event to drop.

    Raises:
        ConfigError: a filter, option or value that is not known.
    """
    steps = [_branch(item) if isinstance(item, Branch) else _filter(item) for item in items]

    def run(event: Event) -> bool:
        return all(step(event) for step in steps)

    return run


def _branch(branch: Branch) -> Filter:
    arms = [(condition, block(body)) for condition, body in branch.arms]

    def run(event: Event) -> bool:
        for condition, body in arms:
            if condition is None or condition(event):
                return body(event)
        return True

    return run


def _filter(plugin: Plugin) -> Filter:
    if plugin.name not in FILTERS:
        raise plugin.error(f"not supported; known are {', '.join(FILTERS)}")
    try:
        options, apply = FILTERS[plugin.name](plugin)
        then = _success(options)
    except ValueError as error:  # which begins with the option that is wrong
        _, line = plugin.options.get(str(error).partition(":")[0], (None, plugin.line))
        raise plugin.error(str(error), line) from None

    def run(event: Event) -> bool:
        done = apply(event)
        if done and then is not None:
            then(event)
        return done is not None

    return run


def _success(options: FilterOptions) -> Callable[[Event], None] | None:
    """What every filter does to an event that it succeeded with, in Logstash's order; None for nothing."""
    fields = [
        (template(name), [template(v) for v in (value if isinstance(value, list) else [value])])
        for name, value in options.add_field.items()
    ]
    gone, tags = [template(name) for name in options.remove_field], [template(name) for name in options.add_tag]
    untagged = [template(name) for name in options.remove_tag]
    if not (fields or gone or tags or untagged):
        return None

    def then(event: Event) -> None:
        for name, values in fields:
            for value in values:
                append(event, reference(name(event)), value(event))
        for name in gone:
            remove(event, reference(name(event)))
        if tags:
            tag(event, [name(event) for name in tags])
        if untagged and (known := get(event, ("tags",))) and isinstance(known, list):
            out = {name(event) for name in untagged}
            put(event, ("tags",), [name for name in known if name not in out])

    return then
