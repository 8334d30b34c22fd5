"""Who was erased: a table of keyed digests, and the key. Whoever takes records in asks it first."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import orjson
import pyarrow as pa
from deltalake import write_deltalake

from lakehouse.erasure.identifiers import Erased, digest
from lakehouse.erasure.table import ERASED
from lakehouse.settings import Settings
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake, LakeError, NoTableError


class ErasureError(Exception):
    """Nobody can be erased, or not wholly; the message says what to do."""


def key(settings: Settings) -> bytes:
    """What digests are made with: ``LAKEHOUSE_ERASURE_KEY``, or locally a random one kept in ``<home>/secrets``.

    Raises:
        ErasureError: there is none, and this is not the local profile.
    """
    if settings.erasure_key is not None:
        return settings.erasure_key.get_secret_value().encode()
    path = settings.home / "secrets" / "erasure-key"
    if not path.exists():
        if settings.profile != "local":
            raise ErasureError(
                f"profile {settings.profile} has no key to remember the erased by: set LAKEHOUSE_ERASURE_KEY, the same "
                "everywhere and for ever, such as the output of `openssl rand -hex 32`"
            )
        _create(path)
    return path.read_bytes()


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_hex(32))
    try:
        os.link(draft, path)  # of two that begin together the first decides
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def erased(settings: Settings, lake: Lake | None = None) -> Erased:
    """Everybody who was erased so far."""
    try:
        table = (lake or Lake(settings)).table(ERASED.name)
    except NoTableError:
        return Erased(b"-", ())
    found = pruned_dataset(table).to_table(columns=["digest"]).column("digest").to_pylist()
    return Erased(key(settings), found) if found else Erased(b"-", ())


def latest(settings: Settings) -> Erased:
    """As :func:`erased`; while the lake does not answer, as it was last seen from this machine."""
    seen = settings.home / "erased.json"
    try:
        found = erased(settings)
    except LakeError:
        known = orjson.loads(seen.read_bytes()) if seen.exists() else []
        return Erased(key(settings), known) if known else Erased(b"-", ())
    if found:
        draft = seen.with_suffix(f".{os.getpid()}")
        draft.write_bytes(orjson.dumps(sorted(found.digests)))
        draft.replace(seen)
    return found


def remember(settings: Settings, lake: Lake, identifiers: Iterable[str], at: datetime) -> int:
    """Add digests of those that are not there yet; how many are new. Written again it adds nothing."""
    secret, known = key(settings), erased(settings, lake).digests
    new = sorted({digest(secret, one) for one in identifiers} - known)
    if new:
        rows = pa.table({"digest": new, "at": [at] * len(new)}).cast(ERASED.arrow)
        write_deltalake(lake.table(ERASED.name), rows, mode="append")
    return len(new)
