"""What our own tokens are signed with: secrets of the environment, or locally a file of them that can be rotated."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.settings import Settings

if TYPE_CHECKING:
    from lakehouse.doctor import Finding

OLD = timedelta(days=180)
"""After so long a secret should be rotated."""
SHORTEST = 32
"""Bytes of a secret: as long as the hash (RFC 7518, 3.2)."""
LEAST_BITS = 90
"""Of entropy, reckoned from how often each character occurs: 32 random hex digits have 90 to 126, 64 some 240."""
_KNOWN = re.compile(
    r"changeme|secret|password|passw0rd|default|example|placeholder|insecure|lakehouse|letmein|qwerty|1234567|abcdefg|"
    r"deadbeef|yourkey|replace|testing"
)


class AuthError(Exception):
    """No secret to sign with, a bad one, or no such key or scope; one line that says what to do."""


@dataclass(frozen=True)
class Keys:
    """Secrets by key id (``kid``): the first signs, every one verifies, so that a key is rotated without a gap.

    ``made`` says since when there is a key, where that is known; ``path`` is the file they were read from.
    """

    secrets: Mapping[str, str]
    made: Mapping[str, datetime] = field(default_factory=dict, compare=False)
    path: Path | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.secrets)})"


def keys(settings: Settings) -> Keys:
    """The signing keys: of the environment, or with the local profile one made at random once, in ``<home>/secrets``.

    Raises:
        AuthError: another profile without ``LAKEHOUSE_API__SECRETS`` or with a weak one, or the local file cannot be
            read.
    """
    if settings.api.secrets:
        found = {kid: secret.get_secret_value() for kid, secret in settings.api.secrets.items()}
        for kid, secret in found.items() if settings.profile != "local" else ():
            if why := weakness(secret):
                raise AuthError(
                    f"profile {settings.profile}: the secret of key {kid!r} in LAKEHOUSE_API__SECRETS {why}, so it can "
                    "be guessed: `openssl rand -hex 32` makes one"
                )
        return Keys(found)
    if settings.profile != "local":
        raise AuthError(
            f"profile {settings.profile} has no secret to sign tokens with: set LAKEHOUSE_API__SECRETS, such as "
            """LAKEHOUSE_API__SECRETS="{\\"key-1\\": \\"$(openssl rand -hex 32)\\"}\""""
        )
    path = local_path(settings)
    if not path.exists():
        _create(path)
    return read(path)


def weakness(secret: str) -> str | None:
    """Why a secret is one that people guess; None for one that looks random."""
    if len(secret.encode()) < SHORTEST:
        return f"is shorter than {SHORTEST} bytes"
    if _KNOWN.search(re.sub(r"[^a-z0-9]", "", secret.lower())):
        return "holds a word of a default"
    period = next(n for n in range(1, len(secret) + 1) if secret.startswith(secret[n:]))
    if period < SHORTEST and 2 * period <= len(secret):
        return "repeats itself"
    counts = Counter(secret).values()
    bits = -sum(n * math.log2(n / len(secret)) for n in counts)
    return f"has few different characters ({len(counts)})" if bits < LEAST_BITS else None


def examined(settings: Settings) -> Iterator[Finding]:
    """For ``lakehouse doctor``: there are secrets that nobody guesses, and the one that signs is not old."""
    from lakehouse.doctor import Finding

    if not settings.api.secrets and settings.profile == "local" and not local_path(settings).exists():
        yield Finding("secrets", "ok", "none yet: the first start of the API makes one")
        return
    try:
        found = keys(settings)
    except AuthError as error:
        yield Finding("secrets", "problem", str(error), "openssl rand -hex 32; docs/security.md says where it goes")
        return
    weak = {kid: why for kid, secret in found.secrets.items() if (why := weakness(secret))}
    for kid, why in weak.items():
        yield Finding("secrets", "warning", f"the secret {kid} {why}", "lakehouse token --rotate, then --retire it")
    signs = next(iter(found.secrets))
    made = found.made.get(signs)
    if made is not None and datetime.now(UTC) - made > OLD:
        said = f"tokens are signed with a secret of {made:%Y-%m-%d}"
        yield Finding("secrets", "warning", said, "lakehouse token --rotate")
    elif not weak:
        yield Finding("secrets", "ok", f"tokens are signed with {signs}")


# --- the local file --------------------------------------------------------------------------------------------------
# A JSON object in the order of the keys: {kid: {"secret": ..., "made_at": ...}}, or {kid: secret} as of release 0.1.


def local_path(settings: Settings) -> Path:
    """Where the local profile keeps its keys."""
    return settings.home / "secrets" / "api.json"


def read(path: Path) -> Keys:
    """The keys of a file.

    Raises:
        AuthError: it cannot be read, or holds none.
    """
    try:
        text = path.read_text()
        found = {str(kid): _entry(value) for kid, value in json.loads(text).items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise AuthError(f"{path}: not a JSON object of secrets ({error}): remove it, and a new one is made") from None
    if not found or min(len(secret) for secret, _ in found.values()) < SHORTEST:
        raise AuthError(
            f"{path}: every key needs a secret of at least 32 bytes: remove the file, and a new one is made"
        )
    made = {kid: at for kid, (_, at) in found.items() if at is not None}
    return Keys({kid: secret for kid, (secret, _) in found.items()}, made, path)


def rotate(settings: Settings, now: datetime) -> str:
    """Make a new local key that signs from now on; the others still verify. Its id.

    Raises:
        AuthError: keys are of the environment.
    """
    with _changing(settings) as (found, entries):
        kid = f"local-{now.astimezone(UTC):%Y%m%d}-{secrets.token_hex(3)}"
        _replace(found.path, {kid: _new(now), **entries})
    return kid


def retire(settings: Settings, kid: str) -> None:
    """Take a local key away: tokens that it signed are no longer valid.

    Raises:
        AuthError: there is no such key, it is the one that signs, or keys are of the environment.
    """
    with _changing(settings) as (found, entries):
        if kid not in entries:
            raise AuthError(f"no key {kid}: there are {', '.join(entries)}")
        if kid == next(iter(entries)):
            raise AuthError(f"key {kid} signs new tokens: `lakehouse token --rotate` first")
        _replace(found.path, {name: entry for name, entry in entries.items() if name != kid})


def _entry(value: Any) -> tuple[str, datetime | None]:
    if isinstance(value, str):
        return value, None
    return str(value["secret"]), datetime.fromisoformat(value["made_at"])


def _new(now: datetime) -> dict[str, str]:
    return {"secret": secrets.token_urlsafe(48), "made_at": now.astimezone(UTC).isoformat(timespec="seconds")}


@contextmanager
def _changing(settings: Settings) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """The local keys and the file's entries, which nobody else changes meanwhile."""
    if settings.api.secrets or settings.profile != "local":
        raise AuthError(
            "keys are those of LAKEHOUSE_API__SECRETS: put a new one first (it signs), keep the old ones until their "
            "tokens have expired, and restart `lakehouse serve`; see docs/security.md"
        )
    keys(settings)
    path = local_path(settings)
    with open(os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read(path)
        yield found, json.loads(path.read_text())


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = datetime.now(UTC)
    mine = _written(path, {f"local-{now:%Y%m%d}-{secrets.token_hex(3)}": _new(now)})
    try:
        os.link(mine, path)  # whole or not at all, and only for the first of two that start together
    except FileExistsError:
        pass
    finally:
        mine.unlink()


def _replace(path: Path | None, entries: dict[str, Any]) -> None:
    assert path is not None
    os.replace(_written(path, entries), path)


def _written(path: Path, entries: dict[str, Any]) -> Path:
    mine = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(entries, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return mine
