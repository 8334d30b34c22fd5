"""The API's descriptions that are committed, so that a change of what clients see shows as a change of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lakehouse.settings import PROJECT
from serving import openapi
from serving.graphql.schema import sdl

FILES: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "graphql": (PROJECT / "docs" / "schema.graphql", sdl),
    "openapi": (PROJECT / "docs" / "openapi.json", openapi.text),
}
"""Of each description its file, and what makes it."""


def text(name: str) -> str:
    """A description as it is now."""
    return FILES[name][1]()


def write(name: str) -> Path:
    """Write one to its file; unchanged where nothing has changed."""
    path, made = FILES[name]
    path.write_text(made(), encoding="utf-8")
    return path
