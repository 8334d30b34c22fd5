"""JSON text as the standard library reads it, strictly: the one rule of the audit that is not SQL.

DuckDB's own reader takes NaN, keeps the first of two equal keys and rounds what it can't hold; RFC 8259 does not say
what those mean, the design does.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, NoReturn

import duckdb
import pyarrow as pa
from duckdb.func import ARROW, SPECIAL

MAX_DEPTH = 100
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _int(text: str) -> int | float:
    if len(text) < 19:
        return int(text)
    number = _float(text)  # before int(): it refuses texts of thousands of digits with another error
    exact = int(text) if len(text) <= 20 else None
    return exact if exact is not None and -(2**63) <= exact < 2**64 else number


def _depth(text: str) -> int:
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKETS.findall(_STRING.sub("", text)))
    return max(accumulate(steps), default=0)


def _pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return pairs


_LOADS = json.JSONDecoder(parse_constant=_constant, parse_float=_float, parse_int=_int).decode
_LOADS_PAIRS = json.JSONDecoder(object_pairs_hook=_pairs).decode
_DUMPS = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def canonical(value: bytes | str | None) -> str | None:
    """The same JSON with sorted keys and no white space, or None where the design takes it for an error.

    Errors are: null, broken UTF-8, half a surrogate pair, anything but RFC 8259, numbers beyond a double, nesting over
    100 levels. Of equal keys the last counts. Integers beyond 64 bits become doubles.
    """
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else value.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
            return None
        document = _LOADS(text)
        if "\\u" in text:  # escapes may hold half a surrogate pair, even under a key that is overwritten
            json.dumps(_LOADS_PAIRS(text), ensure_ascii=False).encode("utf-8")
        return _DUMPS(document)
    except (ValueError, RecursionError):
        return None


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Make ``canonical(blob)`` and ``canonical_text(varchar)`` known to DuckDB, in Arrow batches."""

    def batch(values: Any) -> Any:
        return pa.array([canonical(value) for value in values.to_pylist()], pa.string())

    for name, kind in (("canonical", "BLOB"), ("canonical_text", "VARCHAR")):
        connection.create_function(name, batch, [kind], "VARCHAR", type=ARROW, null_handling=SPECIAL)
