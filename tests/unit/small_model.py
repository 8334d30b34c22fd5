"""A model small enough for tests of what is done with models, whichever they are; its fixture is in conftest.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from lakehouse.settings import Settings
from models import lifecycle
from models.gate import Bounds
from models.registry import Registry
from models.trained import Arrays, Measured, Trained

NOW = datetime(2026, 11, 26, tzinfo=UTC)
SIGNATURE = (("user",), ("item", "score"))


class Means:
    """A model that answers with the weight of each item; the more weight, the better it measures."""

    bounds = Bounds(p99_ms=5, max_age=timedelta(days=7), signature=SIGNATURE)
    moved = 0.0

    def train(self, *_: Any) -> Trained:
        raise AssertionError("the tests make their versions themselves")

    def hold_out(self, *_: Any) -> None:
        return None

    def answers(self, manifest: dict[str, Any], arrays: Arrays) -> Any:
        if len(manifest["items"]) != len(arrays["weights"]):
            raise ValueError("items and weights differ in number")
        return arrays["weights"]

    def call(self, model: Any, inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"item": ["a"] * len(inputs), "score": [float(model[0])] * len(inputs)})

    def measure(self, model: Any, held: Any) -> Measured:
        return Measured("ndcg@10", float(model.sum()), {"new users": (float(model[-1]), 500)}, p99_ms=1.0)

    def baseline(self, held: Any) -> Measured:
        return Measured("ndcg@10", 0.1, {}, p99_ms=1.0)

    def agreement(self, model: Any, other: Any, held: Any) -> dict[str, float]:
        return {"same": float(np.mean(model == other))}

    def drift(self, reference: Mapping[str, Any], *_: Any) -> dict[str, float]:
        return {"views a user": self.moved}


def made(settings: Settings, weights: list[float], until: datetime = NOW, columns: Any = SIGNATURE) -> str:
    inputs = pd.DataFrame({name: ["u"] for name in columns[0]})
    outputs = pd.DataFrame({"item": ["a"], "score": [1.0]})
    arrays = {"weights": np.array(weights)}
    trained = Trained(
        "means", {"items": ["a", "b"]}, arrays, {"half life": 3}, {"silver.user_events": 7}, until, inputs, outputs,
        words="Weighs items.",
    )  # fmt: skip
    return Registry(settings).register(trained, {"ndcg@10": sum(weights)})


def promote(settings: Settings, version: str | None = None) -> Any:
    return lifecycle.promote(settings, "means", None, "ann", "better on paper", version, NOW)
