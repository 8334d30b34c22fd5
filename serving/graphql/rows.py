"""Tables as GraphQL has them: of each a type of its rows, filters by the columns' types, orders, and a connection.

All of it is made from the table's columns; only names and descriptions are written here. Connections are those of the
Relay Cursor Connections Specification, forward alone; their cursors are the sealed ones of REST.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any

import strawberry
from graphql import GraphQLResolveInfo, get_named_type
from graphql.execution.collect_fields import collect_sub_fields
from pyspark.sql import types as T
from strawberry.types.info import Info

from serving import steps
from serving.ask import OPERATORS, Ask, ask, of_one
from serving.auth import Scope
from serving.catalog import Readable, find
from serving.graphql.context import Context
from serving.graphql.scalars import JSON, Date, DateTime, Long
from serving.problems import Problem
from serving.reads import age_s
from serving.rest import columns
from serving.service import Page, now

QUERY_WEIGHT = 20
"""What a question to the lake weighs, in fields."""
_KINDS: dict[type[T.DataType], Any] = {
    T.StringType: str,
    T.LongType: Long,
    T.IntegerType: int,
    T.DoubleType: float,
    T.BooleanType: bool,
    T.DateType: Date,
    T.TimestampType: DateTime,
}


# --- filters ---------------------------------------------------------------------------------------------------------

MEANINGS = {
    "eq": "Equal.",
    "ne": "Not equal; what is null is not equal to anything.",
    "gt": "Greater.",
    "ge": "Greater or equal.",
    "lt": "Less.",
    "le": "Less or equal.",
    "in": "One of these, up to 200.",
    "contains": "Contains this text, as it is written.",
    "null": "Whether it is null.",
}
"""What operators mean."""


def _filter(kind: Any, name: str, said: str) -> type:
    annotations: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for operator in OPERATORS:
        if operator == "contains" and kind is not str:
            continue
        value = list[kind] if operator == "in" else bool if operator == "null" else kind
        annotations[f"{operator}_"] = value | None
        fields[f"{operator}_"] = strawberry.field(name=operator, description=MEANINGS[operator], default=None)
    made = type(f"{name}Filter", (), {"__annotations__": annotations, "__module__": __name__, **fields})
    return strawberry.input(made, description=f"Conditions on {said}, all of which hold.")


_FILTERS: dict[Any, type] = {
    str: _filter(str, "String", "a text"),
    Long: _filter(Long, "Long", "a whole number of 64 bits"),
    int: _filter(int, "Int", "a whole number"),
    float: _filter(float, "Float", "a number"),
    bool: _filter(bool, "Boolean", "a truth value"),
    Date: _filter(Date, "Date", "a date"),
    DateTime: _filter(DateTime, "DateTime", "a time"),
}
Words = tuple[str, str, str | Sequence[str]]


def words(value: Any) -> str:
    """A value as a condition of :func:`serving.ask.ask` has it.

    Raises:
        Problem: 422, it is none that can be compared.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        raise Problem(422, "invalid-request", "A value is not finite.")
    if isinstance(value, str | int | float):
        return str(value)
    raise Problem(422, "invalid-request", "A value is a text, a number or a truth value; in takes a list of them.")


def _conditions(given: Any, columns: Sequence[str]) -> Iterator[Words]:
    """What a filter's input says."""
    for column in columns:
        one = getattr(given, f"{column}_", None)  # arrays and maps cannot be compared
        for operator in OPERATORS if one is not None else ():
            value = getattr(one, f"{operator}_", None)
            if value is not None:
                listed = [words(each) for each in value] if operator == "in" else words(value)
                yield column, operator, listed


# --- connections -----------------------------------------------------------------------------------------------------


@strawberry.type(description="Where a page stands (Relay Cursor Connections Specification).")
class PageInfo:
    """Where a page stands."""

    has_next_page: bool = strawberry.field(description="Whether rows follow the last one.")
    has_previous_page: bool = strawberry.field(description="Whether the page was asked for by a cursor.")
    start_cursor: str | None = strawberry.field(description="Of the first row.")
    end_cursor: str | None = strawberry.field(description="Of the last row: `after` of the next page.")


class Edge:
    """A row and its cursor, which is sealed when it is asked for."""

    __slots__ = ("_at", "_rows", "node")

    def __init__(self, rows: Found, at: int, node: Any) -> None:
        self._rows, self._at, self.node = rows, at, node

    @property
    def cursor(self) -> str:
        """Of the row."""
        return self._rows.cursor(self._at)


class Found:
    """A page as a connection's fields."""

    def __init__(self, context: Context, question: Ask, page: Page, known: Mapping[str, Any]) -> None:
        self._context, self._question, self._page, self._known = context, question, page, known
        self._cursors: dict[int, str] = {}

    def cursor(self, at: int) -> str:
        """Of a row, sealed once: good for the same question whatever columns are selected."""
        if at not in self._cursors:
            service, caller = self._context.service, self._context.caller
            self._cursors[at] = service.cursor(caller, self._question, self._page, at)
        return self._cursors[at]

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """The rows."""
        rows = self._page.objects
        return [{**row, **self._known} for row in rows] if self._known else rows

    @property
    def edges(self) -> list[Edge]:
        """The rows with their cursors."""
        return [Edge(self, at, node) for at, node in enumerate(self.nodes)]

    @property
    def version(self) -> int:
        """Of the table."""
        return self._page.snapshot.version

    @property
    def at(self) -> Any:
        """When that was committed."""
        return self._page.snapshot.at

    @property
    def age_s(self) -> float:
        """Seconds since then."""
        return max(age_s(self._page.snapshot.at, now()), 0.0)

    @property
    def page_info(self) -> Found:
        """This page."""
        return self

    @property
    def has_next_page(self) -> bool:
        """Whether rows follow."""
        return self._page.next is not None

    @property
    def has_previous_page(self) -> bool:
        """Whether rows were before."""
        return self._question.after is not None or self._question.skip > 0

    @property
    def start_cursor(self) -> str | None:
        """Of the first row."""
        return self.cursor(0) if self._page.rows.num_rows else None

    @property
    def end_cursor(self) -> str | None:
        """Of the last row."""
        return self.cursor(self._page.rows.num_rows - 1) if self._page.rows.num_rows else None


def connection(node: Any, name: str, said: str, versioned: bool = True) -> type:
    """The type of a connection, and of its edges."""

    def made(suffix: str, description: str, fields: Mapping[str, tuple[Any, str]]) -> type:
        namespace: dict[str, Any] = {
            "__annotations__": {field: kind for field, (kind, _) in fields.items()},
            "__module__": __name__,
            **{field: strawberry.field(description=meaning) for field, (_, meaning) in fields.items()},
        }
        return strawberry.type(type(f"{name}{suffix}", (), namespace), description=description)

    edge = made(
        "Edge", f"A row and its cursor: {said}.", {"node": (node, "The row."), "cursor": (str, "Where the row stands.")}
    )
    fields: dict[str, tuple[Any, str]] = {
        "edges": (list[edge], "The rows with their cursors."),  # type: ignore[valid-type]
        "nodes": (list[node], "The rows alone."),
        "page_info": (PageInfo, "Where the page stands."),
    }
    if versioned:
        fields |= {
            "version": (Long, "Of the table; the pages that its cursors lead to are of the same."),
            "at": (DateTime, "When that version was committed."),
            "age_s": (float, "Seconds since then."),
        }
    return made("Connection", f"A page of {said}.", fields)


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """A table as GraphQL has it."""

    name: str
    node: type
    filter: type
    order: type[Enum]
    connection: type

    @property
    def table(self) -> Readable:
        """The table."""
        return find(self.name)


def rows(name: str, called: str, said: str) -> Rows:
    """The types of a table.

    Args:
        name: of the table, ``layer.name``.
        called: the type of one row.
        said: the rows, as descriptions name them.
    """
    table = find(name)
    key = set(table.table.key)
    kinds = {field.name: _kind(field.dataType) for field in table.table.schema}
    node: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    filters: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    orders: dict[str, Any] = {}
    for column, kind in kinds.items():
        meaning = columns.meaning(name, column)
        node["__annotations__"][column] = kind if column in key else kind | None
        node[column] = strawberry.field(description=meaning)
        if table.comparable(column):
            filters["__annotations__"][f"{column}_"] = _FILTERS[kind] | None
            filters[f"{column}_"] = strawberry.field(name=_camel(column), description=meaning, default=None)
            for suffix, sign, way in (("", "", "ascending"), ("_DESC", "-", "descending")):
                orders[column.upper() + suffix] = strawberry.enum_value(
                    f"{sign}{column}", description=f"By {_camel(column)}, {way}; nulls last."
                )
    row = strawberry.type(type(called, (), node), description=f"A row of `{name}`: {said}.")
    kind_of_order: Any = Enum(f"{called}Order", orders, module=__name__)  # type: ignore[misc]
    order = strawberry.enum(kind_of_order, description=f"What {said} are ordered by.")
    made = strawberry.input(
        type(f"{called}Filter", (), filters), description=f"Conditions on {said}, all of which hold."
    )
    return Rows(name, row, made, order, connection(row, called, said))


def _kind(kind: T.DataType) -> Any:
    if isinstance(kind, T.ArrayType) and type(kind.elementType) in _KINDS:
        return list[_KINDS[type(kind.elementType)]]  # type: ignore[misc]
    return _KINDS.get(type(kind), JSON)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


FIRST = 20
"""Rows of a page, where it is not said otherwise."""
First = Annotated[int, strawberry.argument(description="Rows of the page, 1 to 1,000; of some lists fewer.")]
After = Annotated[str | None, strawberry.argument(description="`endCursor` of the page before.")]
Since = Annotated[DateTime | None, strawberry.argument(name="from", description="The first time.")]
Until = Annotated[DateTime | None, strawberry.argument(name="to", description="The first time no longer wanted.")]
Version = Annotated[Long | None, strawberry.argument(description="Of the table, to travel back in time.")]
Step = Annotated[str | None, strawberry.argument(description=steps.MEANING)]


def field(rows: Rows, scope: Scope, said: str, of: str | None = None, first: int = FIRST) -> Any:
    """A field that holds a connection over a table.

    Args:
        rows: the table.
        scope: what is needed to ask.
        said: the description.
        of: a column, where only the rows are meant in which it is the parent's ``id``.
        first: rows of a page, where it is not said otherwise.
    """
    filter_argument = strawberry.argument(description="Conditions, all of which hold.")
    order_argument = strawberry.argument(description="The newest first by default; the key always comes last.")

    async def resolve(
        root: Any,
        info: Info[Context, None],
        first: int = first,
        after: str | None = None,
        filter: Any = None,
        order: Any = None,
        since: str | None = None,
        until: str | None = None,
        version: int | None = None,
        step: str | None = None,
    ) -> Any:
        context = info.context
        context.need(scope)

        def make() -> tuple[Ask, tuple[str, ...]]:
            conditions = list(_conditions(filter, rows.table.table.schema.names)) if filter else ()
            question = ask(
                rows.table, context.caller, conditions=conditions,
                order=",".join(each.value for each in order) if order else None,
                since=since, until=until, limit=first, version=version, step=step,
            )  # fmt: skip
            return question, selected(info._raw_info, rows.table, of)

        question, select = context.once(info._raw_info.field_nodes, make)
        if of is None:
            return await page(context, question, select, after)
        return await page_of(context, question, select, after, of, root.id)

    resolve.__annotations__ = {
        "info": Info,
        "first": First,
        "after": After,
        "filter": Annotated[rows.filter | None, filter_argument],
        "order": Annotated[list[rows.order] | None, order_argument],  # type: ignore[name-defined]
        "since": Since,
        "until": Until,
        "version": Version,
        "step": Step,
    }
    made = strawberry.field(
        resolver=resolve, graphql_type=rows.connection | None, description=f"{said} Needs the scope `{scope}`.",
        metadata={"weight": QUERY_WEIGHT, "sized": "first", "size": first},
    )  # fmt: skip
    if rows.table.name not in steps.FOLDS:
        made.arguments = [argument for argument in made.arguments if argument.python_name != "step"]
    return made


async def page(
    context: Context,
    question: Ask,
    select: tuple[str, ...],
    after: str | None,
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Found:
    """A page of a question, of some columns; its cursors are good for any. ``known`` is the same in every row."""
    whole = context.service.resume(question, context.caller, after)
    about_user = any(column in question.table.personal for column in known)
    found = await context.service.page(context.caller, replace(whole, select=select), recorded=not about_user)
    if about_user and found.rows.num_rows:
        context.loaders.record("user activity", [str(value) for value in known.values()])
    return Found(context, whole, found, known)


async def page_of(
    context: Context, question: Ask, select: tuple[str, ...], after: str | None, column: str, value: str
) -> Found:
    """The same of the rows of one parent; first pages of several parents are read together."""
    whole = of_one(question, column, value)
    if after is not None:
        return await page(context, whole, select, after, {column: value})
    found = await context.loaders.page(replace(question, select=select), column, value)
    return Found(context, whole, found, {column: value})


def selected(info: GraphQLResolveInfo, table: Readable, known: str | None = None) -> tuple[str, ...]:
    """The columns that an operation wants of a connection's nodes; neither read what it does not want nor is known."""
    wanted: dict[str, None] = {}

    def look(kind: Any, nodes: Any, path: tuple[str, ...]) -> None:
        fields = collect_sub_fields(info.schema, info.fragments, info.variable_values, kind, nodes)
        for found in fields.values():
            name = found[0].name.value
            definition = kind.fields.get(name)
            if definition is None:
                continue  # __typename
            if not path:
                wanted[definition.extensions["strawberry-definition"].python_name] = None
            elif name == path[0]:
                look(get_named_type(definition.type), found, path[1:])

    kind = get_named_type(info.return_type)
    look(kind, info.field_nodes, ("edges", "node"))
    look(kind, info.field_nodes, ("nodes",))
    found = tuple(column for column in table.table.schema.names if column in wanted and column != known)
    # Something has to be read where only the page's place is wanted: what is nobody's.
    return found or next(((name,) for name in table.table.schema.names if name not in table.personal), ())
