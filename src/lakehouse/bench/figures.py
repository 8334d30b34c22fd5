"""What a benchmark gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Figure = dict[str, Any]
"""name, value, unit, bound (None: for information) and whether it is met."""


class BenchError(Exception):
    """A benchmark could not be carried out; the message says why."""


def figure(name: str, value: float, unit: str, bound: float | None = None, least: bool = False) -> Figure:
    """One figure; ``least``: the bound is a minimum."""
    met = None if bound is None else (value >= bound if least else value <= bound)
    return {"name": name, "value": round(value, 3), "unit": unit, "bound": bound, "met": met}


def percentiles(name: str, values: NDArray[np.float64], bound: float | None = None) -> list[Figure]:
    """Median and 95th percentile of seconds; the bound is the latter's.

    Raises:
        BenchError: there are no values.
    """
    if not len(values):
        raise BenchError(f"{name}: no record was seen; see the stream's log (`lakehouse status` names it)")
    return [
        figure(f"{name} p50", float(np.percentile(values, 50)), "s"),
        figure(f"{name} p95", float(np.percentile(values, 95)), "s", bound),
    ]
