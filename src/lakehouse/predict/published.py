"""What ``models/registry.py`` publishes when an alias moves: plain arrays with a manifest, switched in one step.

A model's folder holds one folder a version, ``<version>/{manifest.json, <name>.npy, ...}``, and ``CURRENT``, a file
with the name of the one that answers, replaced in one step. Who asks :class:`Champion` is answered by that one version,
whole, until the next look at ``CURRENT``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

CURRENT = "CURRENT"
_Model = TypeVar("_Model")


class PredictError(Exception):
    """What is published cannot be used; the message names the folder."""


def prepare(folder: Path, version: str, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write a version beside the one that answers; nothing where it is there.

    Args:
        folder: of the model.
        version: a name without a path separator.
        manifest: what else readers need, JSON.
        arrays: plain arrays, no objects.

    Raises:
        PredictError: the version's name is no name of a folder.
    """
    if not version or Path(version).name != version or version == CURRENT:
        raise PredictError(f"{version!r} is no name for a version")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / version).exists():
        made = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
        (made / "manifest.json").write_bytes(orjson.dumps({**manifest, "version": version}))
        for name, array in arrays.items():
            np.save(made / f"{name}.npy", array, allow_pickle=False)
        made.rename(folder / version)


def switch(folder: Path, version: str) -> None:
    """Let a version answer from now on; readers see the one before or this one, never a part.

    Raises:
        PredictError: it is not there.
    """
    if not (folder / version / "manifest.json").exists():
        raise PredictError(f"{folder / version} is not there: publish it again")
    pointer = folder / f".{CURRENT}.{os.getpid()}"
    pointer.write_text(version)
    pointer.replace(folder / CURRENT)


def current(folder: Path) -> str | None:
    """The version that answers; None before the first."""
    try:
        return (folder / CURRENT).read_text().strip()
    except FileNotFoundError:
        return None


def publish(folder: Path, version: str, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """:func:`prepare` and :func:`switch`."""
    prepare(folder, version, manifest, arrays)
    switch(folder, version)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest and the arrays, by name and mapped, in one version's folder.

    Raises:
        PredictError: it is not there, or not whole.
    """
    try:
        manifest = orjson.loads((folder / "manifest.json").read_bytes())
        return manifest, {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}
    except (OSError, ValueError) as error:
        raise PredictError(f"{folder} cannot be read ({error}): publish it again") from None


class Champion(Generic[_Model]):
    """The published version of a model, followed.

    Args:
        folder: of the model.
        make: the model of a manifest and its arrays, by name; the arrays are mapped, not read.
    """

    def __init__(self, folder: Path, make: Callable[[dict[str, Any], dict[str, NDArray[Any]]], _Model]) -> None:
        self._folder, self._make = folder, make
        self._answers: _Model | None = None
        self._version: str | None = None

    def look(self) -> _Model | None:
        """The version that answers now; None before the first.

        Raises:
            PredictError: what ``CURRENT`` names is not there or not whole; the version before goes on answering.
        """
        version = current(self._folder)
        if version is None:
            return None
        if version != self._version:
            self._version = version
            manifest, arrays = read(self._folder / version)
            try:
                self._answers = self._make(manifest, arrays)
            except (ValueError, KeyError) as error:
                raise PredictError(f"{self._folder / version} is no such model ({error!r}): publish it again") from None
        return self._answers
