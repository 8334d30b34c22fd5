"""What the three bronze tables share: Kafka's record, byte for byte, and the day it arrived."""

from pyspark.sql import DataFrame

from lakehouse.tables import Table, columns

COLUMNS = columns(
    "topic string, partition int, offset bigint, timestamp timestamp, key binary, value binary, "
    "headers array<struct<key:string,value:binary>>, ingest_date date, erased_at timestamp"
)
"""``erased_at``: when key, value and headers were taken out, as they named somebody who was erased; else null."""


def bronze_table(name: str) -> Table:
    """A bronze table; its rows are keyed by Kafka's own coordinates."""
    return Table(name, COLUMNS, key=("topic", "partition", "offset"), order=("partition", "offset", "timestamp"))


def landed(kafka: DataFrame) -> DataFrame:
    """Kafka source rows -> bronze rows; ``timestamp`` is the append time, ``ingest_date`` its UTC date."""
    computed = ("to_date(timestamp) as ingest_date", "cast(null as timestamp) as erased_at")
    return kafka.selectExpr(*COLUMNS.names[:-2], *computed)
