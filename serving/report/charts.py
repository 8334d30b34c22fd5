"""The geometry of charts: numbers in, coordinates out, for the SVG macros of ``templates/charts.j2``.

Every chart is drawn into a box of WIDTH x HEIGHT that the page stretches to its place, so nothing in it is text or
round; labels stand beside it, as HTML, at even distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WIDTH, HEIGHT = 960.0, 240.0
Values = Sequence[float | None]


@dataclass(frozen=True)
class Rect:
    """A rectangle: of which series, where; ``index`` is the hour."""

    series: int
    index: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scale:
    """The axis of values: its end, and the labels from the top down."""

    top: float
    ticks: tuple[float, ...]


@dataclass(frozen=True)
class Bars:
    """Stacked bars, with lines over them."""

    rects: tuple[Rect, ...]
    lines: tuple[str, ...]
    scale: Scale


@dataclass(frozen=True)
class Band:
    """A line, another one within a band, and where now is."""

    line: str
    middle: str
    area: str
    now: float | None
    scale: Scale
    times: tuple[datetime, ...]


def scale(highest: float, most: float | None = None) -> Scale:
    """An axis from 0 to a round number at or above the highest value; ``most`` is what values cannot exceed."""
    if not (highest > 0 and math.isfinite(highest)):
        top = most or 1.0
    else:
        power = 10.0 ** math.floor(math.log10(highest))
        top = next(
            power * step for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if power * step >= highest * 0.9999
        )
        top = min(top, most) if most else top
    return Scale(top, (top, top / 2, 0.0))


def bars(series: Sequence[Values], lines: Sequence[Values] = (), gap: float = 0.18, most: float | None = None) -> Bars:
    """One stack per place, the first series at the bottom; lines have the same scale."""
    count = max((len(each) for each in [*series, *lines]), default=0) or 1
    totals = [sum(each[i] or 0.0 for each in series if i < len(each)) for i in range(count)]
    highest = max([*totals, *(value or 0.0 for line in lines for value in line)], default=0.0)
    axis, slot = scale(highest, most), WIDTH / count
    rects = []
    for i in range(count):
        base = 0.0
        for number, each in enumerate(series):
            value = max(each[i] or 0.0, 0.0) if i < len(each) else 0.0
            if value > 0:
                height = HEIGHT * value / axis.top
                y = HEIGHT - HEIGHT * base / axis.top - height
                rects.append(
                    Rect(number, i, _r(slot * (i + gap / 2)), _r(y), _r(slot * (1 - gap)), _r(max(height, 0.8)))
                )
                base += value
    middle = [slot * (i + 0.5) for i in range(count)]
    drawn = tuple(path([(x, _y(v, axis)) for x, v in zip(middle, line, strict=False)]) for line in lines)
    return Bars(tuple(rects), drawn, axis)


def sparks(values: Values, highest: float | None = None) -> tuple[Rect, ...]:
    """Small bars, without an axis."""
    known = [v for v in values if v is not None]
    top = highest or max(known, default=0.0) or 1.0
    slot = WIDTH / max(len(values), 1)
    return tuple(
        Rect(
            0,
            i,
            _r(slot * (i + 0.1)),
            _r(HEIGHT * (1 - min(v / top, 1.0))),
            _r(slot * 0.8),
            _r(HEIGHT * min(v / top, 1.0)),
        )
        for i, v in enumerate(values)
        if v is not None and v > 0
    )


def path(points: Sequence[tuple[float, float | None]]) -> str:
    """An SVG path through points; a gap where there is no value."""
    parts, drawing = [], False
    for x, y in points:
        if y is None:
            drawing = False
            continue
        parts.append(f"L{_r(x):g} {_r(y):g}" if drawing else f"M{_r(x):g} {_r(y):g}h0")  # a point alone is a dot
        drawing = True
    return "".join(parts)


def band(
    actual: Sequence[tuple[datetime, float]],
    foretold: Sequence[tuple[datetime, float, float, float]],
    now: datetime,
    step: timedelta,
    most: float | None = None,
) -> Band:
    """What was, beside (time, mean, lo, hi) that was foretold; from the first time to the last.

    The axis ends where what was and the mean need it: an interval may be cut off above.
    """
    known = [at for at, _ in actual] + [at for at, *_ in foretold]
    first, ticks = _hours(min(known), max(known) + step)
    last = ticks[-1]
    values = [v for _, v in actual] + [mean for _, mean, _, _ in foretold]
    inner = sorted(hi for *_, hi in foretold)
    reach = inner[int(0.9 * (len(inner) - 1))] if inner else 0.0
    axis = scale(max([*values, min(reach, 2 * max(values, default=0.0))], default=0.0), most)
    span = (last - first).total_seconds() or 1.0

    def x(at: datetime) -> float:
        return WIDTH * (at - first).total_seconds() / span

    def y(value: float) -> float:
        return HEIGHT * (1 - min(max(value / axis.top, 0.0), 1.0))

    areas = []
    for part in _together([at for at, *_ in foretold], step):
        rows = foretold[part]
        upper = [(x(at), y(hi)) for at, _, _, hi in rows]
        lower = [(x(at), y(lo)) for at, _, lo, _ in reversed(rows)]
        areas.append(path([*upper, *lower]) + "Z")
    line = "".join(
        path([(x(at), y(v)) for at, v in actual[part]]) for part in _together([at for at, _ in actual], step)
    )
    middle = "".join(
        path([(x(at), y(mean)) for at, mean, _, _ in foretold[part]])
        for part in _together([at for at, *_ in foretold], step)
    )
    edge = x(now) if first < now < last else None
    return Band(line, middle, "".join(areas), None if edge is None else _r(edge), axis, ticks)


def _hours(first: datetime, last: datetime) -> tuple[datetime, tuple[datetime, ...]]:
    """A span of whole hours around two times, and seven times or fewer at even distances in it."""
    first = first.replace(minute=0, second=0, microsecond=0)
    hours = -((first - last) // timedelta(hours=1))
    every = next(each for each in (1, 2, 3, 4, 6, 8, 12, hours) if hours <= 6 * each)
    return first, tuple(first + timedelta(hours=every) * number for number in range(-(-hours // every) + 1))


def _together(times: Sequence[datetime], step: timedelta) -> list[slice]:
    """The stretches of times without a gap of more than a dozen steps."""
    found, begin = [], 0
    for i in range(1, len(times) + 1):
        if i == len(times) or times[i] - times[i - 1] > 12 * step:
            found.append(slice(begin, i))
            begin = i
    return found if times else []


def spans(intervals: Sequence[tuple[datetime, datetime]], begin: datetime, end: datetime) -> tuple[Rect, ...]:
    """Where intervals lie between two times; each is wide enough to be seen."""
    whole = (end - begin).total_seconds() or 1.0
    found = []
    for number, (first, last) in enumerate(intervals):
        left = min(max((first - begin).total_seconds() / whole, 0.0), 1.0)
        right = min(max((last - begin).total_seconds() / whole, 0.0), 1.0)
        width = max(right - left, 0.004)
        found.append(Rect(number, number, _r(WIDTH * min(left, 1 - width)), 0.0, _r(WIDTH * width), HEIGHT))
    return tuple(found)


def _y(value: float | None, axis: Scale) -> float | None:
    return None if value is None else HEIGHT * (1 - min(max(value / axis.top, 0.0), 1.0))


def _r(value: float) -> float:
    return round(value, 1)
