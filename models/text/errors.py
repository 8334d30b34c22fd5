"""Groups of like error messages: leader clustering (Hartigan, "Clustering Algorithms", 1975, chapter 3).

What varies in a message is masked; the distinct masked messages, most frequent first, each join the leader that they
are like, or lead a group of their own. The number of groups follows from the data.
"""

from __future__ import annotations

from pyspark.ml import Pipeline
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from sparknlp.annotator import Tokenizer
from sparknlp.base import DocumentAssembler, Finisher

ALIKE = 0.5
"""Least share of words (Dice's coefficient) that a message has in common with its leader."""
LED = 2000
"""Distinct messages, the most frequent ones, among which leaders are sought."""
MASK = "<*>"


def masked(message: Column) -> Column:
    """The message with quoted parts, paths and whatever has a digit in it replaced by ``<*>``."""
    message = F.regexp_replace(message, r"""'[^']*'|"[^"]*"|\S*\d\S*|(?<!\S)/\S*""", MASK)
    return F.trim(F.regexp_replace(message, r"\s+", " "))


def _alike(a: Column, b: Column) -> Column:
    """Dice's coefficient of two arrays of distinct words."""
    return 2 * F.size(F.array_intersect(a, b)) / F.greatest(F.size(a) + F.size(b), F.lit(1))


def error_clusters(messages: DataFrame) -> DataFrame:
    """(text) -> (term, score, count): groups of like messages.

    Term is the group's most frequent message, masked; score the mean likeness (0-1) of its messages to that one; count
    their number.
    """
    distinct = messages.groupBy(masked(F.col("text")).alias("message")).agg(F.count("*").alias("times"))
    stages = [
        DocumentAssembler().setInputCol("message").setOutputCol("document"),
        Tokenizer().setInputCols(["document"]).setOutputCol("token"),
        Finisher().setInputCols(["token"]).setOutputCols(["tokens"]).setCleanAnnotations(True),
    ]
    # None of these stages learns from rows: fitting builds them.
    tokenised = Pipeline(stages=stages).fit(distinct).transform(distinct)
    words = F.array_distinct(F.filter(F.transform("tokens", F.lower), lambda token: token.rlike(r"\p{L}")))
    each = tokenised.select("message", "times", words.alias("words"))
    ranked = F.sort_array(F.collect_list(F.struct((-F.col("times")).alias("rank"), "message", "words")))
    found = F.aggregate(
        F.transform(ranked, lambda m: F.struct(m["message"].alias("message"), m["words"].alias("words"))),
        F.array().cast("array<struct<message:string,words:array<string>>>"),
        lambda leaders, m: F.when(
            F.exists(leaders, lambda led: _alike(led["words"], m["words"]) >= ALIKE), leaders
        ).otherwise(F.concat(leaders, F.array(m))),
    )
    most = each.orderBy(F.desc("times"), "message").limit(LED)
    leaders = most.agg(found.alias("leaders")).select(F.explode("leaders").alias("leader"))
    likeness = _alike(F.col("words"), F.col("leader.words"))
    nearest = (
        each.crossJoin(F.broadcast(leaders))
        .groupBy("message", "times")
        .agg(F.max(F.struct(likeness.alias("likeness"), F.col("leader.message").alias("term"))).alias("nearest"))
        .select("times", "nearest.*")
    )
    return nearest.groupBy("term").agg(
        (F.sum(F.col("likeness") * F.col("times")) / F.sum("times")).alias("score"), F.sum("times").alias("count")
    )
