"""The kinds of models: what training, gate and registry ask of each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, Protocol

import pandas as pd

from lakehouse.settings import Settings
from models.gate import Bounds
from models.trained import Arrays, Measured, ModelError, Trained

KINDS = ("recommender", "anomaly", "trend")
"""Names of the registered models; each has a module ``models.<name>.kind`` with a ``KIND``."""


class Kind(Protocol):
    """One kind of model. ``Held`` is what it measures on; ``Model`` what it makes of arrays."""

    bounds: Bounds

    def train(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Trained:
        """Fit on everything but the held-out time, reading tables at these versions."""

    def hold_out(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Any:
        """The held-out time of the same versions."""

    def answers(self, manifest: dict[str, Any], arrays: Arrays) -> Any:
        """The model that answers, of ``lakehouse.predict``."""

    def call(self, model: Any, inputs: pd.DataFrame) -> pd.DataFrame:
        """Answer a table of inputs, as the signature says."""

    def measure(self, model: Any, held: Any) -> Measured:
        """How it does on held-out time."""

    def baseline(self, held: Any) -> Measured:
        """How what needs no model does there: the first champion must be better."""

    def agreement(self, model: Any, other: Any, held: Any) -> dict[str, float]:
        """How far another model answers the held-out cases as this one does, right or wrong; see ``agreement.py``."""

    def drift(self, reference: Mapping[str, Any], spark: Any, settings: Settings, now: datetime) -> dict[str, float]:
        """Of each input feature, how far its distribution is from that of training, as of now."""


def kind(name: str) -> Kind:
    """The kind of a name.

    Raises:
        ModelError: there is none.
    """
    if name not in KINDS:
        raise ModelError(f"no model {name!r}: there are {', '.join(KINDS)}")
    found: Kind = import_module(f"models.{name}.kind").KIND
    return found
