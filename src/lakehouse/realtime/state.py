"""State of a task: keyed values that are encoded at rest, and identities seen lately."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
Change = tuple[str, bytes | None]
"""(key, encoded value), or None as the value of what was deleted: one record of a changelog."""
MINUTE = 60_000_000
"""Times are microseconds since 1970 UTC."""


class Store(Generic[T]):
    """Values of one type by key; what changed since the last :meth:`changes` is known.

    A value in use is an object, changed in place and then :meth:`put`; at rest it is MessagePack, a fifth of the size.
    """

    def __init__(self, prefix: str, kind: type[T]) -> None:
        self.prefix, self.kind = prefix, kind
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._hot: dict[str, T] = {}
        self._warm: dict[str, T] = {}
        self._rest: dict[str, bytes] = {}
        self._changed: dict[str, None] = {}

    def get(self, key: str) -> T | None:
        """The value, or None. Change it in place only with a :meth:`put` after."""
        value = self._hot.get(key)
        if value is None:
            value = self._warm.pop(key, None)
            if value is None:
                encoded = self._rest.get(key)
                if encoded is None:
                    return None
                value = self._decode(encoded)
            self._hot[key] = value
        return value

    def put(self, key: str, value: T) -> None:
        """Set a value, or say that it was changed in place."""
        self._hot[key] = value
        self._changed[key] = None

    def delete(self, key: str) -> None:
        """Forget a key; nothing where there is none."""
        self._hot.pop(key, None)
        self._warm.pop(key, None)
        if self._rest.pop(key, None) is not None or key in self._changed:
            self._changed[key] = None

    def changes(self) -> Iterator[Change]:
        """What changed since the last call, encoded; it counts as kept from here on."""
        for key in self._changed:
            value = self._hot.get(key)
            encoded = None if value is None else self._encode(value)
            if encoded is not None:
                self._rest[key] = encoded
            yield self.prefix + key, encoded
        self._changed.clear()

    def cool(self) -> None:
        """Let go of the objects that were not used since the call before last; only right after :meth:`changes`."""
        self._warm, self._hot = self._hot, {}

    def load(self, key: str, encoded: bytes) -> None:
        """Take a value from a changelog."""
        self._rest[key] = encoded

    def unload(self, key: str) -> None:
        """Take a deletion from a changelog."""
        self._rest.pop(key, None)

    def items(self) -> Iterator[tuple[str, T]]:
        """Every key and value; values at rest are decoded for the caller alone."""
        for key in {**self._rest, **self._warm, **self._hot}:
            value = self._hot.get(key, self._warm.get(key))
            yield key, self._decode(self._rest[key]) if value is None else value

    def __len__(self) -> int:
        return len(self._rest.keys() | self._warm.keys() | self._hot.keys())


class Seen:
    """Identities seen within a horizon of append time, by whole minutes.

    What is forgotten depends on the times of the records alone, so a replay forgets the same.
    """

    prefix = "seen:"

    def __init__(self, horizon_us: int) -> None:
        self._minutes_kept = max(1, -(-horizon_us // MINUTE))
        self._ids: dict[str, int] = {}
        self._by_minute: dict[int, list[str]] = {}
        self._kept: dict[int, list[int]] = {}
        """minute -> [chunks in the changelog, identities in them]."""
        self._fresh: dict[int, None] = {}
        self._gone: list[str] = []
        self._newest = 0

    def first(self, identity: str, appended_us: int) -> bool:
        """Whether an identity is new; from here on it is not."""
        minute = appended_us // MINUTE
        seen = self._ids.get(identity)
        if seen is not None and seen >= max(minute, self._newest) - self._minutes_kept:
            return False
        if minute > self._newest:
            self._newest = minute
            self._forget(minute - self._minutes_kept)
        self._ids[identity] = minute
        self._by_minute.setdefault(minute, []).append(identity)
        self._fresh[minute] = None
        return True

    def _forget(self, before: int) -> None:
        for minute in [m for m in self._by_minute if m < before]:
            self._drop(minute)
            chunks, _ = self._kept.pop(minute, (0, 0))
            self._gone += [f"{self.prefix}{minute}:{n}" for n in range(chunks)]

    def _drop(self, minute: int) -> None:
        for identity in self._by_minute.pop(minute, ()):
            if self._ids.get(identity) == minute:
                del self._ids[identity]

    def changes(self) -> Iterator[Change]:
        """What came and went since the last call; a chunk holds the new ones of a minute."""
        for key in self._gone:
            yield key, None
        self._gone.clear()
        for minute in self._fresh.keys() & self._by_minute.keys():
            kept = self._kept.setdefault(minute, [0, 0])
            fresh = self._by_minute[minute][kept[1] :]
            yield f"{self.prefix}{minute}:{kept[0]}", msgspec.msgpack.encode(fresh)
            kept[0] += 1
            kept[1] += len(fresh)
        self._fresh.clear()

    def load(self, key: str, encoded: bytes) -> None:
        """Take a chunk from a changelog."""
        minute, _, chunk = key.removeprefix(self.prefix).partition(":")
        ids: list[str] = msgspec.msgpack.decode(encoded)
        for identity in ids:
            self._ids[identity] = max(int(minute), self._ids.get(identity, 0))
        self._by_minute.setdefault(int(minute), []).extend(ids)
        kept = self._kept.setdefault(int(minute), [0, 0])
        kept[0] = max(kept[0], int(chunk) + 1)
        kept[1] += len(ids)
        self._newest = max(self._newest, int(minute))

    def unload(self, key: str) -> None:
        """Take a deletion from a changelog: of a minute that is forgotten."""
        minute = int(key.removeprefix(self.prefix).partition(":")[0])
        self._drop(minute)
        self._kept.pop(minute, None)

    def __len__(self) -> int:
        return len(self._ids)
