"""Spark's checkpoints by generation: ``<root>/_checkpoints/<query>/g<n>``, the number in a file beside them.

The ledger and the stores say where a query goes on, so a checkpoint is given up whenever they know better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from lakehouse.settings import Settings
from lakehouse.sinks.delta import Storage

Since = Mapping[str, int]
"""The versions of tables from which on a query follows them; from the beginning where none is named."""


@dataclass(frozen=True)
class Generation:
    """A query's checkpoint, and from where the query began."""

    folder: str
    number: int
    since: Since

    @property
    def checkpoint(self) -> str:
        """Its folder for Spark."""
        return f"{self.folder}/g{self.number}"

    @classmethod
    def current(cls, storage: Storage, settings: Settings, query: str) -> Generation:
        """The one in use."""
        folder = f"{settings.root}/_checkpoints/{query}"
        number, _, since = (storage.read(f"{folder}/generation") or b"1").decode().partition("\n")
        return cls(folder, int(number), json.loads(since or "{}"))

    @classmethod
    def begin(cls, storage: Storage, settings: Settings, query: str, since: Since | None = None) -> Generation:
        """Give up the one in use, and start another."""
        old = cls.current(storage, settings, query)
        new = cls(old.folder, old.number + 1, dict(since or {}))
        # The checkpoint before its number: a number that is lost must not lead to an old checkpoint again.
        storage.delete(old.checkpoint)
        storage.delete(f"{new.folder}/generation")
        storage.put_new(f"{new.number}\n{json.dumps(new.since)}", f"{new.folder}/generation")
        return new
