"""bronze.service_logs: every record of the topic service-logs."""

from pyspark.sql import DataFrame

from lakehouse.bronze.landed import bronze_table, landed

TABLE = bronze_table("bronze.service_logs")


def service_logs(kafka: DataFrame) -> DataFrame:
    """Kafka source rows of service-logs -> bronze.service_logs."""
    return landed(kafka)
