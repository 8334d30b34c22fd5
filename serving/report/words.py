"""What a report says in a language: sentences of its catalogue, and how numbers and times are written in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from datetime import date as Date
from typing import Any, Literal, get_args

from serving.report.catalogue import EN, KO, Message

Lang = Literal["en", "ko"]
LANGS: tuple[Lang, ...] = get_args(Lang)
NONE = "–"
MINUS = "−"

CATALOGUES: Mapping[Lang, Mapping[str, Message]] = {"en": EN, "ko": KO}

_WEEKDAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "ko": ("월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"),
}
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_LARGE: Mapping[Lang, Sequence[tuple[float, str]]] = {
    "en": ((1e9, " bn"), (1e6, " M")),
    "ko": ((1e8, "억"), (1e4, "만")),
}
_LARGE_FROM: Mapping[Lang, float] = {"en": 1e6, "ko": 1e6}
_UNITS: Mapping[Lang, tuple[str, str, str, str, str]] = {
    "en": (" ms", " s", " min", " h", " d"),
    "ko": ("ms", "초", "분", "시간", "일"),
}
_LISTED = 5
"""Names that a sentence has before it says how many more there are."""
_SHORT = 80


class Words:
    """Sentences, numbers and times of one language."""

    def __init__(self, lang: Lang) -> None:
        self.lang = lang
        self._messages = CATALOGUES[lang]

    def __call__(self, key: str, **values: Any) -> str:
        """A sentence of the catalogue with its values; those that are numbers are written as such."""
        message = self._messages[key]
        if isinstance(message, tuple):
            message = message[values.get("n") != 1]
        written = {name: self.number(v) if isinstance(v, int | float) else v for name, v in values.items()}
        return message.format(**written)

    def known(self, prefix: str, name: str) -> str:
        """``prefix.name`` of the catalogue; the name itself, made short, where there is none."""
        return self(f"{prefix}.{name}") if f"{prefix}.{name}" in self._messages else short(name)

    def names(self, names: Sequence[str]) -> str:
        """A few names; how many more there are."""
        shown = ", ".join(short(name, 40) for name in names[:_LISTED])
        left = len(names) - _LISTED
        return f"{shown} {self('and_more', n=left)}" if left > 0 else shown

    # --- numbers -----------------------------------------------------------------------------------------------------

    def number(self, value: float | None, digits: int = 3) -> str:
        """A count in full up to a million; other numbers with so many significant digits."""
        if value is None or not math.isfinite(value):
            return NONE
        if abs(value) >= _LARGE_FROM[self.lang]:
            for size, word in _LARGE[self.lang]:
                if abs(value) >= size:
                    return _signed(_significant(value / size, 4 if self.lang == "ko" else digits) + word)
        if value == int(value):
            return _signed(f"{int(value):,}")
        return _signed(_significant(value, digits))

    def share(self, value: float | None) -> str:
        """A share as per cent."""
        if value is None or not math.isfinite(value):
            return NONE
        per_cent = 100 * value
        if 0 < abs(per_cent) < 0.01:
            return "<0.01%"
        digits = 0 if abs(per_cent) >= 99.95 or per_cent == 0 else 2 if abs(per_cent) < 1 else 1
        return _signed(f"{per_cent:,.{digits}f}%")

    def change(self, value: float | None) -> str:
        """A relative change, with its sign."""
        if value is None or not math.isfinite(value):
            return NONE
        if value >= 9:
            return f"×{self.number(value + 1, 2)}"
        per_cent = 100 * value
        written = f"{per_cent:+.1f}%" if abs(per_cent) < 10 else f"{per_cent:+.0f}%"
        return "±0%" if written in ("+0.0%", "-0.0%") else _signed(written)

    def ms(self, value: float | None) -> str:
        """Milliseconds, as seconds and more where there are many."""
        if value is None or not math.isfinite(value):
            return NONE
        if value < 1000:
            return f"{_significant(value, 2 if value < 10 else 3)}{_UNITS[self.lang][0]}"
        return self.seconds(value / 1000)

    def seconds(self, value: float | timedelta | None) -> str:
        """A span of time in its largest unit."""
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if value is None or not math.isfinite(value):
            return NONE
        for number, size, least in ((4, 86_400.0, 172_800.0), (3, 3600.0, 7200.0), (2, 60.0, 60.0)):
            if value >= least:
                return f"{_significant(value / size, 2 if value < 10 * size else 3)}{_UNITS[self.lang][number]}"
        return f"{_significant(value, 2)}{_UNITS[self.lang][1]}"

    def of(self, measure: str, value: float | None) -> str:
        """A value in the unit of its measure."""
        if measure.endswith(".pct") or measure in ("error_rate", "coverage"):
            return self.share(value)
        return self.ms(value) if measure.endswith("_ms") else self.number(value)

    # --- times and names ---------------------------------------------------------------------------------------------

    def day(self, date: Date) -> str:
        """A date, with its day of the week."""
        weekday = _WEEKDAYS[self.lang][date.weekday()]
        if self.lang == "ko":
            return f"{date.year}년 {date.month}월 {date.day}일 {weekday}"
        return f"{weekday}, {date.day} {_MONTHS[date.month - 1]} {date.year}"

    def clock(self, at: datetime | None) -> str:
        """A time of day, UTC."""
        return NONE if at is None else at.astimezone(UTC).strftime("%H:%M")

    def time(self, at: datetime | None, date: Date | None = None) -> str:
        """A time of day, with the date where that is not ``date``."""
        if at is None:
            return NONE
        at = at.astimezone(UTC)
        if at.date() == date:
            return self.clock(at)
        return at.strftime("%m-%d %H:%M" if date and at.year == date.year else "%Y-%m-%d %H:%M")

    def measure(self, name: str) -> str:
        """A measure's name for people."""
        return self.known("measure", name)

    def series(self, name: str) -> str:
        """``service/gateway/requests``, for people."""
        kind, _, rest = name.partition("/")
        if kind == "activity":
            return self.known("type", rest)
        subject, _, measure = rest.rpartition("/")
        return f"{short(subject, 40)}: {self.measure(measure)}"


def short(text: str, most: int = _SHORT) -> str:
    """A name of somebody's making, as one line of bounded length that can be seen."""
    line = "".join(char if char.isprintable() else " " for char in text[: 4 * most]).replace("`", "'")
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 1]}…"


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    written = f"{value:,.{min(places, 6)}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
