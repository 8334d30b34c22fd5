"""Date patterns of Joda-Time, the language of Logstash's ``date`` filter and of ``%{+...}``.

Source: Joda-Time, ``DateTimeFormat``. A pattern becomes one regular expression with the meaning of each part; what has
no meaning here (eras, weeks, names of zones) is an error when it is read.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo

Parse = Callable[[str], datetime | None]
"""A date out of a text, aware; ``None`` where the text is not of the pattern."""
_RUN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_MONTHS = {name.lower(): n for n, name in enumerate(calendar.month_abbr) if name}
_MONTHS |= {name.lower(): n for n, name in enumerate(calendar.month_name) if name}
_DAY = "|".join(filter(None, [*calendar.day_name, *calendar.day_abbr]))
_MONTH = "|".join(sorted(filter(None, {*calendar.month_name, *calendar.month_abbr}), key=len, reverse=True))
_FIELDS = {
    "y": ("year", r"[+-]?\d{4,}"),
    "Y": ("year", r"[+-]?\d{4,}"),
    "u": ("year", r"[+-]?\d{4,}"),
    "M": ("month", r"\d{1,2}"),
    "d": ("day", r"\d{1,2}"),
    "H": ("hour", r"\d{1,2}"),
    "h": ("half", r"\d{1,2}"),
    "m": ("minute", r"\d{1,2}"),
    "s": ("second", r"\d{1,2}"),
    "S": ("fraction", r"\d{1,9}"),
    "Z": ("zone", r"Z|[+-]\d{2}:?\d{2}"),
    "a": ("ap", r"[AaPp][Mm]"),
}


def _runs(pattern: str) -> list[tuple[str, int, str]]:
    """(letter, how often, literal text) of each part; the letter is empty for a literal.

    Raises:
        ValueError: a letter that has no meaning here, or a quote that does not end.
    """
    runs, at = [], 0
    for found in _RUN.finditer(pattern):
        if found.start() != at:
            break
        at = found.end()
        part, letter = found.group(0), found.group(2)
        if letter and letter not in _FIELDS and letter != "E":
            raise ValueError(f"match: in date pattern {pattern!r}, {part!r} has no meaning here")
        literal = "" if letter else ((found.group(1).replace("''", "'") or "'") if part[0] == "'" else part)
        runs.append((letter or "", len(part), literal))
    if at != len(pattern):
        raise ValueError(f"match: in date pattern {pattern!r} the quote at {pattern[at:]!r} does not end")
    return runs


def parser(pattern: str, zone: tzinfo = UTC, year: Callable[[], int] = lambda: datetime.now(UTC).year) -> Parse:
    """A function that reads dates of a pattern, or of ``ISO8601``, ``UNIX`` and ``UNIX_MS``.

    ``zone`` holds for texts that name none; ``year()`` for patterns without one: as in Logstash, a date that would then
    lie more than a month ahead is one of the year before (a log of December read in January).

    Raises:
        ValueError: the pattern has a letter without meaning here.
    """
    if pattern == "ISO8601":
        return lambda text: _iso8601(text, zone)
    if pattern in ("UNIX", "UNIX_MS"):
        return lambda text: _unix(text, 1 if pattern == "UNIX" else 1000)
    expression, names, numbers = "", dict[str, int](), 0
    for letter, count, literal in _runs(pattern):
        if not letter:
            expression += re.escape(literal)
            continue
        name, digits = _FIELDS.get(letter, ("", ""))
        if letter == "E":
            expression += f"(?:{_DAY})"
            continue
        if letter == "M" and count >= 3:
            name, digits = "month_name", _MONTH
        elif letter in "yYu" and count == 2:
            name, digits = "short_year", r"\d{2}"
        elif letter == "S":
            digits = r"\d{1,9}" if count >= 3 else rf"\d{{{count}}}"
        elif digits == r"\d{1,2}" and count == 2:
            digits = r"\d{2}"
        numbers += 1
        names[name] = numbers
        expression += f"({digits})"
    match = re.compile(expression, re.IGNORECASE).fullmatch

    def parse(text: str) -> datetime | None:
        found = match(text.strip())
        if found is None:
            return None
        try:
            return _made({name: found.group(number) for name, number in names.items()}, zone, year)
        except (ValueError, OverflowError):
            return None

    return parse


def _made(parts: dict[str, str], zone: tzinfo, year: Callable[[], int]) -> datetime:
    known = "year" in parts or "short_year" in parts
    if "year" in parts:
        in_year = int(parts["year"])
    elif known:
        in_year = 2000 + int(parts["short_year"]) if int(parts["short_year"]) < 70 else 1900 + int(parts["short_year"])
    else:
        in_year = year()
    month = _MONTHS[parts["month_name"].lower()] if "month_name" in parts else int(parts.get("month", 1))
    hour = int(parts.get("hour", 0))
    if "half" in parts:
        hour = int(parts["half"]) % 12 + (12 if parts.get("ap", "am").lower() == "pm" else 0)
    micro = int(parts.get("fraction", "0")[:6].ljust(6, "0"))
    offset = parts.get("zone")
    at = datetime(
        in_year, month, int(parts.get("day", 1)), hour, int(parts.get("minute", 0)), int(parts.get("second", 0)),
        micro, _offset(offset) if offset else zone,
    ).astimezone(UTC)  # fmt: skip
    if not known and at > datetime.now(UTC) + timedelta(days=31):
        at = at.replace(year=at.year - 1)
    return at


def _offset(text: str) -> tzinfo:
    if text in "Zz":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _iso8601(text: str, zone: tzinfo) -> datetime | None:
    try:
        at = datetime.fromisoformat(text.strip().replace(",", "."))
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _unix(text: str, per_second: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(text) / per_second, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def formatter(pattern: str) -> Callable[[datetime], str]:
    """A function that writes times in UTC in a pattern.

    Raises:
        ValueError: the pattern has a letter without meaning here.
    """
    runs = _runs(pattern)

    def show(at: datetime) -> str:
        at = at.astimezone(UTC)
        return "".join(_shown(at, letter, count) if letter else literal for letter, count, literal in runs)

    return show


def _shown(at: datetime, letter: str, count: int) -> str:
    if letter in "yYu":
        return f"{at.year % 100:02}" if count == 2 else str(at.year).zfill(count)
    if letter == "M" and count >= 3:
        return (calendar.month_abbr if count == 3 else calendar.month_name)[at.month]
    if letter == "E":
        return (calendar.day_abbr if count <= 3 else calendar.day_name)[at.weekday()]
    if letter == "S":
        return f"{at.microsecond:06}".ljust(9, "0")[:count].ljust(count, "0")
    if letter == "Z":
        return "+0000" if count == 1 else "+00:00"
    if letter == "a":
        return "AM" if at.hour < 12 else "PM"
    number = {"M": at.month, "d": at.day, "H": at.hour, "h": (at.hour - 1) % 12 + 1, "m": at.minute, "s": at.second}
    return str(number[letter]).zfill(count)
