"""Keywords of the texts of a day, by YAKE (Campos et al., Information Sciences 509, 2020), as Spark NLP has it.

YAKE needs no training: it scores a word by its frequency, place, spread over sentences and the variety of its
neighbours within one document. Here a document is some of the texts of a source, a sentence a text.
"""

from __future__ import annotations

from pyspark.ml import Pipeline
from pyspark.ml.feature import StopWordsRemover
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from sparknlp.annotator import RegexTokenizer, SentenceDetector, YakeKeywordExtraction
from sparknlp.base import DocumentAssembler

TOP = 20
"""Keywords of a source."""
TEXTS = 200
"""Texts of one document: YAKE's work grows faster than its document, and its phrases fall behind its words."""
WORDS = 3
"""Words of a keyword at most."""
CANDIDATES = 1000
"""Keywords of one document at most."""
WITHIN = 0.8
"""Share of a word's occurrences within one phrase above which the phrase is given in its place."""
EN_STOPWORDS = (
    *("really", "very", "quite", "truly", "just", "also", "even", "still", "maybe", "honestly", "actually", "never"),
    *("today", "yesterday", "tomorrow", "tonight", "week", "one", "two", "first", "next", "last", "every", "everyone"),
    *(
        "say",
        "says",
        "said",
        "tell",
        "told",
        "think",
        "thought",
        "find",
        "found",
        "feel",
        "felt",
        "try",
        "tried",
        "use",
    ),
    *("used", "see", "saw", "seen", "get", "got", "go", "went", "come", "came", "make", "made", "want", "need", "know"),
    *(
        "ask",
        "asked",
        "start",
        "would",
        "could",
        "anyone",
        "something",
        "anything",
        "please",
        "thank",
        "thanks",
        "much",
    ),
    *("so", "within", "without", "ms", "many", "new", "now", "part", "things", "thing"),
)
"""Beside Spark's own list of English."""
KO_STOPWORDS = (
    *("이", "그", "저", "것", "수", "등", "및", "더", "또", "안", "못", "잘", "좀", "참", "꽤", "왜", "제", "내", "네"),
    *("저는", "나는", "우리", "제가", "오늘", "어제", "내일", "이번", "다음", "지난", "지금", "처음", "정말", "정말로"),
    *(
        "너무",
        "너무너무",
        "진짜",
        "아주",
        "매우",
        "별로",
        "그냥",
        "그리고",
        "그런데",
        "하지만",
        "그래서",
        "어디",
        "어디에서",
    ),
    *(
        "언제",
        "어떤",
        "무슨",
        "누가",
        "관련",
        "대한",
        "위한",
        "있는",
        "없는",
        "하는",
        "보는",
        "본",
        "해",
        "봤는데",
        "같은",
    ),
    *("다녀왔는데", "친구랑", "함께", "모두", "다시", "다시는", "두", "한", "번", "중", "분", "분들께", "시작하는"),
)


# A Korean predicate ends its phrase, and is no keyword: what ends politely becomes the end of a sentence. Topic and
# object particles belong to no word.
_PLAIN = (
    (r"[가-힣]+(요|여|니다|니까|죠)(?![가-힣])", "\n"),
    (r"([가-힣]{2,})(은|는|을|를|에서|에게|으로)(?![가-힣])", "$1"),
    (r"[^\p{L}\p{N}\s'_-]+", "\n"),
    (r"(?<![\p{L}\p{N}_-])[\p{N}_'-]+(?![\p{L}\p{N}_-])", "\n"),
)


def keywords(texts: DataFrame) -> DataFrame:
    """(source, text) -> (source, term, score, count): the best keywords of each source.

    Score is the mean over the source's documents of 1 / (1 + YAKE's), 0 where YAKE has not found the term, so that more
    is better, within [0, 1]; count is how often the term occurs as a keyword. Words that hardly occur but in one phrase
    are given as that phrase, with the best of their scores.
    """
    plain = F.lower("text")
    for pattern, replacement in _PLAIN:
        plain = F.regexp_replace(plain, pattern, replacement)
    all_of = Window.partitionBy("source")
    documents = F.ceil(F.count("*").over(all_of) / TEXTS)
    # Dealt out like cards in the texts' order, so that what is said often is in every document.
    dealt = F.row_number().over(all_of.orderBy("text")) % documents
    read = (
        texts.select("source", plain.alias("text"), dealt.alias("part"), documents.alias("parts"))
        .groupBy("source", "part", "parts")
        .agg(F.concat_ws("\n", F.sort_array(F.collect_list("text"))).alias("text"))
    )
    stages = [
        DocumentAssembler().setInputCol("text").setOutputCol("document"),
        SentenceDetector()
        .setInputCols(["document"])
        .setOutputCol("sentence")
        .setCustomBounds(["\n+"])
        .setUseCustomBoundsOnly(True),
        RegexTokenizer().setInputCols(["sentence"]).setOutputCol("token").setPattern(r"\s+"),
        YakeKeywordExtraction()
        .setInputCols(["token"])
        .setOutputCol("keywords")
        .setMinNGrams(1)
        .setMaxNGrams(WORDS)
        .setNKeywords(CANDIDATES)
        .setStopWords([*StopWordsRemover.loadDefaultStopWords("english"), *EN_STOPWORDS, *KO_STOPWORDS]),
    ]
    # None of these stages learns from rows: fitting builds them.
    found = Pipeline(stages=stages).fit(read).transform(read)
    score = 1 / (1 + F.col("keyword.metadata")["score"].cast("double"))
    of_part = (
        found.select("source", "part", "parts", F.explode("keywords").alias("keyword"))
        .groupBy("source", "part", "parts", F.col("keyword.result").alias("term"))
        .agg(F.max(score).alias("score"), F.count("*").alias("count"))
    )
    terms = of_part.groupBy("source", "term").agg(
        (F.sum("score") / F.first("parts")).alias("score"), F.sum("count").alias("count")
    )
    phrase = F.struct(F.length("term").alias("length"), F.col("term").alias("phrase"), F.col("count").alias("times"))
    phrases = terms.where("term like '% %' and count > 1").select(F.col("source").alias("of"), phrase.alias("phrase"))
    spaced = (F.concat(F.lit(" "), term, F.lit(" ")) for term in ("phrase.phrase", "term"))
    part = (F.col("of") == F.col("source")) & next(spaced).contains(next(spaced))
    whole = (
        _best(terms, 5 * TOP)
        .join(phrases, part & (F.col("phrase.times") > WITHIN * F.col("count")), "left")
        .groupBy("source", "term", "score", "count")
        .agg(F.max("phrase").alias("phrase"))
        .groupBy("source", F.coalesce("phrase.phrase", "term").alias("term"))
        .agg(F.max("score").alias("score"), F.max(F.coalesce("phrase.times", "count")).alias("count"))
    )
    return _best(whole, TOP)


def _best(terms: DataFrame, most: int) -> DataFrame:
    """The terms of each source that have the highest scores."""
    rank = F.row_number().over(Window.partitionBy("source").orderBy(F.desc("score"), "term"))
    return terms.withColumn("rank", rank).where(F.col("rank") <= most).drop("rank")
