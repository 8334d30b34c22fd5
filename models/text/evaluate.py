"""How well sentiments are told, on comments of the simulated service that the model has never seen."""

from __future__ import annotations

import time
from random import Random
from typing import Any

from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

from lakehouse.comments import LANGUAGES, comment
from lakehouse.simulate import TOPIC_WORDS
from models.text.sentiment import SENTIMENTS, Row, classified


def simulated(seed: int, count: int) -> list[Row]:
    """``count`` comments of each language, a third of each sentiment, about any of the simulation's topics."""
    random = Random(seed)
    words = {
        "en": [w for ws in TOPIC_WORDS.values() for w in ws[:3]],
        "ko": [w for ws in TOPIC_WORDS.values() for w in ws[3:]],
    }
    return [
        (comment(random, language, mood, random.choice(words[language])), language, mood)
        for language in LANGUAGES
        for mood in (n % len(SENTIMENTS) for n in range(count))
    ]


def evaluate(
    spark: SparkSession, model: PipelineModel, seed: int, count: int = 3000, column: str = "sentiment"
) -> dict[str, Any]:
    """Share of ``count`` simulated comments of each language whose sentiment is told right.

    Returns:
        ``accuracy`` (language -> share), ``confusion`` (language -> true sentiment -> told sentiment -> number),
        ``comments``, ``seconds_per_10000`` (a second pass, when all is compiled), ``seed``.
    """
    rows = [(text, language, SENTIMENTS[mood]) for text, language, mood in simulated(seed, count)]
    comments = spark.createDataFrame(rows, "text string, language string, truth string").repartition(2).cache()
    told = classified(comments, model, column)
    counts = told.groupBy("language", "truth", "sentiment").count().collect()
    began = time.monotonic()
    told.write.format("noop").mode("overwrite").save()
    seconds = time.monotonic() - began
    confusion = {language: {mood: dict.fromkeys(SENTIMENTS, 0) for mood in SENTIMENTS} for language in LANGUAGES}
    for language, truth, said, number in counts:
        confusion[language][truth][said] = number
    right = {language: sum(table[mood][mood] for mood in SENTIMENTS) for language, table in confusion.items()}
    return {
        "accuracy": {language: round(number / count, 4) for language, number in right.items()},
        "confusion": confusion,
        "comments": len(rows),
        "seconds_per_10000": round(10_000 * seconds / len(rows), 2),
        "seed": seed,
    }
