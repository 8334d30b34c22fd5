"""The rules: what the shipped file says of facts, how a standing moves, and that a wrong file is named by its place."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.alerts import FEEDS, Alerts, AlertsError, Rule, Standing, about, matches, notification, quiet, read, step

MINUTE = 60_000_000
NOON = 1_764_072_000_000_000  # 2025-11-25T12:00:00Z
SHIPPED = {rule.name: rule for rule in read().rules}
CPU = "system.cpu.total.norm.pct"
COMMENT = {
    "event_id": "e1",
    "event_type": "comment",
    "user_id": "bob",
    "post_id": "p1",
    "post_author": "ann",
    "score": 0.9,
}
EDGES: dict[str, dict[str, tuple[Any, Any]]] = {
    "pipeline lags": {"kind": ("topic", "table"), "lag_seconds": (60.1, 60)},
    "pipeline stands still": {"kind": ("topic", "table"), "lag_seconds": (600.1, 600)},
    "analysis is old": {"kind": ("table", "topic"), "age_seconds": (7801, 7800)},
    "fewer records than usual": {"ratio": (0.49, 0.5), "usual": (100, 99), "days": (3, 2)},
    "nothing arrives": {"records": (0, 1), "usual": (100.0, 99.5), "days": (3, 2)},
    "more records than usual": {"ratio": (4.1, 4), "records": (10_000, 9_999), "days": (3, 2)},
    "much is quarantined": {"quarantined_share": (0.051, 0.05), "records": (100, 99)},
    "most is quarantined": {"quarantined_share": (0.51, 0.5), "records": (100, 99)},
    "many duplicates": {"duplicate_share": (0.21, 0.2), "records": (100, 99)},
    "service is slow": {"slowdown": (2.1, 2), "p95_ms": (301, 300), "requests": (50, 49)},
    "many anomalies": {"count": (10, 9), "score": (0.5, 0.49)},
    "inputs have drifted": {"psi": (0.26, 0.25)},
    "drift is not looked at": {"age_seconds": (50_401, 50_400)},
}
"""Of the shipped rules over tables: each field's value where the rule just holds, and where it no longer does."""
OF_TABLES = {name: {field: pair[0] for field, pair in edges.items()} for name, edges in EDGES.items()}
FAILING = {"service": "feed", "requests": 100, "errors": 8, "error_rate": 0.08, "logs": 120, "error_logs": 8}


def written(folder: Path, rule: str = "", rest: str = "") -> Alerts:
    path = folder / "alerts.yaml"
    path.write_text((f"rules:\n  - {{{rule}}}\n" if rule else "") + rest)
    return read(path)


def walk(rule: Rule, bad: list[bool]) -> list[str | None]:
    """What a rule says over minutes that match or do not."""
    state: Standing | None = None
    told: list[str | None] = []
    for minute, is_bad in enumerate(bad):
        state, kind = step(rule, state, FAILING if is_bad else {}, NOON + minute * MINUTE)
        told.append(kind)
    return told


def failing(held: int = 0, again: int = 0) -> Rule:
    of_held, of_again = timedelta(minutes=held), timedelta(minutes=again)
    return replace(SHIPPED["service error rate"], held=of_held, again_after=of_again)


# --- facts ---------------------------------------------------------------------------------------------------------


def test_someone_elses_comment_tells_the_author_and_ones_own_nobody() -> None:
    rule = SHIPPED["comment on my post"]
    assert matches(rule, COMMENT) and not matches(rule, COMMENT | {"user_id": "ann"})
    told = notification(rule, COMMENT, "e1", NOON)
    assert told and (told.user_id, told.text) == ("ann", "bob commented on your post p1")


def test_a_comment_on_a_post_of_unknown_author_tells_nobody() -> None:
    rule = SHIPPED["comment on my post"]
    for facts in (COMMENT | {"post_author": None}, {k: v for k, v in COMMENT.items() if k != "post_author"}):
        assert not matches(rule, facts) and notification(rule, facts, "e1", NOON) is None


def test_a_recipient_is_a_text_that_is_not_blank() -> None:
    rule = SHIPPED["comment on my post"]
    for author in (" ", "", 5, True, ["ann"], {"a": 1}):
        assert notification(rule, COMMENT | {"post_author": author}, "e1", NOON) is None


def test_a_new_follower_is_told_to_the_followed_but_nobody_follows_oneself() -> None:
    event = {"event_id": "e2", "event_type": "follow", "user_id": "bob", "properties": {"followed": "ann"}}
    rule = SHIPPED["new follower"]
    told = notification(rule, event, "e2", NOON)
    assert matches(rule, event) and told and told.user_id == "ann"
    assert not matches(rule, event | {"properties": {"followed": "bob"}})


def test_errors_and_load_of_one_host_are_joined_in_a_rule() -> None:
    rule = SHIPPED["errors under load"]
    assert matches(rule, {"host": "web-1", "error_logs": 5, CPU: 0.7})
    assert not matches(rule, {"host": "web-1", "error_logs": 5})
    assert not matches(rule, {"host": "web-1", CPU: 0.7})


@pytest.mark.parametrize(
    ("condition", "holding", "other"),
    [
        ("{above: 3}", 3.1, 3),
        ("{below: 3}", 2, 3),
        ("{at_least: 3}", 3, 2.9),
        ("{at_most: 3}", 3, 4),
        ("{at_least: 3, below: 5}", 4, 5),
        ("{in: [1, 2]}", 2, 3),
        ("{not: 3}", 4, 3),
        ("3", 3.0, 4),
        ("{below: {field: requests}}", 9, 10),
        ("{field: requests}", 10, 9),
    ],
)
def test_conditions_hold_as_they_read(tmp_path: Path, condition: str, holding: float, other: float) -> None:
    [rule] = written(tmp_path, f"name: n, on: service, when: {{errors: {condition}}}, to: ops, text: t").rules
    assert matches(rule, {"errors": holding, "requests": 10}) and not matches(rule, {"errors": other, "requests": 10})


POISON = st.one_of(
    st.none(), st.booleans(), st.text(), st.just(float("nan")), st.just(float("inf")), st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()), st.binary(), st.just(-(10**400)), st.just(complex(1)),
)  # fmt: skip


@given(st.sampled_from([rule for rule in SHIPPED.values() if rule.on != "event"]), POISON, st.data())
def test_facts_of_a_wrong_type_never_match_and_never_raise(rule: Rule, poison: Any, data: st.DataObject) -> None:
    good: dict[str, Any] = {
        **FAILING,
        "host": "h",
        CPU: 0.99,
        "interactions": 90,
        "burst": 9,
        "post_author": "ann",
        "score": 0.9,
        **OF_TABLES.get(rule.name, {}),
    }
    good["system.memory.actual.used.pct"] = 0.99
    assert matches(rule, good)
    field = data.draw(st.sampled_from(sorted(condition.field for condition in rule.when)))
    low = poison == -(10**400) and all(c.operator in ("below", "at_most") for c in rule.when if c.field == field)
    assert matches(rule, good | {field: poison}) is low  # endless, but a number
    told = notification(rule, good | {field: poison}, "s", NOON)
    assert told is not None and told.text


@given(POISON.filter(lambda poison: not isinstance(poison, str)))
def test_poison_is_not_merely_another_value_for_not(poison: Any) -> None:
    assert not matches(SHIPPED["comment on my post"], COMMENT | {"user_id": poison})
    assert not matches(SHIPPED["comment on my post"], COMMENT | {"post_author": poison})
    assert not matches(SHIPPED["new follower"], COMMENT | {"event_type": "follow", "properties": poison})


def test_true_is_not_one(tmp_path: Path) -> None:
    [rule] = written(tmp_path, "name: n, on: service, when: {errors: {in: [1]}}, to: ops, text: t").rules
    assert matches(rule, {"errors": 1}) and not matches(rule, {"errors": True})


@pytest.mark.parametrize("name", sorted(OF_TABLES))
def test_shipped_rules_over_tables_hold_at_their_edge_only_and_say_what_to_do(name: str) -> None:
    rule, edge = SHIPPED[name], OF_TABLES[name]
    assert FEEDS[rule.on].tables and matches(rule, edge) and len(rule.runbook) > 50
    for field, (_, beyond) in EDGES[name].items():
        assert not matches(rule, edge | {field: beyond}) and not matches(rule, edge | {field: None})


def test_every_rule_over_tables_is_tried() -> None:
    assert {rule.name for rule in SHIPPED.values() if FEEDS[rule.on].tables} == OF_TABLES.keys()


def test_what_to_do_is_told_below_the_text_and_not_when_it_is_over(tmp_path: Path) -> None:
    [rule] = written(tmp_path, HOST.replace("text: t", "text: t, runbook: ' look {there} '")).rules
    told, ended = (notification(rule, {"host": "h"}, "h", NOON, kind) for kind in ("fired", "recovered"))
    assert told and told.text == "t\nlook {there}" and (ended is None or "look" not in ended.text)


# --- standings -----------------------------------------------------------------------------------------------------


def test_a_rule_without_for_fires_and_recovers_at_once() -> None:
    assert walk(failing(), [True, True, False, False, True]) == ["fired", None, "recovered", None, "fired"]


def test_a_rule_fires_when_it_has_held_for_as_long_as_it_says() -> None:
    assert walk(failing(held=3), [True] * 5) == [None, None, None, "fired", None]


def test_a_gap_begins_the_wait_anew_and_tells_nothing() -> None:
    assert walk(failing(held=2), [True, True, False, True, True, False]) == [None] * 6


def test_what_holds_on_is_told_again_after_the_span() -> None:
    assert walk(failing(again=2), [True] * 5) == ["fired", None, "fired", None, "fired"]


def test_what_comes_back_within_the_span_waits_for_its_end() -> None:
    flapping = [True, False, True, False, True, True, True]
    assert walk(failing(again=5), flapping) == ["fired", "recovered", None, None, None, "fired", None]


def test_what_was_not_told_does_not_recover_aloud_and_all_is_forgotten_in_the_end() -> None:
    state, kind = step(failing(held=1), None, FAILING, NOON)
    assert step(failing(held=1), state, {}, NOON + MINUTE) == (None, None) and kind is None
    told = Standing(NOON, NOON)
    assert step(failing(again=2), told, {}, NOON + MINUTE) == (Standing(0, NOON), "recovered")
    assert step(failing(again=2), Standing(0, NOON), {}, NOON + 2 * MINUTE) == (None, None)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 5), st.integers(0, 8))
def test_no_walk_breaks_the_promises(bad: list[bool], held: int, again: int) -> None:
    told = walk(failing(held, again), bad)
    fired = [minute for minute, kind in enumerate(told) if kind == "fired"]
    assert all(all(bad[minute - held : minute + 1]) and minute >= held for minute in fired)
    assert all(later - earlier >= max(again, 1) for earlier, later in pairwise(fired))
    assert not any(bad[minute] for minute, kind in enumerate(told) if kind == "recovered")
    kinds = [kind for kind in told if kind]
    assert kinds[:1] in ([], ["fired"])
    pairs = list(pairwise(kinds))
    assert ("recovered", "recovered") not in pairs and (again or ("fired", "fired") not in pairs)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 5))
def test_without_a_span_to_wait_every_spell_that_is_long_enough_is_told_once(bad: list[bool], held: int) -> None:
    spells = [len(spell) for spell in "".join("x" if b else " " for b in bad).split()]
    told = walk(failing(held), [*bad, False])
    assert told.count("fired") == told.count("recovered") == sum(spell > held for spell in spells)


# --- notifications -------------------------------------------------------------------------------------------------


def test_a_notification_is_named_by_what_it_says_not_by_when_it_is_made() -> None:
    rule = SHIPPED["service error rate"]
    first, replayed = (notification(rule, FAILING, "feed", NOON) for _ in range(2))
    assert first == replayed and first and len(first.id) == 32
    others = [
        notification(rule, FAILING, "users", NOON),
        notification(rule, FAILING, "feed", NOON + MINUTE),
        notification(rule, FAILING, "feed", NOON, "recovered"),
    ]
    assert len({told.id for told in [first, *others] if told}) == 4


def test_one_event_makes_one_notification_whatever_its_time() -> None:
    rule = SHIPPED["comment on my post"]
    first, again = notification(rule, COMMENT, "e1", NOON), notification(rule, COMMENT, "e1", NOON + 1)
    other = notification(rule, COMMENT, "e2", NOON)
    assert first and again and other and first.id == again.id != other.id


def test_a_document_is_plain_json_with_the_time_in_utc() -> None:
    told = notification(SHIPPED["service error rate"], FAILING, "feed", NOON)
    assert told and told.document() == {
        "id": told.id,
        "user_id": "ops",
        "rule": "service error rate",
        "severity": "warning",
        "kind": "fired",
        "subject": "feed",
        "at": "2025-11-25T12:00:00Z",
        "text": "feed: 8.0% of 100 requests a minute fail",
    }


def test_a_recovery_is_told_without_facts_where_the_rule_tells_it() -> None:
    rule = SHIPPED["service error rate"]
    told = notification(rule, {}, "feed", NOON, "recovered")
    assert told and told.text == "feed: no longer: service error rate"
    assert notification(replace(rule, recovered=False), {}, "feed", NOON, "recovered") is None


def test_a_field_that_is_missing_or_odd_does_not_stop_a_text() -> None:
    told = notification(SHIPPED["service error rate"], {"service": "feed", "error_rate": "high"}, "feed", NOON)
    assert told and told.text == "feed: high of ? requests a minute fail"


def test_an_endless_id_does_not_make_an_endless_text() -> None:
    told = notification(SHIPPED["comment on my post"], COMMENT | {"user_id": "b" * 10**6}, "e1", NOON)
    assert told and len(told.text) == 2000


def test_facts_are_about_the_post_or_the_user_of_an_event_or_the_subject() -> None:
    assert about(SHIPPED["comment on my post"], COMMENT) == "p1"
    assert about(SHIPPED["new follower"], {"user_id": "bob"}) == "bob"
    assert about(SHIPPED["service error rate"], FAILING) == "feed"
    assert about(SHIPPED["service error rate"], {"service": 5}) is None


def test_a_rule_knows_every_field_that_it_names() -> None:
    assert SHIPPED["comment on my post"].fields == {"event_type", "user_id", "post_author", "post_id"}
    assert SHIPPED["errors under load"].fields == {"error_logs", CPU, "host"}


# --- quiet hours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hour", "rests"), [(21, False), (22, True), (23, True), (0, True), (6, True), (7, False)])
def test_quiet_hours_cross_midnight_but_not_for_the_exempt(tmp_path: Path, hour: int, rests: bool) -> None:
    hours = written(tmp_path, rest='quiet_hours: {from: "22:00", to: "07:00", except: [critical]}').quiet_hours
    at = NOON + (hour - 12) * 60 * MINUTE
    assert quiet(hours, "warning", at) is rests
    assert not quiet(hours, "critical", at) and not quiet(None, "warning", at)


def test_quiet_hours_are_local_and_follow_summer_time(tmp_path: Path) -> None:
    rest = "quiet_hours: {from: 12:00, to: 13:00, zone: Europe/Berlin}"  # without quotes, too
    hours = written(tmp_path, rest=rest).quiet_hours
    july = NOON - 146 * 24 * 60 * MINUTE
    assert [quiet(hours, "info", at - 60 * MINUTE) for at in (NOON, july)] == [True, False]
    assert [quiet(hours, "info", at - 120 * MINUTE) for at in (NOON, july)] == [False, True]


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_file_that_says_nothing_has_no_rules_and_the_usual_limits(tmp_path: Path) -> None:
    assert written(tmp_path) == Alerts((), read().limits, None, {})


def test_what_a_rule_does_not_say_follows_from_its_feed_and_severity(tmp_path: Path) -> None:
    [event] = written(tmp_path, "name: n, on: event, when: {event_type: like}, to: ops, text: t").rules
    [state] = written(tmp_path, "name: n, on: host, when: {logs: 1}, to: ops, text: t, severity: critical").rules
    assert (event.severity, event.again_after, event.recovered) == ("info", timedelta(0), False)
    assert (state.over, state.held, state.again_after) == (timedelta(minutes=1), timedelta(0), timedelta(hours=1))
    assert state.recovered and not SHIPPED["your post is trending"].recovered


EVENT = "name: n, on: event, when: {event_type: like}, to: ops, text: t"
HOST = "name: n, on: host, when: {logs: 1}, to: ops, text: t"
LAG = "name: n, on: freshness, when: {lag_seconds: {above: 60}}, to: ops, text: t"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("on: event", "rule 1: needs name"),
        ("name: ' ', on: event", "rule 1: needs when"),
        ("name: n, on: event", "rule 'n': needs when"),
        (EVENT + ", colour: red", "rule 'n': 'colour' is not known; there is .*again_after"),
        (
            EVENT.replace("event,", "gold.anomalies,"),
            "rule 'n': on is one of event, .*, anomaly, .*drift, not 'gold",
        ),
        (EVENT.replace("event,", "[event],"), "rule 'n': on is one of"),
        (EVENT.replace("{event_type: like}", "{}"), "rule 'n': when: needs at least one condition"),
        (EVENT.replace("{event_type: like}", "like"), "rule 'n': when: is a mapping"),
        (
            EVENT.replace("event_type", "event_typ"),
            "when: event has no field 'event_typ'; it has event_id, .*post_auth",
        ),
        (EVENT.replace("event_type", "properties"), "when: event has no field 'properties'"),
        (EVENT.replace("event_type", "user_id.x"), "when: event has no field 'user_id.x'"),
        (EVENT.replace("like}", "lik}"), "when: event_type: 'lik' is not one of bookmark, comment"),
        (EVENT.replace("like}", "{in: [like, lik]}}"), "when: event_type: 'lik' is not one of"),
        (EVENT.replace("like}", "{in: like}}"), "when: event_type: in is a list"),
        (EVENT.replace("like}", "}"), "when: event_type: is needs a text, not None"),
        (EVENT.replace("like}", "{above: 3}}"), "when: event_type: above compares numbers, and the field is a text"),
        (EVENT.replace("like}", "{over: 3}}"), "when: event_type: is a value, .* or one or more of not, in"),
        (EVENT.replace("like}", "{not: {field: rating}}}"), "rating is a number, to be compared with a text"),
        (EVENT.replace("like}", "{not: {field: nobody}}}"), "event has no field 'nobody'"),
        (EVENT.replace("like}", "{not: {post: a}}}"), "not is a value or {field: name}"),
        (EVENT.replace("ops", "{field: rating}"), "rule 'n': to: rating is a number, not a user's id"),
        (EVENT.replace("ops", "{user: a}"), "rule 'n': to: is a user's id or"),
        (EVENT.replace("ops", "5"), "rule 'n': to is a text, not 5"),
        (EVENT.replace("text: t", "text: '{nobody}'"), "rule 'n': text: event has no field 'nobody'"),
        (EVENT.replace("text: t", "text: '{user_id'"), "rule 'n': text: expected '}'"),
        (EVENT.replace("text: t", "text: '{user_id!r}'"), "rule 'n': text: a field is written"),
        (EVENT.replace("text: t", "text: '{user_id:.1%}'"), "text: {user_id:.1%} is no format for a text"),
        (EVENT.replace("text: t", "text: ''"), "rule 'n': text is a text"),
        (EVENT + ", for: PT1M", "rule 'n': for is not for rules on events"),
        (EVENT + ", severity: fatal", "rule 'n': severity is one of info, warning, critical, not 'fatal'"),
        (EVENT + ", again_after: 1h", "rule 'n': again_after is a duration such as PT5M"),
        (HOST + ", over: PT90S", "rule 'n': over is one or more whole minutes"),
        (HOST + ", over: PT0M", "rule 'n': over is one or more whole minutes"),
        (HOST + ", for: PT", "rule 'n': for is a duration"),
        (HOST + ", for: P9999999999D", "rule 'n': for is too long"),
        (HOST + ", recovered: yes", "rule 'n': recovered is true or false, not 'yes'"),
        (HOST.replace("logs: 1", "logs: {above: .nan}"), "when: logs: above needs a number, not nan"),
        (HOST.replace("logs: 1", "logs: {above: x}"), "when: logs: above needs a number, not 'x'"),
        (HOST.replace("logs: 1", "logs: {above: true}"), "when: logs: above needs a number, not True"),
        (HOST.replace("logs: 1", "cpu: 1"), "host has no field 'cpu'; it has host, .*a metric's dotted name"),
        (HOST.replace("name: n", "name: 'a|b'"), "rule 'a|b': name may not hold a |"),
        (HOST + ", runbook: ''", "rule 'n': runbook is a text, not ''"),
        (LAG + ", over: P2D", "rule 'n': over is a day at most for rules on freshness"),
        (LAG + ", over: PT30S", "rule 'n': over is one or more whole minutes"),
        (
            LAG.replace("lag_seconds", "lag"),
            "freshness has no field 'lag'; it has subject, kind, age_seconds, lag_",
        ),
        (LAG.replace("above: 60", "above: PT60S"), "when: lag_seconds: above needs a number, not 'PT60S'"),
        (LAG.replace("lag_seconds", "kind"), "when: kind: above compares numbers, and the field is a text"),
        (LAG.replace("text: t", "text: '{kind:.1%}'"), "text: {kind:.1%} is no format for a text"),
        (
            LAG.replace("freshness", "freshnes"),
            "on is one of event, .*freshness, volume, quality, health, anomal",
        ),
        (HOST + "}\n  - {" + HOST, "rule 'n': is there twice"),
        (HOST.replace("logs: 1", "logs: 1, logs: 2"), "not valid YAML: 'logs' is there twice"),
        (HOST + ", for: " + "9" * 5000, "rule 'n'|not valid YAML"),
    ],
)
def test_a_wrong_rule_is_one_line_that_names_file_and_rule(tmp_path: Path, rule: str, words: str) -> None:
    with pytest.raises(AlertsError, match=words) as error:
        written(tmp_path, rule)
    assert str(error.value).startswith(f"{tmp_path}/alerts.yaml: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: [", "not valid YAML"),
        ("- a", "the file: is a mapping"),
        ("rule: []", "the file: 'rule' is not known; there is limits"),
        ("rules: {a: b}", "rules: is a list"),
        ("rules: [a]", "rule 1: is a mapping"),
        ("limits: {per_user: 0}", "limits: per_user is a whole number"),
        ("limits: {per_user: true}", "limits: per_user is a whole number"),
        ("limits: {every: PT0S}", "limits: every is longer than nothing"),
        ("limits: 5", "limits: is a mapping"),
        ("routes: {ops: {url: 'https://x'}}", "routes: ops: 'url' is not known; there is severities"),
        ("routes: {ops: {severities: [loud]}}", "routes: ops: severities is a list of info, warning, critical"),
        ("quiet_hours: {from: '22:00'}", "quiet_hours: needs from and to"),
        ("quiet_hours: {from: 25:00, to: 07:00}", "quiet_hours: from is a time of day"),
        ("quiet_hours: {from: 07:00, to: 07:00}", "from and to are the same"),
        ("quiet_hours: {from: 22:00, to: 07:00, zone: Mars}", "zone 'Mars' is not a time zone"),
        ("quiet_hours: {from: 22:00, to: 07:00, zone: 9}", "zone 9 is not a time zone"),
        ("quiet_hours: {from: 22:00, to: 07:00, except: critical}", "quiet_hours: except is a list"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(AlertsError, match=words) as error:
        written(tmp_path, rest=text)
    assert str(error.value).startswith(f"{tmp_path}/alerts.yaml: ") and "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_a_missing_file_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"rules: \xff")
    with pytest.raises(AlertsError, match=r"bytes\.yaml: not valid YAML"):
        read(tmp_path / "bytes.yaml")
    with pytest.raises(AlertsError, match=r"none\.yaml: No such file"):
        read(tmp_path / "none.yaml")
