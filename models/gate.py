"""The gate: what a candidate must show before it may answer. Pure: measurements in, reasons against it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from models.trained import Arrays, Measured

SLICE_LOSS = 0.10
"""The relative loss in a slice that is noise on a few hundred cases."""
SLICE_CASES = 50
"""Cases below which a slice says nothing."""
DRIFT = 0.25
"""The population stability index above which a distribution counts as another one (Siddiqi, Credit Risk Scorecards,
2006, ch. 6)."""


@dataclass(frozen=True)
class Bounds:
    """What a kind of model asks of every version."""

    p99_ms: float
    max_age: timedelta
    signature: tuple[tuple[str, ...], tuple[str, ...]]
    """Names of the inputs and of the outputs of a call."""


def faults(arrays: Arrays) -> list[str]:
    """Arrays that no honest training gives: values that are no numbers."""
    return [
        f"{name} holds values that are not finite"
        for name, array in sorted(arrays.items())
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all()
    ]


def judge(
    bounds: Bounds,
    candidate: Measured,
    rival: Measured,
    rival_name: str,
    until: datetime,
    rival_until: datetime | None,
    signature: tuple[tuple[str, ...], tuple[str, ...]],
    drift: Mapping[str, float],
    now: datetime,
) -> list[str]:
    """The reasons to refuse a candidate; none: it may answer.

    Args:
        bounds: of its kind.
        candidate: as measured on the held-out time.
        rival: the champion on the same, or before there is one the baseline.
        rival_name: what it is called.
        until: the end of what the candidate was trained on.
        rival_until: of the champion; None for a baseline.
        signature: the names of the candidate's inputs and outputs.
        drift: of each input feature, the stability index between training and now.
        now: the time.
    """
    found = []
    if signature != bounds.signature:
        found.append(f"signature: it takes {signature[0]} and gives {signature[1]}, not {bounds.signature}")
    if now - until > bounds.max_age:
        found.append(f"stale: it has learnt nothing after {until:%Y-%m-%dT%H:%MZ}, {bounds.max_age} is allowed")
    if rival_until is not None and until < rival_until:
        found.append(f"stale: the {rival_name} has learnt from later data ({rival_until:%Y-%m-%dT%H:%MZ})")
    if not candidate.value > rival.value:  # also where it is no number
        found.append(
            f"worse: {candidate.metric} {candidate.value:.4f} on held-out time, the {rival_name} has {rival.value:.4f}"
        )
    for name, (value, cases) in sorted(candidate.slices.items()):
        before, _ = rival.slices.get(name, (0.0, 0))
        if cases >= SLICE_CASES and value < before * (1 - SLICE_LOSS):
            found.append(
                f"worse on {name}: {candidate.metric} {value:.4f}, the {rival_name} has {before:.4f} ({cases} cases)"
            )
    if candidate.p99_ms > bounds.p99_ms:
        found.append(f"slow: p99 of an answer {candidate.p99_ms:.1f} ms, {bounds.p99_ms:g} ms are allowed")
    for name, index in sorted(drift.items()):
        if not index <= DRIFT:
            found.append(f"drift: {name} is no longer distributed as in training (stability index {index:.2f})")
    return found
