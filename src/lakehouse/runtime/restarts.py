"""How often the stream's queries were started again after a failure, for those who watch: ``<home>/stream.json``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson


def said(home: Path) -> dict[str, Any] | None:
    """``{"started_at", "restarts"}``: since when the queries run, restarts of all times; None where none ever ran."""
    try:
        found = orjson.loads((home / "stream.json").read_bytes())
        return {"started_at": str(found["started_at"]), "restarts": int(found["restarts"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def started(home: Path, again: bool) -> None:
    """Write down that the queries start; ``again``: after a failure."""
    before = said(home) or {"restarts": 0}
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    home.mkdir(parents=True, exist_ok=True)
    made = home / f".stream.json.{os.getpid()}"
    made.write_bytes(orjson.dumps({"started_at": at, "restarts": before["restarts"] + again}))
    made.replace(home / "stream.json")
