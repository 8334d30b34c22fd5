"""Markdown, and what Python's source says besides its names."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; cells are Markdown, of one line."""
    lines = [head, ["---"] * len(head), *([cell(one) for one in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    """Text that a table can hold; in code a bar is no end of a cell."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if place % 2 else part.replace("|", "\\|") for place, part in enumerate(parts))


def code(text: object) -> str:
    """Text as code, whatever is in it; nothing for nothing."""
    text = str(text)
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: reStructuredText's literals and roles become code."""
    import inspect
    import re

    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":\w+:`~?([^`]*)`", lambda m: f"`{m[1].strip('~').rpartition('.')[2] or m[1]}`", text)
    return text.replace("``", "`")


@cache
def parsed(path: Path) -> ast.Module:
    """A file of Python."""
    return ast.parse(path.read_text(encoding="utf-8"))


def attribute_docs(body: Iterable[ast.stmt]) -> dict[str, str]:
    """The strings that stand below assignments, by the name assigned."""
    found, name = {}, ""
    for statement in body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=target)) | ast.Assign(targets=[ast.Name(id=target)]):
                name = target
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[name] = prose(text)
                name = ""
            case _:
                name = ""
    return found
