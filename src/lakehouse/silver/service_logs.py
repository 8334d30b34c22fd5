"""silver.service_logs: one row per log record, nested as in the Elastic Common Schema."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import types as T

from lakehouse.contracts import Contract, contracts
from lakehouse.quality.checks import Checked
from lakehouse.silver.checked import Parser, checked
from lakehouse.silver.user_events import PROVENANCE
from lakehouse.tables import Table, columns

_TIME, *_OTHERS = contracts()["service-logs"].schema().fields
SHAPE = T.StructType([_TIME, *columns("event_id string").fields, *_OTHERS, *columns("_rescued string").fields])
"""A parsed log record."""
TABLE = Table(
    "silver.service_logs",
    T.StructType([*SHAPE.fields, *PROVENANCE.fields]),
    key=("topic", "partition", "offset"),
    order=("time", "partition", "offset", "timestamp"),
)


def row(record: Checked, contract: Contract) -> list[Any]:
    """The parsed columns of one valid log record."""
    time, *others = [record.values[field.column] for field in contract.fields]
    return [time, record.identity, *others, record.rescued]


def service_logs(bronze: DataFrame, contract: Contract) -> DataFrame:
    """bronze.service_logs -> the same rows, parsed and flagged; ``event_id`` is event.id, else null until it is
    written, when topic/partition/offset takes its place."""
    return checked(bronze, Parser(contract, SHAPE, row))
