"""bronze.user_events: every record of the topic user-events."""

from pyspark.sql import DataFrame

from lakehouse.bronze.landed import bronze_table, landed

TABLE = bronze_table("bronze.user_events")


def user_events(kafka: DataFrame) -> DataFrame:
    """Kafka source rows of user-events -> bronze.user_events."""
    return landed(kafka)
