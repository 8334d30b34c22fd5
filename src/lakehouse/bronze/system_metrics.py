"""bronze.system_metrics: every record of the topic system-metrics."""

from pyspark.sql import DataFrame

from lakehouse.bronze.landed import bronze_table, landed

TABLE = bronze_table("bronze.system_metrics")


def system_metrics(kafka: DataFrame) -> DataFrame:
    """Kafka source rows of system-metrics -> bronze.system_metrics."""
    return landed(kafka)
