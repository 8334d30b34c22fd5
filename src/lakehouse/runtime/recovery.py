"""Putting everything back to the last cut before a stream starts, whatever happened to the one before.

The ledger is the authority: it names, per topic, the end of every partition and the version of every table. A batch
that died half way left rows or files beyond that; they are taken back here, and the records are read from Kafka
again. Nothing depends on Spark's checkpoint, on Delta's transaction tokens or on commit messages, so OPTIMIZE, RESTORE
and log clean-up between crash and restart change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Field

from lakehouse.contracts import Contract
from lakehouse.flows import FLOWS, STREAMED, TABLES, Flow
from lakehouse.gold.aggregate import Distinct
from lakehouse.runtime.fold import digest_array, members_of
from lakehouse.runtime.fused import REPLAY_HEADER, Progress, identity_digest
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.runtime.seen import SeenIndex
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import DataFile, DeltaWriter, Storage, stat
from lakehouse.sources.lake import Cut, Lake
from lakehouse.tables import Table

CHUNK = 500_000


class RecoveryError(Exception):
    """The tables contradict the ledger in a way that a restart must not paper over."""


def create_tables(storage: Storage, lake: Lake) -> dict[str, DeltaWriter]:
    """Create every table that is missing, and columns that came since; a writer for each table that topics feed."""
    writers = {}
    for name, table in TABLES.items():
        uri = lake.settings.table_uri(name)
        if not storage.exists(f"{uri}/_delta_log"):
            DeltaWriter.create(storage, table, uri, lake.settings.stream.time_travel)
        if name in STREAMED:
            writers[name] = DeltaWriter(storage, table, uri, add_columns(lake, table))
    return writers


def add_columns(lake: Lake, table: Table) -> int:
    """Give a table the columns that it lacks, null in its old rows; its version."""
    handle = lake.table(table.name)
    there = {field.name for field in handle.schema().fields}
    if lacking := [field for field in table.schema if field.name not in there]:
        handle.alter.add_columns([Field.from_json(field.json()) for field in lacking])
    return int(handle.version())


def roll_back(lake: Lake, writers: Mapping[str, DeltaWriter], check: bool = True) -> dict[str, Progress]:
    """Undo what lies beyond each topic's last cut; the progress of every topic.

    ``check``: refuse to go on where a shared table lacks rows (a rebuild mends that, so it does not ask).

    Raises:
        RecoveryError: a shared table lacks rows that the ledger proves.
    """
    cuts = lake.cuts()
    progress = {}
    for flow in FLOWS:
        cut = cuts.get(flow.topic)
        for table in (flow.bronze, flow.silver, *flow.gold_tables):
            _restore(lake, writers[table.name], cut.versions.get(table.name, 0) if cut else 0)
        progress[flow.topic] = (
            Progress(cut.seq, dict(cut.ends), cut.versions, dict(cut.starts), cut.sealed) if cut else Progress(0, {})
        )
    for topic in progress:
        delete(lake, writers[quarantine.TABLE.name], beyond(topic, cuts.get(topic)))
        delete(lake, writers[CHANGES.name], (pc.field("topic") == topic) & (pc.field("seq") > progress[topic].seq))
    if check:
        _check_quarantine(lake, progress)
    return progress


def _restore(lake: Lake, writer: DeltaWriter, version: int) -> None:
    """Take back every change of data since a version; moves of rows between files (OPTIMIZE) stay."""
    if writer.version <= version:
        return
    since = [writer.actions(v) for v in range(version + 1, writer.version + 1)]
    # A version without actions is one whose log was cleaned up: what it changed is not known.
    changed = not all(since) or any(
        action[kind].get("dataChange", True)
        for actions in since
        for action in actions
        for kind in ("add", "remove")
        if kind in action
    )
    if not changed:
        return
    before, now = data_files(lake, writer.table.name, version), data_files(lake, writer.table.name, writer.version)
    back = [file for path, file in before.items() if path not in now]
    for file in back:
        if not writer.storage.exists(f"{writer.uri}/{file.path}"):
            raise RecoveryError(
                f"{writer.table.name}: version {version}, the last cut's, lost file {file.path}; "
                f"`lakehouse rebuild {writer.table.name}` fills the table again"
            )
    gone = [(path, file.size) for path, file in now.items() if path not in before]
    writer.commit(back, gone, operation="RESTORE")


def data_files(lake: Lake, name: str, version: int) -> dict[str, DataFile]:
    """The files of a table's version, with their statistics as the log has them."""
    files = {}
    for action in pa.table(lake.table(name, version).get_add_actions(flatten=True)).to_pylist():
        stats: dict[str, Any] = {"numRecords": action["num_records"], "minValues": {}, "maxValues": {}, "nullCount": {}}
        for key, value in action.items():
            side, _, column = key.partition(".")
            place = {"min": "minValues", "max": "maxValues", "null_count": "nullCount"}.get(side)
            if place and value is not None:
                stats[place][column] = stat(value, up=side == "max")
        files[action["path"]] = DataFile(action["path"], action["size_bytes"], action["num_records"], stats)
    return files


def beyond(topic: str, cut: Cut | None) -> Any:
    """The rows of a topic's records that its last cut does not hold."""
    ends = cut.ends if cut else {}
    outside = ~pc.field("partition").isin(pa.array(list(ends), pa.int32()))
    for partition, end in ends.items():
        outside = outside | ((pc.field("partition") == partition) & (pc.field("offset") >= end))
    return (pc.field("topic") == topic) & outside


def delete(lake: Lake, writer: DeltaWriter, condition: Any) -> bool:
    """Delete rows: the files that hold some are written again without them, in one commit; whether there were any."""
    data = lake.dataset(writer.table.name, writer.version)
    if not data.count_rows(filter=condition):
        return False
    sizes = {path: file.size for path, file in data_files(lake, writer.table.name, writer.version).items()}
    adds, removes = [], []
    for fragment in data.get_fragments(filter=condition):
        if fragment.count_rows(filter=condition):
            path = fragment.path.rsplit("/", 1)[-1]
            removes.append((path, sizes[path]))
            kept = fragment.to_table(schema=data.schema, filter=~condition)
            adds += [writer.stage(kept)] if kept.num_rows else []
    writer.commit(adds, removes, operation="DELETE")
    return True


def before(topic: str, starts: Mapping[int, int]) -> Any:
    """The rows of a topic's records before these offsets, by partition."""
    mine: Any = pc.scalar(False)
    for partition, start in starts.items():
        mine = mine | ((pc.field("partition") == partition) & (pc.field("offset") < start))
    return (pc.field("topic") == topic) & mine


def _check_quarantine(lake: Lake, progress: dict[str, Progress]) -> None:
    places = [(topic, *place) for topic, one in progress.items() for place in one.starts.items()]
    gone = [f"(topic = '{t}' and partition = {p} and end_offset <= {start})" for t, p, start in places]
    held = [f"(topic = '{t}' and partition = {p} and \"offset\" < {start})" for t, p, start in places]
    short = lake.query(
        "select l.topic, l.n, coalesce(q.n, 0) from "
        f"(select topic, sum(quarantined) as n from {LEDGER.name} "
        f"where not ({' or '.join(gone) or 'false'}) group by topic) l "
        f"left join (select topic, count(*) as n from {quarantine.TABLE.name} "
        f"where not ({' or '.join(held) or 'false'}) group by topic) q using (topic) "
        "where l.n <> coalesce(q.n, 0)"
    ).fetchall()
    for topic, proven, there in short:
        raise RecoveryError(
            f"{quarantine.TABLE.name} holds {there} records of {topic}, the ledger proves {proven}; "
            f"`lakehouse rebuild {quarantine.TABLE.name}` fills it from bronze"
        )


def fill_index(
    index: SeenIndex, flow: Flow, contract: Contract, lake: Lake, progress: Progress, horizon: timedelta
) -> int:
    """Bring the index to the cut from silver: the tail since its last flush, or all of the horizon; keys added."""
    at = index.position
    if not at or at["seq"] > progress.seq:
        index.clear()
        at = {"seq": 0, "ends": {}}
    before = len(index)
    if at["seq"] < progress.seq:
        version = progress.versions[flow.silver.name]
        silver = lake.dataset(flow.silver.name, version)
        condition: Any = None
        ends = {int(p): end for p, end in at["ends"].items()}
        for partition, end in progress.ends.items():
            start = ends.get(partition, 0)
            here = (pc.field("partition") == partition) & (pc.field("offset") >= start) & (pc.field("offset") < end)
            condition = here if condition is None else condition | here
        if not ends:  # all of it: only what the horizon (and a day of events from the future) can still ask for
            newest = lake.query(f"select max(last_at) from {LEDGER.name} where topic = ?", [flow.topic]).fetchall()[0][
                0
            ]
            oldest = pa.scalar(newest - horizon - timedelta(days=1), pa.timestamp("us", "UTC"))
            condition = condition & (pc.field("timestamp") >= oldest)
        identity = "record_id" if contract.samples else "event_id"
        names = {identity, "topic", "partition", "offset", "timestamp"} | {n for a in flow.gold for n in a.inputs}
        pending: list[pa.RecordBatch] = []
        for batch in silver.to_batches(columns=sorted(names), filter=condition, batch_size=CHUNK):
            pending.append(batch)
            if sum(b.num_rows for b in pending) >= CHUNK:
                _add(index, flow, identity, pa.Table.from_batches(pending))
                pending = []
        if pending:
            _add(index, flow, identity, pa.Table.from_batches(pending))
        _add_replays(index, flow, lake, progress)
        index.flush({"seq": progress.seq, "ends": progress.ends}, 0)
    return len(index) - before


def _add(index: SeenIndex, flow: Flow, identity: str, rows: pa.Table) -> None:
    if not rows.num_rows:
        return
    times = pc.cast(pc.cast(rows.column("timestamp"), pa.timestamp("us", "UTC")), pa.int64()).to_numpy()
    digests = [identity_digest(flow.topic, name) for name in rows.column(identity).to_pylist()]
    index.add(index.keys(digests), times)
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.register("rows", rows)
    for aggregate in flow.gold:
        if not aggregate.folds:
            continue
        keys = ", ".join(f"{expression} as {name}" for name, (_, expression) in aggregate.keys.items())
        connection.execute(f"create or replace temp table keyed as select {keys}, * from rows where {aggregate.where}")
        for measure in aggregate.measures:
            if isinstance(measure, Distinct):
                found = digest_array(members_of(connection, aggregate, measure, "keyed").column("digest"))
                index.add(found, np.full(len(found), int(times.max())))


def _add_replays(index: SeenIndex, flow: Flow, lake: Lake, progress: Progress) -> None:
    """The originals that accepted replays stand for; only bronze holds the header that names them."""
    layer, _, name = flow.bronze.name.partition(".")
    connection = lake.connect(flow.bronze.name, flow.silver.name, versions=progress.versions)
    found = connection.execute(
        f'select epoch_us(b.timestamp), h.value from (select partition, "offset", timestamp, unnest(headers) as h '
        f"from {layer}.{name} where headers is not null) b "
        f"where h.key = '{REPLAY_HEADER}' and exists (select 1 from {flow.silver.name} s "
        f'where s.partition = b.partition and s."offset" = b."offset")'
    ).fetchall()
    if found:
        digests = [
            identity_digest(flow.topic, f"{REPLAY_HEADER}\x1f{(value or b'').decode(errors='replace')}")
            for _, value in found
        ]
        index.add(index.keys(digests), np.array([at for at, _ in found], dtype=np.int64))
