"""Erasing from Delta tables: records lose their content, rows go, gold is recomputed, and old versions end.

Only for the one writer (``runtime/turns.py``). Files are immutable, so one that was searched is not searched again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakehouse.contracts import contracts
from lakehouse.erasure.identifiers import Wanted
from lakehouse.erasure.table import ERASED
from lakehouse.flows import FLOWS, TABLES, Flow
from lakehouse.ops import promotions
from lakehouse.quality.checks import checker
from lakehouse.runtime.fused import Progress
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.runtime.refill import refill, rewrite, unsealed, windows_of
from lakehouse.silver import quarantine
from lakehouse.silver.checked import GONE, nulled
from lakehouse.sinks.delta import DeltaWriter
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

NAMELESS = (LEDGER.name, promotions.TABLE.name, ERASED.name)
"""Tables whose rows come from no user; their history stays."""
Place = tuple[int, int]
"""Partition and offset."""


class Files:
    """The rows of a table that name somebody, file by file."""

    def __init__(self, lake: Lake, table: Table, wanted: Wanted):
        self.lake, self.table, self.wanted = lake, table, wanted
        self.seen: dict[str, NDArray[np.bool_]] = {}
        """path -> which of its rows; remembered, since a file does not change."""

    def search(self) -> dict[str, NDArray[np.bool_]]:
        """Of every file of the newest version which rows name somebody; files without such rows are left out."""
        data = self.lake.dataset(self.table.name)
        live = set()
        for fragment in data.get_fragments():
            path = fragment.path.rsplit("/", 1)[-1]
            live.add(path)
            if path not in self.seen:
                parts = [
                    self.wanted.in_rows(pa.Table.from_batches([batch]))
                    for batch in fragment.to_batches(schema=data.schema, batch_size=50_000)
                ]
                self.seen[path] = np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
        self.seen = {path: mask for path, mask in self.seen.items() if path in live}
        return {path: mask for path, mask in self.seen.items() if mask.any()}

    def rows(self, masks: dict[str, NDArray[np.bool_]], columns: list[str]) -> pa.Table:
        """Columns of the rows found."""
        data = self.lake.dataset(self.table.name)
        parts = [data.schema.empty_table().select(columns)]
        for fragment in data.get_fragments():
            mask = masks.get(fragment.path.rsplit("/", 1)[-1])
            if mask is not None:
                parts.append(fragment.to_table(schema=data.schema, columns=columns).filter(pa.array(mask)))
        return pa.concat_tables(parts)


@dataclass
class Done:
    """What an erasure did to the tables: how many rows of each, and what that made of gold.

    ``touched`` are gold's rows that are different now, ``vanished`` those that are no longer there, by table.
    """

    rows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    touched: dict[str, pa.Table] = field(default_factory=dict)
    vanished: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    """The versions from which on the stores follow tables afterwards."""
    days: set[date] = field(default_factory=set)
    """Days of which gold.text_insights_daily lost its rows, as some of their texts are gone."""


def _of_masks(masks: dict[str, NDArray[np.bool_]]) -> Any:
    return lambda path, fragment, schema: masks.get(path)


def _at(places: set[Place], topic: str | None = None) -> Any:
    """The rows at Kafka's coordinates; files whose statistics rule them out are not read."""
    by_partition: dict[int, NDArray[np.int64]] = {
        partition: np.array(sorted(offset for p, offset in places if p == partition), dtype=np.int64)
        for partition in {p for p, _ in places}
    }

    def mask(path: str, fragment: Any, schema: pa.Schema) -> NDArray[np.bool_] | None:
        near = None
        for partition, offsets in by_partition.items():
            here = (pc.field("partition") == partition) & (pc.field("offset") >= int(offsets[0]))
            here &= pc.field("offset") <= int(offsets[-1])
            near = here if near is None else near | here
        if near is None or not fragment.subset(near).row_groups:
            return None
        columns = ["partition", "offset", *(["topic"] if topic else [])]
        rows = fragment.to_table(schema=schema, columns=columns)
        partitions, found = rows.column("partition").to_numpy(), np.zeros(rows.num_rows, dtype=bool)
        offsets = rows.column("offset").to_numpy()
        for partition, wanted in by_partition.items():
            found |= (partitions == partition) & np.isin(offsets, wanted)
        if topic:
            found &= pc.equal(rows.column("topic"), topic).to_numpy(zero_copy_only=False)
        return found

    return mask


def _places(rows: pa.Table) -> set[Place]:
    return set(zip(rows.column("partition").to_pylist(), rows.column("offset").to_pylist(), strict=True))


class TopicErasure:
    """Everything that a topic feeds."""

    def __init__(self, lake: Lake, flow: Flow, wanted: Wanted, held: Files):
        self.lake, self.flow, self.wanted = lake, flow, wanted
        self.files = {t.name: Files(lake, t, wanted) for t in (flow.bronze, flow.silver)}
        self.files[held.table.name] = held

    @classmethod
    def of_all(cls, lake: Lake, wanted: Wanted) -> list[TopicErasure]:
        """One for each topic; the quarantine that they share is searched once."""
        held = Files(lake, quarantine.TABLE, wanted)
        return [cls(lake, flow, wanted, held) for flow in FLOWS]

    def search(self) -> None:
        """Search every file that is there now: what comes later is little."""
        for files in self.files.values():
            files.search()

    def erase(self, writers: Mapping[str, DeltaWriter], progress: Progress, at: datetime, done: Done) -> None:
        """Take the records that name somebody out of all tables of the topic; ``at`` becomes their ``erased_at``."""
        if progress.sealed:
            self._sealed(writers, done)
        flow, lake = self.flow, self.lake
        bronze = self.files[flow.bronze.name]
        hits = bronze.rows(bronze.search(), ["partition", "offset"])
        places = _places(hits)
        silver = self.files[flow.silver.name]
        places |= _places(silver.rows(silver.search(), ["partition", "offset"]))
        held = self.files[quarantine.TABLE.name]
        bad = held.rows(held.search(), ["topic", "partition", "offset"])
        places |= _places(bad.filter(pc.equal(bad.column("topic"), flow.topic)))
        if not places:
            return
        lost = rewrite(lake, writers[flow.silver.name], _at(places), lambda rows, mask: rows.filter(pa.array(~mask)))
        places |= self._repetitions(lost, places)
        taken = rewrite(lake, writers[flow.bronze.name], _at(places), lambda rows, mask: nulled(rows, mask, at))
        quarantined = rewrite(
            lake, writers[quarantine.TABLE.name], _at(places, flow.topic), lambda rows, mask: _unnamed(rows, mask, at)
        )
        done.rows[flow.silver.name] += lost.num_rows
        done.rows[flow.bronze.name] += taken.num_rows
        done.rows[quarantine.TABLE.name] += quarantined.num_rows
        done.days |= set(lost.column(flow.gold[0].source_time).cast(pa.date32()).unique().to_pylist())
        for aggregate in flow.gold:
            if windows := unsealed(windows_of(aggregate, lost), progress.sealed):
                changed, vanished = refill(lake, writers[aggregate.name], aggregate, windows)
                done.touched[aggregate.name] = changed
                done.vanished[aggregate.name] = [*done.vanished.get(aggregate.name, []), *vanished]
                done.rows[aggregate.name] += changed.num_rows + len(vanished)

    def _sealed(self, writers: Mapping[str, DeltaWriter], done: Done) -> None:
        """Take gold's rows about somebody out, those too that nobody could make again as their records have expired."""
        for aggregate in self.flow.gold:
            gone = drop_rows(self.lake, writers[aggregate.name], self.wanted)
            if gone.num_rows:
                done.vanished[aggregate.name] = gone.to_pylist()
                done.rows[aggregate.name] += gone.num_rows

    def _repetitions(self, lost: pa.Table, places: set[Place]) -> set[Place]:
        """Where records lie that only repeat one of the erased: without it nobody could tell why they do not count."""
        contract = contracts()[self.flow.topic]
        name = "record_id" if contract.samples else "event_id"
        identities = set(lost.column(name).to_pylist())
        if not identities:
            return set()
        uncounted = self.lake.query(
            f'select partition, "offset" from {self.flow.bronze.name} b where erased_at is null '
            f"and not exists (select 1 from {self.flow.silver.name} s where s.partition = b.partition "
            f'and s."offset" = b."offset") and not exists (select 1 from {quarantine.TABLE.name} q '
            f'where q.topic = \'{self.flow.topic}\' and q.partition = b.partition and q."offset" = b."offset")'
        ).fetchall()
        left = {(partition, offset) for partition, offset in uncounted} - places
        if not left:
            return set()
        judge, found, at = checker(contract), set(), _at(left)
        data = self.lake.dataset(self.flow.bronze.name)
        for fragment in data.get_fragments():
            mask = at(fragment.path, fragment, data.schema)
            if mask is None or not mask.any():
                continue
            rows = fragment.to_table(schema=data.schema).filter(pa.array(mask))
            arrivals = pc.cast(pc.cast(rows.column("timestamp"), pa.timestamp("us", "UTC")), pa.int64()).to_pylist()
            records = zip(
                rows.column("partition").to_pylist(), rows.column("offset").to_pylist(),
                rows.column("value").to_pylist(), arrivals, strict=True,
            )  # fmt: skip
            for partition, offset, value, arrival in records:
                if judge(value, arrival).identity in identities:
                    found.add((partition, offset))
        return found


def _unnamed(rows: pa.Table, mask: NDArray[np.bool_], at: datetime) -> pa.Table:
    """Rows of quarantine, some without their content and without reasons, which may quote it."""
    rows = nulled(rows, mask, at)
    place, kind = rows.schema.get_field_index("reasons"), rows.schema.field("reasons").type
    reasons = [
        [GONE] if gone else old for gone, old in zip(mask.tolist(), rows.column("reasons").to_pylist(), strict=True)
    ]
    return rows.set_column(place, rows.schema.field("reasons"), pa.array(reasons, kind))


# --- other tables, and history ---------------------------------------------------------------------------------------


def drop_rows(lake: Lake, writer: DeltaWriter, wanted: Wanted) -> pa.Table:
    """Take the rows that name somebody out of a table of any kind; those rows."""
    masks = Files(lake, writer.table, wanted).search()
    return rewrite(lake, writer, _of_masks(masks), lambda rows, mask: rows.filter(pa.array(~mask)))


def drop_days(lake: Lake, writer: DeltaWriter, days: set[date]) -> set[date]:
    """Take whole days out of gold.text_insights_daily, which is made of all texts of a day; those that it had."""
    wanted = pa.array(sorted(days), pa.date32())

    def of_days(path: str, fragment: Any, schema: pa.Schema) -> NDArray[np.bool_]:
        rows = fragment.to_table(schema=schema, columns=["date"])
        return pc.is_in(rows.column("date"), value_set=wanted).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    gone = rewrite(lake, writer, of_days, lambda rows, mask: rows.filter(pa.array(~mask)))
    return set(gone.column("date").unique().to_pylist())


def end_history(lake: Lake, writer: DeltaWriter, alone: bool) -> int:
    """Delete all versions before the newest, their files and their log, statistics and all; how many files.

    ``alone``: nobody else writes this table, so a file that no version holds is rubbish, whatever its age.
    """
    handle = lake.table(writer.table.name)
    version = handle.version()
    if version == 0:
        return 0
    handle.create_checkpoint()
    gone = handle.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False, full=alone)
    log = f"{writer.uri}/_delta_log"
    old = [name for name in writer.storage.names(log) if _version(name, version) < version]
    writer.storage.delete_all([*(f"{writer.uri}/{path}" for path in gone), *(f"{log}/{name}" for name in old)])
    return len(gone)


def _version(name: str, other: int) -> int:
    """The version that a file of a log belongs to; ``other`` where it belongs to none."""
    head = name.split(".", 1)[0]
    return int(head) if len(head) == 20 and head.isdecimal() else other


def others() -> list[Table]:
    """Tables that no topic's batches fill, and that may name a user."""
    of_topics = {table.name for flow in FLOWS for table in (flow.bronze, flow.silver, *flow.gold_tables)}
    return [
        table
        for name, table in TABLES.items()
        if name not in of_topics and name not in (*NAMELESS, quarantine.TABLE.name, CHANGES.name)
    ]
