"""Hosts are ranked by when they will be full."""

from __future__ import annotations

import numpy as np

from models.trend.bottlenecks import saturations


def test_the_host_that_fills_soonest_comes_first_and_the_idle_one_not_at_all() -> None:
    noise = np.random.default_rng(3).normal(0, 0.002, (3, 120))
    start, rate = np.array([[0.2], [0.3], [0.2]]), np.array([[0.004], [0.002], [0.0]])
    fast, slow, idle = start + rate * np.arange(120) + noise
    found = saturations({"slow": slow, "idle": idle, "fast": fast}, limit=0.8, horizon=180)
    assert [s.name for s in found] == ["fast", "slow"]
    for saturation, truth in zip(found, (31, 131), strict=True):
        assert saturation.expected is not None and abs(saturation.expected - truth) <= 0.3 * truth
        assert saturation.earliest is not None and saturation.earliest <= saturation.expected


def test_a_host_over_the_limit_is_full_at_once_and_one_without_values_is_none() -> None:
    found = saturations({"full": np.full(60, 0.95), "silent": np.full(60, np.nan)}, limit=0.9, horizon=10)
    assert [(s.name, s.now, s.expected, s.latest) for s in found] == [("full", 0.95, 1, 1)]
