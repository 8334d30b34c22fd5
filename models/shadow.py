"""Shadow scoring: a version answers the held-out cases beside the champion, and nobody else hears it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lakehouse.settings import Settings
from models import lifecycle
from models.kinds import kind
from models.registry import CHALLENGER, Registry
from models.trained import ModelError

REPORT = "shadow.json"
"""The artefact of the challenger's run."""


def compare(
    settings: Settings, model: str, spark: Any, version: str | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """How champion and challenger, or a named version, do on the same held-out time, and how far they agree.

    Nothing is decided by it. The report is kept as ``shadow.json`` with the challenger's run in MLflow.

    Raises:
        ModelError: no version answers yet, there is no challenger, or a version is not whole.
    """
    registry, one, now = Registry(settings), kind(model), now or datetime.now(UTC)
    answering = registry.answering(model)
    if answering is None:
        raise ModelError(f"no version of {model} answers yet: `lakehouse promote {model}` lets one")
    version = version or registry.alias(model, CHALLENGER)
    if version is None:
        raise ModelError(f"{model} has no challenger: `lakehouse train {model}` makes one, or name one with --version")
    if version == answering.version:
        raise ModelError(f"{model} {version} is the champion: name another one with --version")
    champion, challenger = (
        one.answers(known.manifest, known.arrays)
        for known in (registry.read(model, number) for number in (answering.version, version))
    )
    data = lifecycle.versions_now(settings, model)
    held = one.hold_out(spark, settings, data, now)
    report = {
        "model": model,
        "at": now.isoformat(),
        "data": data,
        "champion": {"version": answering.version, **one.measure(champion, held).json()},
        "challenger": {"version": version, **one.measure(challenger, held).json()},
        "agreement": one.agreement(champion, challenger, held),
    }
    registry.attach(model, version, REPORT, report)
    return report
