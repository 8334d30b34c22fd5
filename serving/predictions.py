"""Answers of the champions, in this process: a version that is promoted or rolled back answers the next request."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lakehouse.predict import Champion, Neighbours, PredictError, current
from lakehouse.predict.chart import THRESHOLD, Chart
from lakehouse.predict.forecast import Forecaster, forecast
from lakehouse.predict.watch import UNTRAINED, Version
from lakehouse.settings import Settings
from serving.problems import Problem
from serving.reads import age_s
from serving.service import now

MODELS = ("recommender", "anomaly", "trend")
Number = Annotated[float, Field(allow_inf_nan=False)]
Id = Annotated[str, Field(min_length=1, max_length=300)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Taste(_Body):
    """What a user turned to, newest last, and how many posts are wanted for them."""

    history: list[Id] = Field(max_length=500, examples=[["p00017", "p00042"]])
    exclude: list[Id] = Field(default=[], max_length=5000, description="Posts not to be answered, beside the history.")
    n: int = Field(default=20, ge=1, le=200)
    diversity: float = Field(default=0.0, ge=0, le=1)


class Minutes(_Body):
    """Minutes of what is watched together, oldest first, each with as many values; null where there was none."""

    time: list[Number] = Field(min_length=1, max_length=10_000, description="Seconds since 1970, UTC.")
    values: list[list[Number | None]] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _even(self) -> Minutes:
        widths = {len(row) for row in self.values}
        if len(self.time) != len(self.values) or len(widths) != 1 or not 1 <= max(widths) <= 50:
            raise ValueError("time and values are of one length, and every row has as many values, 1 to 50")
        return self


class Series(_Body):
    """An equally spaced series, oldest first, null in gaps, and how many steps ahead are wanted."""

    values: list[Number | None] = Field(min_length=1, max_length=10_000)
    horizon: int = Field(default=12, ge=1, le=500)
    level: float = Field(default=0.95, gt=0, lt=1, description="Of the interval.")
    lower: Number | None = Field(default=None, description="No value is less; 0 for counts.")
    upper: Number | None = None


class Predictions:
    """The champions of the three models, each with what answers before there is one."""

    def __init__(self, settings: Settings) -> None:
        self._published = settings.published
        self._recommender = Champion(settings.published / "recommender", Neighbours)
        self._anomaly = Champion(settings.published / "anomaly", Version)
        self._trend = Champion(settings.published / "trend", _forecaster)

    def recommend(self, taste: Taste) -> dict[str, Any] | None:
        """Posts for a history; None without a champion."""
        model = _looked(self._recommender)
        if model is None:
            return None
        top = model.top(taste.history, {*taste.history, *taste.exclude}, taste.n, diversity=taste.diversity)
        return _said(model.version, items=[{"post_id": post, "score": score} for post, score in top])

    def anomaly(self, minutes: Minutes) -> dict[str, Any]:
        """A score and what was expected of every minute; stock limits without a champion."""
        model = _looked(self._anomaly) or Version()
        chart = Chart(len(minutes.values[0]), model.limits)
        found = []
        for at, values in zip(minutes.time, minutes.values, strict=True):
            seen = chart.step(at, [np.nan if value is None else value for value in values])
            found.append({"score": seen.score, "alarm": seen.score >= THRESHOLD, "expected": seen.expected.tolist()})
        return _said(model.version, minutes=found)

    def trend(self, series: Series) -> dict[str, Any]:
        """Means and bounds; by local forecasters alone without a champion."""
        model = _looked(self._trend)
        values = np.array([np.nan if value is None else value for value in series.values], dtype=float)
        bounds = {"level": series.level, "lower": series.lower, "upper": series.upper}
        known = isinstance(model, Forecaster) and series.horizon <= model.horizon
        said = forecast([values], series.horizon, model=model if known else None, **bounds)  # type: ignore[arg-type]
        version = UNTRAINED if model is None else model if isinstance(model, str) else model.version
        return _said(version, **{name: getattr(said, name)[0].tolist() for name in ("mean", "lo", "hi")})

    def models(self) -> list[dict[str, Any]]:
        """The models, and the version of each that answers."""
        return [_model(self._published / name, name) for name in MODELS]


def _forecaster(manifest: dict[str, Any], arrays: dict[str, Any]) -> Forecaster | str:
    """The global forecaster, or the version's name where the local ones alone answer."""
    return manifest["version"] if manifest["kind"] == "local" else Forecaster(manifest, arrays)


def _looked(champion: Champion[Any]) -> Any:
    try:
        return champion.look()
    except PredictError as error:
        raise Problem(503, "model-away", f"{error}.", {"Retry-After": "60"}) from None


def _said(version: str, **what: Any) -> dict[str, Any]:
    return {"model_version": version, "at": now(), **what}


def _model(folder: Path, name: str) -> dict[str, Any]:
    version = current(folder)
    if version is None:
        return {"name": name, "version": None, "kind": None, "published_at": None, "age_s": None}
    at = datetime.fromtimestamp((folder / "CURRENT").stat().st_mtime, UTC)
    manifest = folder / version / "manifest.json"
    kind = orjson.loads(manifest.read_bytes()).get("kind") if manifest.exists() else None
    return {"name": name, "version": version, "kind": kind, "published_at": at, "age_s": age_s(at, now())}
