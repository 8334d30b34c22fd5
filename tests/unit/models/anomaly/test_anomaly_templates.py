"""The miner of log templates: what a line's template is, and that no line can hurt."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.predict.templates import MAX_CHARACTERS, VALUES, Miner, mask

NAMES = ["ann", "bob", "cid", "dan", "eve", "fay"]
PIECES = [
    "<*>",
    "0x1f",
    "10.0.0.1:80",
    "/a/b?c=d",
    " ",
    "=",
    "5 MB",
    "Jul 26 ",
    "user ",
    "a=",
    '"',
    "[",
    ")",
    "\n",
    "\x00",
]
LINES = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5))).map("".join))


def mined(lines: list[str]) -> dict[str, int]:
    miner = Miner()
    for line in lines:
        miner.add(line)
    return {str(template): template.lines for template in miner.templates().values()}


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("connected to db-1.example.com:5432 from 10.0.0.1:80", "connected to <*>:<*> from <*>:<*>"),
        ("order 0190e3b2-3f1c-7d61-8a5b-3f1c7d618a5b took 12ms", "order <*> took <*>ms"),
        ("GET https://example.com/a/b?c=1 failed", "GET https://<*> failed"),
        ('10.0.0.1 "GET /health HTTP/1.1" 200', '<*> "GET <*>" <*>'),
        ("wrote /var/lib/data/part-00001 and C:\\data\\part", "wrote <*> and <*>"),
        ("deleting blk_-12 blk_13 blk_14", "deleting blk_<*>"),
        ("eth0 has 00:11:43:e3:ba:c3", "eth0 has <*>"),
        ("since Tue Jul 26 05:47:42 2005", "since <*>:<*>:<*> <*>"),
        ('lock tag="View Lock", flags=0x1', 'lock tag="<*>", flags=<*>'),
    ],
)
def test_values_are_known_by_their_form(line: str, masked: str) -> None:
    assert mask(line) == masked


def test_a_word_with_many_values_becomes_a_gap_and_old_ids_lead_to_it() -> None:
    miner = Miner()
    ids = [miner.add(f"password of {name} changed") for name in NAMES[:VALUES]]
    assert len(set(ids)) == VALUES
    (template,) = miner.templates().values()
    assert str(template) == "password of <*> changed"
    assert {miner.resolve(one) for one in ids} == {template.id} == {miner.add("password of zoe changed")}
    assert template.lines == VALUES + 1


def test_a_few_states_stay_templates_of_their_own() -> None:
    states = ["started", "paused", "resumed", "stopped"]
    assert mined([f"machine {n} {states[n % 4]} by request" for n in range(400)]) == {
        f"machine <*> {state} by request": 100 for state in states
    }


def test_first_words_are_seldom_values() -> None:
    assert len(mined([f"{name} startup succeeded" for name in NAMES])) == len(NAMES)
    assert len(mined([f"2026-01-01 {name} startup succeeded" for name in NAMES])) == len(NAMES)


def test_of_many_first_words_one_is_a_value_if_something_constant_is_left() -> None:
    lines = [f"{chr(97 + n // 5) * 3}{chr(97 + n % 5)}" for n in range(50)]
    assert mined([f"{line} logged in" for line in lines]) == {"<*> logged in": 50}
    assert len(mined([f"{line}: 5" for line in lines])) == 50


def test_a_word_where_numbers_were_is_a_value() -> None:
    assert mined(["invalid user 17 refused", "invalid user ann refused"]) == {"invalid user <*> refused": 2}


def test_fields_may_vary_together() -> None:
    lines = [f"lock tag={tag}, name={name}" for tag, name in zip(NAMES, reversed(NAMES), strict=True)]
    assert mined(lines) == {"lock tag=<*>, name=<*>": len(NAMES)}


def test_an_empty_value_is_a_value_and_blanks_do_not_count() -> None:
    assert len(mined(["login rhost=a1 user=x", "login rhost= user=x", "login  rhost=b2  user=x"])) == 1


def test_the_order_of_lines_does_not_matter() -> None:
    lines = [f"session {n} of {name} {verb}" for n in range(9) for name in NAMES for verb in ("opened", "closed")]
    shuffled = random.Random(0).sample(lines, len(lines))
    assert mined(lines) == mined(shuffled) == {f"session <*> of <*> {verb}": 54 for verb in ("opened", "closed")}


@given(LINES)
def test_any_line_has_a_template_the_same_again_and_after_a_restart(line: str) -> None:
    miner = Miner()
    assert miner.match(line) is None
    found = miner.add(line)
    assert found == miner.add(line) == miner.match(line)
    assert Miner.of(json.loads(json.dumps(miner.state()))).match(line) == found


@given(LINES)
def test_masking_again_changes_nothing(line: str) -> None:
    assert mask(mask(line)) == mask(line)


@given(st.lists(LINES, max_size=30))
def test_every_id_leads_to_a_template_and_no_line_is_lost(lines: list[str]) -> None:
    miner = Miner()
    ids = [miner.add(line) for line in lines]
    assert {miner.resolve(one) for one in ids} == set(miner.templates())
    assert sum(template.lines for template in miner.templates().values()) == len(lines)


@given(st.lists(st.lists(st.sampled_from([*NAMES, "=", "7"]), min_size=1, max_size=6).map(" ".join), max_size=60))
def test_memory_is_bound_and_what_is_forgotten_is_learnt_again(lines: list[str]) -> None:
    miner = Miner(capacity=5)
    for line in lines:
        assert miner.add(line) == miner.match(line)
        assert len(miner.templates()) <= 5
        assert set(miner.merged.values()) <= set(miner.templates())


@pytest.mark.parametrize(
    "piece", ["", " ", "x", "1 ", "=", "/", "a=", '="', "1.1-", "\0", "a:1 b ", "[{(", "1,2;", "a.b", "\ud800é\x1b"]
)
def test_rubbish_is_mined_in_bounded_time(piece: str) -> None:
    miner, line, began = Miner(), piece * 1_000_000, time.process_time()
    found = miner.add(line)
    assert time.process_time() - began < 2
    assert len(str(miner.templates()[found])) <= len("<*>") * MAX_CHARACTERS
