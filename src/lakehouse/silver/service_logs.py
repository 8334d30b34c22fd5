"""silver.service_logs: one row per log record, nested as in the Elastic Common Schema."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import types as T

from lakehouse.contracts import Contract, contracts
from lakehouse.quality.checks import Checked
from lakehouse.silver.checked import checked
from lakehouse.silver.user_events import PROVENANCE
from lakehouse.tables import Table, columns


def _shape(contract: Contract) -> T.StructType:
    time, *others = contract.schema().fields
    return T.StructType([time, *columns("event_id string").fields, *others, *columns("_rescued string").fields])


TABLE = Table(
    "silver.service_logs",
    T.StructType([*_shape(contracts()["service-logs"]).fields, *PROVENANCE.fields]),
    key=("topic", "partition", "offset"),
    order=("time", "partition", "offset", "timestamp"),
)


def service_logs(bronze: DataFrame, contract: Contract) -> DataFrame:
    """bronze.service_logs -> the same rows, parsed and flagged; ``event_id`` is event.id, else null until it is
    written, when topic/partition/offset takes its place."""
    time, *names = [field.column for field in contract.fields]

    def row(record: Checked) -> list[Any]:
        values = record.values
        return [values[time], record.identity, *[values[name] for name in names], record.rescued]

    return checked(bronze, contract, _shape(contract), row)
