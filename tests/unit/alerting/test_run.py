"""Evaluation minute after minute: what is told, once, whatever ends, restarts, lags or goes back meanwhile."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.alerting.database import StandingsError
from lakehouse.alerting.run import DELAY, Runner, Stuck, until_next
from lakehouse.alerting.silences import Silence
from lakehouse.alerts import Limits, QuietHours

from .made import Fake, MemoryStore, Said, at, file, rule, runner, walk


def always(_: int) -> bool:
    return True


def silence(until: float, subject: str | None = None, name: str = "pipeline lags") -> Silence:
    return Silence("s1", name, subject, at(0), at(until), "ann", "moving")


def test_it_is_told_once_it_has_held_for_as_long_as_the_rule_says_and_so_is_its_end() -> None:
    store, said = MemoryStore(), Said()
    walk(Fake(lambda minute: 1 <= minute < 6), store, said, file(rule(held=2)), range(10))
    assert said.kinds == [("fired", 3), ("recovered", 6)]
    assert said.documents[0]["text"].startswith("user-events: 7 records wait for gold, the oldest for 90 s\n`lakehouse")
    [alert] = store.alerts()
    assert (alert.state, alert.subject, alert.value) == ("recovered", "user-events", 90.0)


def test_it_is_told_again_no_sooner_than_the_rule_says() -> None:
    said = Said()
    walk(Fake(lambda minute: minute != 4), MemoryStore(), said, file(rule(again=3)), range(1, 9))
    assert said.kinds == [("fired", 1), ("recovered", 4), ("fired", 5), ("fired", 8)]


def test_nothing_is_evaluated_of_before_the_first_time() -> None:
    part, said = Fake(always), Said()
    runner(part, MemoryStore(), said, file(rule())).turn(at(5))
    assert part.asked == [5] and said.kinds == [("fired", 5)]


def test_a_turn_that_comes_early_evaluates_nothing_twice() -> None:
    part, said = Fake(always), Said()
    one = runner(part, MemoryStore(), said, file(rule()))
    for _ in range(3):
        one.turn(at(5))
        one.turn(at(5) - timedelta(seconds=16))  # before the delay is over
    assert part.asked == [5] and len(said.documents) == 1


def test_a_process_for_every_minute_says_what_one_process_says() -> None:
    def bad(minute: int) -> bool:
        return minute in (2, 3, 4, 5, 9, 10, 11)

    once, each = Said(), Said()
    walk(Fake(bad), MemoryStore(), once, file(rule(held=1, again=4)), range(15))
    store = MemoryStore()
    for minute in range(15):
        walk(Fake(bad), store, each, file(rule(held=1, again=4)), range(minute, minute + 1))
    assert each.documents == once.documents and once.kinds


def test_minutes_that_were_missed_are_evaluated_each_with_its_own_facts() -> None:
    store, said, part = MemoryStore(), Said(), Fake(lambda minute: 3 <= minute < 7)
    walk(part, store, said, file(rule(held=1)), range(2))
    runner(part, store, said, file(rule(held=1))).turn(at(12))
    assert part.asked == [*range(13)]
    assert said.kinds == [("fired", 4), ("recovered", 7)]


def test_hours_that_were_missed_are_decided_in_chunks() -> None:
    store, said, part = MemoryStore(), Said(), Fake(lambda minute: minute > 100)
    walk(part, store, said, file(rule()), range(1))
    runner(part, store, said, file(rule())).turn(at(200))
    assert part.asked == [*range(201)] and said.kinds == [("fired", 101)]


def test_what_was_missed_of_over_a_day_ago_is_left_out() -> None:
    store, said, part = MemoryStore(), Said(), Fake(lambda minute: minute < 2000)
    walk(part, store, said, file(rule()), range(1))
    runner(part, store, said, file(rule())).turn(at(3000))
    assert part.asked[0] == 0 and part.asked[1:] == [*range(3000 - 24 * 60, 3001)]


def test_a_part_whose_minutes_are_not_closed_waits_and_then_misses_none() -> None:
    store, said, part = MemoryStore(), Said(), Fake(lambda minute: minute == 2, until=1)
    walk(part, store, said, file(rule()), range(4))
    assert part.asked == [0, 1] and not said.documents
    part.until = None
    walk(part, store, said, file(rule()), range(4, 5))
    assert part.asked == [*range(5)] and said.kinds == [("fired", 2), ("recovered", 3)]


def test_a_table_that_cannot_be_read_holds_its_part_alone_and_is_said() -> None:
    store, said = MemoryStore(), Said()
    broken, well = Fake(always, away=LookupError("no such table")), Fake(always, name="freshness/tables")
    both = Runner(file(rule()), [broken, well], None, store, said)
    for minute in range(3):
        problems = both.turn(at(minute))
        assert problems == ["freshness/topics is not evaluated: no such table"]
    assert well.asked == [0, 1, 2]
    broken.away = None
    assert both.turn(at(3)) == [] and broken.asked == [0, 1, 2, 3]


def test_a_clock_that_goes_back_evaluates_no_minute_again() -> None:
    part, said = Fake(always), Said()
    one = runner(part, MemoryStore(), said, file(rule()))
    for minute in (0, 1, 10, 4, 5, 11):
        one.turn(at(minute))
    assert part.asked == [*range(12)] and said.kinds == [("fired", 0)]


def test_a_clock_that_was_days_ahead_does_not_end_evaluation() -> None:
    part, said, store = Fake(lambda minute: minute not in (1, 3)), Said(), MemoryStore()
    one = runner(part, store, said, file(rule()))
    one.turn(at(0))
    one.turn(at(100_000))
    for minute in (2, 3, 4):
        one.turn(at(minute))
    assert part.asked[-3:] == [2, 3, 4]
    assert said.kinds[-2:] == [("recovered", 3), ("fired", 4)]


def test_a_store_that_is_away_stops_evaluation_and_loses_nothing() -> None:
    store, said, part = MemoryStore(), Said(), Fake(lambda minute: minute >= 2)
    one = runner(part, store, said, file(rule()))
    one.turn(at(1))
    for name in ("places", "decide"):
        store.fail = {name}
        with pytest.raises(StandingsError):
            one.turn(at(3))
    assert not said.documents
    store.fail = set()
    one.turn(at(4))
    assert said.kinds == [("fired", 2)]


def test_what_kafka_does_not_take_is_told_later_as_it_was_decided() -> None:
    store, said = MemoryStore(), Said(fail=2)
    part = Fake(lambda minute: minute == 1)
    one = runner(part, store, said, file(rule()))
    one.turn(at(0))
    assert one.turn(at(1)) and one.turn(at(2))
    one.turn(at(3))
    assert said.kinds == [("fired", 1), ("recovered", 2)]


def test_a_crash_between_telling_and_remembering_tells_again_under_the_same_id() -> None:
    store, said = MemoryStore(), Said()
    store.fail = {"told"}
    with pytest.raises(StandingsError):
        runner(Fake(always), store, said, file(rule())).turn(at(0))
    store.fail = set()
    # Facts are no longer what they were: what was decided stands.
    walk(Fake(lambda minute: False), store, said, file(rule()), range(1, 2))
    first, again, ended = said.documents
    assert first == again and ended["kind"] == "recovered" and ended["id"] != first["id"]


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_two_evaluators_decide_each_minute_once(bad: list[bool], turns: list[int]) -> None:
    def lags(minute: int) -> bool:
        return bad[minute % len(bad)]

    alone, both, store = Said(), Said(), MemoryStore()
    first = runner(Fake(lags), MemoryStore(), alone, file(rule(held=1)))
    pair = [runner(Fake(lags), store, both, file(rule(held=1))) for _ in range(2)]
    now = 0
    for number, step in enumerate(turns):
        now += step
        first.turn(at(now))
        pair[number % 2].turn(at(now))
    assert both.documents == alone.documents


def test_who_was_overtaken_while_reading_decides_nothing() -> None:
    store, said = MemoryStore(), Said()

    class Slow(Fake):
        def facts(self, at_us: int, over: timedelta):  # type: ignore[no-untyped-def]
            runner(Fake(always), store, said, file(rule())).turn(at(5))
            return super().facts(at_us, over)

    runner(Slow(always), store, Said(fail=99), file(rule())).turn(at(5))
    assert said.kinds == [("fired", 5)]


# --- silences ------------------------------------------------------------------------------------------------------


def test_a_silenced_alert_is_evaluated_and_kept_and_nobody_is_told() -> None:
    store, said = MemoryStore(), Said()
    store.kept = [silence(until=60)]
    walk(Fake(lambda minute: 1 <= minute < 4), store, said, file(rule()), range(6))
    assert said.kinds == [] and said.hushed == [("fired", 1), ("recovered", 4)]
    assert all(one["silenced"] for one in said.documents)


def test_what_still_fires_when_its_silence_ends_is_told_then_and_so_is_its_end() -> None:
    store, said = MemoryStore(), Said()
    store.kept = [silence(until=4)]
    walk(Fake(lambda minute: 1 <= minute < 7), store, said, file(rule()), range(9))
    assert said.hushed == [("fired", 1)] and said.kinds == [("fired", 5), ("recovered", 7)]


def test_the_end_of_what_nobody_was_told_of_is_told_to_nobody() -> None:
    store, said = MemoryStore(), Said()
    store.kept = [silence(until=3)]
    walk(Fake(lambda minute: minute in (1, 2, 3)), store, said, file(rule()), range(6))
    assert said.kinds == [] and said.hushed == [("fired", 1), ("recovered", 4)]


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (silence(60, subject="service-logs"), True),
        (silence(60, name="nothing arrives"), True),
        (silence(60, subject="user-events"), False),
    ],
)
def test_a_silence_is_of_its_rule_and_its_subject_alone(held: Silence, told: bool) -> None:
    store, said = MemoryStore(), Said()
    store.kept = [held]
    walk(Fake(always), store, said, file(rule()), range(1))
    assert bool(said.kinds) is told


# --- who is disturbed ----------------------------------------------------------------------------------------------


def test_what_is_over_the_limit_of_a_user_is_kept_and_marked() -> None:
    store, said = MemoryStore(), Said()
    store.told_before = 2
    rules = file(rule(), limits=Limits(3, timedelta(hours=1)))
    walk(Fake(lambda minute: minute % 2 == 0), store, said, rules, range(1))
    runner(Fake(lambda minute: minute % 2 == 0), store, said, rules).turn(at(3))
    assert said.kinds == [("fired", 0), ("recovered", 1)] and said.hushed == [("fired", 2), ("recovered", 3)]


def test_a_flood_of_lesser_ones_does_not_hide_what_is_critical() -> None:
    store, said = MemoryStore(), Said()
    store.told_before = 1000
    walk(Fake(always), store, said, file(rule(severity="critical")), range(1))
    assert said.kinds == [("fired", 0)]


def test_quiet_hours_are_marked_by_the_time_of_the_minute() -> None:
    from datetime import time
    from zoneinfo import ZoneInfo

    hours = QuietHours(time(11), time(13), ZoneInfo("UTC"), frozenset({"critical"}))
    said = Said()
    walk(Fake(always), MemoryStore(), said, file(rule(), quiet_hours=hours), range(1))
    assert said.documents[0]["quiet"] and not said.documents[0]["suppressed"]


# --- the file changes ----------------------------------------------------------------------------------------------


def test_a_rule_that_is_gone_from_the_file_is_forgotten() -> None:
    store, said = MemoryStore(), Said()
    walk(Fake(always), store, said, file(rule()), range(2))
    walk(Fake(always), store, said, file(rule(name="another")), range(2, 4))
    assert [alert.rule for alert in store.alerts()] == ["another"]
    walk(Fake(always), store, said, file(), range(4, 5))
    assert store.documents == {}


def test_an_alert_that_recovered_a_day_ago_is_forgotten() -> None:
    store, said = MemoryStore(), Said()
    walk(Fake(lambda minute: minute == 0), store, said, file(rule()), range(3))
    assert len(store.alerts()) == 1
    walk(Fake(lambda minute: False), store, said, file(rule()), range(24 * 60, 24 * 60 + 3))
    assert store.alerts() == []


# --- the clock -----------------------------------------------------------------------------------------------------


@given(st.floats(1e9, 2e9))
def test_the_next_turn_is_soon_after_a_minute_is_due(now: float) -> None:
    wait = until_next(now)
    assert 0 < wait <= 60.1
    assert 0 <= (now + wait - DELAY.total_seconds()) % 60 < 0.1 or (now + wait - DELAY.total_seconds()) % 60 > 59.99


def test_tables_that_never_answer_end_the_process() -> None:
    one = runner(Fake(always, away=TimeoutError("no answer within 120 s")), MemoryStore(), Said(), file(rule()))
    for minute in range(4):
        assert one.turn(at(minute))
    with pytest.raises(Stuck, match="no answer within 120 s"):
        one.turn(at(4))
