"""How far a model's inputs have moved since it was trained, as jobs found it: ``<model>/drift.json`` beside what is
published, for readers that have no Spark. Its writer is ``models/lifecycle.py``; it is replaced in one step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from lakehouse.predict.published import PredictError

FILE = "drift.json"
KEPT = 100
"""Findings, the newest."""


def note(folder: Path, version: str, indices: Mapping[str, float], at: datetime) -> None:
    """Keep what was found of a version: a stability index a feature, not finite where there was nothing to look at."""
    found = {name: index if math.isfinite(index) else None for name, index in indices.items()}
    one = {"at": at.astimezone(UTC).isoformat(), "version": version, "indices": found}
    try:
        before = read(folder)
    except PredictError:  # cut short by hand or by a disk: what is found from now on is kept
        before = []
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{FILE}.{os.getpid()}"
    draft.write_bytes(orjson.dumps([*before, one][-KEPT:]))
    draft.replace(folder / FILE)


def read(folder: Path) -> list[dict[str, Any]]:
    """What was found, the newest last: ``at`` (RFC 3339), ``version``, ``indices``; nothing before the first time.

    Raises:
        PredictError: the file is not whole.
    """
    try:
        found = orjson.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise PredictError(f"{folder / FILE} cannot be read ({error}): the next training writes it anew") from None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and one.keys() >= {"at", "version", "indices"} for one in found
    ):
        raise PredictError(f"{folder / FILE} holds no findings: the next training writes it anew")
    return found
