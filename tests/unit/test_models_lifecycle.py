"""From training to the alias and back, on a real registry and a lake on the local disk; the model is a small one."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lakehouse import predict
from lakehouse.predict import findings
from lakehouse.settings import Settings
from models import lifecycle
from models.registry import Registry, decisions
from models.trained import ModelError
from tests.unit.small_model import NOW, SIGNATURE, Means, made, promote


@pytest.fixture
def settings(small_model: Settings) -> Settings:
    return small_model


def test_a_better_candidate_answers_and_an_even_better_one_replaces_it_until_it_is_rolled_back(
    settings: Settings,
) -> None:
    folder = settings.published / "means"
    first = made(settings, [0.2, 0.2])
    assert Registry(settings).alias("means", "challenger") == first
    assert promote(settings).action == "promoted"
    champion = predict.Champion(folder, lambda manifest, arrays: (manifest["version"], arrays["weights"].tolist()))
    assert champion.look() == (first, [0.2, 0.2])
    second = made(settings, [0.3, 0.3])
    assert promote(settings).previous == first
    assert champion.look() == (second, [0.3, 0.3])
    began = time.monotonic()
    back = lifecycle.rollback(settings, "means", "ann", "complaints")
    assert time.monotonic() - began < 5
    looked = champion.look()
    assert looked is not None and (back.version, back.action, looked[0]) == (first, "rolled back", first)
    assert Registry(settings).alias("means", "champion") == first
    assert [d.action for d in decisions(settings, "means")] == ["rolled back", "promoted", "promoted"]


@pytest.mark.parametrize(
    ("weights", "until", "signature", "reason"),
    [
        ([0.1, 0.1], NOW, SIGNATURE, "worse: ndcg@10 0.2000 on held-out time, the champion has 0.4000"),
        ([0.9, 0.1], NOW, SIGNATURE, "worse on new users"),
        ([0.3, 0.3], NOW - timedelta(days=8), SIGNATURE, "stale: it has learnt nothing after 2026-11-18"),
        ([0.3, 0.3], NOW - timedelta(days=1), SIGNATURE, "stale: the champion has learnt from later data"),
        ([0.3, 0.3], NOW, (("user", "age"), SIGNATURE[1]), "signature"),
        ([np.nan, 0.3], NOW, SIGNATURE, "poisoned: weights holds values that are not finite"),
        ([0.3, 0.3, 0.3], NOW, SIGNATURE, "poisoned: it does not answer"),
    ],
)
def test_a_worse_a_stale_a_wrongly_signed_and_a_poisoned_candidate_are_refused(
    settings: Settings, weights: list[float], until: datetime, signature: Any, reason: str
) -> None:
    champion = made(settings, [0.2, 0.2])
    promote(settings)
    version = made(settings, weights, until, signature)
    refused = promote(settings)
    assert (refused.action, refused.version, refused.previous) == ("refused", version, champion)
    assert any(found.startswith(reason) for found in refused.reasons), refused.reasons
    assert decisions(settings, "means")[0].reasons == refused.reasons
    assert Registry(settings).alias("means", "champion") == predict.current(settings.published / "means") == champion


def test_inputs_that_have_drifted_refuse_a_candidate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made(settings, [0.2, 0.2])
    monkeypatch.setattr(Means, "moved", 0.4)
    assert "drift: views a user" in promote(settings).reasons[0]


def test_how_far_inputs_have_moved_is_noted_for_alerts_whenever_it_is_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = settings.published / "means"
    version = made(settings, [0.2, 0.2])
    assert lifecycle.outdated(settings, "means", None, NOW) and findings.read(folder) == []
    promote(settings)
    assert [(one["version"], one["indices"]) for one in findings.read(folder)] == [(version, {"views a user": 0.0})]
    monkeypatch.setattr(Means, "moved", 0.4)
    assert "drifted" in lifecycle.outdated(settings, "means", None, NOW)[-1]
    assert findings.read(folder)[-1] == {
        "at": NOW.isoformat(), "version": version, "indices": {"views a user": 0.4},
    }  # fmt: skip
    made(settings, [0.9, 0.9])
    assert promote(settings).action == "refused" and len(findings.read(folder)) == 2


def test_a_version_whose_arrays_were_changed_behind_the_registry_is_refused(settings: Settings, tmp_path: Path) -> None:
    version = made(settings, [0.2, 0.2])
    (kept,) = tmp_path.glob("mlruns/**/weights.npy")
    np.save(kept, np.array([9.0, 9.0]))
    refused = promote(settings, version)
    assert refused.action == "refused" and "not what was registered" in refused.reasons[0]


def test_a_move_that_was_cut_short_and_an_alias_moved_by_hand_are_settled(settings: Settings) -> None:
    first, second = made(settings, [0.2, 0.2]), made(settings, [0.3, 0.3])
    promote(settings, first)
    registry = Registry(settings)
    registry._client.set_registered_model_alias("means", "champion", second)
    (settings.published / "means" / predict.CURRENT).unlink()
    registry.settle("means")
    assert registry.alias("means", "champion") == predict.current(settings.published / "means") == first


def test_there_is_nothing_to_promote_or_to_go_back_to_before_the_first(settings: Settings) -> None:
    with pytest.raises(ModelError, match="lakehouse train means"):
        promote(settings)
    with pytest.raises(ModelError, match="nothing to go back to"):
        lifecycle.rollback(settings, "means", "ann", "")


def test_what_mlflow_loads_answers_as_the_signature_says(settings: Settings) -> None:
    import mlflow

    version = made(settings, [0.2, 0.2])
    model = mlflow.pyfunc.load_model(f"models:/means/{version}")
    answer = model.predict(pd.DataFrame({"user": ["u", "v"]}))
    assert answer.to_dict("list") == {"item": ["a", "a"], "score": [0.2, 0.2]}
