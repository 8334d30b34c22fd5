"""The page of a report: one HTML file with one style and no script, which asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from serving.report import charts
from serving.report.facts import Activity, EventType, Figure, Hourly, Incidents, Outlook, Report
from serving.report.findings import Finding, findings
from serving.report.outlook import STEP
from serving.report.words import Lang, Words, short

TEMPLATES = Path(__file__).parent / "templates"
STACKED = 4
"""Types of events that have a colour of their own."""
_LEVELS = ("unusual", "critical", "warning", "info")
SUBJECTS = 14
EPISODES = 20
_STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
SECTIONS = (
    "activity", "engagement", "services", "incidents", "hosts", "forecasts", "models", "texts", "quality", "freshness",
)  # fmt: skip


def policy(page: bytes) -> str:
    """The Content-Security-Policy of a page: its own style, and nothing else.

    Whatever text of others is in the page comes after its style, which is therefore the first.
    """
    style = _STYLE.search(page)
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(style[1]).digest()).decode()}'" if style else "'none'"
    return f"default-src 'none'; style-src {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def render(report: Report, lang: Lang, made_at: datetime) -> str:
    """The page."""
    words = Words(lang)
    said = findings(report)
    html: str = _template().render(
        r=report, t=words, lang=lang, made_at=made_at, sections=SECTIONS, findings=[(f, _say(words, f)) for f in said],
        status=said[0].level, style=_style(), csp=_meta_policy(), charts=charts, stack=_stack(report.activity),
        timeline=_timeline(report.incidents, report),
        outlooks=[_outlook(report, one) for one in report.forecasts.outlooks],
        hours=[f"{hour:02d}" for hour in range(24)], peak=_peak, highest=_highest, short=short, figure=Figure,
        delay=_delay(report), few=EPISODES,
        worst=max((_highest(one.error_rate_by_hour) or 0.0 for one in report.services.each), default=0.0),
    )  # fmt: skip
    return html


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, extensions=["jinja2.ext.do"],
    )  # fmt: skip
    environment.filters["marked"] = marked
    return environment.get_template("report.html.j2")


@cache
def _style() -> Markup:
    return Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))


@cache
def _meta_policy() -> str:
    """The policy in the page itself, for who opens it from a disk; ``frame-ancestors`` means nothing there."""
    return policy(f"<style>{_style()}</style>".encode()).replace("; frame-ancestors 'none'", "")


def _say(words: Words, finding: Finding) -> str:
    """A finding as a sentence, its values written as what they are."""

    def written(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return words.names(value)
        if name in ("rate", "before", "share"):
            return words.share(value)
        if name == "change":
            return f"{100 * abs(value):.0f}%"
        if isinstance(value, datetime) or name == "at":
            return words.clock(value)
        return words.ms(value) if name == "p95" else short(value, 40) if isinstance(value, str) else value

    values = {name: written(name, value) for name, value in finding.values.items()}
    return words(f"finding.{finding.name}", **values)


def _stack(activity: Activity) -> tuple[EventType, ...]:
    """The types that are drawn, the rest as one without a name."""
    first, rest = activity.types[:STACKED], activity.types[STACKED:]
    if not rest:
        return first
    hours = tuple(
        None if all(one.hours[hour] is None for one in rest) else sum(one.hours[hour] or 0.0 for one in rest)
        for hour in range(24)
    )
    return (*first, EventType("", Figure(sum(one.events.value or 0 for one in rest)), None, hours))


def _timeline(incidents: Incidents, report: Report) -> list[tuple[str, str, list[tuple[str, charts.Rect, str]]]]:
    """(kind, subject, bars as (level, place, title)) of the subjects with most to tell."""
    begin, end = report.day.begin, report.day.back(-1)[0]
    rows: dict[tuple[str, str], list[tuple[str, datetime, datetime, str]]] = {}
    for one in incidents.firings:
        kind = next((e.kind for e in incidents.episodes if e.name == one.subject), "")
        rows.setdefault((kind, one.subject), []).append((one.severity, one.begin, one.end or report.day.end, one.rule))
    for episode in incidents.episodes:
        row = rows.setdefault((episode.kind, episode.name), [])
        row.insert(0, ("unusual", episode.begin, episode.end, episode.measures[0]))
    chosen = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))[:SUBJECTS]
    return [
        (kind, name, [
            (level if level in _LEVELS else "info", place, short(title))
            for (level, _, _, title), place in zip(
                bars, charts.spans([(first, last) for _, first, last, _ in bars], begin, end), strict=True
            )
        ])
        for (kind, name), bars in sorted(chosen)
    ]  # fmt: skip


def _outlook(report: Report, one: Outlook) -> tuple[Outlook, charts.Band]:
    measure = one.series.rpartition("/")[2]
    most = 1.0 if measure.endswith(".pct") or measure == "error_rate" else None
    said = [(f.at, f.mean, f.lo, f.hi) for f in one.foretold]
    return one, charts.band(one.actual, said, report.forecasts.begin, STEP, most)


def marked(text: str) -> Markup:
    """A sentence with what stands in back-quotes as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _peak(hours: Hourly) -> str:
    """The hour with most, as a time of day."""
    known = [(value, -hour) for hour, value in enumerate(hours) if value is not None]
    return f"{-max(known)[1]:02d}:00" if known else "–"


def _highest(hours: Hourly) -> float | None:
    return max((value for value in hours if value is not None), default=None)


def _delay(report: Report) -> tuple[Figure, Hourly]:
    """Of the slowest topic, and by hour."""
    known = [one for one in report.freshness.topics if one.delay_p95_s.value is not None]
    if not known:
        return Figure(None), (None,) * 24
    slowest = max(known, key=lambda one: one.delay_p95_s.value or 0.0)
    return slowest.delay_p95_s, slowest.delay_by_hour
