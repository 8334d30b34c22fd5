"""What test_text.py looks at, found in a process of its own: Spark NLP's jars must be there when Spark starts."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

from pyspark.ml import Pipeline
from pyspark.sql import DataFrame, SparkSession
from sparknlp.annotator import SentimentDetector, Tokenizer
from sparknlp.base import DocumentAssembler

from lakehouse.settings import Hdfs, Settings, Text
from models.text import daily
from models.text.daily import sentiment_model, text_session
from models.text.errors import error_clusters
from models.text.evaluate import evaluate
from models.text.insights import text_insights
from models.text.keywords import keywords

DAY = date(2024, 5, 10)
ERRORS = (
    [f"connection {n} refused by upstream 10.0.0.{n}:80" for n in range(9)]
    + [f"could not parse '{name}' in the header of the request" for name in ("a", "b c", "dd")]
    + ["could not parse anything in the header of this request", "disk full"]
)


def planted(seed: int) -> list[str]:
    """Eighty texts of words at random, with one of two phrases, one a language, in each of them."""
    random = Random(seed)
    fill = [f"{a}{b}" for a in ("alt", "bri", "con", "dor") for b in ("ma", "ne", "ri", "po", "tu")]
    return [" ".join([*random.choices(fill, k=4), random.choice(("harbour bridge", "제주 바다"))]) for _ in range(80)]


def silver(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    """A day's events and logs, and others that do not count."""
    noon, before = datetime(2024, 5, 10, 12, tzinfo=UTC), datetime(2024, 5, 9, 23, 59, tzinfo=UTC)
    events = [
        *(("comment", noon, text) for text in ("I love this", "이거 정말 좋아요", "terrible, I hate it", None, " ")),
        *(("comment", before, "awful"), ("view", noon, "great"), ("search", noon, "harbour bridge")),
    ]
    logs: list[tuple[datetime, str, tuple[str], tuple[str] | None]] = [
        (noon, "GET /", ("error",), (text,)) for text in ERRORS
    ]
    logs += [
        (noon, "out of memory", ("FATAL",), None),
        (noon, "fine", ("info",), None),
        (before, "old", ("error",), None),
    ]
    return (
        spark.createDataFrame(events, "event_type string, occurred_at timestamp, text string"),
        spark.createDataFrame(
            logs, "time timestamp, message string, log struct<level:string>, error struct<message:string>"
        ),
    )


def pretrained(spark: SparkSession, folder: Path) -> str:
    """The path of a saved pipeline that is not ours: Spark NLP's dictionary."""
    words = folder / "words.csv"
    words.write_text("fab,positive\nmeh,negative\n")
    stages = [
        DocumentAssembler().setInputCol("text").setOutputCol("document"),
        Tokenizer().setInputCols(["document"]).setOutputCol("token"),
        SentimentDetector().setInputCols(["token", "document"]).setOutputCol("said").setDictionary(str(words), ","),
    ]
    place = f"file://{folder}/pretrained"
    Pipeline(stages=stages).fit(spark.createDataFrame([("fab",)], "text string")).save(place)
    return place


def rows(frame: DataFrame) -> list[Any]:
    return [list(row) for row in frame.collect()]


def main(folder: Path, jars: Path, seed: int) -> None:
    settings = Settings(
        home=folder / "home", jars=jars, hdfs=Hdfs(uri=f"file://{folder}", root="lake"), servers="existing"
    )
    spark = text_session(settings)
    model = sentiment_model(spark, settings)
    events, logs = silver(spark)
    for name, frame in (("silver.user_events", events), ("silver.service_logs", logs)):
        frame.write.format("delta").save(settings.table_uri(name))
    texts = spark.createDataFrame([("comments", text) for text in planted(seed)], "source string, text string")
    other = Text(sentiment_pipeline=pretrained(spark, folder), sentiment_column="said")
    configured = sentiment_model(spark, settings.model_copy(update={"text": other}))
    fab = spark.createDataFrame([("comment", datetime(2024, 5, 10, tzinfo=UTC), "so fab")], events.schema)
    found = {
        "evaluation": evaluate(spark, model, seed, 1500),
        "keywords": rows(keywords(texts)),
        "errors": rows(error_clusters(spark.createDataFrame([(text,) for text in ERRORS], "text string"))),
        "insights": rows(daily.text_insights(spark, settings, DAY)),
        "configured": rows(text_insights(fab, logs.limit(0), DAY, configured, "said").where("kind = 'sentiment'")),
    }
    (folder / "found.json").write_text(json.dumps(found, default=str))
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
