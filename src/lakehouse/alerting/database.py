"""MongoDB, for those who keep or show alerts: one database, one error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lakehouse.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StandingsError(Exception):
    """MongoDB does not answer, or holds what this version does not read; one line that names the mend."""


def database(
    settings: Settings, answers: timedelta = timedelta(seconds=20), found: timedelta = timedelta(seconds=3)
) -> Any:
    """The platform's database; its client connects when it is asked first.

    Args:
        settings: where it is.
        answers: how long an answer is waited for.
        found: how long a server is looked for; the driver waits that long for one that refuses, too.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongo.uri.get_secret_value(), tz_aware=True,
        serverSelectionTimeoutMS=round(found.total_seconds() * 1000),
        socketTimeoutMS=round(answers.total_seconds() * 1000),
    )  # fmt: skip
    return client[settings.mongo.database]


@contextmanager
def answering() -> Iterator[None]:
    """Turns the driver's errors into ours.

    Raises:
        StandingsError: MongoDB does not answer.
    """
    try:
        yield
    except PyMongoError as error:
        words = " ".join(str(error).partition(", Timeout:")[0].partition(" (configured")[0].split())[:200]
        raise StandingsError(f"MongoDB does not answer ({words}): start it with `lakehouse up`") from None


def moment(at_us: int) -> datetime:
    """Microseconds since 1970 as a time."""
    return _EPOCH + timedelta(microseconds=at_us)


def micros(at: datetime) -> int:
    """A time as microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def rfc3339(at: datetime) -> str:
    """A time as notifications have it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
