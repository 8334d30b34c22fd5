"""How well the recommender does on a published data set, by the published protocol (``metrics``)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd

from lakehouse.predict import Neighbours
from models.recommender import metrics
from models.recommender.interactions import Interactions
from models.recommender.linear import fit

LAYOUT = {"user_id": "user_id:token", "item_id": "item_id:token", "at": "timestamp:float"}


def evaluate(data: Path, out: Path | None = None, split: Path | None = None, seeds: int = 5) -> dict[str, float]:
    """Means of runs, ``ndcg@10``, ``map@10``, ``precision@10``, ``recall@10``, ``fit_s``; and ``seeds``, the runs.

    Every rating is an interaction whatever its value; a user's training items are not answered; the mean of a run is
    over the users with test items. ``fit_s`` holds the choice of parameters, which each run makes anew within its
    training part (``linear.choose``).

    Args:
        data: tab-separated, with a header of names and types: ``user_id:token``, ``item_id:token``, perhaps
            ``timestamp:float``; other columns are not looked at.
        out: a folder for ``recommendations.csv`` (user_id, item_id, rank, score), or without ``split`` for one of
            every seed, ``recommendations-<seed>.csv``, beside its test part, ``test-<seed>.inter``.
        split: a file in the same layout whose pairs are the test part, while all others train; else the test part is
            a quarter of each item's interactions, at random.
        seeds: runs, each with a random split of its own, where there is no ``split``.
    """
    frame = read(data)
    parts: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    if split:
        test = read(split)
        parts[""] = (frame[~_pairs(frame).isin(_pairs(test))], test)
    else:
        item = pd.factorize(frame["item_id"])[0]
        for seed in range(seeds):
            held = metrics.split(item, seed)
            parts[f"-{seed}"] = (frame[~held], frame[held])
    runs = []
    for name, (train, test) in parts.items():
        run, answers = score(train, test)
        runs.append(run)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            answers.to_csv(out / f"recommendations{name}.csv", index=False)
            if not split:
                test.rename(columns=LAYOUT).to_csv(out / f"test{name}.inter", sep="\t", index=False)
    return {**{name: float(np.mean([run[name] for run in runs])) for name in runs[0]}, "seeds": len(runs)}


def read(file: Path) -> pd.DataFrame:
    """``user_id``, ``item_id`` and, if known, ``at``, of every interaction, one a pair, oldest first; ids are text."""
    frame = pd.read_csv(file, sep="\t", dtype=str)
    frame = frame.rename(columns={full: short for short, full in LAYOUT.items()})
    frame = frame[[name for name in LAYOUT if name in frame]]
    if "at" in frame:
        frame = frame.astype({"at": float}).sort_values("at", kind="stable")
    return frame.drop_duplicates(["user_id", "item_id"], keep="last", ignore_index=True)


def score(train: pd.DataFrame, test: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """The metrics of one run, and its answers (user_id, item_id, rank, score).

    Whom the model has too few answers for is answered what is popular, as the real-time processor does.
    """
    start = time.perf_counter()
    manifest, arrays = fit(Interactions.of(train))
    took = time.perf_counter() - start
    model = Neighbours({**manifest, "version": "evaluated"}, arrays)
    histories = train.groupby("user_id")["item_id"].agg(list).to_dict()
    wanted = test.groupby("user_id")["item_id"].agg(set)
    hits = np.zeros((len(wanted), metrics.K), dtype=bool)
    answers = []
    for row, (user, relevant) in enumerate(wanted.items()):
        history = histories.get(user, [])
        top = model.top(history, history, metrics.K)
        if len(top) < metrics.K:
            known = {*history, *(item for item, _ in top)}
            popular = [(item, float("-inf")) for item in manifest["items"] if item not in known]
            top += popular[: metrics.K - len(top)]
        hits[row, : len(top)] = [item in relevant for item, _ in top]
        answers += [(user, item, rank, value) for rank, (item, value) in enumerate(top, 1)]
    found = metrics.measure(hits, wanted.map(len).to_numpy())
    table = pd.DataFrame(answers, columns=["user_id", "item_id", "rank", "score"])
    return {**{name: float(values.mean()) for name, values in found.items()}, "fit_s": took}, table


def _pairs(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(frame[["user_id", "item_id"]])
