"""Whether what a model is asked about is still like what it learnt from: the population stability index, in Spark.

PSI = sum over bins of (now - then) ln(now / then), of shares (Siddiqi, Credit Risk Scorecards, 2006, ch. 6): below 0.1
nothing, above 0.25 another population. Spark counts the bins in one pass; only the counts leave it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

BINS = 10
CATEGORIES = 20
"""Values of a text that have a bin of their own, the most frequent; the others share one."""
_FLOOR = 1e-4
"""A share that stands for none, so that the logarithm is finite."""

Reference = dict[str, dict[str, Any]]
"""Feature -> its bins (``edges`` of a number, ``values`` of a text) and the ``shares`` that they had; the last share
is that of what has no bin of its own: null, or a value that is not among those."""


def reference(frame: DataFrame, features: Mapping[str, str]) -> Reference:
    """How features are distributed in a frame.

    Args:
        frame: any.
        features: name -> its expression in SQL over the frame's columns, a number or a text.
    """
    typed = frame.select(*[F.expr(sql).alias(name) for name, sql in features.items()])
    found: Reference = {}
    for name, kind in typed.dtypes:
        if kind == "string":
            ranked = typed.where(F.col(name).isNotNull()).groupBy(name).count().orderBy(F.desc("count"), name)
            found[name] = {"values": [row[0] for row in ranked.limit(CATEGORIES).collect()]}
        else:
            shares = [step / BINS for step in range(1, BINS)]
            edges = typed.select(F.col(name).cast("double")).approxQuantile(name, shares, 0.001)
            found[name] = {"edges": sorted(set(edges))}
    counts = _counts(frame, found, features)
    for name, feature in found.items():
        feature["shares"] = counts[name]
    return found


def stability(then: Mapping[str, Any], frame: DataFrame, features: Mapping[str, str]) -> dict[str, float]:
    """The index of each feature between a reference and a frame; nan where the frame has no rows."""
    wanted = {name: features[name] for name in then if name in features}
    now = _counts(frame, then, wanted)
    return {
        name: sum(
            (b - a) * math.log(b / a)
            for a, b in ((max(x, _FLOOR), max(y, _FLOOR)) for x, y in zip(then[name]["shares"], now[name], strict=True))
        )
        for name in wanted
    }


def _counts(frame: DataFrame, bins: Mapping[str, Any], features: Mapping[str, str]) -> dict[str, list[float]]:
    """Shares of each feature's bins, the last of all else, in one pass."""
    columns: list[Column] = [F.count(F.lit(1)).alias("all")]
    for name, sql in features.items():
        for at, holds in enumerate(_conditions(F.expr(sql), bins[name])):
            columns.append(F.count(F.when(holds, 1)).alias(f"{name}\x1f{at}"))
    row = frame.agg(*columns).first()
    assert row is not None
    whole = row["all"] or math.nan
    found: dict[str, list[float]] = {}
    for name in features:
        counts = [row[at] for at in row.asDict() if at.partition("\x1f")[0] == name and "\x1f" in at]
        found[name] = [count / whole for count in counts] + [(whole - sum(counts)) / whole]
    return found


def _conditions(value: Column, feature: Mapping[str, Any]) -> list[Column]:
    if "values" in feature:
        return [value == one for one in feature["values"]]
    edges = feature["edges"]
    if not edges:
        return [value.isNotNull()]
    within = [(value > low) & (value <= high) for low, high in pairwise(edges)]
    return [value <= edges[0], *within, value > edges[-1]]
