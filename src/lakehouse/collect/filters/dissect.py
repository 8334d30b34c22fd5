"""``dissect``: a text cut at fixed delimiters (Logstash Reference 8, "Dissect filter plugin")."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lakehouse.collect.event import MISSING, Event, Path, get, put, reference, tag, text
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options

_FIELD = re.compile(r"%\{(\+|\?|&|\+&|&\+)?([^}]*?)(?:/(\d+))?(->)?\}")
_CONVERT: dict[str, Callable[[str], Any]] = {"int": int, "float": float}


class DissectOptions(FilterOptions):
    """``mapping`` holds one pattern by field; ``convert_datatype`` int or float by field."""

    mapping: dict[str, str]
    convert_datatype: dict[str, Literal["int", "float"]] = {}
    tag_on_failure: Listed = ["_dissectfailure"]


@dataclass(frozen=True)
class Part:
    """One field of a pattern: the delimiter after it, and what its value is for."""

    name: str
    kind: Literal["field", "append", "skip", "key", "indirect"]
    order: int
    padded: bool
    before: str
    after: str


def parts(pattern: str) -> tuple[str, tuple[Part, ...]]:
    """What a text must begin with, and the fields of a pattern.

    Raises:
        ValueError: there is no field, or two without a delimiter between them.
    """
    found = list(_FIELD.finditer(pattern))
    if not found:
        raise ValueError(f"mapping: {pattern!r} holds no field %{{...}}")
    prefix, made, before = pattern[: found[0].start()], [], ""
    for here, following in zip(found, [*found[1:], None], strict=True):
        after = pattern[here.end() : following.start() if following else len(pattern)]
        if not after and following:
            raise ValueError(f"mapping: {pattern!r} has no delimiter after {here.group(0)}")
        sign, name, order, padded = here.groups()
        kind = "skip" if not name or (sign == "?" and f"&{name}" not in pattern) else _KINDS[sign]
        made.append(Part(name, kind, int(order or 0), bool(padded), before, after))
        before = after
    return prefix, tuple(made)


_KINDS: dict[str | None, Literal["field", "append", "skip", "key", "indirect"]] = {
    None: "field", "+": "append", "?": "key", "&": "indirect",
}  # fmt: skip


def dissect(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Fields by position: all of them, or none and a tag."""
    chosen = options(plugin, DissectOptions)
    cutters = [(reference(field), cutter(pattern)) for field, pattern in chosen.mapping.items()]
    converts = [(reference(field), _CONVERT[kind]) for field, kind in chosen.convert_datatype.items()]

    def apply(event: Event) -> bool:
        done = False
        for field, cut in cutters:
            found = get(event, field)
            if found is MISSING or found is None:
                continue
            values = cut(text(found))
            if values is None:
                tag(event, chosen.tag_on_failure)
                return False
            for path, value in values:
                put(event, path, value)
            done = True
        for path, convert in converts:
            value = get(event, path)
            if isinstance(value, str):
                try:
                    put(event, path, convert(value))
                except ValueError:
                    tag(event, [f"_dataconversionmissing_{'_'.join(path)}_{convert.__name__}"])
        return done

    return chosen, apply


def cutter(pattern: str) -> Callable[[str], list[tuple[Path, str]] | None]:
    """A function that cuts a text: (path, value) of each field, or None where a delimiter is missing.

    Raises:
        ValueError: see :func:`parts`.
    """
    prefix, fields = parts(pattern)
    plain = all(part.kind in ("field", "skip") for part in fields)
    paths = [reference(part.name) if part.kind in ("field", "append") else () for part in fields]
    steps = [(part.after, len(part.after), part.padded) for part in fields]

    def cut(written: str) -> list[str] | None:
        if not written.startswith(prefix):
            return None
        at, values = len(prefix), []
        for delimiter, size, padded in steps:
            if not delimiter:
                values.append(written[at:])
                return values
            end = written.find(delimiter, at)
            if end < 0:
                return None
            values.append(written[at:end])
            at = end + size
            while padded and written.startswith(delimiter, at):
                at += size
        return values

    def simple(written: str) -> list[tuple[Path, str]] | None:
        values = cut(written)
        return None if values is None else [(p, v) for p, v in zip(paths, values, strict=True) if p]

    return simple if plain else lambda written: _named(fields, paths, cut(written))


def _named(fields: tuple[Part, ...], paths: list[Path], values: list[str] | None) -> list[tuple[Path, str]] | None:
    if values is None:
        return None
    found: dict[Path, str] = {}
    joined: dict[Path, list[tuple[int, str, str]]] = {}
    keys = {part.name: value for part, value in zip(fields, values, strict=True) if part.kind == "key"}
    for part, path, value in zip(fields, paths, values, strict=True):
        if part.kind == "field":
            found[path] = value
            joined[path] = [(part.order, "", value)]
        elif part.kind == "append":
            joined.setdefault(path, []).append((part.order, part.before, value))
        elif part.kind == "indirect" and keys.get(part.name):
            found[(keys[part.name],)] = value
    for path, pieces in joined.items():
        if len(pieces) > 1 or path not in found:
            ordered = sorted(pieces, key=lambda piece: piece[0])
            found[path] = ordered[0][2] + "".join((before or " ") + value for _, before, value in ordered[1:])
    return list(found.items())
