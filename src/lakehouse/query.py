"""SQL over the lake for people and scripts: DuckDB over delta-rs by default, Spark where a query needs it."""

from __future__ import annotations

import base64
import csv
import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TextIO

import duckdb
import orjson

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake

_NAME = re.compile(r"\b(bronze|silver|gold|ops|_internal)\s*\.\s*\"?(\w+)\"?", re.IGNORECASE)
_READS = {"SELECT", "EXPLAIN"}


class QueryError(Exception):
    """The query cannot be answered; one line that says why and, for a misspelt name, which one is nearest."""


class Answer(NamedTuple):
    """A query's columns and rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def query(settings: Settings, sql: str) -> Answer:
    """Answer one read-only statement over ``bronze.*``, ``silver.*``, ``gold.*`` and ``ops.*`` in milliseconds.

    Raises:
        QueryError: it is not one SELECT, or names something that is not there.
        LakeError: a table cannot be read.
    """
    named = _named(sql)
    try:
        statements = duckdb.connect().extract_statements(sql)
        if len(statements) != 1 or statements[0].type.name not in _READS:
            raise QueryError("one SELECT at a time, please: tables are written by the stream and the jobs alone")
        found = Lake(settings).query(sql)
        return Answer([column[0] for column in found.description or []], found.fetchall())
    except duckdb.Error as error:
        raise QueryError(explain(str(error), named)) from None


def query_spark(settings: Settings, sql: str) -> Answer:
    """The same with Spark, under the same names; slow to start, no bounds in memory.

    Raises:
        QueryError: it is not one SELECT, or names something that is not there.
    """
    from pyspark.errors import PySparkException

    from lakehouse.session import spark_session

    named = _named(sql)
    spark = spark_session(settings, "sql")
    for name in named:
        layer = name.partition(".")[0]
        spark.sql(f"create database if not exists {layer}")
        spark.sql(f"create table if not exists {name} using delta location '{settings.table_uri(name)}'")
    try:
        frame = spark.sql(f"select * from ({sql.strip().rstrip(';')}\n)")  # a sub-query can only read
        rows = [tuple(_plain(value) for value in row) for row in frame.collect()]
    except PySparkException as error:
        raise QueryError(explain(str(error).partition("JVM stacktrace")[0], named)) from None
    return Answer(frame.columns, rows)


def _plain(value: Any) -> Any:
    """A Spark value as DuckDB would give it: rows as objects, times with their zone, which is UTC."""
    if hasattr(value, "asDict"):
        return {name: _plain(v) for name, v in value.asDict().items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _named(sql: str) -> list[str]:
    """The tables that a query names.

    Raises:
        QueryError: one of them is not a table of the lake; names the nearest.
    """
    names = sorted({f"{layer}.{table}".lower() for layer, table in _NAME.findall(_without_text(sql))})
    for name in names:
        # An alias or a column may look like layer.table, but only where the layer's name is an alias.
        if name not in TABLES and not re.search(
            rf"\b(as\s+)?{name.partition('.')[0]}\s*(,|\bon\b|\bwhere\b|$)", sql, re.I
        ):
            raise QueryError(f"no table {name}{_nearest(name, TABLES)}; `lakehouse tables` lists them")
    return [name for name in names if name in TABLES]


def _without_text(sql: str) -> str:
    """SQL without comments and string literals."""
    return re.sub(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", " ", sql, flags=re.S)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f": did you mean {near[0]}?" if near else ""


def explain(message: str, tables: Sequence[str]) -> str:
    """An engine's error as one line; a misspelt table or column gets the nearest name of the tables in the query."""
    if match := re.search(
        r"(?:Referenced column|does not have a column named|column, variable, or function parameter with name) \"?`?(\w+)",
        message,
    ):
        columns = {column for name in tables for column in TABLES[name].schema.names}
        return f"no column {match[1]}{_nearest(match[1], columns)}"
    if match := re.search(r"(?:Table with name|table or view) \"?`?([\w.`]+)", message):
        name = match[1].replace("`", "").rstrip(".")
        return f"no table {name}{_nearest(name, TABLES)}; `lakehouse tables` lists them"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:1]) or "the query failed"


def _value(value: Any) -> Any:
    """What JSON has no type for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)


def to_json(answer: Answer) -> bytes:
    """An array of row objects: times RFC 3339 in UTC, dates ISO, bytes base64, maps objects, NaN and infinity null."""
    objects = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    return dumps(objects)


def dumps(value: Any, indent: bool = False) -> bytes:
    """A value as JSON by the rules of :func:`to_json`."""
    options = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, default=_value, option=options)


def text(value: Any) -> str:
    """A value for a cell of CSV or of a terminal's table: null is empty, objects and arrays are JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    found = dumps(value).decode()
    return found[1:-1] if found.startswith('"') else found


def write_csv(answer: Answer, out: TextIO) -> None:
    """CSV (RFC 4180) with a header; values as in JSON, null as nothing."""
    writer = csv.writer(out)
    writer.writerow(answer.columns)
    writer.writerows([text(value) for value in row] for row in answer.rows)
