"""What travels between the stages: batches of entries in MessagePack, as arrays.

A batch names its source and how far the source's time has come. Each entry says at which offset of the source it was
made; entries of one offset never lie in two batches, so a receiver that keeps the last offset takes each exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from lakehouse.erasure.identifiers import names, strings

E = TypeVar("E")


class Batch(msgspec.Struct, Generic[E], array_like=True, gc=False):
    """Entries of one source, in the order of its offsets; without any it only tells the time.

    ``watermark``: no entry of this source that is on time will be older, less the lateness that is allowed.
    """

    source: str
    watermark: int
    entries: list[E]


class Event(msgspec.Struct, array_like=True, gc=False):
    """A valid user event, for the stage ``users``."""

    at: int
    appended: int
    time: int
    late: bool
    id: str
    kind: str
    user: str
    post: str | None = None
    page: str | None = None
    device: str | None = None
    referrer: str | None = None
    facts: dict[str, Any] | None = None
    """Further fields of the contract that a rule on this type of event names."""

    def names(self) -> tuple[str, ...]:
        """Who may not have been erased, for this entry to count."""
        return (self.user,)


class Touch(msgspec.Struct, array_like=True, gc=False):
    """An event that concerns a post, for the stage ``posts``; ``after`` are posts its user had to do with before."""

    at: int
    appended: int
    time: int
    late: bool
    id: str
    kind: str
    user: str
    post: str
    device: str | None = None
    referrer: str | None = None
    after: list[str] = []
    facts: dict[str, Any] | None = None

    def names(self) -> tuple[str, ...]:
        """As of an event."""
        return (self.user,)


class Log(msgspec.Struct, array_like=True, gc=False):
    """A valid service log, for the stage ``services``."""

    at: int
    appended: int
    time: int
    late: bool
    id: str | None
    service: str
    host: str | None
    status: int | None
    error: bool
    """Whether its level is one of an error."""

    def names(self) -> tuple[str, ...]:
        """As of an event: nobody."""
        return ()


class Sample(msgspec.Struct, array_like=True, gc=False):
    """What was measured on a host, or one log of it, for the stage ``hosts``; a log has no values."""

    at: int
    appended: int
    time: int
    late: bool
    id: str | None
    host: str
    values: dict[str, float] | None = None
    error: bool = False

    def names(self) -> tuple[str, ...]:
        """As of an event: nobody."""
        return ()


class Told(msgspec.Struct, array_like=True, gc=False):
    """A notification that is due, for the stage ``inbox``, which knows what its user has had already."""

    at: int
    time: int
    about: str
    again_after: int
    document: dict[str, Any]

    def names(self) -> Iterator[str]:
        """As of an event: whoever is told, and whom it is about."""
        return (name for text in strings(self.document) for name in names(text))
