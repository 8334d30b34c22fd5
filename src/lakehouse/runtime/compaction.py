"""Compaction beside the stream: small files become few, checkpoints and log clean-up keep opening a table cheap.

Rows only move between files (``dataChange`` false), so streams and time travel are untouched. Files and log entries
that only versions older than ``stream.time_travel`` need are deleted, which bounds what HDFS holds. Silver is sorted by
event time, so that file statistics let a reader of one minute skip nearly everything.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from lakehouse.flows import FLOWS
from lakehouse.runtime.holds import Log, holds
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import CommitConflict, DeltaWriter, whole_hours
from lakehouse.sinks.files import Files
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake

log = logging.getLogger("lakehouse.compaction")
SMALL_BYTES = 32 << 20
GROUP_BYTES = 96 << 20
"""Compressed bytes that are rewritten at once; in memory they are some five times as much."""
CHECKPOINT_EVERY = 60
CLOSED = ".zstd."
"""In the name of a file that `lakehouse maintain` made of all of a day: it is left as it is, however small."""
TIDY_EVERY = 3600.0
"""Seconds between two deletions of what is past its time."""

APPENDED = tuple(
    {t.name: t for flow in FLOWS for t in (flow.bronze, flow.silver, quarantine.TABLE, CHANGES, LEDGER)}.values()
)


def compact(lake: Lake, writer: DeltaWriter, above_files: int) -> int:
    """Merge the small files of one append-only table where there are more than ``above_files``; files merged."""
    version = writer.version
    handle = lake.table(writer.table.name, version)
    small = [
        (action["path"], action["size_bytes"])
        for action in pa.table(handle.get_add_actions()).to_pylist()
        if action["size_bytes"] < SMALL_BYTES and CLOSED not in action["path"]
    ]
    if len(small) <= above_files:
        return 0
    # The smallest first: what one pass leaves half full is merged again only when it has grown comparable company.
    group: list[tuple[str, int]] = []
    for path, size in sorted(small, key=lambda file: file[1]):
        if sum(s for _, s in group) + size > GROUP_BYTES and len(group) > 1:
            break
        group.append((path, size))
    paths = {path for path, _ in group}
    data = pruned_dataset(handle)
    parts = [f.to_table(schema=data.schema) for f in data.get_fragments() if f.path.rsplit("/", 1)[-1] in paths]
    rows = pa.concat_tables(parts)
    rows = rows.sort_by([(name, "ascending") for name in writer.table.order])
    try:
        writer.commit([writer.stage(rows)], group, operation="OPTIMIZE", data_change=False)
    except CommitConflict as conflict:
        log.info("%s; compaction of it waits for the next round", conflict)
        writer.version = max(writer.version, lake.table(writer.table.name).version())
        return 0
    return len(group)


def vacuum(lake: Lake, writer: DeltaWriter, time_travel: timedelta) -> int:
    """Delete the files that no version of the last ``time_travel`` holds; how many."""
    handle = lake.table(writer.table.name)
    # delta-rs finds them; it would also commit what it does to the log, beside the stream.
    gone = handle.vacuum(
        retention_hours=whole_hours(time_travel), dry_run=True, enforce_retention_duration=False, full=True
    )
    writer.storage.delete_all(f"{writer.uri}/{path}" for path in gone)
    return len(gone)


def trim(lake: Lake, writer: DeltaWriter, time_travel: timedelta) -> int:
    """Take files older than ``time_travel`` out of an append-only table that is not kept for ever; how many."""
    oldest = (datetime.now(UTC) - time_travel).timestamp() * 1000
    old = [
        (action["path"], action["size_bytes"])
        for action in pa.table(lake.table(writer.table.name, writer.version).get_add_actions()).to_pylist()
        if action["modification_time"] < oldest
    ]
    if old:
        writer.commit([], old, operation="DELETE")
    return len(old)


def checkpoint(lake: Lake, writers: Mapping[str, DeltaWriter]) -> list[str]:
    """Sum up the log of every table that went on by ``CHECKPOINT_EVERY`` versions since its last checkpoint; which.

    Whoever opens a table reads its log from there.
    """
    due = [name for name, w in writers.items() if w.version - w.checkpointed() >= CHECKPOINT_EVERY]
    for name in due:
        lake.table(name).create_checkpoint()
    return due


class Compactor:
    """One round over all tables; the stream's process calls it every ``stream.compact_every``."""

    def __init__(self, lake: Lake, writers: Mapping[str, DeltaWriter], above_files: int, time_travel: timedelta):
        self.lake, self.writers, self.above_files, self.time_travel = lake, writers, above_files, time_travel
        self.tidied = -math.inf

    def round(self) -> dict[str, Any]:
        """Compact and checkpoint what needs it; {table: files merged}."""
        merged = {}
        for table in APPENDED:
            if done := compact(self.lake, self.writers[table.name], self.above_files):
                merged[table.name] = done
        checkpoint(self.lake, self.writers)
        if time.monotonic() - self.tidied >= TIDY_EVERY:
            self.tidied = time.monotonic()
            log.info("deleted %d files that no promised version needs", self.tidy())
        return merged

    def tidy(self) -> int:
        """Delete what only versions older than ``time_travel`` need; how many data files.

        A table whose topic is idle for as long is left alone: its last cut, which readers go by, is an old version.
        So is one that a query has still to read, which stands still: `lakehouse maintain` looks at each file.
        """
        now = datetime.now(UTC)
        since = now - self.time_travel
        cuts = self.lake.cuts().values()
        busy = {name for cut in cuts if cut.committed_at >= since for name in cut.versions}
        if not busy:
            return 0
        files = Files(self.lake.settings.root)
        for hold in holds(self.lake.settings, self.lake, now):
            if hold.onwards and hold.table in busy:
                log_of = Log.of(files, hold.table.replace(".", "/"))
                if hold.version < log_of.promised(since):
                    busy.discard(hold.table)
        trim(self.lake, self.writers[CHANGES.name], self.time_travel)
        deleted = 0
        for name in (*busy, LEDGER.name):
            self.lake.table(name).cleanup_metadata()
            deleted += vacuum(self.lake, self.writers[name], self.time_travel)
        return deleted
