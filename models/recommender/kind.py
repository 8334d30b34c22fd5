"""The recommender as training, gate and registry know it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.predict import Neighbours
from lakehouse.settings import Settings
from lakehouse.sources.analysis import read_table
from models import drift
from models.agreement import overlap, rank_biased_overlap
from models.gate import Bounds
from models.recommender import als, linear, recency
from models.recommender.interactions import interactions
from models.recommender.metrics import K, measure
from models.recommender.train import train
from models.trained import Arrays, Measured, ModelError, Trained

HELD_SHARE, HELD_MOST = 0.1, timedelta(days=1)
"""The held-out time is the last tenth of what there is, a day at most."""
HISTORY = 100
"""Posts of a history, the newest, that an answer goes by."""
USERS = 2000
"""Users that are measured on, any."""
GROUPS = ((5, "new users"), (20, "some history"), (10**9, "long history"))
FEATURES = {"event type": "event_type", "device": "device", "duration": "duration_ms"}


@dataclass(frozen=True)
class Held:
    """Users of the held-out time: what each had to do with before, oldest first, and turned to then."""

    history: list[list[str]]
    relevant: list[set[str]]
    popular: list[str]


class Recommender:
    """Item neighbours by a linear autoencoder; see ``linear.py``."""

    bounds = Bounds(
        p99_ms=10, max_age=timedelta(days=7), signature=(("history", "n"), ("post_id", "score", "model_version"))
    )

    def train(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Trained:
        """Fit on all interactions before the held-out time."""
        events = _events(spark, settings, versions)
        cut = _cut(events)
        before = events.where(F.col("occurred_at") < F.lit(cut))
        manifest, arrays = train(before, cut.astimezone(UTC), f"{settings.root}/_internal/_training")
        model = Neighbours({**manifest, "version": "candidate"}, arrays)
        inputs = pd.DataFrame({"history": [manifest["items"][:2]], "n": [K]})
        return Trained(
            "recommender", manifest, arrays,
            {"method": manifest["kind"], **manifest["chosen"], "posts": len(manifest["items"])},
            dict(versions), cut.astimezone(UTC), inputs, self.call(model, inputs), drift.reference(before, FEATURES),
            words=_words(manifest),
        )  # fmt: skip

    def hold_out(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Held:
        """Users that turned to something new in the held-out time."""
        events = _events(spark, settings, versions)
        cut = _cut(events)
        past = interactions(events.where(F.col("occurred_at") < F.lit(cut)), cut.astimezone(UTC))
        future = interactions(events.where(F.col("occurred_at") >= F.lit(cut)), now)
        new = future.join(past, ["user_id", "item_id"], "left_anti")
        relevant = new.groupBy("user_id").agg(F.collect_set("item_id").alias("relevant"))
        histories = past.groupBy("user_id").agg(F.sort_array(F.collect_list(F.struct("at", "item_id"))).alias("past"))
        rows = _pandas(relevant.join(histories, "user_id").orderBy(F.xxhash64("user_id")).limit(USERS))
        popular = past.groupBy("item_id").agg(F.sum("weight").alias("w")).orderBy(F.desc("w"), "item_id").limit(1000)
        return Held(
            [[item["item_id"] for item in past] for past in rows["past"]],
            [set(items) for items in rows["relevant"]],
            list(_pandas(popular)["item_id"]),
        )

    def answers(self, manifest: dict[str, Any], arrays: Arrays) -> Neighbours:
        """The model that the real-time processor and the API ask."""
        return Neighbours(manifest, dict(arrays))

    def call(self, model: Neighbours, inputs: pd.DataFrame) -> pd.DataFrame:
        """A row of post ids and scores for each row of a history and a number."""
        tops = [
            model.top(list(history), set(history), int(n))
            for history, n in zip(inputs["history"], inputs["n"], strict=True)
        ]
        return pd.DataFrame(
            {
                "post_id": [[post for post, _ in top] for top in tops],
                "score": [[score for _, score in top] for top in tops],
                "model_version": model.version,
            }
        )

    def measure(self, model: Neighbours, held: Held) -> Measured:
        """nDCG@10 of what is new to a user, over all and by the length of the history; the time of each answer."""
        return _measured(held, *_lists(model, held))

    def baseline(self, held: Held) -> Measured:
        """The most popular posts that a user does not know."""
        lists = []
        for history in held.history:
            known = set(history)
            lists.append([post for post in held.popular if post not in known][:K])
        return _measured(held, lists, [0.0])

    def agreement(self, model: Neighbours, other: Neighbours, held: Held) -> dict[str, float]:
        """Means over users: the share of ten posts that both recommend, and rank-biased overlap of their lists."""
        (lists, _), (others, _) = _lists(model, held), _lists(other, held)
        pairs = list(zip(lists, others, strict=True))
        return {
            "overlap@10": float(np.mean([overlap(a, b, K) for a, b in pairs])),
            "rank_biased_overlap": float(np.mean([rank_biased_overlap(a, b) for a, b in pairs])),
        }

    def drift(self, reference: Mapping[str, Any], spark: Any, settings: Settings, now: datetime) -> dict[str, float]:
        """Of the events of the last day, as far as there are."""
        events = _events(spark, settings, {})
        since = _cut(events)
        return drift.stability(reference, events.where(F.col("occurred_at") >= F.lit(since)), FEATURES)


def _words(manifest: Mapping[str, Any]) -> str:
    """What was trained: by how the weights were found, and whether attention moves on."""
    parts = [
        als if manifest["kind"] == "als" else linear,
        *([recency] if manifest["chosen"].get("half_life_h") else []),
    ]
    return "\n\n".join((part.__doc__ or "").strip() for part in parts)


def _lists(model: Neighbours, held: Held) -> tuple[list[list[str]], list[float]]:
    """What is recommended to each user, and how long each answer took."""
    took, lists = [], []
    for history in held.history:
        began = time.thread_time()
        lists.append([post for post, _ in model.top(history[-HISTORY:], set(history), K)])
        took.append(time.thread_time() - began)
    return lists, took


def _measured(held: Held, lists: list[list[str]], took: list[float]) -> Measured:
    hits = np.zeros((len(lists), K), dtype=bool)
    for row, (posts, relevant) in enumerate(zip(lists, held.relevant, strict=True)):
        hits[row, : len(posts)] = [post in relevant for post in posts]
    if not len(lists):
        raise ModelError("no user turned to anything new in the held-out time: there is too little to measure on")
    found = measure(hits, np.array([len(relevant) for relevant in held.relevant]))
    ndcg = found["ndcg@10"]
    length = np.array([len(history) for history in held.history])
    slices, least = {}, 0
    for most, name in GROUPS:
        mine = (length >= least) & (length < most)
        least = most
        if mine.any():
            slices[name] = (float(ndcg[mine].mean()), int(mine.sum()))
    more = {name: float(values.mean()) for name, values in found.items() if name != "ndcg@10"}
    return Measured("ndcg@10", float(ndcg.mean()), slices, float(np.quantile(took, 0.99)) * 1000, more)


def _events(spark: Any, settings: Settings, versions: Mapping[str, int]) -> DataFrame:
    return read_table(spark, settings, "silver.user_events", versions.get("silver.user_events"))


def _cut(events: DataFrame) -> datetime:
    """Where the held-out time begins."""
    row = events.agg(F.min("occurred_at"), F.max("occurred_at")).first()
    if row is None or row[0] is None:
        raise ModelError("silver.user_events is empty: `lakehouse simulate` or the collector fills it")
    first, last = row
    found: datetime = last - min((last - first) * HELD_SHARE, HELD_MOST)
    return found


def _pandas(frame: DataFrame) -> pd.DataFrame:
    return frame.toPandas()


KIND = Recommender()
