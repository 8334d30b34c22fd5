"""Reading the lake without Spark: delta-rs opens tables, DuckDB answers SQL over them, in milliseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from pyarrow import dataset

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from lakehouse.sources.datasets import pruned_dataset, within

LAYERS = ("bronze", "silver", "gold", "ops")
_NAME = re.compile(r"\b(bronze|silver|gold|ops|_internal)\s*\.\s*\"?([a-z_]+)\"?", re.IGNORECASE)


OPENS_WITHIN = 20.0
"""Seconds after which opening a table is tried once more."""


class LakeError(Exception):
    """A table or version is not there; the message says what to do."""


class NoTableError(LakeError):
    """There is no table of that name."""


@dataclass(frozen=True)
class Cut:
    """What readers may rely on for one topic: everything before ``ends`` is in the tables at ``versions``."""

    topic: str
    seq: int
    ends: dict[int, int]
    versions: dict[str, int]
    committed_at: datetime
    starts: dict[int, int] = field(default_factory=dict)
    """What lies before these offsets was deleted, as its contract's retention was over."""
    sealed: datetime | None = None
    """Gold's windows before this time stay as they are: some of their records were deleted."""


class Lake:
    """The tables under one root, for readers. Each call sees the newest version unless one is named."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def table(self, name: str, version: int | None = None) -> DeltaTable:
        """A table at a version.

        Raises:
            LakeError: there is no such table, or the version is no longer (or not yet) there.
        """
        uri = self.settings.table_uri(name)
        try:
            return within(OPENS_WITHIN, lambda: DeltaTable(uri, version=version))
        except TableNotFoundError:
            if version is not None and DeltaTable.is_deltatable(uri):
                raise LakeError(
                    f"{name}: version {version} is no longer there: it is older than what is promised, or was ended by "
                    "an erasure"
                ) from None
            raise NoTableError(
                f"{name}: no such table under {self.settings.root}; `lakehouse up` creates all tables"
            ) from None
        except Exception as error:
            # delta-rs has no type of its own for a version that is gone or storage that is away.
            what = f"{name}: version {version} is not readable" if version is not None else f"{name}: not readable"
            raise LakeError(f"{what} ({str(error).splitlines()[0][:200]}); see `lakehouse status`") from None

    def dataset(self, name: str, version: int | None = None) -> dataset.Dataset:
        """A table's rows as an Arrow dataset; file statistics prune what a filter can't match."""
        return pruned_dataset(self.table(name, version))

    def connect(self, *names: str, versions: dict[str, int] | None = None) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection, time zone UTC, in which each named table is a view ``layer.name``."""
        connection = duckdb.connect()
        connection.execute("set TimeZone = 'UTC'")
        for name in names:
            layer, _, table = name.partition(".")
            connection.execute(f'create schema if not exists "{layer}"')
            connection.register(f"__{layer}_{table}", self.dataset(name, (versions or {}).get(name)))
            connection.execute(f'create view "{layer}"."{table}" as select * from "__{layer}_{table}"')
        return connection

    def query(self, sql: str, parameters: list[Any] | None = None) -> duckdb.DuckDBPyConnection:
        """Run SQL over the tables that it names; the result is fetched from what is returned."""
        named = {f"{layer.lower()}.{table.lower()}" for layer, table in _NAME.findall(sql)}
        return self.connect(*sorted(named & set(TABLES))).execute(sql, parameters)

    def cuts(self, version: int | None = None) -> dict[str, Cut]:
        """The newest cut of every topic that has one, as the ledger says it now or said at a version of it."""
        at = {} if version is None else {"ops.ledger": version}
        connection = self.connect("ops.ledger", versions=at)
        # A ledger that no stream of this version has opened yet lacks the last two.
        there = {name for (name, *_) in connection.execute("describe ops.ledger").fetchall()}
        newer = [name if name in there else f"null as {name}" for name in ("kept_from", "sealed_before")]
        rows = connection.execute(
            "with newest as (select topic, max(seq) as seq from ops.ledger group by topic) "
            f"select topic, seq, partition, end_offset, versions, committed_at, {', '.join(newer)} from ops.ledger "
            "join newest using (topic, seq) order by topic, partition"
        ).fetchall()
        found: dict[str, Cut] = {}
        for topic, seq, partition, end, versions, at, start, sealed in rows:
            cut = found.setdefault(topic, Cut(topic, seq, {}, dict(versions), at, {}, sealed))
            cut.ends[partition] = end
            if start is not None:
                cut.starts[partition] = start
        return found
