"""Templates that are new and templates that come in bursts."""

from __future__ import annotations

import json

import numpy as np

from lakehouse.predict.templates import THRESHOLD, TemplateRates, Unusual

Counts = dict[tuple[str, str], int]
RANDOM = np.random.default_rng


def observed(rates: TemplateRates, minutes: list[Counts], start: int = 0) -> list[Unusual]:
    return [one for n, lines in enumerate(minutes, start) for one in rates.add(n, lines)]


def poisson(seed: int, minutes: int = 600, *means: float) -> list[Counts]:
    counts = RANDOM(seed).poisson(means, (minutes, len(means)))
    return [{("shop", f"t{i}"): int(n) for i, n in enumerate(row) if n} for row in counts]


def test_a_quiet_course_raises_no_alarm() -> None:
    assert observed(TemplateRates(), poisson(0, 2000, 0.5, 3, 40, 500)) == []


def test_counts_in_clumps_raise_few_alarms() -> None:
    counts = RANDOM(1).negative_binomial(2, 2 / (2 + 20), 2000)
    bursts = observed(TemplateRates(), [{("shop", "t"): int(n)} for n in counts])
    assert len(bursts) <= 4


def test_a_planted_burst_is_found_in_its_minute_and_does_not_hide_the_next() -> None:
    minutes = poisson(2, 600, 5, 5)
    minutes[300]["shop", "t1"] = minutes[330]["shop", "t1"] = 60
    found = observed(TemplateRates(), minutes)
    assert [(one.kind, one.minute, one.template) for one in found] == [("burst", 300, "t1"), ("burst", 330, "t1")]
    assert all(THRESHOLD <= one.score <= 1 and 3 < one.expected < 8 for one in found)


def test_a_rare_template_that_floods_is_a_burst_and_one_that_comes_twice_is_none() -> None:
    rare: list[Counts] = [{("shop", "t"): 1} if n % 200 == 0 else {} for n in range(1000)]
    assert observed(TemplateRates(), [*rare, {("shop", "t"): 3}]) == []
    assert [one.minute for one in observed(TemplateRates(), [*rare, {("shop", "t"): 60}])] == [1000]


def test_a_new_template_is_unusual_in_a_settled_service_only() -> None:
    rates = TemplateRates()
    assert observed(rates, [{("shop", "a"): 5, ("shop", "b"): 2}] * 60) == []
    (found,) = rates.add(60, {("shop", "a"): 5, ("shop", "c"): 1, ("young", "c"): 1})
    assert (found.kind, found.service, found.template) == ("new", "shop", "c")
    assert rates.add(61, {("shop", "c"): 1}) == []


def test_a_service_with_new_templates_all_the_time_raises_no_alarm() -> None:
    assert observed(TemplateRates(), [{("shop", f"t{n}"): 1} for n in range(300)]) == []


def test_a_merged_template_is_not_new_and_keeps_the_history_of_all() -> None:
    rates = TemplateRates()
    observed(rates, [{("shop", "a"): 10, ("shop", "b"): 10}] * 100)
    assert rates.add(100, {("shop", "c"): 20}, merged={"a": "c", "b": "c"}) == []
    (burst,) = rates.add(101, {("shop", "c"): 100}, merged={"a": "c", "b": "c"})
    assert burst.kind == "burst" and 19 < burst.expected < 21


def test_a_minute_that_comes_again_changes_nothing() -> None:
    rates = TemplateRates()
    observed(rates, poisson(3, 100, 5))
    before = rates.state()
    assert rates.add(99, {("shop", "t0"): 500}) == [] and rates.state() == before


def test_a_restart_changes_nothing_and_memory_is_bound() -> None:
    minutes = [{("shop", f"t{n % 30}"): n} for n in range(200)]
    one, other = TemplateRates(capacity=20), TemplateRates(capacity=20)
    observed(one, minutes)
    observed(other, minutes[:100])
    other = TemplateRates.of(json.loads(json.dumps(other.state())))
    observed(other, minutes[100:], 100)
    assert one.state() == other.state() and len(one.state()["rates"]) == 20
