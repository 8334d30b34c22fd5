"""What the champion cannot know yet has a few places in its answer, where many look at it now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lakehouse.predict import Neighbours
from lakehouse.realtime.recommend import TOP, Recommend

KNOWN = [f"p{number:02}" for number in range(40)]


def answer(popular: list[str], recent: list[str], known: int = 40) -> Any:
    """Of a champion to which every post is related to all others, those with small numbers most."""
    near = np.tile(np.arange(known, dtype=np.int32), (known, 1))
    weights = np.tile(np.linspace(1.0, 0.5, known, dtype=np.float32), (known, 1))
    model = Neighbours({"version": "7", "items": KNOWN[:known]}, {"neighbours": near, "weights": weights})
    items: Any = SimpleNamespace(popular=[(name, 1.0) for name in popular])
    champion: Any = SimpleNamespace(look=lambda: model)
    return Recommend(items, champion).top(recent)


def test_every_fifth_place_is_for_a_popular_post_that_the_champion_does_not_know() -> None:
    made = answer(["p03", "n1", "n2", "p04", "n3", "n4", "n5"], ["p00"])
    names = [item["post_id"] for item in made.items]
    assert made.model_version == "7" and [names[place] for place in (4, 9, 14, 19)] == ["n1", "n2", "n3", "n4"]
    assert [name for name in names if name.startswith("p")] == KNOWN[1:17]
    scores = [item["score"] for item in made.items]
    assert len(names) == len(set(names)) == TOP and scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("popular", [[], KNOWN[:30], ["seen"], [*KNOWN[:TOP], "n1"]])
def test_what_is_known_or_seen_or_not_among_the_most_popular_takes_no_place(popular: list[str]) -> None:
    assert [item["post_id"] for item in answer(popular, ["p00", "seen"]).items] == KNOWN[1:21]


def test_a_short_answer_is_filled_up() -> None:
    assert [item["post_id"] for item in answer(["n1", "n2"], ["p00"], 3).items] == ["p01", "p02", "n1", "n2"]


def test_before_there_is_a_champion_the_fallback_answers() -> None:
    items: Any = SimpleNamespace(popular=[("n1", 1.0)], near=lambda name: [])
    champion: Any = SimpleNamespace(look=lambda: None)
    assert Recommend(items, champion).top(["p00"]) == ("co-visitation", [{"post_id": "n1", "score": 0.0}])
