"""Compaction beside the stream: small files become few, checkpoints and log clean-up keep opening a table cheap.

Rows only move between files (``dataChange`` false), so streams and time travel are untouched; replaced files stay for
the tables' ``delta.deletedFileRetentionDuration``. Silver is sorted by event time, so that file statistics let a
reader of one minute skip nearly everything.
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa

from lakehouse.flows import FLOWS
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import CommitConflict, DeltaWriter
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake

log = logging.getLogger("lakehouse.compaction")
SMALL_BYTES = 32 << 20
GROUP_BYTES = 96 << 20
"""Compressed bytes that are rewritten at once; in memory they are some five times as much."""
CHECKPOINT_EVERY = 60

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
        if action["size_bytes"] < SMALL_BYTES
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
        return 0
    return len(group)


class Compactor:
    """One round over all tables; the stream's process calls it every ``stream.compact_every``."""

    def __init__(self, lake: Lake, writers: dict[str, DeltaWriter], above_files: int):
        self.lake, self.writers, self.above_files = lake, writers, above_files
        self.checkpointed: dict[str, int] = {}

    def round(self) -> dict[str, Any]:
        """Compact and checkpoint what needs it; {table: files merged}."""
        merged = {}
        for table in APPENDED:
            if done := compact(self.lake, self.writers[table.name], self.above_files):
                merged[table.name] = done
        for name, writer in self.writers.items():
            if writer.version - self.checkpointed.get(name, -CHECKPOINT_EVERY) >= CHECKPOINT_EVERY:
                handle = self.lake.table(name)
                handle.create_checkpoint()
                handle.cleanup_metadata()
                self.checkpointed[name] = handle.version()
        return merged
