"""OpenLineage events of every batch, from topic to tables to stores, and of what models are trained on and make.

The ledger is where they come from, so nothing is kept for them and nothing waits for them: another process than the
stream's reads what has been committed and sends it, and what could not be sent is made again later, or by
``lakehouse lineage --emit 2h``. A run's id follows from ledger, topic and batch, so that a repeat is the same run.

A batch of a topic is a run (topic -> bronze) with a run for each further layer below it (bronze -> silver, silver ->
gold), and one for each store once the store holds it. Where events go is OpenLineage's own configuration:
``OPENLINEAGE_URL``, ``OPENLINEAGE_CONFIG``, ``openlineage.yml``, ``OPENLINEAGE__TRANSPORT__...``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import attr
import orjson
import pyspark
from openlineage.client import OpenLineageClient
from openlineage.client import event_v2 as ol
from openlineage.client import facet_v2 as facets
from openlineage.client.serde import Serde
from pyspark.sql import types as T

from lakehouse.contracts import contracts
from lakehouse.flows import ANALYSES, FLOWS, INGEST, STORES, Flow
from lakehouse.lineage import Node, Source, graph, model, topic
from lakehouse.ops import promotions
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.settings import Settings
from lakehouse.silver import quarantine
from lakehouse.sources.lake import Cut, Lake, NoTableError

PRODUCER = "urn:lakehouse"
EVERY_S = 5.0
MODELS_EVERY_S = 60.0
"""What models wrote is looked for less often: it comes by the hour."""
PAUSE_S = (5.0, 300.0)
"""Between attempts while what takes the events does not answer: the first, and the longest."""
PAGE = 200
"""Batches of a topic that are read together."""
REFUSED = frozenset({400, 413, 422})
"""Answers that say that an event will never be taken: it is counted and left out."""
WRITES = frozenset({"WRITE", "MERGE", "DELETE", "UPDATE", "CREATE OR REPLACE TABLE AS SELECT"})
"""Delta's names of what changes rows; the rest is maintenance."""
_log = logging.getLogger("lakehouse.lineage")


def configured() -> bool:
    """Whether OpenLineage's own configuration says where events go."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OPENLINEAGE_URL") or any(name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ):
        return True
    named = os.environ.get("OPENLINEAGE_CONFIG")
    places = [*([Path(named)] if named else []), Path("openlineage.yml"), Path.home() / ".openlineage/openlineage.yml"]
    return any(place.is_file() for place in places)


# --- names ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """Namespaces and names of datasets as OpenLineage's naming has them; no address holds a password."""

    settings: Settings

    def of(self, node: str) -> tuple[str, str]:
        """(namespace, name) of a node of the graph."""
        one, settings = graph().nodes[node], self.settings
        if one.kind == "table":
            uri = urlsplit(settings.table_uri(node))
            return (f"{uri.scheme}://{uri.netloc}" if uri.netloc else uri.scheme), uri.path
        if one.system == "kafka":
            return f"kafka://{settings.kafka.bootstrap_servers.split(',')[0].strip()}", one.name
        if one.system == "mongodb":
            return _host("mongodb", settings.mongo.uri.get_secret_value()), f"{settings.mongo.database}.{one.name}"
        if one.system == "redis":
            return _host("redis", settings.redis.url.get_secret_value()), one.name
        if one.system == "elasticsearch":
            return _host("elasticsearch", str(settings.elasticsearch.url.get_secret_value())), one.name
        return _host("mlflow", settings.tracking_uri), one.name


def _host(system: str, address: str) -> str:
    """The first host of an address, without who connects: a list of hosts is no URL to Python."""
    place = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return f"{system}://{place.split(',')[0]}"


# --- what is told --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """A batch of a topic, out of the ledger.

    ``ranges`` are (partition, first offset, offset after the last); ``gold`` maps the gold tables that it wrote to
    their version after it and, where rows are known one by one, how many it left otherwise.
    """

    topic: str
    seq: int
    ranges: tuple[tuple[int, int, int], ...]
    records: int
    valid: int
    quarantined: int
    duplicates: int
    versions: Mapping[str, int]
    engine: str
    batch_ms: int
    committed_at: datetime
    gold: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    @property
    def flow(self) -> Flow:
        """Its topic's flow."""
        return next(flow for flow in FLOWS if flow.topic == self.topic)


@attr.define
class Offsets(facets.InputDatasetFacet):
    """Which records of a topic a run read: half-open ranges of offsets."""

    partitions: list[dict[str, int]] = attr.field(factory=list)


@attr.define
class Accounted(facets.RunFacet):
    """A batch's row in the ledger: every record is valid, quarantined or a duplicate."""

    topic: str
    seq: int
    records: int
    valid: int
    quarantined: int
    duplicates: int
    engine: str


@attr.define
class NewestCut(facets.InputDatasetFacet):
    """The version of a table in the newest cut before the run wrote; which one it read is not on record."""

    version: int


Event = ol.RunEvent | ol.JobEvent


class Teller:
    """Makes events.

    Args:
        settings: addresses of what there is.
        generation: the id of the ledger as a Delta table: another lake's batches have other runs.
        namespace: of jobs.
    """

    def __init__(self, settings: Settings, generation: str, namespace: str | None = None) -> None:
        ol.set_producer(PRODUCER)
        self._names, self._generation = Names(settings), UUID(generation)
        self._namespace = namespace or os.environ.get("OPENLINEAGE_NAMESPACE") or "lakehouse"
        self._engine = facets.processing_engine_run.ProcessingEngineRunFacet(pyspark.__version__, "Apache Spark")

    def ingested(self, batch: Batch) -> Iterator[Event]:
        """A batch into the tables: a run, and one below it for silver and for gold."""
        flow, name = batch.flow, f"{INGEST}.{batch.topic}"
        started = batch.committed_at - timedelta(milliseconds=batch.batch_ms)
        run = self._id(batch.topic, batch.seq)
        own = ("topic", "seq", "records", "valid", "quarantined", "duplicates", "engine")
        ledger = Accounted(**{one: getattr(batch, one) for one in own})
        read = self._input(
            topic(batch.topic),
            {
                "lakehouse_offsets": Offsets([{"partition": p, "start": a, "end": b} for p, a, b in batch.ranges]),
                "inputStatistics": facets.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                    rowCount=batch.records
                ),
            },
        )
        landed = self._written(batch, flow.bronze.name, batch.records)
        yield from self._run(name, run, (started, batch.committed_at), [read], [landed], {"lakehouse_batch": ledger})
        parent = {
            "parent": facets.parent_run.ParentRunFacet(
                facets.parent_run.Run(run), facets.parent_run.Job(self._namespace, name)
            )
        }
        outputs = []
        if batch.valid:
            # A metric record is as many rows as it has samples.
            rows = None if contracts()[batch.topic].samples else batch.valid
            outputs.append(self._written(batch, flow.silver.name, rows))
        if batch.quarantined:
            outputs.append(self._written(batch, quarantine.TABLE.name, batch.quarantined))
        times = (started, batch.committed_at)
        if outputs:
            source = self._input(flow.bronze.name, version=batch.versions.get(flow.bronze.name))
            yield from self._run(f"{name}.silver", self._id(run, "silver"), times, [source], outputs, parent)
        if batch.gold:
            source = self._input(flow.silver.name, version=batch.versions.get(flow.silver.name))
            made = [self._output(table, version, rows) for table, (version, rows) in batch.gold.items()]
            yield from self._run(f"{name}.gold", self._id(run, "gold"), times, [source], made, parent)

    def fanned_out(self, batch: Batch, store: str, seen_at: datetime) -> Iterator[Event]:
        """A batch into a store, which was seen to hold it at ``seen_at``; nothing where it has no key of it."""
        changed = {table: version for table, (version, _) in batch.gold.items()}
        if batch.valid:
            changed[batch.flow.silver.name] = batch.versions[batch.flow.silver.name]
        keys = [key for key in STORES if key.store == store and key.table in changed]
        if keys:
            tables = dict.fromkeys(key.table for key in keys)
            yield from self._run(
                f"fan-out.{store}.{batch.topic}",
                self._id(batch.topic, batch.seq, store),
                (batch.committed_at, max(seen_at, batch.committed_at)),
                [self._input(table, version=changed[table]) for table in tables],
                [self._output(f"{key.store}:{key.name}", changed[key.table]) for key in keys],
            )

    def made(self, table: str, version: int, at: datetime, cut: Mapping[str, int], rows: int | None) -> Iterator[Event]:
        """What a model or an analysis wrote; ``cut`` holds the versions of tables that were committed before."""
        one = next(one for one in ANALYSES if one.table.name == table)
        inputs = [
            self._input(name, {"lakehouse_newestCut": NewestCut(cut[name])} if name in cut else {})
            for name in one.sources
        ]
        if one.model:
            inputs.append(self._input(model(one.model)))
        keys = [self._output(f"{key.store}:{key.name}") for key in one.stores]
        outputs = [self._output(table, version, rows), *keys]
        yield from self._run(graph().nodes[table].job, self._id(table, version), (at, at), inputs, outputs)

    def trained(self, name: str, version: str, data: Mapping[str, int], at: datetime) -> Iterator[Event]:
        """A model's version, and the versions of tables that it was trained on; told when it was decided upon."""
        inputs = [self._input(table, version=number) for table, number in sorted(data.items())]
        made = self._output(model(name), version)
        yield from self._run(f"train.{name}", self._id("train", name, version), (at, at), inputs, [made])

    def standing(self, at: datetime) -> Iterator[Event]:
        """What runs for ever beside the lake, the real-time processor and the collector: jobs without runs."""
        nodes = graph().nodes.values()
        jobs: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            if node.job in ("realtime", "collect"):
                jobs[node.job].append(node)
        for name, outputs in jobs.items():
            sources = dict.fromkeys(source for node in outputs for source in graph().sources(node.id))
            yield ol.JobEvent(
                eventTime=_iso(at),
                job=self._job(name, "STREAMING"),
                inputs=[self._input(source) for source in sources],
                outputs=[self._output(node.id) for node in outputs],
            )

    def _id(self, *parts: object) -> str:
        return str(uuid5(self._generation, "/".join(map(str, parts))))

    def _run(
        self,
        name: str,
        run: str,
        times: tuple[datetime, datetime],
        inputs: list[ol.InputDataset],
        outputs: list[ol.OutputDataset],
        more: Mapping[str, facets.RunFacet] | None = None,
    ) -> Iterator[Event]:
        """The two events that a run must have; all is told in the second."""
        known: dict[str, facets.RunFacet] = {"processing_engine": self._engine, **(more or {})}
        for state, at in zip((ol.RunState.START, ol.RunState.COMPLETE), times, strict=True):
            whole = state is ol.RunState.COMPLETE
            yield ol.RunEvent(
                eventTime=_iso(at),
                run=ol.Run(run, known),
                job=self._job(name),
                eventType=state,
                inputs=inputs if whole else [],
                outputs=outputs if whole else [],
            )

    def _job(self, name: str, processing: str = "BATCH") -> ol.Job:
        kind = facets.job_type_job.JobTypeJobFacet(processingType=processing, integration="LAKEHOUSE", jobType="JOB")
        return ol.Job(self._namespace, name, {"jobType": kind})

    def _input(
        self, node: str, more: Mapping[str, facets.InputDatasetFacet] | None = None, version: Any = None
    ) -> ol.InputDataset:
        return ol.InputDataset(*self._names.of(node), inputFacets=dict(more or {}), facets=self._facets(node, version))

    def _output(self, node: str, version: Any = None, rows: int | None = None) -> ol.OutputDataset:
        told: dict[str, Any] = self._facets(node, version)
        if lineage := self._columns(graph().nodes[node]):
            told["columnLineage"] = lineage
        statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        return ol.OutputDataset(
            *self._names.of(node), facets=told, outputFacets={} if rows is None else {"outputStatistics": statistics}
        )

    def _written(self, batch: Batch, table: str, rows: int | None) -> ol.OutputDataset:
        return self._output(table, batch.versions.get(table), rows)

    def _facets(self, node: str, version: Any) -> dict[str, Any]:
        """Columns, version, and how it is kept."""
        one = graph().nodes[node]
        found: dict[str, Any] = {}
        if one.schema is not None:
            found["schema"] = facets.schema_dataset.SchemaDatasetFacet(fields=[_field(f) for f in one.schema])
        if version is not None:
            found["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(str(version))
        if one.kind == "table":
            found["storage"] = facets.storage_dataset.StorageDatasetFacet("delta", "parquet")
        return found

    def _columns(self, node: Node) -> facets.column_lineage_dataset.ColumnLineageDatasetFacet | None:
        named = {name: [self._field(one) for one in sources] for name, sources in node.columns.items() if sources}
        if not named:
            return None
        kind = facets.column_lineage_dataset
        return kind.ColumnLineageDatasetFacet(
            fields={name: kind.Fields(inputFields=sources) for name, sources in named.items()},
            dataset=[self._field(one) for one in node.decided],
        )

    def _field(self, source: Source) -> Any:
        kind = facets.column_lineage_dataset
        how = kind.Transformation(
            type="DIRECT" if source.direct else "INDIRECT", subtype=source.how, description=source.what
        )
        return kind.InputField(*self._names.of(source.node), field=source.column, transformations=[how])


def _field(column: T.StructField) -> Any:
    kind = facets.schema_dataset.SchemaDatasetFacetFields
    inner = column.dataType.fields if isinstance(column.dataType, T.StructType) else []
    return kind(
        name=column.name,
        type="struct" if inner else column.dataType.simpleString(),
        fields=[_field(one) for one in inner],
    )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- what has happened ---------------------------------------------------------------------------------------------


def batches(lake: Lake, where: str, parameters: Sequence[Any], most: int = PAGE) -> list[Batch]:
    """Batches out of the ledger that meet a condition on (topic, seq, committed_at), by topic and seq, at most so many.

    Raises:
        LakeError: the ledger cannot be read.
    """
    rows = lake.query(
        f"""with found as (
              select topic, seq, list((partition, start_offset, end_offset) order by partition) as ranges,
                sum(records)::bigint as records, sum(valid)::bigint as valid, sum(quarantined)::bigint as quarantined,
                sum(duplicates)::bigint as duplicates, any_value(versions) as versions, any_value(engine) as engine,
                any_value(batch_ms) as batch_ms, max(committed_at) as committed_at
              from {LEDGER.name} where {where} group by topic, seq order by topic, seq limit {most})
            select * from found""",
        list(parameters),
    ).fetchall()
    if not rows:
        return []
    spans: dict[str, tuple[int, int]] = {}
    for row in rows:
        first, _ = spans.get(row[0], (row[1], row[1]))
        spans[row[0]] = (first, row[1])
    within = " or ".join(f"(topic = '{name}' and seq between {a} and {b})" for name, (a, b) in spans.items())
    gold: dict[tuple[str, int], dict[str, tuple[int, int | None]]] = defaultdict(dict)
    for name, seq, table, version, count in lake.query(
        f'select topic, seq, "table", max(version), count("key") from {CHANGES.name} where {within} '
        'group by topic, seq, "table" order by "table"'
    ).fetchall():
        gold[name, seq][table] = (version, count or None)
    return [
        Batch(
            name, seq, tuple(tuple(one) for one in ranges), records, valid, quarantined, duplicates,
            dict(versions or {}), engine or "", took or 0, at.astimezone(UTC), gold[name, seq],
        )
        for name, seq, ranges, records, valid, quarantined, duplicates, versions, engine, took, at in rows
    ]  # fmt: skip


Holds = Callable[[Batch], bool]


def holding(settings: Settings, cuts: Mapping[str, Cut], store: str) -> Holds:
    """Whether a store holds a batch of the cuts or of before, by its own progress.

    Raises:
        Exception: the store's own, where it does not answer.
    """
    from lakehouse import inspect

    progress = inspect.open_store(settings, store).progress()
    gaps = inspect.behind(inspect.targets(settings, cuts, store, progress), progress)

    def holds(batch: Batch) -> bool:
        ends = {partition: end for partition, _, end in batch.ranges}
        for gap in (gap for gap in gaps if gap.topic == batch.topic):
            if gap.seq is not None and batch.seq > gap.seq:
                return False
            if gap.offset is not None and ends.get(gap.partition or 0, 0) > gap.offset:
                return False
        return batch.topic in cuts and batch.seq <= cuts[batch.topic].seq

    return holds


def made_since(lake: Lake, table: str, version: int) -> list[tuple[int, datetime, int | None]]:
    """(version, time, rows written) of what changed a table's rows after a version, the oldest first."""
    handle = lake.table(table)
    if handle.version() <= version:
        return []
    found = []
    for entry in reversed(handle.history(handle.version() - version)):
        if entry.get("operation") in WRITES and entry["version"] > version:
            metrics = entry.get("operationMetrics") or {}
            rows = metrics.get("numOutputRows", metrics.get("num_output_rows", metrics.get("num_added_rows")))
            at = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
            found.append((entry["version"], at, None if rows is None else int(rows)))
    return found


def cut_before(lake: Lake, at: datetime) -> dict[str, int]:
    """The versions of tables in the newest cuts that were committed by a time."""
    rows = lake.query(
        f"select arg_max(versions, committed_at) from {LEDGER.name} where committed_at <= $1 group by topic", [at]
    ).fetchall()
    found: dict[str, int] = {}
    for (versions,) in rows:
        for name, version in (versions or {}).items():
            found[name] = max(version, found.get(name, 0))
    return found


def trainings(lake: Lake, since: datetime) -> list[tuple[datetime, str, str, dict[str, int]]]:
    """(time, model, version, versions of tables) of decisions on versions whose data are on record, oldest first."""
    rows = lake.query(
        f"select decided_at, model, version, data from {promotions.TABLE.name} "
        "where decided_at > $1 and cardinality(data) > 0 order by decided_at",
        [since],
    ).fetchall()
    return [
        (at.astimezone(UTC), name, version, {k: v for k, v in dict(data).items() if k in graph().nodes})
        for at, name, version, data in rows
    ]


def generation(lake: Lake) -> str:
    """The ledger's own id: another lake has another."""
    return str(lake.table(LEDGER.name).metadata().id)


def told(settings: Settings, since: datetime, until: datetime) -> Iterator[Event]:
    """Every event of a span of time once more, out of the tables; of stores, what they hold by now.

    Raises:
        LakeError: there are no tables, or they cannot be read.
    """
    lake = Lake(settings)
    teller, cuts = Teller(settings, generation(lake)), lake.cuts()
    now = datetime.now(UTC)
    yield from teller.standing(now)
    held = {}
    for store in settings.stream.stores:
        try:
            held[store] = holding(settings, cuts, store)
        except Exception as error:
            _log.warning("%s does not answer, its part is left out: %s", store, _line(error))
    for flow in FLOWS:
        seq, more = 0, True
        while more:
            where = "topic = $1 and seq > $2 and committed_at >= $3 and committed_at < $4"
            found = batches(lake, where, [flow.topic, seq, since, until])
            for batch in found:
                yield from teller.ingested(batch)
                for store, holds in held.items():
                    if holds(batch):
                        yield from teller.fanned_out(batch, store, now)
            more = len(found) == PAGE
            seq = found[-1].seq if found else 0
    for one in ANALYSES:
        for number, at, rows in made_since(lake, one.table.name, 0):
            if since <= at < until:
                yield from teller.made(one.table.name, number, at, cut_before(lake, at), rows)
    for at, name, version, data in trainings(lake, since):
        if at < until:
            yield from teller.trained(name, version, data, at)


# --- telling all the time ------------------------------------------------------------------------------------------

Send = Callable[[Event], None]


class NotTaken(Exception):
    """What takes the events does not answer; the message is its own."""


class Emitter:
    """Tells what is new, from where it was; ``home/lineage.json`` says where that is and how it went.

    Only what was sent is passed over: while nothing takes the events, they wait in the ledger. What is refused for
    what it says is counted and left out, as it would be refused for ever.
    """

    def __init__(self, settings: Settings, send: Send, models_every_s: float = MODELS_EVERY_S) -> None:
        self._settings, self._send, self._lake = settings, send, Lake(settings)
        self._models_every_s, self._models_at = models_every_s, float("-inf")
        self._path = settings.home / "lineage.json"
        self.state = read_state(settings) or {}
        self._away: set[str] = set()
        self._stood = False

    def round(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Tell up to a page of every kind; whether there is more already.

        Raises:
            NotTaken: see there.
            LakeError: the tables cannot be read.
        """
        try:
            ledger = generation(self._lake)
        except NoTableError:
            self._begin(None)
            return False
        if self.state.get("generation") != ledger:
            self._begin(ledger)
        teller, cuts, now = Teller(self._settings, ledger), self._lake.cuts(), datetime.now(UTC)
        if not self._stood:
            self._tell(teller.standing(now))
            self._stood = True
        newest = {flow.topic: cuts[flow.topic].seq if flow.topic in cuts else 0 for flow in FLOWS}
        stores = self._settings.stream.stores
        places = {
            name: {kind: self._mark(f"{kind}:{name}", cut) for kind in (INGEST, *stores)}
            for name, cut in newest.items()
        }
        lacking = [one for one in stores if any(marks[one] < newest[name] for name, marks in places.items())]
        holds = self._holds(cuts, lacking)
        more = False
        for flow in FLOWS:
            cut = newest[flow.topic]
            kinds = [INGEST, *holds]
            marks = {kind: places[flow.topic][kind] for kind in kinds}
            for mark in sorted({mark for mark in marks.values() if mark < cut}):
                found = batches(self._lake, "topic = $1 and seq > $2 and seq <= $3", [flow.topic, mark, cut])
                for kind in (kind for kind in kinds if marks[kind] == mark):
                    for batch in found:
                        if stop() or (kind != INGEST and not holds[kind](batch)):
                            break
                        events = teller.ingested(batch) if kind == INGEST else teller.fanned_out(batch, kind, now)
                        self._tell(events)
                        self._pass(f"{kind}:{flow.topic}", batch.seq)
                more |= len(found) == PAGE
        if time.monotonic() - self._models_at >= self._models_every_s:
            self._models(teller)
            self._models_at = time.monotonic()
        self._went(None)
        return more

    def _models(self, teller: Teller) -> None:
        for one in ANALYSES:
            name = one.table.name
            mark = self._mark(name, self._lake.table(name).version())
            for number, at, rows in made_since(self._lake, name, mark):
                self._tell(teller.made(name, number, at, cut_before(self._lake, at), rows))
                self._pass(name, number)
        mark = self._mark(promotions.TABLE.name, _micros(datetime.now(UTC)))
        for at, name, version, data in trainings(self._lake, datetime.fromtimestamp(mark / 1e6, UTC)):
            self._tell(teller.trained(name, version, data, at))
            self._pass(promotions.TABLE.name, _micros(at))

    def _holds(self, cuts: Mapping[str, Cut], stores: Iterable[str]) -> dict[str, Holds]:
        found: dict[str, Holds] = {}
        for store in stores:
            try:
                found[store] = holding(self._settings, cuts, store)
                self._away.discard(store)
            except Exception as error:  # each store has errors of its own; its events wait for it
                if store not in self._away:
                    _log.warning("%s does not answer, its events wait: %s", store, _line(error))
                    self._away.add(store)
        return found

    def _begin(self, ledger: str | None) -> None:
        """With a new lake at its first batch; with one that has been there longer at what is new now."""
        fresh: dict[str, Any] = {"generation": ledger, "marks": {}, "sent": 0, "refused": 0}
        if ledger is None:  # whatever comes will be told from its beginning
            fresh["new"] = True
        elif self.state.get("new"):
            fresh["marks"] = {f"{kind}:{flow.topic}": 0 for kind in (INGEST, *self._settings.stream.stores)
                              for flow in FLOWS}  # fmt: skip
        self.state = fresh

    def _mark(self, name: str, now: int) -> int:
        mark: int = self.state["marks"].setdefault(name, now)
        return mark

    def _pass(self, name: str, mark: int) -> None:
        self.state["marks"][name] = mark

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            try:
                self._send(event)
            except Exception as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status not in REFUSED:
                    self._went(error)
                    raise NotTaken(_line(error)) from None
                if not self.state["refused"]:
                    _log.warning("an event was refused and is left out (told once): %s", _line(error))
                self.state["refused"] += 1
            else:
                self.state["sent"] += 1

    def _went(self, error: Exception | None) -> None:
        """Keep how far it is and how it went."""
        now = _iso(datetime.now(UTC))
        since = (self.state.get("failing_since") or now) if error else None
        self.state |= {"at": now, "failing_since": since, "error": _line(error) if error else None}
        draft = self._path.with_suffix(".partial")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(orjson.dumps(self.state))
        draft.replace(self._path)


def read_state(settings: Settings) -> dict[str, Any] | None:
    """What an emitter of this home last said of itself; None where none has run."""
    try:
        return dict(orjson.loads((settings.home / "lineage.json").read_bytes()))
    except (OSError, ValueError):
        return None


def client() -> OpenLineageClient:
    """By OpenLineage's own configuration.

    Raises:
        Exception: the client's own, where the configuration is wrong.
    """
    return OpenLineageClient()


def watch(settings: Settings, stop: threading.Event) -> None:
    """Tell what is new until told to stop, whatever is away meanwhile."""
    # What goes wrong is told once, by us.
    for name in ("urllib3", "openlineage.client.transport.composite"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sending = client()
    emitter, pause, failing = Emitter(settings, sending.emit), PAUSE_S[0], False
    while not stop.is_set():
        wait = EVERY_S
        try:
            if emitter.round(stop.is_set):
                wait = 0.0
            if failing:
                _log.info("events are taken again")
            failing, pause = False, PAUSE_S[0]
        except Exception as error:  # the lake's, a store's, or NotTaken: all may be well again later
            if not failing:
                _log.warning("events wait in the ledger: %s", _line(error))
            failing, wait, pause = True, pause, min(2 * pause, PAUSE_S[1])
        stop.wait(wait)
    sending.close(5.0)


def as_json(event: Event) -> str:
    """An event as it is sent, on one line."""
    return Serde.to_json(event)


def _micros(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
