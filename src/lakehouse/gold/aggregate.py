"""Gold tables as declarations: keys and measures, from which the recomputation and the fold both follow.

Expressions are plain SQL that means the same to Spark and to DuckDB (tests hold them equal), so one declaration is
the Spark transform of the batch job, and the incremental fold beside the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.tables import Table, columns


@dataclass(frozen=True)
class Sum:
    """A number that adds up over batches: ``sum(expression)``; a whole number."""

    name: str
    expression: str = "1"
    kind: str = "bigint"

    def total(self, engine: str) -> str:
        """The aggregate over source rows."""
        return f"cast(coalesce(sum({self.expression}), 0) as bigint)"


@dataclass(frozen=True)
class Distinct:
    """How many different non-null values an expression has; folded by asking which are seen for the first time."""

    name: str
    expression: str
    kind: str = "bigint"

    def total(self, engine: str) -> str:
        """The aggregate over source rows."""
        return f"count(distinct {self.expression})"


@dataclass(frozen=True)
class Extreme:
    """``min`` or ``max`` of an expression."""

    name: str
    function: str
    expression: str
    kind: str

    def total(self, engine: str) -> str:
        """The aggregate over source rows."""
        return f"{self.function}({self.expression})"


@dataclass(frozen=True)
class Mean:
    """Arithmetic mean; ``weight`` names the measure that counts its values."""

    name: str
    expression: str
    weight: str
    kind: str = "double"

    def total(self, engine: str) -> str:
        """The aggregate over source rows."""
        return f"avg({self.expression})"


@dataclass(frozen=True)
class Percentile:
    """Exact percentile, linearly interpolated between ranks (type 7 of Hyndman and Fan, 1996)."""

    name: str
    expression: str
    share: float
    kind: str = "double"

    def total(self, engine: str) -> str:
        """The aggregate over source rows."""
        function = "percentile" if engine == "spark" else "quantile_cont"
        return f"{function}({self.expression}, {self.share})"


@dataclass(frozen=True)
class Ratio:
    """``top / bottom`` of two other measures, null where the bottom is 0; derived after folding."""

    name: str
    top: str
    bottom: str
    kind: str = "double"

    def derived(self) -> str:
        """The expression over folded rows."""
        return f"cast({self.top} as double) / nullif({self.bottom}, 0)"


Measure = Sum | Distinct | Extreme | Mean | Percentile | Ratio


@dataclass(frozen=True)
class Aggregate:
    """A gold table that groups one silver table.

    ``keys`` maps key column -> (type, SQL expression); the first is the window or date, of ``width``. ``where`` says
    which silver rows count; ``source_time`` is their event time column, ``inputs`` all silver columns that it reads.
    ``bucket`` is how much time one file of the table spans: some ten thousand rows, so that rewriting one is cheap.
    """

    name: str
    source: str
    source_time: str
    width: timedelta
    keys: dict[str, tuple[str, str]]
    measures: tuple[Measure, ...]
    inputs: tuple[str, ...]
    where: str = "true"
    bucket: timedelta = timedelta(days=1)

    @property
    def window(self) -> str:
        """The key column that is the window or date."""
        return next(iter(self.keys))

    @property
    def table(self) -> Table:
        """The Delta table it fills."""
        kinds = {k: kind for k, (kind, _) in self.keys.items()} | {m.name: m.kind for m in self.measures}
        schema = columns(", ".join(f"{name} {kind}" for name, kind in kinds.items()))
        return Table(self.name, schema, key=tuple(self.keys), order=(self.window,))

    @property
    def folds(self) -> bool:
        """Whether every measure can be brought up to date from a batch alone, without its older source rows."""
        return not any(isinstance(measure, Percentile) for measure in self.measures)

    def sql(self, source: str, engine: str) -> str:
        """The whole table recomputed from a relation of silver rows, for ``engine`` spark or duckdb."""
        keys = ", ".join(f"{expression} as {name}" for name, (_, expression) in self.keys.items())
        totals = ", ".join(f"{m.total(engine)} as {m.name}" for m in self.measures if not isinstance(m, Ratio))
        derived = {m.name: m.derived() for m in self.measures if isinstance(m, Ratio)}
        out = ", ".join(
            f"{derived[n]} as {n}" if n in derived else f"cast({n} as {k}) as {n}"
            for n, k in ((f.name, f.dataType.simpleString()) for f in self.table.schema)
        )
        group = ", ".join(str(i + 1) for i in range(len(self.keys)))
        return (
            f"select {out} from (select {keys}, {totals} from {source} where {self.where} group by {group}) as grouped"
        )

    def recompute(self, silver: DataFrame) -> DataFrame:
        """Silver rows -> this gold table, with Spark."""
        return silver.sparkSession.sql(self.sql("{silver}", "spark"), silver=silver)
