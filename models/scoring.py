"""Batch predictions: what the champions say now, for everybody, into gold and the store that has its rows.

With the recommendations come the features of the posts, Redis's ``features:post:<id>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import redis
from pymongo import MongoClient
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse import features, predict
from lakehouse.gold import recommendations
from lakehouse.settings import Settings
from lakehouse.sources.analysis import read_table
from models.recommender.interactions import interactions
from models.trained import ModelError

TOP = 20
ACTIVE = timedelta(days=30)
"""Users who did nothing for longer are recommended nothing in batch; the real-time processor knows them at once."""
HISTORY = 100
PIPELINE = 1000
"""Posts whose features are written at a time."""


def score(settings: Settings, model: str, spark: Any, now: datetime | None = None) -> dict[str, Any]:
    """What ``lakehouse score MODEL`` does; counts for the one who reads along.

    Raises:
        ModelError: no version answers yet.
    """
    now = now or datetime.now(UTC)
    folder = settings.published / model
    version = predict.current(folder)
    if version is None:
        raise ModelError(
            f"no version of {model} answers yet: `lakehouse train {model}`, then `lakehouse promote {model}`"
        )
    if model == "recommender":
        return {
            "model": model,
            "version": version,
            **_recommendations(settings, spark, folder / version, now),
            **({} if "redis" in settings.off else _posts(settings, spark, folder / version, now)),
        }
    if model == "trend":
        from models.trend.score import forecasts

        return {"model": model, "version": version, **forecasts(settings, spark, folder / version, now)}
    from models.anomaly.score import anomalies

    return {"model": model, "version": version, **anomalies(settings, spark, folder / version, now)}


def _recommendations(settings: Settings, spark: Any, version: Path, now: datetime) -> dict[str, Any]:
    """gold.recommendations as one snapshot, then MongoDB's ``recommendations``: one document a user."""
    events = read_table(spark, settings, "silver.user_events")
    table = recommendations.TABLE
    made = recommended(events, version, now).persist()
    try:
        made.write.format("delta").mode("overwrite").save(settings.table_uri(table.name))
        if "mongodb" in settings.off:
            return {"users": made.select("user_id").distinct().count()}
        documents = made.groupBy(F.col("user_id").alias("_id")).agg(
            F.sort_array(F.collect_list(F.struct("rank", "post_id", "score"))).alias("items"),
            F.first("model_version").alias("model_version"),
            F.first("at").alias("at"),
        )
        (
            documents.write.format("mongodb")
            .mode("append")
            .option("connection.uri", settings.mongo.uri.get_secret_value())
            .option("database", settings.mongo.database)
            .option("collection", "recommendations")
            .option("operationType", "replace")
            .option("idFieldList", "_id")
            .save()
        )
        users = made.select("user_id").distinct().count()
    finally:
        made.unpersist()
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongo.uri.get_secret_value())
    with client:
        # Who is no longer in the snapshot; a time in BSON has milliseconds.
        gone = client[settings.mongo.database]["recommendations"].delete_many(
            {"at": {"$lt": now - timedelta(seconds=1)}}
        )
    return {"users": users, "no_longer": gone.deleted_count}


def _posts(settings: Settings, spark: Any, version: Path, now: datetime) -> dict[str, Any]:
    """Redis's ``features:post:<id>``, each set whole in one step and gone a day after it was written last."""
    events = read_table(spark, settings, "silver.user_events")
    half_life = predict.read(version)[0].get("chosen", {}).get("half_life_h")
    found = features.of_posts(events, now, half_life or None)
    found = found.withColumn("at", F.date_format("at", "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'"))
    rows = found.toLocalIterator()
    number = 0
    with redis.Redis.from_url(settings.redis.url.get_secret_value(), socket_connect_timeout=3) as client:
        while part := list(islice(rows, PIPELINE)):
            pipeline = client.pipeline()
            for row in part:
                fields = {name: value for name, value in row.asDict().items() if value is not None}
                key = f"features:post:{fields.pop('post_id')}"
                pipeline.delete(key)
                pipeline.hset(key, mapping=fields)
                pipeline.expire(key, settings.realtime.features_ttl)
            pipeline.execute()
            number += len(part)
    return {"posts": number}


def recommended(events: DataFrame, version: Path, now: datetime) -> DataFrame:
    """silver.user_events -> rows of gold.recommendations for everybody who was active lately.

    Args:
        events: all.
        version: the folder of the published version, which all workers see.
        now: the time.
    """
    past = interactions(events.where(F.col("occurred_at") < F.lit(now)), now)
    history = past.groupBy("user_id").agg(
        F.sort_array(F.collect_list(F.struct("at", "item_id"))).alias("past"), F.max("at").alias("last")
    )
    active = history.where(F.col("last") >= F.lit((now - ACTIVE).timestamp()))
    answer = partial(_answer, version=version, at=now)
    found: DataFrame = active.select("user_id", "past.item_id").mapInPandas(answer, recommendations.TABLE.schema)
    return found


def _answer(parts: Iterator[pd.DataFrame], version: Path, at: datetime) -> Iterator[pd.DataFrame]:
    model = predict.Neighbours(*predict.read(version))
    for part in parts:
        rows = [
            (user, rank, post, score, model.version, at)
            for user, items in zip(part["user_id"], part["item_id"], strict=True)
            for rank, (post, score) in enumerate(model.top(list(items)[-HISTORY:], set(items), TOP), 1)
        ]
        yield pd.DataFrame(rows, columns=recommendations.TABLE.schema.names)
