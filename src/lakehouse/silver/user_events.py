"""silver.user_events: one row per event, with the contract's fields."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import types as T

from lakehouse.contracts import Contract, contracts
from lakehouse.quality.checks import Checked
from lakehouse.silver.checked import checked
from lakehouse.tables import Table, columns

PROVENANCE = columns("topic string, partition int, offset bigint, timestamp timestamp")
"""Where a silver row came from, and its Kafka append time."""


def _shape(contract: Contract) -> T.StructType:
    return T.StructType([*contract.schema().fields, *columns("_rescued string").fields])


TABLE = Table(
    "silver.user_events",
    T.StructType([*_shape(contracts()["user-events"]).fields, *PROVENANCE.fields]),
    key=("topic", "partition", "offset"),
    order=("occurred_at", "partition", "offset", "timestamp"),
)


def user_events(bronze: DataFrame, contract: Contract) -> DataFrame:
    """bronze.user_events -> the same rows, parsed and flagged; valid ones carry silver's columns."""
    names = [field.column for field in contract.fields]

    def row(record: Checked) -> list[Any]:
        values = record.values
        return [*[values[name] for name in names], record.rescued]

    return checked(bronze, contract, _shape(contract), row)
