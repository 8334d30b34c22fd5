"""One audit at work: its cut, its DuckDB, and the problems it has found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb

from lakehouse.audit import canonical
from lakehouse.settings import Settings
from lakehouse.sources.lake import Cut, Lake

LISTED = 20
"""Ranges or keys named per rule; the rest is counted."""
SQL = Path(__file__).parent


@dataclass(frozen=True)
class Topic:
    """What belongs to a topic."""

    name: str
    bronze: str
    silver: str
    gold: tuple[str, ...]

    @property
    def rules(self) -> str:
        """The stem of its SQL file."""
        return self.name.replace("-", "_")


TOPICS = (
    Topic(
        "user-events",
        "bronze.user_events",
        "silver.user_events",
        ("gold.activity_minute", "gold.post_engagement_daily", "gold.user_activity_daily", "gold.trending_posts"),
    ),
    Topic("service-logs", "bronze.service_logs", "silver.service_logs", ("gold.service_health_minute",)),
    Topic("system-metrics", "bronze.system_metrics", "silver.system_metrics", ("gold.host_utilization_minute",)),
)
SHARED = ("silver.quarantine",)
"""Tables of all topics. The ledger is one too, but is read at its newest version: no row of it can name its own."""


def sections(name: str, mark: str) -> list[tuple[str, str]]:
    """A SQL file cut at its ``mark`` lines: (the rest of the line, the SQL below it); the first has an empty head."""
    found = [("", "")]
    for line in (SQL / f"{name}.sql").read_text().splitlines(keepends=True):
        head, body = found[-1]
        if line.startswith(mark):
            found.append((line.removeprefix(mark).strip(), ""))
        else:
            found[-1] = (head, body + line)
    return found


@dataclass
class Run:
    """The state of one audit; a context manager that owns a temporary DuckDB file."""

    settings: Settings
    progress: Callable[[str], None]
    cuts: dict[str, Cut]
    problems: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Run:
        self.lake = Lake(self.settings)
        self._folder = tempfile.TemporaryDirectory(prefix="lakehouse-audit-")
        self.db = duckdb.connect(f"{self._folder.name}/audit.duckdb")
        for option in (
            "TimeZone = 'UTC'",
            "memory_limit = '1500MB'",
            f"temp_directory = '{self._folder.name}/spill'",
            "preserve_insertion_order = false",
        ):
            self.rows(f"set {option}")
        canonical.register(self.db)
        self.rows((SQL / "common.sql").read_text())
        self.rows(f"set variable horizon_us = {self.settings.stream.duplicate_horizon // timedelta(microseconds=1)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.db.close()
        self._folder.cleanup()

    def version(self, table: str, topic: str) -> int | None:
        """The version of a table at the cut: the topic's own, or for a shared table the highest that any cut names."""
        if table in SHARED:
            return max((cut.versions[table] for cut in self.cuts.values() if table in cut.versions), default=None)
        return self.cuts[topic].versions.get(table)

    def view(self, name: str, table: str, version: int | None, where: str = "true") -> None:
        """Make a table at a version readable as ``name``."""
        data = f"{name}_data"
        self.db.register(data, self.lake.dataset(table, version))
        self.rows(f"create or replace temp view {name} as select * from {data} where {where}")

    def open(self, topic: Topic) -> None:
        """Make ``ends``, ``ledger``, ``bronze``, ``silver`` and ``quarantine`` those of a topic before its cut.

        What lies before ``starts`` was deleted after its retention: ``past`` is what is there of it.

        Raises:
            LakeError: a table is not readable at the cut's version.
        """
        cut = self.cuts[topic.name]
        self.numbers("ends", "end_offset", cut.ends)
        self.numbers("starts", "start_offset", {partition: cut.starts.get(partition, 0) for partition in cut.ends})
        self.rows(f"set variable topic = '{topic.name}'")
        sealed = "null" if cut.sealed is None else f"epoch_us(timestamptz '{cut.sealed.isoformat()}')"
        self.rows(f"set variable sealed_us = {sealed}")
        tables = {"bronze": topic.bronze, "silver": topic.silver, "quarantine": "silver.quarantine"}
        past = []
        for name, table in tables.items():
            of_topic = f"topic = '{topic.name}'" if table in SHARED else "true"
            place = f'{{0}}.partition = {name}_data.partition and "offset"'
            inside = (
                f"exists (select 1 from ends where {place.format('ends')} < end_offset) "
                f"and not exists (select 1 from starts where {place.format('starts')} < start_offset)"
            )
            self.view(name, table, self.version(table, topic.name), f"{of_topic} and {inside}")
            past.append(
                f"select partition, \"offset\", '{table}' as name from {name}_data where {of_topic} and "
                f"exists (select 1 from starts where {place.format('starts')} < start_offset)"
            )
        self.rows(f"create or replace temp view past as {' union all '.join(past)}")
        self.view("ledger", "ops.ledger", None, f"{of_topic} and seq <= {cut.seq}")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run statements; all rows of the last. (DuckDB refuses further work while a result is not read to its end.)"""
        rows: list[tuple[Any, ...]] = self.db.execute(sql).fetchall()
        return rows

    def numbers(self, table: str, column: str, values: dict[int, int]) -> None:
        """Make a small table (partition, ``column``)."""
        self.rows(f"create or replace table {table} (partition integer, {column} bigint)")
        for partition, value in values.items():
            self.rows(f"insert into {table} values ({partition}, {value})")

    def one(self, sql: str) -> Any:
        """The only value of a query."""
        [(value,)] = self.rows(sql)
        return value

    def problem(
        self,
        rule: str,
        detail: str,
        *,
        table: str | None = None,
        topic: str | None = None,
        partition: int | None = None,
        first: int | None = None,
        last: int | None = None,
        count: int = 1,
    ) -> None:
        """Note a problem; ``first`` and ``last`` are offsets, both included."""
        self.problems.append(
            {
                "rule": rule,
                "table": table,
                "topic": topic,
                "partition": partition,
                "from": first,
                "to": last,
                "count": count,
                "detail": detail,
            }
        )

    def offsets(self, rule: str, table: str, topic: str, sql: str) -> None:
        """Note the rows (partition, offset, detail) of a query, neighbours of one detail merged into ranges."""
        ranges = f"""
            select partition, min("offset") as first, max("offset") as last, count(*) as size, detail
            from (select *, "offset" - row_number() over (partition by partition, detail order by "offset") as island
                  from (select distinct partition, "offset", detail from ({sql}) as found) as once) as marked
            group by partition, detail, island"""
        self.ranges(rule, table, topic, ranges, size="size")

    def ranges(self, rule: str, table: str, topic: str, sql: str, size: str = "coalesce(last - first + 1, 1)") -> None:
        """Note the rows (partition, first, last, detail) of a query, the first twenty by name."""
        rows = self.rows(
            f"select partition, first, last, {size} as n, detail, sum(n) over (), count(*) over () "
            f"from ({sql}) as found order by partition, first, detail limit {LISTED}"
        )
        for partition, first, last, n, detail, _, _ in rows:
            self.problem(rule, detail, table=table, topic=topic, partition=partition, first=first, last=last, count=n)
        if rows and rows[0][6] > LISTED:
            text = f"{rows[0][6]} ranges in all; the first {LISTED} are listed"
            self.problem(rule, text, table=table, topic=topic, count=int(rows[0][5]))

    def keys(self, rule: str, table: str, topic: str | None, sql: str) -> None:
        """Note the rows (detail) of a query, each about one key, the first twenty by name."""
        rows = self.rows(f"select detail, count(*) over () from ({sql}) as found order by detail limit {LISTED}")
        for detail, _ in rows:
            self.problem(rule, detail, table=table, topic=topic)
        if rows and rows[0][1] > LISTED:
            self.problem(
                rule,
                f"{rows[0][1]} keys in all; the first {LISTED} are listed",
                table=table,
                topic=topic,
                count=rows[0][1],
            )

    def checks(self, name: str, topic: Topic) -> None:
        """Run a SQL file: its set-up, then each rule, noting what it finds."""
        tables = {"bronze": topic.bronze, "silver": topic.silver}
        (_, setup), *rules = sections(name, "--?")
        self.rows(setup)
        for head, sql in rules:
            shape, rule, table = head.split()
            note = self.offsets if shape == "offsets" else self.ranges
            note(rule, tables.get(table, table), topic.name, sql.strip().rstrip(";"))

    def columns(self, relation: str) -> list[str]:
        """A relation's column names."""
        return [row[0] for row in self.rows(f"describe {relation}")]
