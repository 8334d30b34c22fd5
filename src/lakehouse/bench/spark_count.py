"""Events per user and minute of event time by Spark Structured Streaming, a baseline of ``bench realtime``.

With the platform's own session, so with settings made for small batches on two cores; update mode, watermark 5 minutes,
Spark's default state store, batches as large as the platform's stream takes them, and Kafka as its output.

``python -m lakehouse.bench.spark_count TOPIC OUTPUT FOLDER WARM RECORDS`` prints ``processed COUNT NANOS`` after the
batch in which WARM records have been processed and after the one in which RECORDS have, then ends.
"""

from __future__ import annotations

import sys
import time

from pyspark.sql import functions as F

from lakehouse.session import spark_session
from lakehouse.settings import load

POLL_S = 0.05


def main(topic: str, output: str, folder: str, warm: int, records: int) -> None:
    """Count a topic from its beginning until so many records have been processed."""
    settings = load()
    spark = spark_session(settings, "spark-count")
    query = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", settings.stream.max_records_per_batch)
        .load()
        .select(F.from_json(F.col("value").cast("string"), "user_id string, occurred_at string").alias("e"))
        .select("e.user_id", F.col("e.occurred_at").cast("timestamp").alias("occurred_at"))
        .where("user_id is not null and occurred_at is not null")
        .withWatermark("occurred_at", "5 minutes")
        .groupBy(F.window("occurred_at", "1 minute"), "user_id")
        .count()
        .select(
            F.col("user_id").alias("key"),
            F.to_json(F.struct(F.col("window.start").alias("start"), "count")).alias("value"),
        )
        .writeStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("topic", output)
        .option("checkpointLocation", f"{folder}/checkpoint")
        .outputMode("update")
        .start()
    )
    rows: dict[int, int] = {}
    wanted = [warm, records]
    while wanted:
        time.sleep(POLL_S)
        if not query.isActive:
            query.awaitTermination()  # raises what ended it
        if (progress := query.lastProgress) is not None and progress["batchId"] not in rows:
            # Those between two looks are there too.
            rows |= {batch["batchId"]: batch["numInputRows"] for batch in query.recentProgress}
            if (done := sum(rows.values())) >= wanted[0]:
                print("processed", done, time.perf_counter_ns(), flush=True)
                wanted = [count for count in wanted if count > done]
    query.stop()
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
