"""A pipeline file in Logstash's language, read into plugins and branches.

Source of the grammar: ``grammar.lark``. As in Logstash, strings keep their backslashes (``config.support_escapes`` is
off), only ``\\"`` and ``\\'`` lose theirs; ``${NAME}`` and ``${NAME:default}`` are filled from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedInput

from lakehouse.collect.conditions import Condition, compiled
from lakehouse.collect.plugins import ConfigError, Plugin

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")

Node = Any
"""A node of lark's syntax tree, whose children are nodes and tokens as ``grammar.lark`` says."""


@dataclass(frozen=True)
class Branch:
    """An ``if`` with its ``else if`` and ``else``: the body of the first condition that holds."""

    arms: tuple[tuple[Condition | None, Block], ...]


Block = tuple["Plugin | Branch", ...]


@dataclass(frozen=True)
class Config:
    """The three sections of a pipeline; sections of the same name in a file follow each other."""

    inputs: tuple[Plugin, ...]
    filters: Block
    outputs: Block


@cache
def _grammar() -> Lark:
    text = Path(__file__).with_name("grammar.lark").read_text()
    return Lark(text, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def read(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """A pipeline file.

    Raises:
        ConfigError: it can't be read, is not of the grammar, or names a variable that is not set.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        tree: Node = _grammar().parse(text)
    except UnexpectedInput as error:
        line = error.line if error.line > 0 else text.count("\n") + 1  # without a place of its own: the end
        raise ConfigError(f"{path}:{line}: not Logstash's language here:\n{error.get_context(text).rstrip()}") from None
    reader = _Reader(str(path), environment)
    sections: dict[str, list[Plugin | Branch]] = {"input": [], "filter": [], "output": []}
    for section in tree.children:
        name = str(section.children[0])
        sections[name] += reader.block(name, section.children[1:])
    for item in sections["input"]:
        if isinstance(item, Branch):
            raise ConfigError(f"{path}: an input can't stand under a condition")
    if not sections["input"] or not sections["output"]:
        raise ConfigError(f"{path}: a pipeline needs an input and an output")
    inputs = tuple(item for item in sections["input"] if isinstance(item, Plugin))
    return Config(inputs, tuple(sections["filter"]), tuple(sections["output"]))


class _Reader:
    def __init__(self, file: str, environment: Mapping[str, str]):
        self.file, self.environment = file, environment

    def block(self, section: str, items: list[Any]) -> Block:
        return tuple(self.branch(section, i) if i.data == "branch" else self.plugin(section, i) for i in items)

    def branch(self, section: str, tree: Node) -> Branch:
        condition, *rest = tree.children
        own = [item for item in rest if item.data not in ("else_if", "else_")]
        arms: list[tuple[Condition | None, Block]] = [(self.condition(condition), self.block(section, own))]
        for other in rest[len(own) :]:
            if other.data == "else_if":
                condition, *items = other.children
                arms.append((self.condition(condition), self.block(section, items)))
            else:
                arms.append((None, self.block(section, other.children)))
        return Branch(tuple(arms))

    def condition(self, tree: Node) -> Condition:
        try:
            return compiled(tree, self.string)
        except ValueError as error:
            raise ConfigError(f"{self.file}:{tree.meta.line}: {error}") from None

    def plugin(self, section: str, tree: Node, name: str = "") -> Plugin:
        head, *attributes = tree.children
        line = head.children[0].line
        options: dict[str, tuple[Any, int]] = {}
        plugin = Plugin(section, self.text(head.children[0]), line, options, self.file)
        for attribute in attributes:
            key = self.text(attribute.children[0].children[0])
            at = attribute.children[0].children[0].line
            if key in options:
                raise plugin.error(f"option {key!r} stands there twice", at)
            options[key] = (self.value(attribute.children[1]), at)
        return plugin

    def value(self, tree: Node) -> Any:
        match tree.data:
            case "plugin":
                return self.plugin("codec", tree)
            case "array":
                return [self.value(item) for item in tree.children]
            case "hash":
                return self.hash(tree)
            case "number":
                return _number(str(tree.children[0]))
        return self.text(tree.children[0])

    def hash(self, tree: Node) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for entry in tree.children:
            key = self.text(entry.children[0])
            if key in found:
                raise ConfigError(f"{self.file}:{entry.children[0].line}: key {key!r} stands there twice")
            found[key] = self.value(entry.children[1])
        return found

    def text(self, token: Token) -> str:
        return self.string(token) if token.type == "STRING" else str(token)

    def string(self, token: Token) -> str:
        quote, inner = token[0], token[1:-1]
        inner = inner.replace(f"\\{quote}", quote)
        return _VARIABLE.sub(lambda found: self.variable(found, token.line or 0), inner)

    def variable(self, found: re.Match[str], line: int) -> str:
        value = self.environment.get(found.group(1), found.group(2))
        if value is None:
            raise ConfigError(f"{self.file}:{line}: environment variable {found.group(1)} is not set")
        return value


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
