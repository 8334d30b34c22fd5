"""The card of a model's version, written from what is on record of it (Mitchell et al., Model Cards, FAT* 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from models.registry import CHALLENGER, Registry
from models.trained import ModelError

USE: Mapping[str, str] = {
    "recommender": "Orders posts that may interest a user, by what the user had to do with. It knows posts that had "
    "readers when it was trained, so it is trained often, and says nothing of whether a post is good, true or fit for "
    "somebody. A user without a history gets what is popular. Scores compare within one answer only.",
    "anomaly": "Tells operators which minutes of services, hosts and logs are unlike those before. Unusual is not yet "
    "trouble, and trouble that creeps in over hours is not unusual; alerts on fixed limits stay beside it. It is "
    "measured on planted trouble, which real trouble need not resemble.",
    "trend": "Foretells activity, services and hosts for some hours, from their own past. It knows of no release, "
    "holiday or campaign that is to come. Intervals are meant to hold 95 % of values in times like those before; not "
    "to be used alone to take capacity away.",
}
"""What each model is for, and what not."""


def card(settings: Settings, model: str, version: str | None = None) -> str:
    """Markdown: what a version is, where it comes from, how good it is, who let it answer, and how to go back.

    Args:
        settings: of the platform.
        model: its name.
        version: the champion, or before there is one the challenger, unless one is named.

    Raises:
        ModelError: there is no such version.
    """
    registry = Registry(settings)
    answering = registry.answering(model)
    version = version or (answering.version if answering else registry.alias(model, CHALLENGER))
    if version is None:
        raise ModelError(f"{model} has no version yet: `lakehouse train {model}` makes one")
    about = registry.about(model, version)
    decided = (
        Lake(settings)
        .query(
            "select action, who, why, reasons, measured, decided_at from ops.promotions "
            "where model = ? and version = ? order by decided_at",
            [model, version],
        )
        .fetchall()
    )
    tags = about.tags
    if answering and answering.version == version:
        state = f"It answers since {answering.decided_at:%Y-%m-%d %H:%M:%S}Z"
    else:
        state = f"It does not answer; {f'version {answering.version}' if answering else 'no version'} does"
    parts = [
        f"# {model}, version {version}",
        f"{state}. Registered at {about.made_at:%Y-%m-%d %H:%M:%S}Z.",
        "## What it is",
        tags.get("words") or "Not described.",
        "## What it is for, and what not",
        USE.get(model, "Not described."),
        "## What it learnt from",
        f"Everything until {tags['until']}, of these versions of tables, with code `{tags.get('code', 'unknown')}`; "
        f"digest of its content `{tags['digest']}`.",
        _table(("table", "version"), sorted(orjson.loads(tags["data"]).items())),
        "## Parameters",
        _table(("parameter", "value"), sorted(about.parameters.items())),
        "## As measured when it was registered",
        _measures({name.replace("_at_", "@"): (value, None) for name, value in about.metrics.items()}),
        "## Decisions",
        *([part for row in decided for part in _decision(*row)] or ["None yet: the gate has not judged it."]),
        "## How to go back",
        f"`lakehouse rollback {model} --why ...` lets the version before answer again, in about a second and without "
        f"training; `lakehouse promote {model} --version N` any other one that the gate lets.",
    ]
    return "\n\n".join(parts) + "\n"


def publish(settings: Settings, model: str, version: str) -> None:
    """Let the card be the version's description in MLflow, and ``card.md`` among the artefacts of its run.

    Raises:
        ModelError: MLflow does not take it.
    """
    Registry(settings).describe(model, version, card(settings, model, version))


def _decision(action: str, who: str, why: str, reasons: list[str] | None, measured: str, at: Any) -> list[str]:
    said = orjson.loads(measured or "{}")
    found = [f"**{action}** at {at:%Y-%m-%d %H:%M:%S}Z by {who}{f': {why}' if why else '.'}"]
    if reasons:
        found.append("\n".join(f"- {reason}" for reason in reasons))
    if candidate := said.pop("candidate", None):
        name, rival = next(iter(said.items()), ("rival", {}))
        found.append(_measures(_flat(candidate), name, _flat(rival)))
    return found


def _flat(measured: Mapping[str, Any]) -> dict[str, tuple[float | None, int | None]]:
    """Measured.json() -> figure -> (value, cases)."""
    slices = {f"slice/{name}": (one["value"], one["cases"]) for name, one in measured.get("slices", {}).items()}
    more = {name: (one, None) for name, one in measured.items() if name not in ("metric", "value", "slices")}
    return {measured["metric"]: (measured["value"], None), **more, **slices} if measured else {}


def _measures(
    found: Mapping[str, tuple[float | None, int | None]],
    rival: str = "",
    others: Mapping[str, tuple[float | None, int | None]] | None = None,
) -> str:
    heads = ("figure", "value", *([rival] if rival else ()), "cases")
    rows = [
        (name, _number(value), *([_number((others or {}).get(name, (None, None))[0])] if rival else ()), cases or "")
        for name, (value, cases) in found.items()
    ]
    return _table(heads, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
