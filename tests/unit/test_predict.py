"""Published arrays answer, one whole version at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lakehouse.predict import CURRENT, Champion, Neighbours, PredictError, publish

ITEMS = ["a", "b", "c", "d"]
NEAR = np.array([[1, 2], [0, 3], [0, -1], [1, 0]], dtype=np.int32)
WEIGHTS = np.array([[0.9, 0.5], [0.9, 0.8], [0.5, 0.0], [0.8, 0.1]], dtype=np.float32)


def published(folder: Path, version: str, weights: np.ndarray = WEIGHTS) -> None:
    publish(folder, version, {"items": ITEMS}, {"neighbours": NEAR, "weights": weights})


def test_before_the_first_version_nobody_answers(tmp_path: Path) -> None:
    assert Champion(tmp_path / "recommender", Neighbours).look() is None


def test_scores_are_summed_over_the_history_the_newest_counting_most(tmp_path: Path) -> None:
    published(tmp_path, "1")
    model = Champion(tmp_path, Neighbours).look()
    assert model is not None
    found = dict(model.top(["c", "b"], exclude={"b", "c"}, n=3))
    assert found == {"a": pytest.approx(0.9 + 0.9 * 0.5), "d": pytest.approx(0.8)}


def test_items_that_are_excluded_unknown_or_absent_are_never_answered(tmp_path: Path) -> None:
    published(tmp_path, "1")
    model = Champion(tmp_path, Neighbours).look()
    assert model is not None
    assert model.top(["nothing"], set(), 5) == []
    assert [item for item, _ in model.top(["a", "nothing"], {"b", "nothing"}, 5)] == ["c"]


def test_the_answer_switches_with_the_version_and_back(tmp_path: Path) -> None:
    champion = Champion(tmp_path, Neighbours)
    for version in ("1", "2", "1"):
        published(tmp_path, version)
        model = champion.look()
        assert model is not None and model.version == version


def test_a_version_that_is_not_whole_is_an_error_and_the_one_before_goes_on(tmp_path: Path) -> None:
    published(tmp_path, "1")
    champion = Champion(tmp_path, Neighbours)
    first = champion.look()
    (tmp_path / CURRENT).write_text("2")
    with pytest.raises(PredictError, match="publish it again"):
        champion.look()
    assert champion.look() is first


@pytest.mark.parametrize("version", ["", "../x", "a/b", CURRENT])
def test_a_version_cannot_lie_outside_its_folder(tmp_path: Path, version: str) -> None:
    with pytest.raises(PredictError):
        published(tmp_path, version)
