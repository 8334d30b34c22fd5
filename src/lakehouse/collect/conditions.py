"""Conditions of ``if``: compiled once into functions of an event.

Source: Logstash Reference 8, "Conditionals". A field that is missing is equal to nothing and in nothing, and false.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import regex
from lark import Token, Tree

from lakehouse.collect.event import MISSING, Event, get, reference, text
from lakehouse.collect.oniguruma import search, translated

Condition = Callable[[Event], bool]
Value = Callable[[Event], Any]
_ORDER = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_LOGIC: dict[str, Callable[[bool, bool], bool]] = {
    "xor": operator.ne,
    "nand": lambda a, b: not (a and b),
}


def compiled(tree: Any, string: Callable[[Token], str]) -> Condition:
    """The function of a condition's syntax tree; ``string`` reads a quoted string.

    Raises:
        ValueError: a regular expression is not one.
    """

    def value(node: Tree[Token]) -> Value:
        if node.data == "selector":
            path = reference(str(node.children[0]))
            return lambda event: get(event, path)
        if node.data == "array":
            items = [value(item) for item in node.children if isinstance(item, Tree)]
            return lambda event: [item(event) for item in items]
        token = node.children[0]
        assert isinstance(token, Token)
        constant: Any = string(token)
        if node.data == "number":
            constant = float(token) if "." in token else int(token)
        elif token.type != "STRING":
            constant = str(token)
        return lambda event: constant

    match tree.data:
        case "logic":
            left, how, right = compiled(tree.children[0], string), str(tree.children[1]), None
            right = compiled(tree.children[2], string)
            if how == "and":
                return lambda event: left(event) and right(event)
            if how == "or":
                return lambda event: left(event) or right(event)
            combine = _LOGIC[how]
            return lambda event: combine(left(event), right(event))
        case "negation":
            inner = compiled(tree.children[-1], string)
            return lambda event: not inner(event)
        case "comparison":
            return _comparison(value(tree.children[0]), str(tree.children[1]), value(tree.children[2]))
        case "matching":
            return _matching(value(tree.children[0]), str(tree.children[1]), _pattern(tree.children[2], string))
        case "member":
            return _member(value(tree.children[0]), value(tree.children[2]))
        case "no_member":
            inside = _member(value(tree.children[0]), value(tree.children[3]))
            return lambda event: not inside(event)
        case "truth":
            of = value(tree.children[0])
        case _:
            of = value(tree)
    return lambda event: (found := of(event)) is not MISSING and found is not None and found is not False


def _pattern(token: Token, string: Callable[[Token], str]) -> regex.Pattern[str]:
    source = string(token) if token.type == "STRING" else token[1:-1].replace("\\/", "/")
    try:
        return regex.compile(translated(source))
    except regex.error as error:
        raise ValueError(f"/{source}/ is not a regular expression: {error}") from None


def _comparison(left: Value, how: str, right: Value) -> Condition:
    if how == "==":
        return lambda event: _equal(left(event), right(event))
    if how == "!=":
        return lambda event: not _equal(left(event), right(event))
    compare = _ORDER[how]

    def ordered(event: Event) -> bool:
        a, b = left(event), right(event)
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return (numbers or (isinstance(a, str) and isinstance(b, str))) and compare(a, b)

    return ordered


def _equal(a: Any, b: Any) -> bool:
    return a is not MISSING and b is not MISSING and a == b and isinstance(a, bool) == isinstance(b, bool)


def _matching(of: Value, how: str, pattern: regex.Pattern[str]) -> Condition:
    wanted = how == "=~"

    def matches(event: Event) -> bool:
        found = of(event)
        if found is MISSING or found is None:
            return not wanted
        texts = found if isinstance(found, list) else [found]
        return any(search(pattern, text(item)) for item in texts) is wanted

    return matches


def _member(item: Value, holder: Value) -> Condition:
    def inside(event: Event) -> bool:
        a, b = item(event), holder(event)
        if a is MISSING or b is MISSING:
            return False
        if isinstance(b, str):
            return isinstance(a, str) and a in b
        return isinstance(b, list) and any(_equal(a, other) for other in b)

    return inside
