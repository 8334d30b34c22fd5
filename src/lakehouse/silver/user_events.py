"""silver.user_events: one row per event, with the contract's fields."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import types as T

from lakehouse.contracts import Contract, contracts
from lakehouse.quality.checks import Checked
from lakehouse.silver.checked import Parser, checked
from lakehouse.tables import Table, columns

PROVENANCE = columns("topic string, partition int, offset bigint, timestamp timestamp")
"""Where a silver row came from, and its Kafka append time."""


SHAPE = T.StructType([*contracts()["user-events"].schema().fields, *columns("_rescued string").fields])
"""A parsed event."""
TABLE = Table(
    "silver.user_events",
    T.StructType([*SHAPE.fields, *PROVENANCE.fields]),
    key=("topic", "partition", "offset"),
    order=("occurred_at", "partition", "offset", "timestamp"),
)


def row(record: Checked, contract: Contract) -> list[Any]:
    """The parsed columns of one valid event."""
    return [*record.values.values(), record.rescued]


def user_events(bronze: DataFrame, contract: Contract) -> DataFrame:
    """bronze.user_events -> the same rows, parsed and flagged; valid ones carry silver's columns."""
    return checked(bronze, Parser(contract, SHAPE, row))
