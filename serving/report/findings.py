"""What is worth saying first of a day: facts in, findings out, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.report.facts import Figure, Firing, Report, Service

Level = Literal["bad", "notice", "good"]
MOST = 10
LEVELS: tuple[Level, ...] = ("bad", "notice", "good")
TRAFFIC = 0.2
"""The relative change of traffic that is no longer noise."""
ERRORS, MANY_ERRORS, FEW = 0.005, 0.01, 20
"""The error rate and the errors of a service below which a rise is not worth a word; the rate that is trouble."""
SLOWER = 0.25
SOON_FULL_DAYS = 14.0
QUARANTINED = 0.01
COVERAGE = 0.85
"""Of intervals that were to hold 0.95 of all values."""
JUDGED = 100
"""Steps below which a coverage says nothing."""
MOOD = 0.1
COMMENTS = 30


@dataclass(frozen=True)
class Finding:
    """A sentence of the catalogue (``finding.<name>``) with its values, and the section that says more."""

    level: Level
    name: str
    section: str
    values: dict[str, Any] = field(default_factory=dict)


def findings(report: Report) -> tuple[Finding, ...]:
    """The worst first, MOST at most; never none."""
    found = [*_operations(report), *_upkeep(report), *_people(report)]
    if not found:
        found = [Finding("good", "empty" if report.empty else "well", "activity")]
    return tuple(sorted(found, key=lambda one: LEVELS.index(one.level))[:MOST])


def _fails(service: Service) -> bool:
    rate, change = service.error_rate.value or 0.0, service.error_rate.change
    return rate > ERRORS and service.errors >= FEW and (change is None or change > 0.5)


def _up(figure: Figure, by: float) -> bool:
    return figure.change is not None and figure.change >= by


def _operations(report: Report) -> Iterator[Finding]:
    incidents, services, hosts = report.incidents, report.services, report.hosts
    groups: tuple[tuple[Level, str, list[Firing]], ...] = (
        ("bad", "critical", [one for one in incidents.firings if one.severity == "critical"]),
        ("bad", "firing", [one for one in incidents.firings if one.severity != "critical" and one.end is None]),
        ("notice", "warned", [one for one in incidents.firings if one.severity != "critical" and one.end is not None]),
    )
    for grade, name, held in groups:
        if held:
            subjects = [f"{subject} ({rule})" for subject, rule in dict.fromkeys((o.subject, o.rule) for o in held)]
            yield Finding(grade, name, "incidents", {"n": len(held), "subjects": subjects})
    if incidents.episodes:
        confirmed = sum(bool(one.confirmed) for one in incidents.episodes)
        yield Finding("notice", "episodes", "incidents", {"n": len(incidents.episodes), "confirmed": confirmed})
    failing = [one for one in services.each if _fails(one)]
    if failing:
        worst = max(failing, key=lambda one: one.errors)
        minute = next((one.at for one in services.failing if one.service == worst.name), None)
        level: Level = "bad" if (worst.error_rate.value or 0) > MANY_ERRORS else "notice"
        values = {"rate": worst.error_rate.value, "before": worst.error_rate.day_before, "at": minute}
        yield Finding(level, "errors", "services", {"service": worst.name} | values)
    if _up(services.p95_ms, SLOWER):
        yield Finding("notice", "slower", "services", {"p95": services.p95_ms.value, "change": services.p95_ms.change})
    over = [host for host in hosts.each if any(use.over for use in host.uses.values())]
    near = [host for host in hosts.each if host not in over and any(use.near for use in host.uses.values())]
    if over:
        yield Finding("bad", "over", "hosts", {"n": len(over), "subjects": [host.name for host in over]})
    if near:
        yield Finding("notice", "near", "hosts", {"n": len(near), "subjects": [host.name for host in near]})
    for host in hosts.each:
        if host.full_in_days is not None and host.full_in_days <= SOON_FULL_DAYS:
            yield Finding("bad", "full", "hosts", {"host": host.name, "n": max(round(host.full_in_days), 1)})
    reaching = [one for one in report.forecasts.reaching if one.certain]
    if reaching:
        names = sorted({one.series.split("/")[1] for one in reaching})
        yield Finding("notice", "reaching", "forecasts", {"n": len(reaching), "subjects": names})


def _upkeep(report: Report) -> Iterator[Finding]:
    quality, forecasts = report.quality, report.forecasts
    if not quality.balanced:
        topics = [one.topic for one in quality.intakes if not one.balanced]
        yield Finding("bad", "unbalanced", "quality", {"n": len(topics), "subjects": topics})
    share, before = quality.share, None
    if quality.quarantined.day_before is not None and quality.records.day_before:
        before = quality.quarantined.day_before / quality.records.day_before
    if share is not None and share > QUARANTINED and (before is None or share > 1.5 * before):
        yield Finding("notice", "quarantined", "quality", {"share": share})
    new = sorted({one.field for one in quality.drift if one.new})
    if new and quality.records.day_before is not None:  # on a first day every field is new
        yield Finding("notice", "drift", "quality", {"n": len(new), "subjects": new})
    failed = [job for job in report.freshness.jobs if job.last in ("failed", "timed out")]
    if failed:
        yield Finding("bad", "jobs", "freshness", {"n": len(failed), "subjects": [job.name for job in failed]})
    problems = [job for job in report.freshness.jobs if job.problems]
    if problems:
        yield Finding("bad", "problems", "freshness", {"n": len(problems), "subjects": [job.name for job in problems]})
    late = [one for one in report.freshness.topics if one.on_time is not None and one.on_time < 0.5]
    if late:
        yield Finding("notice", "late", "freshness", {"n": len(late), "subjects": [one.topic for one in late]})
    steps = sum(one.steps for one in forecasts.judged)
    if forecasts.coverage is not None and steps >= JUDGED and forecasts.coverage < COVERAGE:
        yield Finding("notice", "coverage", "forecasts", {"share": forecasts.coverage})
    for model in report.models.each:
        if model.refused:
            yield Finding("notice", "refused", "models", {"model": model.name, "n": model.refused})
        elif model.decisions and model.champion and model.champion.at >= report.day.begin:
            yield Finding("good", "promoted", "models", {"model": model.name, "version": model.champion.version})


def _people(report: Report) -> Iterator[Finding]:
    events, users = report.activity.events, report.activity.users
    if events.change is not None and abs(events.change) >= TRAFFIC:
        name = "more" if events.change > 0 else "fewer"
        yield Finding("notice", name, "activity", {"change": abs(events.change), "users": users.value})
    for mood in report.texts.moods:
        now, before = mood.negative_share, mood.negative_before
        if mood.language is not None or now is None or before is None or mood.comments < COMMENTS:
            continue
        if now - before >= MOOD:
            yield Finding("notice", "mood", "texts", {"share": now, "before": before})
    new = [one for one in report.texts.errors if one.before == 0]
    if new:
        yield Finding("notice", "new_errors", "texts", {"n": len(new)})
