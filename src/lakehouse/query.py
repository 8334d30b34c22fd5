"""SQL over the lake for people and scripts: DuckDB over delta-rs by default, Spark where a query needs it.

The map (``flows.py``) and with it Spark's Python is loaded only to explain an error: importing it takes longer than
answering.
"""

from __future__ import annotations

import base64
import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TextIO

import duckdb
import orjson
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from lakehouse.settings import Settings
from lakehouse.sources.datasets import pruned_dataset

_NAME = re.compile(r"\b(bronze|silver|gold|ops|_internal|mongodb|elasticsearch)\s*\.\s*[\"`]?(\w+)", re.IGNORECASE)
_NO_COLUMN = re.compile(r"(?:Referenced column|a column named|function parameter with name) [\"`]?(\w+)")
_NO_TABLE = re.compile(r"(?:Table with name|table or view) [\"`]?([\w.`]+)")


class QueryError(Exception):
    """The query cannot be answered; one line that says why and, for a misspelt name, which one is nearest."""


class Answer(NamedTuple):
    """A query's columns and rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def query(settings: Settings, sql: str, parameters: Sequence[Any] = ()) -> Answer:
    """Answer one read-only statement over ``bronze.*``, ``silver.*``, ``gold.*`` and ``ops.*`` in milliseconds.

    Raises:
        QueryError: it is not one SELECT, or names something that is not there.
        LakeError: a table cannot be read.
    """
    with executed(settings, sql, parameters) as found:
        return Answer([column[0] for column in found.description or []], found.fetchall())


@contextmanager
def executed(
    settings: Settings, sql: str, parameters: Sequence[Any] = (), versions: Mapping[str, int] | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same, to be fetched in whatever form; ``versions``: table -> the version that is read of it [the newest].

    Raises:
        QueryError: it is not one SELECT, or names something that is not there.
        LakeError: a table, or its version, cannot be read.
    """
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        try:
            statements = connection.extract_statements(sql)
            if [statement.type.name for statement in statements] not in (["SELECT"], ["EXPLAIN"]):
                raise QueryError("one SELECT at a time: tables are written by the stream and the jobs alone")
            with ThreadPoolExecutor(8) as pool:
                names = named(sql)
                opened = list(pool.map(lambda name: _open(settings, name, (versions or {}).get(name)), names))
            for name, table in zip(names, opened, strict=True):
                if table is not None:
                    layer, _, short = name.partition(".")
                    connection.register(f"__{layer}_{short}", pruned_dataset(table))
                    connection.execute(f'create schema if not exists "{layer}"')
                    connection.execute(f'create view "{layer}"."{short}" as select * from "__{layer}_{short}"')
            yield connection.execute(sql, list(parameters))
        except duckdb.Error as error:
            raise QueryError(explain(str(error), sql)) from None


def rows(settings: Settings, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The answer of :func:`query` as one object a row."""
    answer = query(settings, sql, parameters)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _open(settings: Settings, name: str, version: int | None = None) -> DeltaTable | None:
    """A table, or None where there is none: what looks like a table's name may be an alias and its column."""
    try:
        return DeltaTable(settings.table_uri(name), version=version)
    except TableNotFoundError:
        return None
    except Exception:
        from lakehouse.sources.lake import Lake

        return Lake(settings).table(name, version)  # raises the error that says what to do


def query_spark(settings: Settings, sql: str, searches: Mapping[str, str] | None = None) -> Answer:
    """The same with Spark, under the same names, and over ``mongodb.*`` and ``elasticsearch.*``, too.

    Slow to start, no bounds in memory. ``searches``: ``elasticsearch.<index>`` -> what is searched in it, in the query
    language of Elasticsearch, for the query to see nothing else of that index.

    Raises:
        QueryError: it is not one SELECT, names something that is not there, or failed while it ran.
        LakeError: a table cannot be read.
        StoreError: a store does not answer.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    from lakehouse.session import spark_session
    from lakehouse.sources.analysis import register

    spark = spark_session(settings, "sql")
    register(spark, settings, named(sql), searches)
    try:
        frame = spark.sql(f"select * from ({sql.strip().rstrip(';')}\n)")  # a sub-query can only read
        rows = [tuple(_plain(value) for value in row) for row in frame.collect()]
    except PySparkException as error:
        raise QueryError(explain(str(error).partition("JVM stacktrace")[0], sql)) from None
    except Py4JJavaError as error:  # a connector's own, which names its store
        message = str(error.java_exception.toString())
        raise QueryError(explain(re.sub(r"^.*executor \w+\): ", "", message), sql)) from None
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


def named(sql: str) -> list[str]:
    """What a query names in the form ``layer.name``, literals and comments aside."""
    code = re.sub(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", " ", sql, flags=re.S)
    return sorted({f"{layer}.{table}".lower() for layer, table in _NAME.findall(code)})


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f": did you mean {near[0]}?" if near else ""


def explain(message: str, sql: str) -> str:
    """An engine's error as one line; a misspelt table or column gets the nearest name there is."""
    from lakehouse.flows import TABLES
    from lakehouse.sources.analysis import NAMES, SHAPES

    names = named(sql)
    for name in names:  # Spark takes what comes before the dot for a source that it knows
        if name not in NAMES and f"direct query on files: {name.partition('.')[0]}" in message:
            message = f"table or view {name}"
    if match := _NO_COLUMN.search(message):
        columns = {column for name in names if name in TABLES for column in TABLES[name].schema.names}
        columns |= {column for name in names if name in NAMES for column in SHAPES[NAMES[name]].names}
        return f"no column {match[1]}{_nearest(match[1], columns)}"
    if match := _NO_TABLE.search(message):
        wanted = match[1].replace("`", "").strip(".").removeprefix("spark_catalog.")
        # DuckDB leaves the schema out.
        name = next((n for n in names if n == wanted or n.endswith(f".{wanted}")), wanted)
        if name in TABLES:
            return f"{name} is not there yet; `lakehouse up` creates all tables"
        if name in NAMES:
            return f"{name} is in a store, which Spark alone reads: `lakehouse sql --engine spark`"
        return f"no table {name}{_nearest(name, [*TABLES, *NAMES]) or ';'} `lakehouse tables` lists them"
    return next((line.strip() for line in message.splitlines() if line.strip()), "the query failed")


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
