"""Cursors: where a page ends, sealed so that nobody can read or make one (Fernet: AES-128-CBC with HMAC-SHA256)."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serving.auth import Caller, Keys
from serving.problems import Problem

LONGEST = 4096
"""Characters of a cursor."""
LASTS = timedelta(hours=24)
"""How long a cursor is good for: as long as versions of tables are promised to be readable."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Cursors:
    """Seals and opens cursors with keys that are derived from those of tokens (HKDF, RFC 5869); the first seals."""

    def __init__(self, keys: Keys) -> None:
        self._fernet = MultiFernet([Fernet(_derived(secret)) for secret in keys.secrets.values()])

    def seal(self, caller: Caller, about: str, values: Sequence[Any], version: int | None) -> str:
        """A cursor of a caller for the question ``about``, which goes on after ``values`` in a table's version."""
        words = [about, _who(caller), version, [_plain(value) for value in values]]
        return self._fernet.encrypt(orjson.dumps(words)).decode().rstrip("=")

    def open(self, caller: Caller, about: str, cursor: str) -> tuple[tuple[Any, ...], int | None]:
        """The values and the version.

        Raises:
            Problem: 422; it was not made here, for this question, or for this caller.
        """
        try:
            sealed = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            # Base64 passes over what is none of it, and over the last bits: every cursor is written in one way alone.
            again = base64.urlsafe_b64encode(base64.urlsafe_b64decode(sealed))
            if len(cursor) > LONGEST or "=" in cursor or again != sealed:
                raise ValueError
            said, who, version, values = orjson.loads(self._fernet.decrypt(sealed, int(LASTS.total_seconds())))
        except (InvalidToken, ValueError):
            raise _wrong("it was not made here, or too long ago") from None
        if said != about:
            raise _wrong("it belongs to another question: keep the other parameters as they were")
        if who != _who(caller):
            raise _wrong("it was made for another token")
        return tuple(_value(value) for value in values), version


def _who(caller: Caller) -> list[Any]:
    return [caller.subject, caller.user_id, sorted(caller.scopes)]


def _derived(secret: str) -> bytes:
    key = HKDF(SHA256(), 32, salt=None, info=b"lakehouse cursors").derive(secret.encode())
    return base64.urlsafe_b64encode(key)


def _plain(value: Any) -> Any:
    """A value as JSON that :func:`_value` turns back into the same."""
    if isinstance(value, datetime):
        return {"us": (value - _EPOCH) // timedelta(microseconds=1)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return {"date": value.isoformat()} if isinstance(value, date) else value


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        if "us" in value:
            return _EPOCH + timedelta(microseconds=value["us"])
        if "float" in value:
            return float(value["float"])
        return date.fromisoformat(value["date"])
    return value


def _wrong(reason: str) -> Problem:
    return Problem(
        422, "invalid-cursor", f"The cursor is not valid: {reason}. Start again without one.",
        reasons=[{"pointer": "/query/cursor", "reason": reason}],
    )  # fmt: skip
