"""silver.system_metrics: one row per sample, a named number of one host at one time."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import types as T

from lakehouse.contracts import Contract
from lakehouse.quality.checks import Checked
from lakehouse.silver.checked import Parser, checked
from lakehouse.silver.user_events import PROVENANCE
from lakehouse.tables import Table, columns

SHAPE = columns(
    "time timestamp, host string, samples array<struct<metric:string,value:double>>, dimensions map<string,string>, "
    "record_id string"
)
"""A metric record before its samples become rows."""
TABLE = Table(
    "silver.system_metrics",
    T.StructType(
        [
            *columns(
                "time timestamp, host string, metric string, value double, dimensions map<string,string>, "
                "record_id string"
            ).fields,
            *PROVENANCE.fields,
        ]
    ),
    key=("topic", "partition", "offset", "metric"),
    order=("time", "partition", "offset", "timestamp"),
)


def row(record: Checked, contract: Contract) -> list[Any]:
    """The parsed columns of one valid metric record, its samples in one array."""
    samples = [{"metric": metric, "value": value} for metric, value in record.samples or ()]
    host = (record.values["host"] or {}).get("name")
    return [record.values["time"], host, samples, list((record.dimensions or {}).items()), record.identity]


def system_metrics(bronze: DataFrame, contract: Contract) -> DataFrame:
    """bronze.system_metrics -> the same records, parsed and flagged, their samples still in one array each."""
    return checked(bronze, Parser(contract, SHAPE, row))
