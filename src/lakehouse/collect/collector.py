"""A pipeline file, made ready to run: inputs, filters and outputs with their queue under the project's home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from lakehouse.collect import inputs, outputs
from lakehouse.collect.config import Block, Branch, Config, read
from lakehouse.collect.deadletters import DeadLetters, Refuse
from lakehouse.collect.event import Event
from lakehouse.collect.filters import block
from lakehouse.collect.pipeline import Pipeline
from lakehouse.collect.plugins import Filter, Input, Output, Plugin, Route
from lakehouse.collect.queue import Queue
from lakehouse.settings import Settings


def environment(settings: Settings) -> dict[str, str]:
    """What ``${...}`` in a pipeline stands for: the process's environment, then the settings' servers and ports."""
    collect = settings.collect
    return {
        "KAFKA": settings.kafka.bootstrap_servers,
        "ELASTICSEARCH": settings.elasticsearch.url.get_secret_value(),
        "COLLECT_BEATS_PORT": collect.beats.rpartition(":")[2],
        "COLLECT_TCP_PORT": str(collect.tcp_port),
        "COLLECT_HTTP_PORT": str(collect.http_port),
        "COLLECT_SYSLOG_PORT": str(collect.syslog_port),
        **os.environ,
    }


def collector(settings: Settings, path: Path) -> Pipeline:
    """The pipeline of a file; its queue is opened, nothing else.

    Raises:
        ConfigError: the file, a plugin, an option or a value is not known.
        QueueError: the queue is damaged, or another collector runs with it.
    """
    config = read(path, environment(settings))
    if "elasticsearch" in settings.off:
        config = replace(config, outputs=_without(config.outputs, "elasticsearch"))
    home = settings.home / "collect"
    dead: dict[str, DeadLetters] = {}

    def refuse(name: str) -> Refuse:
        dead[name] = DeadLetters(home / "dead-letters", name)
        return dead[name].add

    sources, apply, route, chosen = _parts(config, refuse)
    return Pipeline(
        inputs=sources,
        apply=apply,
        route=route,
        outputs=chosen,
        queue=Queue(home / f"{path.stem}.queue"),
        dead_letters=dead,
        report=settings.home / "collect.json",
    )


def _without(items: Block, output: str) -> Block:
    """Outputs but those of a name."""
    kept: list[Plugin | Branch] = []
    for item in items:
        if isinstance(item, Branch):
            kept.append(replace(item, arms=tuple((condition, _without(body, output)) for condition, body in item.arms)))
        elif item.name != output:
            kept.append(item)
    return tuple(kept)


def check(settings: Settings, path: Path) -> Config:
    """Read a pipeline file and make all of its parts, without opening anything.

    Raises:
        ConfigError: the file, a plugin, an option or a value is not known.
    """
    config = read(path, environment(settings))
    _parts(config, lambda name: lambda refused: None)
    return config


def _parts(
    config: Config, refuse: Callable[[str], Refuse]
) -> tuple[dict[str, Input], Filter, Route, dict[str, Output]]:
    """Inputs by name, filters, and outputs by name with what goes where; ``refuse`` is asked by an output's name."""
    sources: dict[str, Input] = {}
    for plugin in config.inputs:
        sources[_name(plugin.name, sources)] = inputs.opened(plugin)
    chosen: dict[str, Output] = {}

    def add(plugin: Plugin) -> int:
        name = _name(plugin.name, chosen)
        chosen[name] = outputs.opened(plugin, refuse(name))
        return len(chosen) - 1

    return sources, block(config.filters), _route(config.outputs, add), chosen


def _name(plugin: str, taken: Iterable[str]) -> str:
    """The plugin's name, numbered from its second on."""
    same = sum(name.partition("-")[0] == plugin for name in taken)
    return f"{plugin}-{same + 1}" if same else plugin


def _route(items: Block, add: Callable[[Plugin], int]) -> Route:
    """The outputs of an event: those of the section, and of the first arm of each branch whose condition holds."""
    steps: list[Route] = []
    for item in items:
        if isinstance(item, Branch):
            arms = [(condition, _route(body, add)) for condition, body in item.arms]
            steps.append(lambda event, arms=arms: _first(event, arms))  # type: ignore[misc]
        else:
            number = add(item)
            steps.append(lambda event, number=number: [number])  # type: ignore[misc]
    return lambda event: [number for step in steps for number in step(event)]


def _first(event: Event, arms: list[tuple[Callable[[Event], bool] | None, Route]]) -> list[int]:
    for condition, route in arms:
        if condition is None or condition(event):
            return route(event)
    return []
