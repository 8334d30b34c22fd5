"""Which old versions of tables somebody still needs: the last cuts, queries that follow tables, readers that said so.

Whoever deletes files or log entries asks here first. A query of the stream that has stood still for longer than
``stream.follower_kept`` is given up: it then fails with the command that fills its store (``rebuild --store``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from lakehouse.flows import STREAMED
from lakehouse.settings import Settings
from lakehouse.sinks.files import Files
from lakehouse.sources.lake import Lake

FOLDER = "_holds"
DETECTOR = "anomalies"
_VERSION = re.compile(r"^(\d{20})\.json$")


@dataclass(frozen=True)
class Hold:
    """Somebody needs a table's version. ``onwards``: the files that each later version added, too."""

    table: str
    version: int
    who: str
    onwards: bool = False


def holds(settings: Settings, lake: Lake, now: datetime) -> list[Hold]:
    """Everything that is needed, however old."""
    files = Files(settings.root)
    cuts = [
        Hold(name, version, f"the last cut of {cut.topic}")
        for cut in lake.cuts().values()
        for name, version in cut.versions.items()
    ]
    return [*cuts, *_followers(settings, lake, files, now), *_readers(files, now)]


def _followers(settings: Settings, lake: Lake, files: Files, now: datetime) -> Iterator[Hold]:
    stream = settings.stream
    ids: dict[str, str] = {}
    for query in (*stream.stores, *([DETECTOR] if stream.detect else [])):
        written = files.read(f"_checkpoints/{query}/generation") or b"1"
        number, _, since = written.decode().partition("\n")
        folder = f"_checkpoints/{query}/g{number}/offsets"
        batches = sorted((one for one in files.ls(folder) if one.name.isdecimal()), key=lambda one: int(one.name))
        if not batches:
            for table, version in json.loads(since or "{}").items():
                yield Hold(table, version, query, onwards=True)
            continue
        moved = batches[-1].written_at
        if moved is not None and now - moved > stream.follower_kept:
            continue
        # The newest batch may have to be done again: it began where the one before it ended.
        for batch in batches[-2:]:
            for offset in positions(files.read(f"{folder}/{batch.name}") or b""):
                ids = ids or {str(lake.table(name).metadata().id): name for name in STREAMED}
                if table := ids.get(str(offset["reservoirId"])):
                    yield Hold(table, max(int(offset["reservoirVersion"]), 0), query, onwards=True)


def positions(batch: bytes) -> Iterator[dict[str, int | str | bool]]:
    """The places in Delta tables that a file of a Spark checkpoint's ``offsets`` holds."""
    for line in batch.splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "reservoirVersion" in found:
                yield found


def _readers(files: Files, now: datetime) -> Iterator[Hold]:
    for one in files.ls(FOLDER):
        said = json.loads(files.read(f"{FOLDER}/{one.name}") or b"{}")
        if said and datetime.fromisoformat(said["until"]) > now:
            for table, version in said["versions"].items():
                yield Hold(table, version, said["who"])


def forget_expired(settings: Settings, now: datetime) -> None:
    """Delete the holds whose time is over: of readers that died."""
    files = Files(settings.root)
    for one in files.ls(FOLDER):
        said = json.loads(files.read(f"{FOLDER}/{one.name}") or b"{}")
        if said and datetime.fromisoformat(said["until"]) <= now:
            files.delete(f"{FOLDER}/{one.name}")


@contextmanager
def held(settings: Settings, who: str, versions: Mapping[str, int], lasting: timedelta) -> Iterator[None]:
    """Keep versions of tables readable until this is over, at most for ``lasting``: also if this process dies."""
    files, name = Files(settings.root), f"{FOLDER}/{uuid4().hex}.json"
    until = (datetime.now(UTC) + lasting).isoformat()
    files.put(name, json.dumps({"who": who, "versions": dict(versions), "until": until}).encode())
    try:
        yield
    finally:
        files.delete(name)


@dataclass(frozen=True)
class Log:
    """What a table's log holds, by name: entries with the time that each was written, and checkpoints."""

    entries: dict[int, datetime]
    checkpoints: dict[int, list[str]]

    @classmethod
    def of(cls, files: Files, folder: str) -> Log:
        """The log of the table in a folder."""
        entries, checkpoints = dict[int, datetime](), dict[int, list[str]]()
        for one in files.ls(f"{folder}/_delta_log"):
            if match := _VERSION.match(one.name):
                entries[int(match[1])] = one.written_at or datetime.now(UTC)
            elif ".checkpoint" in one.name and one.name[:20].isdecimal():
                checkpoints.setdefault(int(one.name[:20]), []).append(one.name)
        return cls(entries, checkpoints)

    def promised(self, since: datetime) -> int:
        """The version that was the newest at a time: what readers of that time saw."""
        return max((v for v, at in self.entries.items() if at <= since), default=min(self.entries, default=0))

    def superfluous(self, oldest: int) -> list[str]:
        """The names of what no version from ``oldest`` on is made from."""
        base = max((v for v in self.checkpoints if v <= oldest), default=-1)
        names = [f"{v:020d}.json" for v in sorted(self.entries) if v < base]
        return names + [name for v, found in sorted(self.checkpoints.items()) if v < base for name in found]


def added_since(files: Files, folder: str, log: Log, version: int, until: datetime) -> set[str]:
    """The data files that the versions after ``version`` added, as far as they are older than ``until``.

    A query that follows the table reads each of them, though a later version may have done without it. ``version``
    itself counts: a query may be half way through it.
    """
    found = set()
    for number, at in log.entries.items():
        if number >= version and at <= until:
            for line in (files.read(f"{folder}/_delta_log/{number:020d}.json") or b"").splitlines():
                action = json.loads(line)
                if "add" in action:
                    found.add(action["add"]["path"])
    return found
