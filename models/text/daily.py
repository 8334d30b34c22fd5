"""The text job: the session it needs, the model it uses, the rows it makes."""

from __future__ import annotations

from datetime import date as Date
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession

from lakehouse import stack
from lakehouse.gold.text_insights_daily import TABLE
from lakehouse.session import spark_session
from lakehouse.settings import Settings
from lakehouse.sources.analysis import read_table
from models.text import insights, sentiment


def text_session(settings: Settings, app: str = "text-insights") -> SparkSession:
    """A session with Spark NLP, whose jars are fetched the first time (49 MB).

    Raises:
        StackError: its jars could not be had.
    """
    return spark_session(settings, app, stack.fetch_section(settings, "spark-nlp"))


def sentiment_model(spark: SparkSession, settings: Settings) -> PipelineModel:
    """The pipeline that the settings name, or ours, which is trained where the lake does not have it yet."""
    if settings.text.sentiment_pipeline:
        return PipelineModel.load(settings.text.sentiment_pipeline)
    place = f"{settings.root}/_internal/models/sentiment-{sentiment.digest()}"
    try:
        return PipelineModel.load(place)
    except Py4JJavaError:  # not there, or not whole
        model = sentiment.train(spark)
        model.write().overwrite().save(place)
        return model


def text_insights(spark: SparkSession, settings: Settings, date: Date) -> DataFrame:
    """gold.text_insights_daily's rows of a UTC date, from the lake's silver tables; ``spark`` is a text session."""
    events, logs = (read_table(spark, settings, name) for name in ("silver.user_events", "silver.service_logs"))
    model, column = sentiment_model(spark, settings), settings.text.sentiment_column
    return insights.text_insights(events, logs, date, model, column)


def write(spark: SparkSession, settings: Settings, date: Date) -> dict[str, Any]:
    """Let gold.text_insights_daily hold what a day's texts say now, in one commit; how many rows."""
    rows = text_insights(spark, settings, date).persist()
    try:
        (
            rows.coalesce(1)
            .write.format("delta")
            .mode("overwrite")
            .option("replaceWhere", f"date = '{date.isoformat()}'")
            .save(settings.table_uri(TABLE.name))
        )
        return {"date": date.isoformat(), "rows": rows.count()}
    finally:
        rows.unpersist()
