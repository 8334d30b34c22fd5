"""What is made from what: the map (``flows.py``) as a graph of topics, tables, models and store keys, by column, too.

Nothing is said a second time here. Bronze follows Kafka's record, silver its contract, gold the very SQL that it is
recomputed with, which DuckDB parses; a store that mirrors a table has its columns. Where no declaration says which
column is made from which, as of what models make, tables alone are known.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import duckdb
from pyspark.sql import types as T

from lakehouse.bronze.landed import COLUMNS as LANDED
from lakehouse.contracts import contracts
from lakehouse.erasure.table import ERASED
from lakehouse.flows import ANALYSES, FLOWS, INGEST, LIVE, STORES, TABLES, Flow
from lakehouse.gold import trending_posts
from lakehouse.ops import access_log, promotions
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.silver import quarantine
from lakehouse.silver.user_events import PROVENANCE
from lakehouse.tables import Table

Kind = Literal["topic", "table", "model", "store"]
Stage = Literal["topic", "bronze", "silver", "gold", "model", "made", "store"]
STAGES: tuple[Stage, ...] = ("topic", "bronze", "silver", "gold", "model", "made", "store")
"""In the order of the flow: every edge leads to a later one. ``made``: what models and the platform itself write."""


class LineageError(Exception):
    """There is no such table, topic, model or store key; the message names the nearest."""


@dataclass(frozen=True)
class Source:
    """A column that another is made from, and how, in OpenLineage's words.

    ``how`` is IDENTITY, TRANSFORMATION or AGGREGATION of its values (direct), or what they decide alone (indirect):
    CONDITIONAL, FILTER, GROUP_BY, WINDOW.
    """

    node: str
    column: str
    how: str
    what: str | None = None

    @property
    def direct(self) -> bool:
        """Whether the values themselves go in."""
        return self.how in _DIRECT


_DIRECT = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")
Columns = dict[str, tuple[Source, ...]]
"""A column, and what it is made from."""


@dataclass(frozen=True)
class Node:
    """A topic, a table (``layer.name``), a model (``mlflow:name``) or a store's key (``store:name``).

    ``columns`` maps a column to what it is made from, empty where that is not known; ``decided`` are the columns that
    decide which rows there are and how they are grouped. ``job`` is what writes it.
    """

    id: str
    kind: Kind
    stage: Stage
    job: str
    schema: T.StructType | None = None
    columns: Columns = field(default_factory=dict)
    decided: tuple[Source, ...] = ()

    @property
    def system(self) -> str:
        """What holds it: kafka, delta, mlflow, mongodb, redis or elasticsearch."""
        return "delta" if self.kind == "table" else self.id.partition(":")[0]

    @property
    def name(self) -> str:
        """Its name there."""
        return self.id if self.kind == "table" else self.id.partition(":")[2]


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of the flow, and (from, to) of each edge."""

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]

    @cached_property
    def _next(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        up: dict[str, list[str]] = defaultdict(list)
        down: dict[str, list[str]] = defaultdict(list)
        for source, target in self.edges:
            up[target].append(source)
            down[source].append(target)
        return up, down

    def find(self, name: str) -> Node:
        """A node by its id, or by its bare name where only one has it.

        Raises:
            LineageError: there is none, or there are several.
        """
        if name in self.nodes:
            return self.nodes[name]
        named = [node for node in self.nodes.values() if name in (node.name, node.name.rpartition(".")[2])]
        if len(named) == 1:
            return named[0]
        if named:
            raise LineageError(f"{name} may be {' or '.join(node.id for node in named)}: say which")
        import difflib

        near = difflib.get_close_matches(name, self.nodes, 1, 0.4)
        hint = f", did you mean {near[0]}?" if near else ""
        raise LineageError(f"there is no table, topic, model or store key {name!r}{hint} `lakehouse lineage` lists all")

    def sources(self, node: str) -> list[str]:
        """What it is made from, at one remove."""
        return self._next[0].get(node, [])

    def upstream(self, node: str) -> list[str]:
        """All that it is made from, in the order of the flow."""
        return self._reached(node, self._next[0])

    def downstream(self, node: str) -> list[str]:
        """All that is made from it, in the order of the flow."""
        return self._reached(node, self._next[1])

    def _reached(self, node: str, step: Mapping[str, list[str]]) -> list[str]:
        found, open_ = set(), [node]
        while open_:
            for one in step.get(open_.pop(), ()):
                if one not in found:
                    found.add(one)
                    open_.append(one)
        return [one for one in self.nodes if one in found]


def topic(name: str) -> str:
    """The node of a topic."""
    return f"kafka:{name}"


def model(name: str) -> str:
    """The node of a registered model."""
    return f"mlflow:{name}"


@cache
def graph() -> Graph:
    """The platform's graph."""
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], None] = {}

    def add(node: Node, sources: Iterable[str]) -> None:
        nodes[node.id] = node
        edges.update(dict.fromkeys((source, node.id) for source in sources))

    record = T.StructType(LANDED.fields[:-2])
    for flow in FLOWS:
        add(Node(topic(flow.topic), "topic", "topic", "sources", record), ())
    for flow in FLOWS:
        bronze, silver = flow.bronze, flow.silver
        source, name = topic(flow.topic), f"{INGEST}.{flow.topic}"
        add(Node(bronze.name, "table", "bronze", name, bronze.schema, _landed(source)), [source])
        judged = (Source(bronze.name, "value", "FILTER", "valid by the contract"),)
        add(Node(silver.name, "table", "silver", name, silver.schema, _parsed(flow), judged), [bronze.name])
    refused = quarantine.TABLE
    bronzes = [flow.bronze.name for flow in FLOWS]
    add(_table(refused, "silver", INGEST, _refused(bronzes)), bronzes)
    for flow in FLOWS:
        name = f"{INGEST}.{flow.topic}"
        for aggregate in flow.gold:
            columns, decided = derived(aggregate.sql("source", "duckdb"), aggregate.source)
            add(_table(aggregate.table, "gold", name, columns, decided), [aggregate.source])
        for snapshot in flow.snapshots:
            sql = trending_posts.sql("source", "(select date_trunc('minute', max(timestamp)) from source)", "duckdb")
            columns, decided = derived(sql, flow.silver.name)
            add(_table(snapshot, "gold", name, columns, decided), [flow.silver.name])
    for analysis in ANALYSES:
        if analysis.model:
            add(Node(model(analysis.model), "model", "model", f"train.{analysis.model}"), analysis.sources)
    for analysis in ANALYSES:
        made_by = f"score.{analysis.model}" if analysis.model else "insights"
        made_from = [model(analysis.model)] if analysis.model else analysis.sources
        add(_table(analysis.table, "made", made_by), made_from)
    mirrored = [name for flow in FLOWS for name in (table.name for table in flow.gold_tables)]
    add(_table(CHANGES, "made", INGEST), mirrored)
    add(_table(LEDGER, "made", INGEST), [topic(flow.topic) for flow in FLOWS])
    add(_table(promotions.TABLE, "made", "promote"), [model(a.model) for a in ANALYSES if a.model])
    add(_table(access_log.TABLE, "made", "serve"), ())
    add(_table(ERASED, "made", "erase"), ())
    for key in STORES:
        _mirror(add, f"{key.store}:{key.name}", TABLES[key.table], f"fan-out.{key.store}")
    for analysis in ANALYSES:
        for key in analysis.stores:
            made_by = f"score.{analysis.model}"
            _mirror(add, f"{key.store}:{key.name}", TABLES[key.table], made_by, whole=key.store == "elasticsearch")
    for live in LIVE:
        sources = [*map(topic, live.topics), *([model(live.model)] if live.model else [])]
        add(Node(f"{live.store}:{live.name}", "store", "store", live.writer), sources)
    return Graph(nodes, tuple(edges))


def _table(
    table: Table,
    stage: Stage,
    job: str,
    columns: Columns | None = None,
    decided: tuple[Source, ...] = (),
) -> Node:
    return Node(table.name, "table", stage, job, table.schema, columns or {}, decided)


def _mirror(add: Any, name: str, table: Table, job: str, whole: bool = True) -> None:
    """A store key with the columns of a gold table; documents of silver have another shape, which nobody declares."""
    whole &= table.name.startswith("gold.")
    columns: Columns = {column: (Source(table.name, column, "IDENTITY"),) for column in table.schema.names}
    columns = columns if whole else {}
    add(Node(name, "store", "store", job, table.schema if whole else None, columns), [table.name])


def _landed(source: str) -> Columns:
    """Kafka's own fields, and the day, which is of the time; an erasure is of nothing."""
    *own, day, erased_at = LANDED.names
    found: Columns = {name: (Source(source, name, "IDENTITY"),) for name in own}
    return found | {day: (Source(source, "timestamp", "TRANSFORMATION"),), erased_at: ()}


def _parsed(flow: Flow) -> Columns:
    """Silver by its contract: a field's place in the record's JSON; what else there is comes from all of it."""
    fields = contracts()[flow.topic].fields
    paths = {one.column: f"$.{one.name}" if one.name.isidentifier() else f"$['{one.name}']" for one in fields}
    parsed = set(flow.parse.shape.names)
    found: Columns = {}
    for name in flow.silver.schema.names:
        own = name in PROVENANCE.names and name not in parsed
        one = (name, "IDENTITY", None) if own else ("value", "TRANSFORMATION", paths.get(name))
        found[name] = (Source(flow.bronze.name, *one),)
    return found


def _refused(bronzes: Iterable[str]) -> Columns:
    found: Columns = {
        name: tuple(Source(bronze, name, "IDENTITY") for bronze in bronzes)
        for name in quarantine.TABLE.schema.names
        if name in LANDED.names
    }
    return found | {"reasons": tuple(Source(bronze, "value", "TRANSFORMATION") for bronze in bronzes)}


# --- for readers ---------------------------------------------------------------------------------------------------


def described(node: Node) -> dict[str, Any]:
    """A node in plain values."""
    return {"id": node.id, "kind": node.kind, "stage": node.stage, "system": node.system, "name": node.name,
            "job": node.job}  # fmt: skip


def whole(node: Node) -> dict[str, Any]:
    """A node with its way up and down, and every column with what it is made from."""
    found = graph()
    return {
        **described(node),
        "sources": found.sources(node.id),
        "upstream": found.upstream(node.id),
        "downstream": found.downstream(node.id),
        "columns": [
            {
                "name": column.name,
                "type": column.dataType.simpleString(),
                "sources": [_said(one) for one in node.columns.get(column.name, ())],
            }
            for column in node.schema or ()
        ],
        "decided_by": [_said(one) for one in node.decided],
    }


def _said(source: Source) -> dict[str, Any]:
    return {"id": source.node, "column": source.column, "how": source.how, "what": source.what}


# --- columns of SQL ------------------------------------------------------------------------------------------------

_Ref = tuple[str, str]
"""A column of the source, and how it goes in."""
_STRENGTH = (*_DIRECT, "CONDITIONAL", "WINDOW")
_AGGREGATES = frozenset({"sum", "count", "count_star", "min", "max", "avg", "quantile_cont"})


def derived(sql: str, source: str) -> tuple[Columns, tuple[Source, ...]]:
    """One SELECT over the relation ``source`` -> what each of its columns is made from, and what decides on rows.

    Columns of ``source`` are named with their path (``service.name``). Subqueries are followed.
    """
    with duckdb.connect() as connection:
        (text,) = connection.execute("select json_serialize_sql($1::varchar)", [sql]).fetchall()[0]
    tree = json.loads(text)
    if tree["error"]:
        raise ValueError(f"{source}: not parsed: {tree.get('error_message')}")
    columns, decided = _select(tree["statements"][0]["node"])
    return (
        {name: tuple(Source(source, column, how) for column, how in refs) for name, refs in columns.items()},
        tuple(Source(source, column, how) for column, how in decided),
    )


def _select(node: Mapping[str, Any]) -> tuple[dict[str, list[_Ref]], list[_Ref]]:
    """The columns of a SELECT by what they are of the innermost relation, and its conditions and groups."""
    inner: dict[str, list[_Ref]] | None = None
    decided: list[_Ref] = []
    if node["from_table"]["type"] == "SUBQUERY":
        inner, decided = _select(node["from_table"]["subquery"]["node"])

    def of(refs: Iterable[_Ref]) -> list[_Ref]:
        """References to this SELECT's relation as those to the innermost one."""
        found: dict[str, str] = {}
        for column, how in refs:
            for base, below in [(column, "IDENTITY")] if inner is None else inner.get(column, []):
                found[base] = _chief(_max(how, below), found.get(base))
        return [*found.items()]

    outs = {_name(one, place): one for place, one in enumerate(node["select_list"])}
    columns = {name: of(_refs(one, outer=inner is not None)) for name, one in outs.items()}
    named = [*outs]
    groups = [_group(one, named) for one in node["group_expressions"]]
    for one in groups:
        refs = columns[one] if isinstance(one, str) else of(_refs(one))
        decided += [(column, "GROUP_BY") for column, _ in refs]
    if node["where_clause"]:
        decided += [(column, "FILTER") for column, _ in of(_refs(node["where_clause"]))]
    return columns, [*dict.fromkeys(decided)]


def _name(expression: Mapping[str, Any], place: int) -> str:
    name: str = expression["alias"] or expression.get("column_names", [str(place)])[-1]
    return name


def _group(expression: Mapping[str, Any], columns: list[str]) -> str | Mapping[str, Any]:
    """A group by its number or name is a column that is selected."""
    if expression["class"] == "CONSTANT":
        return columns[int(expression["literal"]["text"]) - 1]
    return expression


def _refs(node: Any, how: str = "IDENTITY", outer: bool = False) -> Iterator[_Ref]:
    """Every column that an expression refers to, by how it goes in; ``outer``: a cast there only names the type."""
    if isinstance(node, list):
        for one in node:
            yield from _refs(one, how)
        return
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind == "COLUMN_REF":
        yield ".".join(node["column_names"]), how
        return
    if kind == "CONSTANT":
        return
    if kind == "SUBQUERY":
        columns, _ = _select(node["subquery"]["node"])
        for refs in columns.values():
            yield from ((column, _max(how, of)) for column, of in refs)
        return
    if kind == "CASE":
        for check in node["case_checks"]:
            yield from ((column, "CONDITIONAL") for column, _ in _refs(check["when_expr"]))
            yield from _refs(check["then_expr"], _max(how, "TRANSFORMATION"))
        yield from _refs(node["else_expr"], _max(how, "TRANSFORMATION"))
        return
    if kind == "WINDOW":
        yield from ((column, "WINDOW") for column, _ in _refs([node["partitions"], node["orders"]]))
        yield from _refs(node["arguments"], _max(how, "AGGREGATION"))
        return
    if kind == "FUNCTION":
        how = _max(how, "AGGREGATION" if node["function_name"] in _AGGREGATES else "TRANSFORMATION")
    elif kind is not None and not (kind == "CAST" and outer):
        how = _max(how, "TRANSFORMATION")
    for one in node.values():
        yield from _refs(one, how)


def _max(one: str, other: str) -> str:
    """Of two steps on one way, what makes the whole."""
    return max(one, other, key=_STRENGTH.index)


def _chief(one: str, other: str | None) -> str:
    """Of two ways into one column: a value that goes in says more than that it decides, too."""
    if other is None or (one in _DIRECT) != (other in _DIRECT):
        return one if other is None or one in _DIRECT else other
    return _max(one, other)
