"""What the collector's parts promise each other: a plugin as the file names it, inputs, codecs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from lakehouse.collect.event import Event
from lakehouse.collect.options import Options


class ConfigError(Exception):
    """A pipeline file that can't be run; the message names file, line and what is known there."""


@dataclass(frozen=True)
class Plugin:
    """One plugin as a pipeline file writes it: ``line`` of its name, and each option with its value and line."""

    section: str
    name: str
    line: int
    options: dict[str, tuple[Any, int]]
    """Values: str, int, float, bool, list, dict, or a :class:`Plugin` (a codec with options)."""
    file: str = ""

    def error(self, message: str, line: int | None = None) -> ConfigError:
        """An error at this plugin, or at a line of it."""
        return ConfigError(f"{self.file}:{line or self.line}: {self.section} {self.name}: {message}")


Model = TypeVar("Model", bound=Options)
Made = TypeVar("Made")


def options(plugin: Plugin, model: type[Model]) -> Model:
    """The plugin's options, checked.

    Raises:
        ConfigError: an option that is not known, is missing, or has a value that it can't have.
    """
    known = {(field.alias or name) for name, field in model.model_fields.items()}
    for name, (_, line) in plugin.options.items():
        if name not in known:
            raise plugin.error(f"option {name!r} is not supported; known are {', '.join(sorted(known))}", line)
    try:
        return model(**{name: value for name, (value, _) in plugin.options.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise plugin.error(f"{name}: {first['msg']}", plugin.options.get(name, (None, plugin.line))[1]) from None


def opened(plugin: Plugin, kinds: Mapping[str, tuple[type[Options], Callable[..., Made]]], *more: Any) -> Made:
    """The input or output that a pipeline file describes: of its kind's factory, called with options, plugin and
    ``more``.

    Raises:
        ConfigError: there is no such kind, or an option is wrong.
    """
    if plugin.name not in kinds:
        known = ", ".join(kinds)
        raise plugin.error(f"{plugin.section} {plugin.name!r} is not supported; known are {known}")
    model, factory = kinds[plugin.name]
    chosen = options(plugin, model)
    try:
        return factory(chosen, plugin, *more)
    except ValueError as error:  # a field reference, a template, a date pattern
        raise plugin.error(str(error)) from None


class Intake(Protocol):
    """Where inputs hand over events."""

    async def put(self, events: list[Event], mark: tuple[str, Any] | None = None) -> Future[None]:
        """Return once the events are on disk, waiting while the queue is full; the future ends when every output has
        acknowledged them. ``mark`` (key, value) is stored in the same transaction: how far an input has read."""

    def mark(self, key: str) -> Any:
        """What was last stored under a key, or ``None``."""


class Input(Protocol):
    """Brings events until it is cancelled."""

    async def run(self, intake: Intake) -> None:
        """Listen or read; a source that ends (stdin) returns."""


class Codec(Protocol):
    """Bytes to events and back; one instance a connection or file."""

    def decode(self, data: bytes) -> Iterable[Event]:
        """The events that are complete now; the rest is kept for the next call."""

    def flush(self) -> Iterable[Event]:
        """The events that are left at the end, or after silence."""

    def encode(self, event: Event) -> bytes:
        """One event for an output."""


class Output(Protocol):
    """Takes events for good."""

    def send(self, events: list[Event]) -> None:
        """Return once all of them are safe there; sending the same events again changes nothing there.

        Raises:
            Away: it can't take them now; the same events are sent again later.
        """

    def close(self) -> None:
        """Let go of connections."""


class Away(Exception):
    """An output that can't be reached, or does not take events now; the message says where and why.

    ``left`` holds the events that it did not take, ``None`` stands for all that were sent.
    """

    def __init__(self, message: str, left: list[Event] | None = None) -> None:
        super().__init__(message)
        self.left = left


Filter = Callable[[Event], bool]
"""Changes an event in place; False drops it."""
Route = Callable[[Event], list[int]]
"""The outputs, by number, that an event goes to."""
