"""gold.text_insights_daily from silver: what a day's texts are about, how people feel, what fails.

The rows of a day, by ``source`` and ``kind``:

- ``posts``, ``comments``, ``searches``, ``errors`` / ``keyword``: see :mod:`models.text.keywords`.
- ``comments`` and ``comments:<language>`` / ``sentiment``: term positive, neutral or negative; score the mean
  confidence of the model in them (0-1), count the comments. ``comments`` are those of all languages together.
- ``errors`` / ``error_cluster``: see :mod:`models.text.errors`.
"""

from __future__ import annotations

from datetime import date as Date

from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.gold.text_insights_daily import TABLE
from models.text.errors import error_clusters, masked
from models.text.keywords import keywords
from models.text.sentiment import classified, language

SOURCES = {"post": "posts", "comment": "comments", "search": "searches"}
"""Event type -> source of its text."""
ERROR_LEVELS = ("error", "fatal", "critical", "alert", "emergency", "emerg", "severe")


def written(user_events: DataFrame, date: Date) -> DataFrame:
    """silver.user_events -> (source, text) of the posts, comments and searches of a UTC date."""
    source = F.create_map(*(F.lit(word) for pair in SOURCES.items() for word in pair))[F.col("event_type")]
    texts = user_events.select(source.alias("source"), "text", F.to_date("occurred_at").alias("date"))
    asked = (F.col("date") == F.lit(date)) & F.col("source").isNotNull() & (F.trim("text") != "")
    return texts.where(asked).drop("date")


def failed(service_logs: DataFrame, date: Date) -> DataFrame:
    """silver.service_logs -> (text) of the errors of a UTC date: ``error.message``, else ``message``."""
    text = F.coalesce("error.message", "message").alias("text")
    asked = (F.to_date("time") == F.lit(date)) & F.lower("log.level").isin(*ERROR_LEVELS)
    return service_logs.where(asked).select(text).where(F.trim("text") != "")


def sentiments(comments: DataFrame, model: PipelineModel, column: str = "sentiment") -> DataFrame:
    """(text) -> (source, term, score, count): the comments of each sentiment, in all and by language."""
    found = classified(comments.select("text"), model, column).withColumn("language", language(F.col("text")))
    source = F.concat_ws(":", F.lit("comments"), "language")
    return (
        found.cube("sentiment", "language")
        .agg(F.avg("confidence").alias("score"), F.count("*").alias("count"))
        .where("sentiment is not null")
        .select(source.alias("source"), F.col("sentiment").alias("term"), "score", "count")
    )


def text_insights(
    user_events: DataFrame, service_logs: DataFrame, date: Date, model: PipelineModel, column: str = "sentiment"
) -> DataFrame:
    """silver.user_events, silver.service_logs -> gold.text_insights_daily's rows of a UTC date.

    ``model`` and ``column`` are as in :func:`models.text.sentiment.classified`.
    """
    texts, errors = written(user_events, date), failed(service_logs, date)
    about = texts.unionByName(errors.select(F.lit("errors").alias("source"), masked(F.col("text")).alias("text")))
    rows = (
        keywords(about)
        .withColumn("kind", F.lit("keyword"))
        .unionByName(
            sentiments(texts.where("source = 'comments'"), model, column).withColumn("kind", F.lit("sentiment"))
        )
        .unionByName(
            error_clusters(errors).select("*", F.lit("errors").alias("source"), F.lit("error_cluster").alias("kind"))
        )
    )
    return rows.select(F.lit(date).alias("date"), *TABLE.schema.names[1:])
