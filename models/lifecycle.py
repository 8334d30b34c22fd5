"""Train, judge, promote, roll back: what ``lakehouse train|promote|rollback MODEL`` and the timetable do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lakehouse.predict import findings
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from models import card
from models.gate import DRIFT, faults, judge
from models.kinds import kind
from models.registry import CHALLENGER, Decision, Registry
from models.trained import Measured, ModelError

_log = logging.getLogger(__name__)
SOURCES: Mapping[str, tuple[str, ...]] = {
    "recommender": ("silver.user_events",),
    "anomaly": ("gold.service_health_minute", "silver.system_metrics", "silver.service_logs"),
    "trend": ("gold.activity_minute", "gold.service_health_minute", "gold.host_utilization_minute"),
}
"""The tables that each model learns from."""


@dataclass(frozen=True)
class Verdict:
    """What the gate found of a candidate."""

    model: str
    version: str
    reasons: tuple[str, ...]
    candidate: Measured | None
    rival: Measured | None
    rival_name: str
    data: Mapping[str, int] = field(default_factory=dict)
    """The Delta versions that a candidate which could be measured was trained on."""
    drift: Mapping[str, float] = field(default_factory=dict)
    """How far its inputs have moved since, by feature."""


def versions_now(settings: Settings, model: str) -> dict[str, int]:
    """The newest versions of the tables that a model learns from."""
    return {name: Lake(settings).table(name).version() for name in SOURCES[model]}


def train(settings: Settings, model: str, spark: Any, now: datetime | None = None) -> tuple[str, Measured]:
    """Train on the tables as they are now, register the version as challenger, and measure it on held-out time.

    Raises:
        ModelError: there is too little to learn from, or MLflow does not answer.
    """
    registry, one, now = Registry(settings), kind(model), now or datetime.now(UTC)
    versions = versions_now(settings, model)
    trained = one.train(spark, settings, versions, now)
    measured = one.measure(one.answers({**trained.manifest, "version": "candidate"}, trained.arrays),
                           one.hold_out(spark, settings, versions, now))  # fmt: skip
    metrics = {measured.metric: measured.value, "p99_ms": measured.p99_ms, **measured.more}
    metrics |= {f"slice/{name}": value for name, (value, _) in measured.slices.items()}
    version = registry.register(trained, metrics)
    _tell(settings, model, version)
    return version, measured


def outdated(settings: Settings, model: str, spark: Any, now: datetime | None = None) -> list[str]:
    """Why the champion should be trained anew: there is none, it is old, or its inputs have drifted; none: it is well.

    Raises:
        ModelError: MLflow does not answer.
    """
    registry, one, now = Registry(settings), kind(model), now or datetime.now(UTC)
    answering = registry.answering(model)
    if answering is None:
        return ["no version answers yet"]
    champion = registry.read(model, answering.version)
    found = []
    if now - champion.until > one.bounds.max_age / 2:
        found.append(f"it has learnt nothing after {champion.until:%Y-%m-%dT%H:%MZ}")
    drift = one.drift(champion.reference, spark, settings, now)
    findings.note(settings.published / model, answering.version, drift, now)
    return found + [
        f"{name} has drifted (stability index {index:.2f})" for name, index in drift.items() if index > DRIFT
    ]


def assess(settings: Settings, model: str, version: str, spark: Any, now: datetime | None = None) -> Verdict:
    """What the gate says of a version, measured on the tables as they are now."""
    registry, one, now = Registry(settings), kind(model), now or datetime.now(UTC)
    answering = registry.answering(model)
    if answering and answering.version == version:
        raise ModelError(f"{model} {version} answers already")
    try:
        candidate = registry.read(model, version)
    except ModelError as error:
        return Verdict(model, version, (f"not whole: {error}",), None, None, "")
    if broken := faults(candidate.arrays):
        return Verdict(model, version, tuple(f"poisoned: {fault}" for fault in broken), None, None, "")
    versions = versions_now(settings, model)
    held = one.hold_out(spark, settings, versions, now)
    try:
        measured = one.measure(one.answers(candidate.manifest, candidate.arrays), held)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return Verdict(model, version, (f"poisoned: it does not answer ({error!r})",), None, None, "")
    until = None
    if answering:
        champion = registry.read(model, answering.version)
        rival = one.measure(one.answers(champion.manifest, champion.arrays), held)
        name, until = "champion", champion.until
    else:
        rival, name = one.baseline(held), "baseline"
    drift = one.drift(candidate.reference, spark, settings, now)
    reasons = judge(one.bounds, measured, rival, name, candidate.until, until, candidate.signature, drift, now)
    return Verdict(model, version, tuple(reasons), measured, rival, name, candidate.data, drift)


def promote(
    settings: Settings, model: str, spark: Any, who: str, why: str, version: str | None = None,
    now: datetime | None = None,
) -> Decision:  # fmt: skip
    """Let a version answer, the challenger unless one is named, if the gate lets it; either way it is on record.

    Raises:
        ModelError: there is no such version.
    """
    registry = Registry(settings)
    registry.settle(model)
    version = version or registry.alias(model, CHALLENGER)
    if version is None:
        raise ModelError(f"{model} has no challenger: `lakehouse train {model}` makes one")
    verdict = assess(settings, model, version, spark, now)
    said = {"candidate": verdict.candidate, verdict.rival_name or "rival": verdict.rival}
    measured = {name: one.json() for name, one in said.items() if one is not None}
    action = "refused" if verdict.reasons else "promoted"
    decision = registry.decide(model, version, action, who, why, verdict.reasons, measured, verdict.data)
    if action == "promoted":  # of the version that answers from now on
        findings.note(settings.published / model, version, verdict.drift, decision.decided_at)
    _tell(settings, model, version, decision.previous)
    return decision


def rollback(settings: Settings, model: str, who: str, why: str) -> Decision:
    """Let the version answer that did before the one that does.

    Raises:
        ModelError: none did.
    """
    registry = Registry(settings)
    now = registry.answering(model)
    if now is None or now.previous is None:
        raise ModelError(f"{model}: no version answered before {now.version if now else 'any'}, nothing to go back to")
    decision = registry.decide(model, now.previous, "rolled back", who, why)
    _tell(settings, model, decision.version, decision.previous)
    return decision


def _tell(settings: Settings, model: str, *versions: str | None) -> None:
    """Write the cards of versions anew; what was done stands, whether or not MLflow takes them."""
    for version in filter(None, versions):
        try:
            card.publish(settings, model, version)
        except ModelError as error:
            _log.warning("the card of %s %s is not in MLflow: %s", model, version, error)
