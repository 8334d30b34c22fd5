"""``lakehouse maintain``: what accumulates is made small or deleted, beside the running stream.

Each part stands for itself: one that fails is told, and the others go on. Nothing is deleted that a version of the last
``stream.time_travel``, the last cut, a query of the stream or a reader with a hold (``runtime/holds.py``) needs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil
import pyarrow as pa

from lakehouse.flows import TABLES
from lakehouse.runtime.compaction import CHECKPOINT_EVERY
from lakehouse.runtime.holds import Hold, Log, added_since, forget_expired, holds
from lakehouse.settings import Settings
from lakehouse.sinks.delta import CommitConflict, DeltaWriter, Storage, whole_hours
from lakehouse.sinks.files import Files
from lakehouse.sources.lake import Lake, NoTableError
from lakehouse.stack.exclusive import exclusive
from lakehouse.upkeep.closed import APPENDED, LEFT, closed_days, live, rewrite
from lakehouse.upkeep.expire import expire

Progress = Callable[[str], None]


DELETED_PER_S = 100
"""A burst of thousands keeps DataNodes busy with their blocks while the stream writes."""


def step_back() -> None:
    """Let all others go before this process and its JVM, on the processor and on the disk: the stream above all."""
    os.nice(19)
    psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


@dataclass
class Done:
    """What was done for one table, or would be."""

    files: list[int] = field(default_factory=list)
    """Live files before and after."""
    bytes: list[int] = field(default_factory=list)
    compacted: dict[str, dict[str, int]] = field(default_factory=dict)
    """By day: files before and after, bytes before and after; before alone where it is a dry run."""
    deleted_files: int = 0
    deleted_log: int = 0
    checkpointed: bool = False
    skipped: list[str] = field(default_factory=list)


def maintain(
    settings: Settings,
    dry_run: bool = False,
    progress: Progress = lambda _: None,
    now: datetime | None = None,
    storage: Storage | None = None,
) -> dict[str, Any]:
    """Maintain everything once; what was done, as plain JSON. ``problems`` names the parts that failed.

    ``storage``: the lake's file system, where this process has one; else a small JVM is started if a day is to be
    compacted.
    """
    now = now or datetime.now(UTC)
    problems: list[str] = []
    found: dict[str, Any] = {"at": now.isoformat().replace("+00:00", "Z"), "dry_run": dry_run}

    def part(name: str, do: Callable[[], Any]) -> Any:
        progress(name)
        try:
            return do()
        except Exception as error:
            problems.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0][:300]}")
            return None

    with exclusive(settings.home / "maintain.lock"):
        lake = _Tables(settings, dry_run, now, storage)
        found["tables"] = {}
        if part("holds", lake.look) is not None:
            for name in TABLES:
                if (done := part(name, lambda name=name: lake.table(name))) is not None:  # type: ignore[misc]
                    found["tables"][name] = {k: v for k, v in done.__dict__.items() if v}
            found["retention"] = part("retention", lambda: expire(settings, now, dry_run, lake.storage))
            found["held"] = [hold.__dict__ for hold in lake.old]
        found["checkpoints"] = part("checkpoints", lambda: checkpoints(settings, dry_run))
        if "mongodb" not in settings.off:
            found["mongodb"] = part("mongodb", lambda: _mongo(settings, now, dry_run))
        if "elasticsearch" not in settings.off:
            found["logs-live"] = part("logs-live", lambda: _logs_live(settings, now, dry_run))
    return found | {"problems": problems}


class _Tables:
    def __init__(self, settings: Settings, dry_run: bool, now: datetime, storage: Storage | None):
        self.settings, self.dry_run, self.now, self._storage = settings, dry_run, now, storage
        self.lake, self.files = Lake(settings), Files(settings.root)
        self.holds: list[Hold] = []
        self.old: list[Hold] = []
        """Holds below what is promised anyway."""

    def look(self) -> bool:
        if not self.dry_run:
            forget_expired(self.settings, self.now)
        self.holds = holds(self.settings, self.lake, self.now)
        return True

    def storage(self) -> Storage:
        if self._storage is None:
            from lakehouse.session import spark_session

            small = self.settings.spark.model_copy(update={"master": "local[1]", "driver_memory": "512m"})
            settings = self.settings.model_copy(update={"spark": small})
            self._storage = Storage(spark_session(settings, "lakehouse-maintain"), settings.home / "tmp")
        return self._storage

    def table(self, name: str) -> Done:
        done = Done()
        try:
            self.lake.table(name)
        except NoTableError:
            done.skipped.append("it is not there yet")
            return done
        self._size(name, done)
        if name in APPENDED:
            self._compact(name, done)
        else:
            done.skipped += [f"not compacted: {why}" for start, why in LEFT.items() if name.startswith(start)]
        self._delete(name, done)
        self._size(name, done)
        return done

    def _size(self, name: str, done: Done) -> None:
        sizes = pa.table(self.lake.table(name).get_add_actions()).column("size_bytes").to_pylist()
        done.files.append(len(sizes))
        done.bytes.append(sum(sizes))

    def _compact(self, name: str, done: Done) -> None:
        table, version = APPENDED[name], self.lake.table(name).version()
        for day, group in closed_days(live(self.lake, table, version), self.now.date()).items():
            facts = {"files": len(group), "bytes": sum(file.size for file in group)}
            if not self.dry_run:
                uri = self.settings.table_uri(name)
                writer = DeltaWriter(self.storage(), table, uri, self.lake.table(name).version())
                try:
                    made = rewrite(self.lake, writer, group, self.settings.home / "tmp" / "maintain")
                except CommitConflict as conflict:
                    done.skipped.append(f"{day}: {conflict}; the next run does it")
                    continue
                facts |= {"files_after": len(made), "bytes_after": sum(file.size for file in made)}
            done.compacted[day.isoformat()] = facts

    def _delete(self, name: str, done: Done) -> None:
        """Data files and log entries that nobody needs, after a checkpoint that makes the latter so."""
        folder, since = name.replace(".", "/"), self.now - self.settings.stream.time_travel
        log = Log.of(self.files, folder)
        handle = self.lake.table(name)
        newest = handle.version()
        if newest - max(log.checkpoints, default=-1) >= CHECKPOINT_EVERY:
            done.checkpointed = True
            if not self.dry_run:
                handle.create_checkpoint()
                log = Log.of(self.files, folder)
        promised = log.promised(since)
        mine = [hold for hold in self.holds if hold.table == name]
        gone = {hold for hold in mine if hold.version < min(log.entries, default=0)}
        old = [hold for hold in mine if hold.version < promised and hold not in gone]
        self.old += old
        done.skipped += [f"{hold.who} wants version {hold.version}, which is no longer there" for hold in gone]
        keep = sorted({promised, *(hold.version for hold in old)})
        wanted = set().union(
            *(added_since(self.files, folder, log, hold.version, since) for hold in old if hold.onwards)
        )
        hours = whole_hours(self.settings.stream.time_travel)
        dead = handle.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True, keep_versions=keep)
        dead = [path for path in dead if path.rsplit("/", 1)[-1] not in wanted and not path.startswith("_")]
        entries = log.superfluous(keep[0])
        done.deleted_files, done.deleted_log = len(dead), len(entries)
        if not self.dry_run:
            for path in (*dead, *(f"_delta_log/{entry}" for entry in entries)):
                self.files.delete(f"{folder}/{path}")
                time.sleep(1 / DELETED_PER_S)


def checkpoints(settings: Settings, dry_run: bool) -> list[str]:
    """Delete generations of Spark's checkpoints before the one in use; which."""
    files, gone = Files(settings.root), []
    for query in files.ls("_checkpoints"):
        folder = f"_checkpoints/{query.name}"
        written = files.read(f"{folder}/generation")
        if not written:  # it is being begun, or none was ever given up
            continue
        current = int(written.decode().partition("\n")[0])
        for one in files.ls(folder):
            if one.folder and one.name[:1] == "g" and one.name[1:].isdecimal() and int(one.name[1:]) < current:
                gone += [f"{folder}/{one.name}"] if files.walk(f"{folder}/{one.name}") else []
    if not dry_run:
        for path in (inside for generation in gone for inside in files.walk(generation)):
            files.delete(path)
    return gone


def _mongo(settings: Settings, now: datetime, dry_run: bool) -> dict[str, int]:
    """By collection with a TTL index, documents past their time."""
    from lakehouse.sinks import mongo_ttl

    return mongo_ttl.sweep(settings, now, dry_run)


def _logs_live(settings: Settings, now: datetime, dry_run: bool) -> int | None:
    """Documents expired; a dry run does not know."""
    from lakehouse.sinks import logs_live

    return None if dry_run else logs_live.expire(settings, now)
