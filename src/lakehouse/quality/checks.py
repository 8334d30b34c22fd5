"""What a record must be, decided for single records from its contract, every reason collected.

Pure Python on one record (orjson for JSON, RFC 8259 strictly), so that Spark's Arrow workers, the HTTP collector and
the tests run the same code. A reason reads ``<JSON pointer>: <what is wrong>``; the pointer is RFC 6901.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from lakehouse.contracts import Contract, Field, Rule

MAX_DEPTH = 100
DAY_US = 86_400_000_000
ECS_BASE = frozenset({"@timestamp", "labels", "message", "tags"})
"""The Elastic Common Schema's base field set: never samples of a metric record."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]([01]\d|2[0-3])(:[0-5]\d:)([0-5]\d|60)(?:\.(\d+))?(?:([Zz])|([+-](?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)
_PLAIN = re.compile(
    r"\d{4}-\d\d-\d\dT[0-2]\d:[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
).fullmatch
_of_iso = datetime.fromisoformat
_I64 = 2**63


@dataclass(slots=True)
class Checked:
    """A checked record: column values (timestamps as microseconds since 1970 UTC), or every reason against it."""

    values: dict[str, Any]
    identity: str | None = None
    rescued: str | None = None
    reasons: list[str] | None = None
    warnings: list[str] | None = None
    samples: list[tuple[str, float]] | None = None
    dimensions: dict[str, str] | None = None


def rfc3339_us(text: str) -> int | None:
    """Microseconds since 1970 UTC of an RFC 3339 time with offset (further digits cut), or None if it is not one."""
    if _PLAIN(text):  # nearly every record's
        try:
            return (_of_iso(text) - _EPOCH) // _MICROSECOND
        except ValueError:
            return None
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    date, hour, minute, second, fraction, _, offset = match.groups()
    leap = second == "60"  # RFC 3339 5.6 allows a leap second; it is counted as the second after :59
    try:
        time = datetime.fromisoformat(f"{date}T{hour}{minute}{'59' if leap else second}{offset or '+00:00'}")
    except ValueError:
        return None
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    return (time - _EPOCH) // _MICROSECOND + micros + (1_000_000 if leap else 0)


def _too_deep(value: bytes) -> bool:
    """Whether JSON text nests over :data:`MAX_DEPTH` levels, without recursion and ignoring brackets in strings."""
    depth, in_string, escaped = 0, False, False
    for byte in value:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def parse(value: bytes | None) -> tuple[dict[str, Any] | None, str | None]:
    """The JSON object in a record's value, or the reason why there is none."""
    if value is None:
        return None, "/: value is null"
    # No text with fewer opening brackets than the limit can nest deeper: nearly every record skips the slow walk.
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _too_deep(value):
        return None, f"/: nested over {MAX_DEPTH} levels"
    try:
        document = orjson.loads(value)
    except (orjson.JSONDecodeError, RecursionError) as error:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return None, "/: not UTF-8"
        return None, f"/: not JSON: {str(error).split(':')[0]}"
    if not isinstance(document, dict):
        return None, "/: not a JSON object"
    return document, None


def _pointer(path: tuple[str, ...]) -> str:
    return "/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)


def located(reason: str) -> tuple[str, str]:
    """A reason as (JSON pointer, what is wrong there); the whole document's pointer is ``""``, as RFC 6901 has it.

    Exact where no field's name holds ``": "``, which is so for every reason that names a field of a contract.
    """
    pointer, _, wrong = reason.partition(": ")
    return "" if pointer == "/" else pointer, wrong


Scalar = Callable[[Any, int], tuple[Any, str | None]]
"""(JSON value, arrival) -> (column value, what is wrong with it)."""


def _string(field: Field) -> Scalar:
    required, allowed = field.required, field.values

    def check(value: Any, arrival_us: int) -> tuple[Any, str | None]:
        if type(value) is not str:
            return None, "not a string"
        if required and not value.strip():
            return None, "blank"
        if allowed is not None and value not in allowed:
            return None, "not one of the allowed values"
        return value, None

    return check


def _timestamp(value: Any, arrival_us: int) -> tuple[Any, str | None]:
    if type(value) is not str:
        return None, "not a string"
    micros = rfc3339_us(value)
    if micros is None:
        return None, "not an RFC 3339 time with offset"
    if not 0 <= micros <= arrival_us + DAY_US:
        return None, "time outside 1970-01-01 to arrival + 24 h"
    return micros, None


def _map(value: Any, arrival_us: int) -> tuple[Any, str | None]:
    if type(value) is not dict:
        return None, "not an object"
    for member in value.values():
        if type(member) is not str:
            return None, "not a map of strings"
    return value, None


def _number(field: Field) -> Scalar:
    whole, real = field.kind == "integer", field.kind == "number"
    low, high = field.minimum, field.maximum
    outside = f"out of bounds {'' if low is None else low}..{'' if high is None else high}"

    def check(value: Any, arrival_us: int) -> tuple[Any, str | None]:
        if type(value) is float:
            if not math.isfinite(value):
                return None, "not a finite number"
        elif type(value) is not int:
            return None, "not a number"
        if whole:
            if value != int(value) or not -_I64 <= value < _I64:
                return None, "not a 64-bit integer"
            value = int(value)
        elif real:
            value = float(value)
        if (low is not None and value < low) or (high is not None and value > high):
            return None, outside
        return value, None

    return check


def _scalar(field: Field) -> Scalar:
    match field.kind:
        case "string":
            return _string(field)
        case "timestamp":
            return _timestamp
        case "map":
            return _map
        case _:
            return _number(field)


Walk = Callable[[dict[str, Any], int, list[str]], tuple[dict[str, Any], dict[str, Any]]]
"""(object, arrival, reasons) -> (column values, unknown members); what is wrong is appended to the reasons."""


def _walker(fields: tuple[Field, ...], path: tuple[str, ...] = ()) -> Walk:
    """The check of one object, its decisions that rest on the contract alone taken beforehand."""
    steps = [
        (
            field.name,
            field.column,
            field.required,
            _pointer((*path, field.name)),
            _scalar(field) if field.kind != "object" else None,
            _walker(field.fields, (*path, field.name)) if field.kind == "object" else None,
        )
        for field in fields
    ]
    names = frozenset(field.name for field in fields)

    def walk(document: dict[str, Any], arrival_us: int, reasons: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        values: dict[str, Any] = {}
        rescued: dict[str, Any] = {}
        get = document.get
        present = 0
        for name, column, required, pointer, scalar, walker in steps:
            value = get(name)
            if value is None:  # absent and null mean the same for an optional field
                values[column] = None
                if required:
                    reasons.append(f"{pointer}: missing")
                continue
            present += 1
            if scalar is not None:
                values[column], wrong = scalar(value, arrival_us)
                if wrong:
                    reasons.append(f"{pointer}: {wrong}")
            elif walker is not None:
                if type(value) is not dict:
                    values[column] = None
                    reasons.append(f"{pointer}: not an object")
                    continue
                values[column], unknown = walker(value, arrival_us, reasons)
                if unknown:
                    rescued[name] = unknown
        if present < len(document):
            rescued |= {name: value for name, value in document.items() if name not in names}
        return values, rescued

    return walk


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _broken(rule: Rule, document: dict[str, Any]) -> bool:
    if rule.when is not None:
        value = document.get(rule.when[0])
        if not isinstance(value, str) or value not in rule.when[1]:
            return False
    value = _at(document, rule.path)
    return value is None or (isinstance(value, str) and not value.strip())


def _leaves(
    document: dict[str, Any],
    path: tuple[str, ...],
    numbers: dict[str, float],
    strings: dict[str, str],
    reasons: list[str],
) -> None:
    """Numeric and string leaves of nested objects by dotted path; arrays, booleans and nulls are neither."""
    for name, value in document.items():
        if not path and name in ECS_BASE:
            continue
        here = (*path, name)
        kind = type(value)
        if kind is dict:
            _leaves(value, here, numbers, strings, reasons)
        elif kind is str or kind is int or kind is float:
            dotted = ".".join(here)
            if dotted in (strings if kind is str else numbers):
                reasons.append(f"{_pointer(here)}: a second value named {dotted}")
            elif kind is str:
                strings[dotted] = value
            elif math.isfinite(number := _double(value)):
                numbers[dotted] = number
            else:
                reasons.append(f"{_pointer(here)}: not a finite number")


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def metric_identity(host: str | None, time_us: int, dataset: str | None, strings: dict[str, str]) -> str:
    """128-bit BLAKE2b (RFC 7693) of (host.name, @timestamp, event.dataset, sorted string fields), in hex."""
    canonical = orjson.dumps([host, time_us, dataset, sorted(strings.items())])
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def checker(contract: Contract) -> Callable[[bytes | None, int], Checked]:
    """A function that checks one record: ``check(value, arrival_us)``, arrival in microseconds since 1970 UTC.

    It never raises for a bad record; ``Checked.reasons`` is None exactly when the record is valid.
    """
    walk = _walker(contract.fields)
    errors = tuple(rule for rule in contract.rules if rule.severity == "error")
    warnings = tuple(rule for rule in contract.rules if rule.severity == "warning")

    def check(value: bytes | None, arrival_us: int) -> Checked:
        document, wrong = parse(value)
        if document is None:
            return Checked(values={}, reasons=[wrong or "/: not JSON"])
        reasons: list[str] = []
        values, rescued = walk(document, arrival_us, reasons)
        for rule in errors:
            if _broken(rule, document):
                reasons.append(f"{_pointer(rule.path)}: missing ({rule.name})")
        checked = Checked(values=values)
        if contract.samples:
            numbers: dict[str, float] = {}
            strings: dict[str, str] = {}
            _leaves(document, (), numbers, strings, reasons)
            if not numbers and not reasons:
                reasons.append("/: no number in the record, so no sample")
            checked.samples = list(numbers.items())
            host, dataset = strings.pop("host.name", None), strings.get("event.dataset")
            checked.dimensions = strings
            if not reasons:
                checked.identity = metric_identity(host, values["time"], dataset, strings)
        else:
            if rescued:
                checked.rescued = orjson.dumps(rescued).decode()
            if contract.identity is not None:
                named = _at(document, contract.identity)
                # A blank optional id names nothing: such a record is identified by topic/partition/offset.
                checked.identity = named if isinstance(named, str) and named.strip() else None
        if reasons:
            checked.reasons = reasons
        elif warnings:
            checked.warnings = [rule.name for rule in warnings if _broken(rule, document)] or None
        return checked

    return check
