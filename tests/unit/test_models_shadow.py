"""Champion and challenger side by side: what is measured, and agreement on planted answers."""

from __future__ import annotations

import numpy as np
import pytest

from lakehouse.settings import Settings
from models.agreement import kappa, overlap, rank_biased_overlap
from models.registry import Registry
from models.shadow import REPORT, compare
from models.trained import ModelError
from tests.unit.small_model import NOW, made, promote


def test_the_report_tells_how_good_both_are_and_how_far_they_agree(small_model: Settings) -> None:
    import mlflow

    champion, challenger = made(small_model, [0.2, 0.2]), made(small_model, [0.2, 0.4])
    promote(small_model, champion)
    report = compare(small_model, "means", None, now=NOW)
    assert (report["champion"]["version"], report["challenger"]["version"]) == (champion, challenger)
    assert report["champion"]["value"] == pytest.approx(0.4) and report["challenger"]["value"] == pytest.approx(0.6)
    assert report["challenger"]["slices"]["new users"] == {"value": 0.4, "cases": 500}
    assert report["agreement"] == {"same": 0.5}
    run = Registry(small_model)._client.get_model_version("means", challenger).run_id
    assert mlflow.artifacts.load_dict(f"runs:/{run}/{REPORT}") == report
    answering = Registry(small_model).answering("means")
    assert answering is not None and answering.version == champion  # nothing was decided


def test_there_is_nothing_to_compare_without_a_champion_and_another_version(small_model: Settings) -> None:
    version = made(small_model, [0.2, 0.2])
    with pytest.raises(ModelError, match="lakehouse promote means"):
        compare(small_model, "means", None)
    promote(small_model)
    with pytest.raises(ModelError, match="lakehouse train means"):
        compare(small_model, "means", None)
    with pytest.raises(ModelError, match="is the champion"):
        compare(small_model, "means", None, version)


def test_overlap_counts_what_both_lists_have_in_any_order() -> None:
    assert overlap("abcd", "dcba", 4) == 1 and overlap("abcd", "abxy", 4) == 0.5 and overlap("abcd", "abxy", 2) == 1
    assert overlap("ab", "abcd", 10) == 0.5 and overlap("", "ab", 10) == 0 and overlap("", "", 10) == 1


def test_rank_biased_overlap_of_lists_worked_out_by_hand() -> None:
    assert rank_biased_overlap("abcde", "abcde") == pytest.approx(1) and rank_biased_overlap("abc", "xyz") == 0
    # (1 - p) (0 + 1 p) + 1 p^2 with p = 0.5: the first ranks differ, both lists have both.
    assert rank_biased_overlap("ab", "ba", 0.5) == pytest.approx(0.5)
    # Of lengths 1 and 2: (1 - p)/p (p + p^2 / 2 + p^2 / 2) + (0 + 1) p^2.
    assert rank_biased_overlap("a", "ab", 0.5) == pytest.approx(1)
    assert rank_biased_overlap("", "") == 1 and rank_biased_overlap("", "a") == 0


def test_rank_biased_overlap_weighs_the_top_most_and_knows_no_order_of_its_arguments() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        one, other = (list(rng.permutation(20)[: rng.integers(1, 15)]) for _ in range(2))
        assert 0 <= (found := rank_biased_overlap(one, other)) <= 1
        assert found == pytest.approx(rank_biased_overlap(other, one))
    assert rank_biased_overlap("abcde", "abced") > rank_biased_overlap("abcde", "bacde")


def test_kappa_is_what_cohen_has_and_0_by_chance() -> None:
    assert kappa(20, 25, 30, 50) == pytest.approx(0.4)  # 0.7 agreed, 0.5 by chance
    assert kappa(25, 50, 50, 100) == 0 and kappa(50, 50, 50, 100) == 1
    assert kappa(0, 50, 50, 100) == -1 and kappa(0, 0, 0, 10) == 1


def test_recommenders_agree_as_far_as_their_lists_do() -> None:
    from models.recommender.kind import KIND, Held

    class Says:
        def __init__(self, posts: str) -> None:
            self.posts = posts

        def top(self, history: list[str], known: set[str], n: int) -> list[tuple[str, float]]:
            return [(post, 1.0) for post in self.posts if post not in known][:n]

    held = Held([["a"], ["z"]], [{"b"}, {"c"}], [])
    found = KIND.agreement(Says("abc"), Says("abd"), held)  # type: ignore[arg-type]
    assert found["overlap@10"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert 0.5 < found["rank_biased_overlap"] < 1
