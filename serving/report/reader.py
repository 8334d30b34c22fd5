"""The tables that a report reads, each opened once, so that all of it is of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake, LakeError, NoTableError
from serving.report.facts import HOURS, Hourly

READ = (
    "gold.activity_minute",
    "gold.post_engagement_daily",
    "gold.service_health_minute",
    "gold.host_utilization_minute",
    "gold.anomalies",
    "gold.forecasts",
    "gold.recommendations",
    "gold.text_insights_daily",
    "silver.user_events",
    "silver.service_logs",
    "silver.quarantine",
    "ops.ledger",
    "ops.promotions",
)
MEMORY = "2GB"
"""What DuckDB may hold of them."""


class Reader:
    """SQL over the lake as it was when this was made. A table that is not there is empty, and named in ``missing``.

    Raises:
        LakeError: the lake does not answer.
    """

    def __init__(self, settings: Settings, names: Iterable[str] = READ) -> None:
        self.missing: tuple[str, ...] = ()
        self.versions: dict[str, int] = {}
        lake = Lake(settings)
        with ThreadPoolExecutor(8) as pool:
            opened = dict(zip(names, pool.map(lambda name: _open(lake, name), names), strict=True))
        spill = settings.home / "tmp" / "reports"
        self._db = duckdb.connect(config={"memory_limit": MEMORY, "threads": 2, "temp_directory": str(spill)})
        self._db.execute("set TimeZone = 'UTC'")
        for name, found in opened.items():
            layer, _, table = name.partition(".")
            if found is None:
                self.missing += (name,)
            else:
                self.versions[name] = found[0]
            self._db.execute(f'create schema if not exists "{layer}"')
            self._db.register(f"__{layer}_{table}", found[1] if found else TABLES[name].arrow.empty_table())
            self._db.execute(f'create view "{layer}"."{table}" as select * from "__{layer}_{table}"')

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    def rows(self, sql: str, **bound: Any) -> list[tuple[Any, ...]]:
        """The answer of a SELECT; ``$name`` in it is what is bound by that name.

        Raises:
            LakeError: a file of a table cannot be read.
        """
        with _reading():
            return self._db.execute(sql, bound or None).fetchall()

    def keep(self, name: str, sql: str, **bound: Any) -> None:
        """Hold the answer of a SELECT in memory under a name: what is asked several times is read once.

        Raises:
            LakeError: a file of a table cannot be read.
        """
        with _reading():
            self._db.register(name, self._db.sql(sql, params=bound).to_arrow_table())

    def row(self, sql: str, **bound: Any) -> tuple[Any, ...]:
        """The one row of an aggregate."""
        return self.rows(sql, **bound)[0]


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, MemoryError):
        raise LakeError(f"the day has more than {MEMORY} of memory can hold: see `lakehouse status`") from None
    except (duckdb.IOException, duckdb.InvalidInputException, OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0][:200]
        raise LakeError(f"a table cannot be read ({said}); see `lakehouse status`") from None


def _open(lake: Lake, name: str) -> tuple[int, Any] | None:
    try:
        table = lake.table(name)
    except NoTableError:
        return None
    return table.version(), pruned_dataset(table)


def hourly(rows: Iterable[tuple[Any, Any]], until: int = HOURS, gap: float | None = None) -> Hourly:
    """(hour, value) -> a value an hour; ``gap`` where there is none before hour ``until``."""
    found: list[float | None] = [gap if hour < until else None for hour in range(HOURS)]
    for hour, value in rows:
        if hour is not None and 0 <= hour < HOURS and value is not None:
            found[int(hour)] = float(value)
    return tuple(found)
