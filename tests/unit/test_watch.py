"""Minutes of a service close once, in order, whatever comes late or again; what begins is told once."""

from __future__ import annotations

import pickle

import numpy as np

from lakehouse.predict.watch import Alarm, Lines, Version, Watched, watch

START = 29_000_000
STOCK = Version()
rng = np.random.default_rng(3)
Row = tuple[str, int, int, float]
CALM: list[list[Row]] = [
    [("error_rate", START + at, at, 0.01 + abs(float(rng.normal(0, 0.002)))),
     ("p95_ms", START + at, at, 50 + float(rng.normal()))]
    for at in range(600)
]  # fmt: skip
TROUBLE: list[Row] = [("error_rate", START + 500, 500, 0.01), ("p95_ms", START + 500, 500, 90.0)]


def fold(minutes: list[list[Row]], batch: int = 7) -> list[Alarm]:
    rows, known, found = [row for minute in minutes for row in minute], watch("service/feed"), []
    for at in range(0, len(rows), batch):
        known = pickle.loads(pickle.dumps(known))  # as Spark keeps it between batches
        found += known.fold(rows[at : at + batch], STOCK)
    return found


def test_a_jump_is_found_in_its_minute_and_names_what_jumped() -> None:
    found = [alarm for alarm in fold([*CALM[:500], TROUBLE, *CALM[501:]]) if alarm.minute >= START + 500]
    first = found[0]
    assert (first.measure, first.minute, first.value, first.begins) == ("p95_ms", START + 500, 90.0, True)
    assert abs(first.expected - 50) < 3 and 0.5 <= first.score <= 1
    assert not [alarm for alarm in found if alarm.measure == "error_rate"]


def test_calm_minutes_raise_no_alarm_and_what_goes_on_begins_once() -> None:
    assert fold(CALM) == []
    long = [[(m, START + at, at, v * 1.8) for m, _, _, v in CALM[at]] for at in range(500, 510)]
    found = fold([*CALM[:500], *long, *CALM[510:]])
    assert {alarm.minute for alarm in found} >= set(range(START + 500, START + 508))
    assert [alarm.minute for alarm in found if alarm.begins and alarm.measure == "p95_ms"] == [START + 500]


def test_a_minute_is_judged_by_its_last_value_before_it_closes_and_never_again() -> None:
    mended = [*TROUBLE, *CALM[500]]
    again = [("p95_ms", START + 500, 9999, 900.0)]
    assert fold([*CALM[:500], mended, *CALM[501:550], again, *CALM[550:]]) == []


def test_the_cut_into_batches_does_not_change_the_verdict() -> None:
    minutes = [*CALM[:500], TROUBLE, *CALM[501:]]
    assert fold(minutes, 2) == fold(minutes, 100) != []


def test_another_version_learns_from_the_minutes_that_are_kept() -> None:
    known = watch("service/feed")
    for minute in CALM[:500]:
        known.fold(minute, STOCK)
    found: list[Alarm] = []
    for minute in (TROUBLE, *CALM[501:504]):
        found += known.fold(minute, Version({"version": "2", "limits": {"span": 30}}))
    assert isinstance(known, Watched) and known.version == "2" and START + 500 in [alarm.minute for alarm in found]


def test_a_measure_that_is_missing_is_no_trouble_and_the_other_is_still_watched() -> None:
    alone = [[row for row in minute if row[0] == "p95_ms"] for minute in [*CALM[:500], TROUBLE, *CALM[501:]]]
    assert START + 500 in [alarm.minute for alarm in fold(alone)]


def test_the_samples_of_a_host_count_by_their_mean() -> None:
    cpu = "system.cpu.total.norm.pct"
    calm = [[(cpu, START + at, -1, 0.2 + 0.02 * x) for x in (-1, 0, 1)] for at in range(200)]
    known, found = watch("host/web-1"), []
    for minute in [*calm[:150], [(cpu, START + 150, -1, x) for x in (0.9, 0.2, 0.9, 0.4)], *calm[151:]]:
        for row in minute:
            found += known.fold([row], STOCK)
    assert [(alarm.minute, round(alarm.value, 9)) for alarm in found][:1] == [(START + 150, 0.6)]


def test_a_new_template_and_a_burst_of_one_are_found_and_a_start_is_not() -> None:
    known: Watched | Lines = Lines()
    version, found = Version(), []
    for at in range(300):
        lines = [("GET /v1/feed <*>", START + at, -1, 20.0), ("cache refreshed, <*> entries", START + at, -1, 2.0)]
        if at == 200:
            lines.append(("disk <*> is failing", START + at, -1, 3.0))
        if at == 250:
            lines[1] = ("cache refreshed, <*> entries", START + at, -1, 60.0)
        known = pickle.loads(pickle.dumps(known))
        found += known.fold(lines, version)
    assert [(alarm.measure, alarm.minute - START) for alarm in found] == [
        ("disk <*> is failing", 200), ("cache refreshed, <*> entries", 250),
    ]  # fmt: skip


def test_a_line_is_named_by_the_versions_template_or_masked() -> None:
    from lakehouse.predict.templates import Miner

    miner = Miner()
    for number in range(50):
        miner.add(f"user {chr(97 + number % 26)}{number} logged in from 10.0.0.{number}")
    version = Version({"version": "1", "templates": miner.state()})
    assert version.template("user zz logged in from 10.9.9.9") == "user <*> logged in from <*>"
    assert Version().template("took 17 ms") == version.template("took 17 ms") == "took <*> ms"
