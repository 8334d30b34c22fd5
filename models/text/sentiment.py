"""Sentiment of comments in English and Korean, learnt from a lexicon alone.

The lexicon (``lexicon/<language>.txt``) is turned into short made-up sentences with a known sentiment: a phrase among
neutral words, sometimes negated. On those a multinomial logistic regression is trained, over words, pairs of words and,
for Korean, the character n-grams that carry a stem through its endings (Joulin et al., "Bag of Tricks for Efficient
Text Classification", 2016). Words in reach of a negation are marked (Das and Chen, "Yahoo! for Amazon", 2001).

It has seen no comment, so every labelled comment is a test of it. The lexicon, though, is by the hand that wrote the
simulation's phrases, and the features, the number of sentences and of iterations were chosen by looking at simulated
comments of three seeds; the other parameters are round numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import CountVectorizer, IndexToString, SQLTransformer
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sparknlp.annotator import Tokenizer
from sparknlp.base import DocumentAssembler, Finisher

SENTIMENTS = ("negative", "neutral", "positive")
LANGUAGES = ("en", "ko")
LEXICON = Path(__file__).with_name("lexicon")
SENTENCES = 8
"""Made-up sentences for each phrase of the lexicon."""
EN_NEGATIONS = (
    *("not", "no", "never", "nothing", "none", "neither", "nor", "without", "hardly", "barely", "cannot"),
    *("dont", "doesnt", "didnt", "isnt", "wasnt", "arent", "cant", "wont", "aint"),
)
"""Beside all that ends in n't."""
REACH = 3
"""Tokens that an English negation turns, up to a comma or a `but`; a Korean one turns the next."""

Row = tuple[str, str, int]
"""(text, language, sentiment as an index of SENTIMENTS)."""


def lexicon(language: str, folder: Path = LEXICON) -> dict[str, list[str]]:
    """The phrases of a language by section: ``positive``, ``positive adjective``, ..., ``neutral``."""
    sections: dict[str, list[str]] = {}
    for line in (folder / f"{language}.txt").read_text("utf-8").splitlines():
        if header := re.fullmatch(r"\[(.+)\]", line):
            phrases = sections.setdefault(header[1], [])
        elif line and not line.startswith("#"):
            phrases += [phrase.strip() for phrase in line.split(",")]
    return sections


_BEFORE = {
    "en": ("", "", "very ", "so ", "really ", "quite ", "absolutely ", "too ", "just ", "pretty much "),
    "ko": ("", "", "너무 ", "정말 ", "진짜 ", "아주 ", "매우 ", "꽤 ", "참 "),
}
_KO_ENDS = ("", "요", "네요", "어요", "습니다", "다", "고", "는데", "더라고요", "지만", "죠")
_NEGATED = {
    ("en", "adjective"): ("not {}", "not {} at all", "isn't {}", "wasn't very {}", "never {}", "not really {}"),
    ("en", "verb"): ("don't {}", "didn't {}", "not {}", "never {}", "can't {}", "doesn't really {}"),
    ("ko", "adjective"): (
        *("안 {}요", "안{}요", "안 {}어요", "별로 안 {}요", "안 {}", "{}지 않아요", "{}지 못했어요", "{}지 않았다"),
    ),
}


def _sentences(random: Random, language: str) -> list[Row]:
    """Made-up sentences of a language, about as many of each sentiment."""
    sections = lexicon(language)
    neutral = sections.pop("neutral")

    def among(text: str) -> str:
        words = random.choices(neutral, k=random.randrange(6))
        words.insert(random.randrange(len(words) + 1), text)
        return " ".join(words)

    def said(phrase: str, kind: str) -> str:
        end = random.choice(_KO_ENDS) if (language, kind) == ("ko", "adjective") else ""
        if end == "습니다" and phrase.endswith("하"):
            phrase, end = phrase[:-1] + "합", "니다"
        return (random.choice(_BEFORE[language]) if kind else "") + phrase + end

    rows: list[Row] = []
    for section, phrases in sections.items():
        name, _, kind = section.partition(" ")
        mood = SENTIMENTS.index(name)
        for phrase in phrases:
            for turn in range(SENTENCES):
                if kind and turn % 4 == 0:
                    text = random.choice(_NEGATED[language, kind]).format(phrase)
                    rows.append((among(text), language, 2 - mood))
                else:
                    rows.append((among(said(phrase, kind)), language, mood))
    return rows + [
        (" ".join(random.choices(neutral, k=random.randrange(2, 8))), language, 1) for _ in range(len(rows) // 2)
    ]


def made_up() -> list[Row]:
    """The sentences that the model is trained on; always the same."""
    return [row for language in LANGUAGES for row in _sentences(Random(language), language)]


# Letters thrice or more count twice; a colon after a word stands alone; Korean's long negation (좋지 않아요) becomes
# the short one (안 좋지).
_REPLACED = (
    (r"(.)\1{2,}", "$1$1"),
    (r"(?<=\p{L}):", " : "),
    (r"(\S+지)[는도가]? ?(않|못|안)[^\s.,!?]*", "안 $1"),
    (r"(\S+)[은는이가] 아[니닙닌][^\s.,!?]*", "안 $1"),
)
_PLAIN = """lower(translate(text, '’', "'"))"""
for _pattern, _by in _REPLACED:
    _PLAIN = f"regexp_replace({_PLAIN}, r'{_pattern}', '{_by}')"
_MARKED = f"""aggregate(tokens, struct(cast(array() as array<string>) as done, 0 as left), (a, t) -> struct(
    concat(a.done, array(if(a.left > 0 and t rlike r'^\\p{{L}}', concat('¬', t), t))) as done,
    case when t in ({", ".join(map(repr, EN_NEGATIONS))}) or t like "%n't" then {REACH} when t in ('안', '못') then 1
         when t = 'but' or t rlike r'^[^\\p{{L}}]' then 0 else greatest(a.left - 1, 0) end as left), a -> a.done)"""
_GRAMS = r"""concat(marked, transform(slice(marked, 2, size(marked)), (t, i) -> concat(marked[i], ' ', t)),
    flatten(transform(filter(marked, t -> t rlike '[가-힣]'), t -> flatten(transform(sequence(2, 4), n ->
        if(length(t) + 2 > n, transform(sequence(1, length(t) + 2 - n), i ->
           concat(if(t like '¬%', '¬', ''), '~', substring(concat('^', ltrim('¬', t)), i, n))), array()))))))"""


def _reading() -> list[SQLTransformer | DocumentAssembler | Tokenizer | Finisher]:
    """The stages that turn ``text`` into ``grams``."""
    tokens = Tokenizer().setInputCols(["document"]).setOutputCol("token")
    return [
        SQLTransformer(statement=f"select *, {_PLAIN} as plain from __THIS__"),
        DocumentAssembler().setInputCol("plain").setOutputCol("document"),
        tokens.setContextChars([".", ",", "!", "?", ";", '"', "“", "”", "…"]),  # those that are no part of an emoticon
        Finisher().setInputCols(["token"]).setOutputCols(["tokens"]).setCleanAnnotations(True),
        SQLTransformer(statement=f"select *, {_MARKED} as marked from __THIS__"),
        SQLTransformer(statement=f"select *, {_GRAMS} as grams from __THIS__"),
    ]


def train(spark: SparkSession, rows: Sequence[Row] | None = None) -> PipelineModel:
    """The model of sentiments, ``text -> sentiment, probability``, of :func:`made_up` or other rows; some 15 s."""
    sentences = spark.createDataFrame(made_up() if rows is None else rows, "text string, language string, label int")
    reading = Pipeline(stages=_reading()).fit(sentences)
    grams = reading.transform(sentences).select("grams", "label").cache()
    learning = Pipeline(
        stages=[
            # A gram that occurs once is chance; one that no sentence has counts for nothing.
            CountVectorizer(inputCol="grams", outputCol="features", minDF=2, binary=True),
            LogisticRegression(family="multinomial", regParam=0.001, maxIter=25),
            IndexToString(inputCol="prediction", outputCol="sentiment", labels=list(SENTIMENTS)),
        ]
    ).fit(grams)
    grams.unpersist()
    return PipelineModel(stages=[*reading.stages, *learning.stages])


def digest() -> str:
    """What tells one model from another: the lexicon and this file."""
    made_of = [Path(__file__), *sorted(LEXICON.glob("*.txt"))]
    return sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()[:12]


def language(text: Column) -> Column:
    """``ko`` for a text with a Korean letter in it, else ``en``."""
    return F.when(text.rlike("[가-힣ㄱ-ㅎㅏ-ㅣ]"), "ko").otherwise("en")


def classified(comments: DataFrame, model: PipelineModel, column: str = "sentiment") -> DataFrame:
    """Comments with a ``text``, and what the model says of them: ``sentiment``, ``confidence`` (0-1).

    The model is :func:`train`'s, or any pipeline that reads ``text``; ``column`` is then what it writes: strings, or
    annotations of Spark NLP, the first of which counts. Words that begin with ``pos`` or ``neg`` are taken as these
    sentiments, all others as neutral. The confidence of an annotation is its metadata's ``confidence``, or what the
    metadata has under the result's name, or 1.
    """
    found = model.transform(comments)
    said = F.col(column)
    confidence = F.lit(1.0)
    if isinstance(found.schema[column].dataType, T.ArrayType):
        first = F.get(said, 0)
        said = first["result"]
        meta = first["metadata"]
        confidence = F.coalesce(meta["confidence"].cast("double"), meta[said].cast("double"), confidence)
    elif "probability" in found.columns:
        confidence = F.array_max(vector_to_array(F.col("probability")))
    said = F.lower(said)
    mood = F.when(said.startswith("pos"), "positive").when(said.startswith("neg"), "negative").otherwise("neutral")
    return found.select(*comments.columns, mood.alias("sentiment"), confidence.alias("confidence"))
