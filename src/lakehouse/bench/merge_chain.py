"""The baseline of ``bench ingest``: user events through chained streaming queries, as Delta's own guides build them.

Kafka -> bronze (Delta sink); bronze -> silver (``from_json``, stateful de-duplication) and quarantine; silver -> gold
(``foreachBatch`` with MERGE). With the settings that a comparison of such chains on two cores found best: UI and
adaptive execution off, two shuffle partitions, no statistics, no checksum files, sparse checkpoints. It does less than
the platform: one topic, one gold table, few checks, no ledger, no stores.

``python -m lakehouse.bench.merge_chain ROOT`` prints ``running`` when its queries do, and runs until it is stopped.
"""

from __future__ import annotations

import sys
import threading

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.readwriter import DataStreamWriter

from lakehouse.settings import Settings, load
from lakehouse.stack import jar_paths

_CONF = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC -XX:ReservedCodeCacheSize=256m",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.hadoop.dfs.client.use.datanode.hostname": "true",
    "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "2",
    "spark.hadoop.dfs.client.block.write.locateFollowingBlock.retries": "12",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.databricks.delta.stats.collect": "false",
    "spark.databricks.delta.writeChecksumFile.enabled": "false",
    "spark.databricks.delta.history.metricsEnabled": "false",
    "spark.databricks.delta.properties.defaults.checkpointInterval": "200",
    "spark.databricks.delta.properties.defaults.dataSkippingNumIndexedCols": "0",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    "spark.sql.adaptive.enabled": "false",
    "spark.scheduler.mode": "FAIR",
    "spark.locality.wait": "0s",
    "spark.sql.streaming.minBatchesToRetain": "20",
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.pollingDelay": "5ms",
    "spark.sql.streaming.metricsEnabled": "false",
    "spark.sql.streaming.stateStore.minDeltasForSnapshot": "100",
    "spark.sql.streaming.kafka.useDeprecatedOffsetFetching": "false",
    "spark.cleaner.periodicGC.interval": "60min",
    "spark.sql.ui.retainedExecutions": "1",
}
_EVENT = "event_id string, event_type string, user_id string, occurred_at string, post_id string, session_id string"
_PLACE = ["topic", "partition", "offset", "timestamp"]


def main(root: str) -> None:
    """Run the chain under a root folder until the process is stopped."""
    settings = load()
    spark = _session(settings)
    tables = {
        "bronze": "key binary, value binary, topic string, partition int, offset bigint, timestamp timestamp",
        "silver": "event_id string, event_type string, user_id string, occurred_at timestamp, post_id string, "
        "session_id string, topic string, partition int, offset bigint, timestamp timestamp",
        "quarantine": "value binary, topic string, partition int, offset bigint, timestamp timestamp",
        "gold": "minute timestamp, event_type string, events bigint",
    }
    for name, columns in tables.items():
        spark.sql(f"create table delta.`{root}/{name}` ({columns}) using delta")

    def run(writer: DataStreamWriter, name: str) -> None:
        writer.option("checkpointLocation", f"{root}/_checkpoints/{name}").queryName(name).start()

    def follow(name: str) -> DataFrame:
        return spark.readStream.format("delta").load(f"{root}/{name}")

    kafka = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("subscribe", "user-events")
        .option("startingOffsets", "latest")
        .option("kafka.fetch.max.wait.ms", "20")
        .option("fetchOffset.retryIntervalMs", "10")
        .load()
        .select("key", "value", *_PLACE)
    )
    run(kafka.writeStream.format("delta").option("path", f"{root}/bronze"), "bronze")
    parsed = (
        follow("bronze")
        .select("value", *_PLACE, F.from_json(F.col("value").cast("string"), _EVENT).alias("e"))
        .select("value", *_PLACE, "e.*")
        .withColumn("occurred_at", F.col("occurred_at").cast("timestamp"))
    )
    valid = "coalesce(event_id, event_type, user_id) is not null and occurred_at is not null"
    once = (
        parsed.where(valid)
        .drop("value")
        .withWatermark("timestamp", "1 hour")
        .dropDuplicatesWithinWatermark(["event_id"])
    )
    run(once.writeStream.format("delta").option("path", f"{root}/silver"), "silver")
    bad = parsed.where(f"not ({valid})").select("value", *_PLACE)
    run(bad.writeStream.format("delta").option("path", f"{root}/quarantine"), "quarantine")

    def merge(batch: DataFrame, _: int) -> None:
        counts = batch.groupBy(F.date_trunc("minute", "occurred_at").alias("minute"), "event_type").agg(
            F.count(F.lit(1)).alias("events")
        )
        (
            DeltaTable.forPath(batch.sparkSession, f"{root}/gold")
            .alias("t")
            .merge(counts.alias("s"), "t.minute = s.minute and t.event_type = s.event_type")
            .whenMatchedUpdate(set={"events": "t.events + s.events"})
            .whenNotMatchedInsertAll()
            .execute()
        )

    run(follow("silver").writeStream.foreachBatch(merge), "gold")
    print("running", flush=True)
    threading.Event().wait()


def _session(settings: Settings) -> SparkSession:
    builder = SparkSession.builder.appName("merge-chain").master(settings.spark.master)
    conf = _CONF | {
        "spark.jars": ",".join(map(str, jar_paths(settings, "spark"))),
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.hadoop.fs.defaultFS": settings.hdfs.uri,
        "spark.hadoop.dfs.replication": str(settings.hdfs.replication),
    }
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


if __name__ == "__main__":
    main(sys.argv[1])
