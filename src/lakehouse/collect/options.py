"""What a plugin may be told: one pydantic model each, so that an option nobody knows is an error before the start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

Listed = Annotated[list[str], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]
"""A list of strings; one string alone stands for a list of it, as in Logstash."""


class Options(BaseModel):
    """Options of a plugin as Logstash names them; a field's default is Logstash's, unless its comment says why not."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, arbitrary_types_allowed=True)

    id: str | None = None
    """A name for messages."""
    enable_metric: bool = True
    """Accepted, without meaning here."""


class InputOptions(Options):
    """What every input understands."""

    type: str | None = None
    tags: Listed = []
    add_field: dict[str, Any] = {}


class FilterOptions(Options):
    """What every filter does to an event that it succeeded with."""

    add_field: dict[str, Any] = {}
    remove_field: Listed = []
    add_tag: Listed = []
    remove_tag: Listed = []


class OutputOptions(Options):
    """What every output understands."""


class CodecOptions(Options):
    """What every codec understands."""
