"""The card of a version tells what is on record of it, in the registry too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lakehouse.settings import Settings
from models import lifecycle
from models.card import card
from models.registry import Registry
from models.trained import ModelError
from tests.unit.small_model import made, promote


def test_the_card_tells_origin_figures_verdict_and_the_way_back(small_model: Settings) -> None:
    made(small_model, [0.2, 0.2])
    assert "It does not answer; no version does" in card(small_model, "means")
    promote(small_model)
    found = card(small_model, "means")
    for said in (
        "# means, version 1", f"It answers since {datetime.now(UTC):%Y-%m-%d}", "Weighs items.",
        "until 2026-11-26T00:00:00+00:00", "| silver.user_events | 7 |", "| half life | 3 |", "| ndcg@10 | 0.4 | ",
        "by ann: better on paper", "| figure | value | baseline | cases |", "| ndcg@10 | 0.4 | 0.1 |  |",
        "| slice/new users | 0.2 |  | 500 |", "lakehouse rollback means",
    ):  # fmt: skip
        assert said in found, said


def test_a_refusal_is_on_the_card_with_its_reasons(small_model: Settings) -> None:
    made(small_model, [0.2, 0.2])
    promote(small_model)
    worse = made(small_model, [0.1, 0.1])
    promote(small_model)
    found = card(small_model, "means", worse)
    assert "It does not answer; version 1 does" in found and "**refused**" in found
    assert "- worse: ndcg@10 0.2000 on held-out time, the champion has 0.4000" in found


def test_the_registry_has_the_card_as_it_was_decided(small_model: Settings) -> None:
    import mlflow

    made(small_model, [0.2, 0.2])
    promote(small_model)
    known = Registry(small_model)._client.get_model_version("means", "1")
    text = mlflow.artifacts.load_text(f"runs:/{known.run_id}/card.md")
    assert text == card(small_model, "means") and known.description == text[:5000]


def test_the_card_of_a_version_that_no_longer_answers_says_so(small_model: Settings) -> None:
    first, second = made(small_model, [0.2, 0.2]), made(small_model, [0.3, 0.3])
    promote(small_model, first)
    promote(small_model, second)
    lifecycle.rollback(small_model, "means", "ann", "")
    cards = [Registry(small_model)._client.get_model_version("means", one).description or "" for one in (first, second)]
    assert "It answers since" in cards[0] and f"It does not answer; version {first} does" in cards[1]


def test_a_version_that_nobody_registered_has_no_card(small_model: Settings) -> None:
    with pytest.raises(ModelError, match="lakehouse train means"):
        card(small_model, "means")
    made(small_model, [0.2, 0.2])
    with pytest.raises(ModelError, match="no version 9"):
        card(small_model, "means", "9")


def test_every_model_is_told_what_it_is_for() -> None:
    from models.card import USE
    from models.kinds import KINDS

    assert set(USE) == set(KINDS) == set(lifecycle.SOURCES)


def test_the_recommenders_card_tells_of_the_method_that_was_trained() -> None:
    from models.recommender import als, linear, recency
    from models.recommender.kind import _words

    heads = {part: (part.__doc__ or "").splitlines()[0] for part in (als, linear, recency)}
    told = {
        kind: [part for part in heads if heads[part] in _words({"kind": kind, "chosen": {"half_life_h": hours}})]
        for kind, hours in (("als", 0.0), ("linear", 0.0), ("tastes", 1.0))
    }
    assert told == {"als": [als], "linear": [linear], "tastes": [linear, recency]}
