"""Bombs: each is refused before anything is run, by its own limit, with work that is counted."""

from __future__ import annotations

import dataclasses
import sys
from datetime import timedelta
from typing import Any

import pytest
from graphql import get_introspection_query, parse

from lakehouse.settings import Settings
from serving.graphql.execution import Engine, RefusedError
from serving.graphql.limits import Limits, measured
from serving.graphql.schema import schema
from tests.unit.serving.graphql.graphql_fakes import EVERYTHING, USERS, serving, token

MOST_WORK = 300_000
"""Calls and returns of functions, of Python and C; of 10 to 20 million a second."""
LIVE = "live { at }"


def prepare(query: str, **variables: Any) -> tuple[str, int]:
    """What becomes of a document, and the work that it was."""
    engine, work = Engine(schema(), Limits(), 10), 0

    def count(*_: Any) -> None:
        nonlocal work
        work += 1

    said = "runs"
    sys.setprofile(count)
    try:
        engine.prepare(query, None, variables, True)
    except RefusedError as refusal:
        assert refusal.status == 400
        said = refusal.errors[0]["extensions"]["code"]
    finally:
        sys.setprofile(None)
    return said, work


def doubling(n: int, inner: str = LIVE) -> str:
    """Fragments each of which holds the next one twice: ``2 ** n`` times what is inside."""
    chain = " ".join(f"fragment F{i} on Query {{ ...F{i + 1} ...F{i + 1} }}" for i in range(n))
    return f"{{ ...F0 }} {chain} fragment F{n} on Query {{ {inner} }}"


def nested(n: int) -> str:
    return "{ " + "a { " * n + "b" + " }" * n + " }"


BOMBS = {
    "aliases": ("{ " + " ".join(f"a{n}: {LIVE}" for n in range(31)) + " }", "limit-aliases"),
    "aliases in a fragment": (
        "{ a: live { ...F } b: live { ...F } c: live { ...F } } fragment F on Site { "
        + " ".join(f"a{n}: at" for n in range(10)) + " }", "limit-aliases",
    ),
    "aliases in inline fragments": (
        "{ " + " ".join(f"... on Query {{ a{n}: live {{ b{n}: at }} }}" for n in range(16)) + " }", "limit-aliases",
    ),
    "fragments that double 40 times": (doubling(40), "limit-fields"),
    "fragments that double 6 times": (doubling(6, "live { a1: at }"), "limit-aliases"),
    "fragments of nothing": (doubling(40, "__typename"), "limit-fields"),
    "unused fragments": ("{ live { at } }" + doubling(40)[10:], "limit-fields"),
    "many spreads": ("{ live { " + "...F " * 101 + "} } fragment F on Site { ... on Site { at } }", "limit-repeats"),
    "many empty spreads": ("{ live { at " + "...F " * 101 + "} }", "limit-spreads"),
    "definitions": (" ".join(f"query Q{n} {{ {LIVE} }}" for n in range(51)), "limit-definitions"),
    "levels": (nested(10), "limit-depth"),
    "levels through fragments": (
        "{ ...A } fragment A on Q { a { a { a { a { ...B } } } } } fragment B on Q { a { a { a { a { ...C } } } } } "
        "fragment C on Q { a { a { a { a } } } }", "limit-depth",
    ),
    "levels that no parser takes": (nested(220), "limit-depth"),
    "inline fragments in inline fragments": ("{ " + "... on Query { " * 80 + LIVE + " }" * 81, "limit-depth"),
    "lists in lists": ("{ posts(ids: " + "[" * 450 + "]" * 450 + ") { id } }", "limit-depth"),
    "a type of lists": ("query ($a: " + "[" * 450 + "Int" + "]" * 450 + ") { live { at } }", "limit-depth"),
    "a fragment in itself": ("{ ...A } fragment A on Query { ...A }", "circular-fragment"),
    "fragments in a circle": (
        "{ ...A } fragment A on Query { a { ...B } } fragment B on Query { ... { ...C } } "
        "fragment C on Query { b { ...A } }", "circular-fragment",
    ),
    "an unused circle": (f"{{ {LIVE} }} fragment A on Query {{ ...B }} fragment B on Query {{ ...A }}",
                         "circular-fragment"),
    "the same field": ("{ live { " + "at " * 22 + "} }", "limit-repeats"),
    "the same fields under the same field": ("{ " + "live { at } " * 22 + "}", "limit-repeats"),
    "fields": ("{ " + " ".join(f"f{n}" for n in range(301)) + " }", "limit-fields"),
    "directives": ("{ live " + "@skip(if: false) " * 31 + "{ at } }", "limit-directives"),
    "directives in a fragment": (
        "{ a: live { ...F } b: live { ...F } c: live { ...F } d: live { ...F } } "
        "fragment F on Site { at " + "@x " * 8 + "}", "limit-directives",
    ),
    "directives of variables": ("query ($a: Int " + "@x " * 31 + f") {{ {LIVE} }}", "limit-directives"),
    "tokens": ("{ " + "a " * 10_000 + "}", "limit-tokens"),
    "variables": ("query (" + " ".join(f"$v{n}: Int" for n in range(400)) + f") {{ {LIVE} }}", "limit-tokens"),
    "comments": ("#\n" * 10_000 + f"{{ {LIVE} }}", "limit-tokens"),
    "blanks": (f"{{ {LIVE} }}" + " " * 50_000, "limit-document"),
    "wide characters": (f"{{ {LIVE} }} # " + "🙂" * 9_000, "limit-document"),
    "a huge first": ("{ activity(first: 1001) { version } }", "limit-first"),
    "a first of 5,000 digits": ("{ activity(first: " + "9" * 5_000 + ") { version } }", "invalid"),
    "a first below one": ("{ activity(first: 0) { version } }", "limit-first"),
    "a first of another list": ("{ trending(first: 101) { rank } }", "limit-first"),
    "first under first": (
        '{ posts(ids: ["1", "2", "3", "4", "5"]) { engagement(first: 1000) { edges { node { date views likes } } } } }',
        "limit-cost",
    ),
    "first under first through fragments": (
        '{ posts(ids: ["1", "2", "3", "4", "5"]) { ...A } } fragment A on Post { engagement(first: 1000) { ...B } } '
        "fragment B on PostEngagementDayConnection { nodes { date views likes } edges { node { date } } }",
        "limit-cost",
    ),
    "rows as JSON": ("{ tables { rows(first: 1000) { nodes } } }", "limit-cost"),
    "ids": ("{ posts(ids: [" + "1 " * 101 + "]) { id } }", "limit-ids"),
    "names": ("{ " + "a" * 30_000 + " }", "invalid"),
    "errors": ("{ " + " ".join(f"f{n}" for n in range(300)) + " }", "invalid"),
    "a lone surrogate": ('{ table(name: "\ud800") { name } }', "syntax"),
    "an escaped lone surrogate": ('{ table(name: "\\uD800") { name } }', "syntax"),
    "NUL": ("{ live\x00 }", "syntax"),
    "letters of another script": ("{ lïve { at } }", "syntax"),
    "nothing": ("", "syntax"),
    "no document": ("}{", "syntax"),
    "a type": ("type A { a: Int }", "invalid"),
    "a mutation": ("mutation { drop }", "no-operation"),
    "types of fields of types of fields": (
        "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }", "invalid"),
    "the whole schema ten times": (
        "{ " + " ".join(f"a{n}: __schema {{ types {{ fields {{ type {{ ofType {{ name }} }} args {{ name }} }} }} "
        "directives { args { type { fields { args { name } } } } } }" for n in range(10)) + " }", "runs",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("query", "code"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_by_its_limit_and_costs_little_work(query: str, code: str) -> None:
    said, work = prepare(query)
    assert said == code and work < MOST_WORK


LARGEST = {
    "fields": "{ live { __typename } " + " ".join(
        f"a{n}: activity {{ version at ageS nodes {{ events users eventType windowStart }} }}" for n in range(29)
    ) + " }",
    "repeats": "{ " + "activity { version at ageS nodes { events users eventType windowStart } } " * 21 + "}",
    "repeats of repeats": "{ " + "live { at at at } " * 7 + "}",
    "spreads": "{ live { " + " ".join(f"...F{n}" for n in range(21)) + " } } "
    + " ".join(f"fragment F{n} on Site {{ at }}" for n in range(21)),
    "spreads of spreads": "{ ...F0 } " + " ".join(f"fragment F{n} on Query {{ ...F{n + 1} }}" for n in range(48))
    + f" fragment F48 on Query {{ {LIVE} }}",
    "a text": '{ table(name: "' + "x" * 30_000 + '") { name } }',
}  # fmt: skip


@pytest.mark.parametrize("query", LARGEST.values(), ids=LARGEST)
def test_the_largest_documents_that_are_taken_cost_little_work_too(query: str) -> None:
    said, work = prepare(query)
    assert said == "runs" and work < MOST_WORK


def test_what_fragments_hold_is_counted_as_often_as_it_is_asked_for_and_looked_at_once() -> None:
    unbounded = Limits(**{field.name: 10**15 for field in dataclasses.fields(Limits)})
    size = measured(parse(doubling(10, "a: live @x { b: at }")), unbounded)
    assert (size.fields, size.aliases, size.directives, size.spreads) == (2**11, 2**11, 2**10, 2**11 - 1)
    assert (size.depth, size.repeats) == (2, 2**10 - 1)
    few = measured(parse("{ x { y { ...F } ...F } } fragment F on X { z { ... on Y { w } } }"), unbounded)
    assert (few.depth, few.fields, few.repeats) == (4, 6, 0)


@pytest.mark.parametrize(
    ("query", "variables", "cost"),
    [
        ("{ activity { nodes { events users } } }", {}, 20 + 20 * 3),
        ("{ activity(first: 3) { nodes { events users } version } }", {}, 20 + 3 * 4),
        ("query ($n: Int = 7) { activity(first: $n) { version } }", {}, 20 + 7),
        ("query ($n: Int!) { activity(first: $n) { version } }", {"n": 9}, 20 + 9),
        ("query ($n: Int!) { activity(first: $n) { version } }", {"n": 9.0}, 20 + 9),
        ("query ($n: Int!) { activity(first: $n) { version } }", {"n": "9"}, 20 + 1000),
        ("query ($i: [ID!]!) { posts(ids: $i) { id } }", {"i": ["a", "b"]}, 1 + 2),
        ("query ($i: [ID!]!) { posts(ids: $i) { engagement(first: 10) { nodes { views } } } }", {"i": ["a"] * 4},
         1 + 4 * (20 + 10 * 2)),
        ('{ posts(ids: "a") { id } }', {}, 1 + 1),
        ('{ table(name: "x") { rows(first: 5) { nodes } } }', {}, 1 + 20 + 5 * 10),
        ("{ ...F ...F } fragment F on Query { live { at } }", {}, 2 * (5 + 1)),
        ("{ live { __typename ... @include(if: false) { at } } }", {}, 5 + 2),
        ("{ __typename __schema { types { name } } }", {}, 1),
    ],
)  # fmt: skip
def test_a_cost_is_fields_by_rows(query: str, variables: dict[str, Any], cost: int) -> None:
    assert Engine(schema(), Limits(), 10).prepare(query, None, variables, True).cost == cost


@pytest.mark.parametrize(
    ("variables", "code"),
    [({"n": 1001}, "limit-first"), ({"n": -1}, "limit-first"), ({"n": 10**30}, "limit-first"), ({"n": 1000}, "runs")],
)
def test_first_is_bounded_in_variables_too(variables: dict[str, Any], code: str) -> None:
    assert prepare("query ($n: Int!) { activity(first: $n) { nodes { events } } }", **variables)[0] == code


@pytest.mark.parametrize("value", [True, 1.5, "7", [1], {"a": 1}, None])
async def test_a_first_of_another_type_is_the_requests_fault(anyio_backend: str, lake: Settings, value: Any) -> None:
    async with serving(lake) as api:
        query = "query ($n: Int!) { activity(first: $n) { version } }"
        assert await api.refused(query, n=value) == (400, "invalid")
        assert api.lake.questions == []


async def test_a_bomb_reaches_neither_the_lake_nor_the_stores(anyio_backend: str, lake: Settings) -> None:
    async with serving(lake) as api:
        for query, code in BOMBS.values():
            if code != "runs" and "\ud800" not in query:
                assert await api.refused(query) == (400, code)
        assert api.lake.questions == [] and api.stores.asked == []


async def test_huge_variables_are_bounded_by_the_body_and_by_what_takes_them(
    anyio_backend: str, lake: Settings
) -> None:
    query = "query ($f: ActivityMinuteFilter, $x: JSON) { activity(filter: $f) { version } }"
    values = "query ($f: ActivityMinuteFilter) { activity(filter: $f) { version } }"
    async with serving(lake) as api:
        over = {"query": values, "variables": {"f": {"eventType": {"eq": "x" * 300_000}}}}
        assert (await api.client.post("/graphql", json=over, headers=EVERYTHING)).status_code == 413
        assert await api.refused(query, f={}) == (400, "invalid")  # an unused variable
        for filtered in (
            {"eventType": {"eq": "x" * 2_000}}, {"eventType": {"in": ["x"] * 201}},
            {name: {op: 1 for op in ("eq", "ne", "gt", "ge", "lt", "le")} for name in ("events", "users")}
            | {"eventType": {op: "1" for op in ("eq", "ne", "gt", "ge", "lt", "le", "contains")}}
            | {"windowStart": {op: "2026-11-24" for op in ("eq", "ne")}},
        ):  # fmt: skip
            said = await api.ask(values, f=filtered)
            assert said["errors"][0]["extensions"]["code"] == "invalid-request"
        deep: Any = 1
        for _ in range(200):
            deep = [deep]
        said = await api.ask(
            'query ($v: JSON!) { table(name: "gold.anomalies") {'
            ' rows(filter: {column: "series", operator: EQ, value: $v}) { nodes } } }', v=deep,
        )  # fmt: skip
        assert said["errors"][0]["extensions"]["status"] == 422
        assert api.lake.questions == []


async def test_errors_name_their_limit_and_suggest_no_names(anyio_backend: str, lake: Settings) -> None:
    async with serving(lake) as api:
        asked = {"query": "{ " + " ".join(f"a{n}: {LIVE}" for n in range(40)) + " }"}
        said = (await api.client.post("/graphql", json=asked, headers=EVERYTHING)).json()["errors"]
        assert said == [{
            "message": "A document has at most 30 aliases, and this has 40, counted through fragments: ask for less.",
            "extensions": {"code": "limit-aliases", "status": 400, "limit": 30, "found": 40},
        }]  # fmt: skip
        for close in (
            "{ activty { version } }", "{ activity(frist: 1) { version } }", "{ activity { verson } }",
            "{ activity(order: EVENT) { version } }", "{ activity { ... on ActivityMinut { version } } }",
        ):  # fmt: skip
            wrong = (await api.client.post("/graphql", json={"query": close}, headers=EVERYTHING)).json()
            assert "did you mean" not in str(wrong).lower()
        variable = {"query": "query ($f: ActivityMinuteFilter) { activity(filter: $f) { version } }",
                    "variables": {"f": {"event": {}}}}  # fmt: skip
        wrong = (await api.client.post("/graphql", json=variable, headers=EVERYTHING)).json()
        assert wrong["errors"] and "did you mean" not in str(wrong).lower()


async def test_introspection_is_for_the_local_profile_a_setting_or_admins(anyio_backend: str, lake: Settings) -> None:
    production = lake.model_copy(update={"profile": "cluster"})
    open_to_all = production.model_copy(update={"api": lake.api.model_copy(update={"introspection": True})})
    query, hidden = (
        get_introspection_query(),
        '{ ...F } fragment F on Query { ... { t: __type(name: "Query") { name } } }',
    )
    for settings, headers, allowed in (
        (lake, EVERYTHING, True), (production, EVERYTHING, False), (production, token("admin"), True),
        (open_to_all, EVERYTHING, True),
    ):  # fmt: skip
        async with serving(settings) as api:
            for asked in (query, hidden):
                if allowed:
                    assert "errors" not in await api.ask(asked, headers)
                else:
                    assert await api.refused(asked, headers) == (403, "introspection-off")
            assert (await api.ask("{ __typename }", headers))["data"] == {"__typename": "Query"}


def test_documents_are_kept_up_to_a_bound_and_bad_ones_not_at_all() -> None:
    engine = Engine(schema(), Limits(), 10)
    for n in range(4_000):
        engine.prepare(f"{{ a{n}: live {{ at activeUsers }} b{n}: __typename }}", None, None, True)
    kept = list(engine._documents)
    assert engine._tokens <= 50_000 and len(kept) < 4_000 and "a3999" in kept[-1]
    with pytest.raises(RefusedError):
        engine.prepare("{ nothing }", None, None, True)
    assert list(engine._documents) == kept


async def test_a_query_that_takes_too_long_is_504(anyio_backend: str, lake: Settings) -> None:
    short = lake.model_copy(update={"api": lake.api.model_copy(update={"query_timeout": timedelta(0)})})
    async with serving(short) as api:
        answer = await api.client.post("/graphql", json={"query": "{ hosts { name } }"}, headers=EVERYTHING)
        assert (answer.status_code, answer.json()["type"]) == (504, "urn:lakehouse:problem:query-timeout")


async def test_twenty_users_with_everything_are_within_the_limits(anyio_backend: str, lake: Settings) -> None:
    query = """query ($ids: [ID!]!) { users(ids: $ids) { id live profile recommendations { items { postId score } }
        notifications { nodes { id at text } } activity { nodes { date events } } } }"""
    async with serving(lake) as api:
        assert "errors" not in await api.ask(query, ids=USERS)
