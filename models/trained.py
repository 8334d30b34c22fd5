"""What a training gives, and what can be measured of it: the words that training, gate and registry share."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from lakehouse.settings import PROJECT

Arrays = Mapping[str, NDArray[Any]]


class ModelError(Exception):
    """A model can't be trained, measured or moved; the message says why and what to do."""


@dataclass(frozen=True)
class Trained:
    """A model that was fitted, in the form that is published.

    ``manifest`` and ``arrays`` are what ``lakehouse.predict`` reads; ``data`` the Delta version of every table that was
    read; ``until`` the end of the time that was learnt from; ``inputs`` and ``outputs`` an example of a call.
    """

    model: str
    manifest: dict[str, Any]
    arrays: Arrays
    parameters: dict[str, str | int | float]
    data: dict[str, int]
    until: datetime
    inputs: pd.DataFrame
    outputs: pd.DataFrame
    reference: dict[str, Any] = field(default_factory=dict)
    """How the inputs were distributed, by feature: see ``drift.py``."""
    words: str = ""
    """What the model card says of the method."""


@dataclass(frozen=True)
class Measured:
    """How a model does on held-out time; larger is better.

    ``slices``: name of a part of the data -> (value there, how many cases it rests on). ``p99_ms``: processor
    time of one answer, which does not depend on what else the machine does while a version is judged.
    """

    metric: str
    value: float
    slices: Mapping[str, tuple[float, int]]
    p99_ms: float
    more: Mapping[str, float] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """As it is recorded."""
        return {
            "metric": self.metric, "value": self.value, "p99_ms": self.p99_ms, **self.more,
            "slices": {name: {"value": value, "cases": cases} for name, (value, cases) in self.slices.items()},
        }  # fmt: skip


def digest(manifest: Mapping[str, Any], arrays: Arrays) -> str:
    """A name of a model's content: BLAKE2b of its manifest, but for the version, and of all arrays."""
    found = blake2b(digest_size=16)
    named = {key: value for key, value in manifest.items() if key != "version"}
    found.update(orjson.dumps(named, option=orjson.OPT_SORT_KEYS))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def code_version() -> str:
    """The commit of this checkout, with ``+`` where it was changed since; "unknown" outside of one."""
    try:
        said = subprocess.run(
            ["git", "-C", str(PROJECT), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()
