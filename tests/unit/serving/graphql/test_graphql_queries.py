"""What GraphQL answers: rows, pages, parents and children; and that nobody sees what is not theirs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lakehouse.settings import Settings
from serving.graphql.schema import schema
from tests.unit.local_lake import write
from tests.unit.serving.graphql.graphql_fakes import NOON, READ, TRUSTED, USERS, Api, Stores, filled, serving, token

pytestmark = pytest.mark.anyio


async def test_rows_are_those_of_the_table_newest_first_by_the_names_of_graphql(api: Api) -> None:
    said = await api.ask("{ activity(first: 2) { nodes { windowStart eventType events users } version } }")
    assert said == {"data": {"activity": {"version": 0, "nodes": [
        {"windowStart": "2026-11-24T12:29:00Z", "eventType": "like", "events": 290, "users": 29},
        {"windowStart": "2026-11-24T12:29:00Z", "eventType": "view", "events": 291, "users": 29},
    ]}}}  # fmt: skip


async def test_pages_joined_by_cursors_are_the_whole_table_without_a_row_twice(api: Api) -> None:
    query = """query ($after: String) { activity(first: 7, after: $after) {
        edges { cursor node { windowStart eventType } }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
    rows, after = [], None
    while True:
        page = (await api.ask(query, after=after))["data"]["activity"]
        rows += [tuple(edge["node"].values()) for edge in page["edges"]]
        info = page["pageInfo"]
        assert info["startCursor"] == page["edges"][0]["cursor"] and info["endCursor"] == page["edges"][-1]["cursor"]
        assert info["hasPreviousPage"] is (after is not None)
        if not info["hasNextPage"]:
            break
        after = info["endCursor"]
    assert len(rows) == len(set(rows)) == 60 and sorted(rows, key=lambda row: row[0], reverse=True) == rows


async def test_a_cursor_from_the_middle_of_a_page_goes_on_there_with_other_fields(api: Api) -> None:
    page = (await api.ask("{ activity(first: 5) { edges { cursor } } }"))["data"]["activity"]
    query = "query ($after: String) { activity(first: 1, after: $after) { nodes { events } } }"
    rest = await api.ask(query, after=page["edges"][1]["cursor"])
    assert rest["data"]["activity"]["nodes"] == [{"events": 280}]


@pytest.mark.parametrize(
    ("change", "code"), [("", None), ("x", "invalid-cursor"), ("order: EVENTS,", "invalid-cursor")]
)
async def test_a_cursor_is_good_for_its_question_alone(api: Api, change: str, code: str | None) -> None:
    cursor = (await api.ask("{ activity { pageInfo { endCursor } } }"))["data"]["activity"]["pageInfo"]["endCursor"]
    if change == "x":
        cursor, change = "x" + cursor[1:], ""
    said = await api.ask(f"query ($c: String) {{ activity({change} after: $c) {{ version }} }}", c=cursor)
    codes = [error["extensions"]["code"] for error in said.get("errors", [])]
    assert codes == ([code] if code else [])


async def test_a_cursor_of_another_token_is_refused(api: Api) -> None:
    cursor = (await api.ask("{ activity { pageInfo { endCursor } } }"))["data"]["activity"]["pageInfo"]["endCursor"]
    query = "query ($c: String) { activity(after: $c) { version } }"
    said = await api.ask(query, token("read:metrics", subject="another"), c=cursor)
    assert said["errors"][0]["extensions"] == {
        "code": "invalid-cursor", "status": 422,
        "reasons": [{"pointer": "/query/cursor", "reason": "it was made for another token"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        ("filter: {events: {ge: 10, lt: 21}}", [10, 11, 20]),
        ("filter: {events: {in: [0, 291, 999]}}", [0, 291]),
        ("filter: {eventType: {eq: \"like\"}, users: {le: 1}}", [0, 10]),
        ("filter: {eventType: {contains: \"ie\", ne: \"like\"}, users: {lt: 2}}", [1, 11]),
        ("filter: {users: {null: true}}", []),
        ("filter: {windowStart: {eq: \"2026-11-24T12:03:00Z\"}}", [30, 31]),
        ("from: \"2026-11-24T12:02:00Z\", to: \"2026-11-24T14:03:00+02:00\"", [20, 21]),
        ("filter: {users: {lt: 1}}, order: [EVENT_TYPE_DESC]", [1, 0]),
        ("first: 2, order: EVENTS", [0, 1]),
        ("first: 1, order: [USERS_DESC, EVENT_TYPE_DESC]", [291]),
    ],
)  # fmt: skip
async def test_filters_times_and_orders_hold(api: Api, arguments: str, events: list[int]) -> None:
    said = await api.ask(f"{{ activity({arguments}) {{ nodes {{ events }} }} }}")
    found = [node["events"] for node in said["data"]["activity"]["nodes"]]
    assert (found if "order" in arguments else sorted(found)) == events


async def test_filters_come_as_variables_and_text_is_never_sql(api: Api) -> None:
    query = "query ($f: ActivityMinuteFilter) { activity(filter: $f) { nodes { events } } }"
    assert len((await api.ask(query, f={"users": {"eq": 3}}))["data"]["activity"]["nodes"]) == 2
    for text in ("' or 1=1 --", '"', "\\", "🙂" * 100, "like\n"):
        assert (await api.ask(query, f={"eventType": {"eq": text}}))["data"]["activity"]["nodes"] == []
    faults: tuple[dict[str, Any], ...] = (
        {"users": {"eq": 2**63}}, {"users": {"eq": "3"}}, {"nothing": {}}, {"windowStart": {"gt": "noon"}},
    )  # fmt: skip
    for wrong in faults:
        assert await api.refused(query, f=wrong) == (400, "invalid")


async def test_any_table_is_asked_by_name_with_rows_as_json(api: Api) -> None:
    query = """{ table(name: "gold.activity_minute") { name key time columns { name type personal masked }
        state { version rows } rows(first: 1, select: ["events", "users"], order: {column: "events"},
          filter: [{column: "users", operator: IN, value: [2, 3]}, {column: "event_type", operator: NE, value: "like"}])
        { nodes pageInfo { hasNextPage } } } }"""
    table = (await api.ask(query))["data"]["table"]
    assert table["key"] == ["window_start", "event_type"] and table["time"] == "window_start"
    assert table["state"] == {"version": 0, "rows": 60}
    assert table["columns"][2] == {"name": "events", "type": "bigint", "personal": False, "masked": False}
    assert table["rows"] == {"nodes": [{"events": 21, "users": 2}], "pageInfo": {"hasNextPage": True}}


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ("filter: {column: \"users\", operator: EQ, value: [1]}", "invalid-request"),
        ("filter: {column: \"users\", operator: IN, value: 1}", "invalid-request"),
        ("filter: {column: \"users\", operator: EQ, value: {a: 1}}", "invalid-request"),
        ("filter: {column: \"users,events\", operator: NULL, value: true}", "invalid-request"),
        ("filter: {column: \"users\\\" or 1\", operator: EQ, value: 1}", "invalid-request"),
        ("select: [\"users; drop table\"]", "invalid-request"),
        ("order: {column: \"nothing\"}", "invalid-request"),
        ("version: 7", "no-such-version"),
    ],
)  # fmt: skip
async def test_what_a_table_does_not_have_is_an_error_of_the_field(api: Api, rows: str, code: str) -> None:
    said = await api.ask(f'{{ table(name: "gold.activity_minute") {{ name rows({rows}) {{ nodes }} }} }}')
    assert said["data"]["table"]["rows"] is None and said["data"]["table"]["name"]
    assert said["errors"][0]["extensions"]["code"] == code and said["errors"][0]["path"] == ["table", "rows"]


@pytest.mark.parametrize("name", ["gold.nothing", "../etc/passwd", "gold.activity_minute; --", "", "_internal.x", "🙂"])
async def test_a_table_that_is_not_there_is_404(api: Api, name: str) -> None:
    said = await api.ask("query ($n: String!) { table(name: $n) { name } }", n=name)
    assert said["data"] == {"table": None} and said["errors"][0]["extensions"]["status"] == 404


async def test_an_older_version_is_read_and_a_page_stays_at_its_version(tmp_path: Path) -> None:
    settings = filled(tmp_path)
    async with serving(settings) as api:
        query = (
            "query ($c: String) { activity(first: 1, after: $c) { version nodes { events } pageInfo { endCursor } } }"
        )
        page = (await api.ask(query))["data"]["activity"]
        write(
            settings, "gold.activity_minute", [{"window_start": NOON, "event_type": "new", "events": 1000, "users": 1}]
        )
        again = (await api.ask(query, c=page["pageInfo"]["endCursor"]))["data"]["activity"]
        assert again["version"] == 0 and again["nodes"] == [{"events": 291}]
        old = await api.ask('{ activity(version: 0, filter: {eventType: {eq: "new"}}) { version nodes { events } } }')
        assert old["data"]["activity"] == {"version": 0, "nodes": []}


# --- parents and children --------------------------------------------------------------------------------------------


def stores() -> Stores:
    made = Stores()
    for user in USERS[:8]:
        made.live[user] = {
            "model_version": "7",
            "at": "2026-11-24T12:00:00Z",
            "items": [{"post_id": "p1", "score": 1.0}],
        }
    for user in USERS[8:15]:
        made.batch[user] = {"model_version": "6", "at": NOON, "items": [{"post_id": "p2", "score": 0.5}] * 40}
    for user in USERS:
        made.told[user] = [
            {"id": f"{user}-{n}", "user_id": user, "at": f"2026-11-24T12:00:0{9 - n}Z", "text": "Cher ami", "rule": "r"}
            for n in range(4)
        ]
    return made


async def test_twenty_users_are_one_question_to_each_store_and_one_to_the_lake(lake: Settings) -> None:
    query = """query ($ids: [ID!]!) { users(ids: $ids) { id live profile
        recommendations(first: 3) { source modelVersion items { postId score } }
        notifications(first: 2) { nodes { id text } pageInfo { hasNextPage } }
        activity(first: 2) { nodes { date userId events } pageInfo { hasNextPage endCursor } } } }"""
    async with serving(lake, stores()) as api:
        found = (await api.ask(query, ids=USERS))["data"]["users"]
        assert Counter(asked[0] for asked in api.stores.asked) == {
            "live_recommendations": 1, "recommendations": 1, "trending": 1, "newest_notifications": 1, "live_users": 1,
            "profiles": 1,
        }  # fmt: skip
        assert api.lake.questions == ["gold.user_activity_daily"]
        assert [user["id"] for user in found] == USERS
        sources = [user["recommendations"]["source"] for user in found]
        assert sources == ["realtime"] * 8 + ["batch"] * 7 + ["popularity"] * 5
        assert [len(user["recommendations"]["items"]) for user in found] == [1] * 8 + [3] * 12
        for n, user in enumerate(found):
            assert user["activity"]["nodes"] == [
                {"date": "2026-11-24", "userId": USERS[n], "events": 100 * n},
                {"date": "2026-11-23", "userId": USERS[n], "events": 100 * n + 1},
            ]
            assert user["activity"]["pageInfo"]["hasNextPage"] and user["notifications"]["pageInfo"]["hasNextPage"]
            assert [row["id"] for row in user["notifications"]["nodes"]] == [f"{USERS[n]}-0", f"{USERS[n]}-1"]
            assert {row["text"] for row in user["notifications"]["nodes"]} == {None}
        rest = """query ($id: ID!, $c: String) { user(id: $id) { activity(first: 9, after: $c) {
            nodes { events } pageInfo { hasNextPage hasPreviousPage } } } }"""
        cursor = found[3]["activity"]["pageInfo"]["endCursor"]
        said = (await api.ask(rest, id=USERS[3], c=cursor))["data"]["user"]["activity"]
        assert [node["events"] for node in said["nodes"]] == [302, 303, 304]
        assert said["pageInfo"] == {"hasNextPage": False, "hasPreviousPage": True}
        other = await api.ask(rest, id=USERS[4], c=cursor)
        assert other["errors"][0]["extensions"]["code"] == "invalid-cursor"


async def test_the_same_children_asked_twice_are_loaded_once_and_other_arguments_once_more(lake: Settings) -> None:
    query = """query ($ids: [ID!]!) { posts(ids: $ids) { a: engagement(first: 1) { nodes { views } }
        b: engagement(first: 1) { nodes { views } } c: engagement(first: 2) { nodes { postId likes } } } }"""
    async with serving(lake) as api:
        found = (await api.ask(query, ids=[f"p{n}" for n in range(1, 21)]))["data"]["posts"]
    assert api.lake.questions == ["gold.post_engagement_daily"] * 2
    assert found[4] == {
        "a": {"nodes": [{"views": 5}]}, "b": {"nodes": [{"views": 5}]},
        "c": {"nodes": [{"postId": "p5", "likes": 0}, {"postId": "p5", "likes": -1}]},
    }  # fmt: skip


async def test_trending_posts_services_and_hosts_have_their_children_by_one_question_each(api: Api) -> None:
    said = await api.ask("""{
        trending(first: 20) { rank post { id engagement(first: 1) { nodes { views } } } }
        services { name newest { requests } health(first: 2) { nodes { service requests } }
          slowestPaths(first: 1) { path requests errors maxMs } }
        hosts { name newest { cpu lastSeen } utilization(first: 1) { nodes { host avg max } } } }""")
    assert "errors" not in said
    assert Counter(api.lake.questions) == {
        "gold.post_engagement_daily": 1, "gold.service_health_minute": 2, "silver.service_logs": 1,
        "gold.host_utilization_minute": 2,
    }  # fmt: skip
    assert [row["post"]["engagement"]["nodes"] for row in said["data"]["trending"]] == [
        [{"views": n}] for n in range(1, 21)
    ]
    assert said["data"]["services"][1] == {
        "name": "posts", "newest": {"requests": 2},
        "health": {"nodes": [{"service": "posts", "requests": 2}, {"service": "posts", "requests": 1}]},
        "slowestPaths": [{"path": "/posts/1", "requests": 2, "errors": 1, "maxMs": 3.0}],
    }  # fmt: skip
    host = {"cpu": 0.5, "lastSeen": "2026-11-24T12:02:00Z"}
    nodes = [{"host": "web-1", "avg": 0.5, "max": None}]  # NaN is no JSON
    assert said["data"]["hosts"][0] == {"name": "web-1", "newest": host, "utilization": {"nodes": nodes}}


async def test_a_service_without_requests_has_no_newest_minute_and_no_paths(api: Api) -> None:
    said = await api.ask(
        '{ service(name: "nobody") { newest { requests } slowestPaths { path } health { nodes { errors } } } }'
    )
    assert said["data"]["service"] == {"newest": None, "slowestPaths": [], "health": {"nodes": []}}


async def test_models_name_the_version_that_answers_and_its_decisions(api: Api) -> None:
    said = await api.ask("{ models { name version decisions { nodes { version reasons data model } } } }")
    assert said["data"]["models"][0] == {
        "name": "recommender", "version": None,
        "decisions": {"nodes": [{"version": "1", "reasons": ["good"], "data": {"gold.x": 2}, "model": "recommender"}]},
    }  # fmt: skip
    assert api.lake.questions == ["ops.promotions"]


async def test_rows_with_arrays_and_maps_are_filtered_by_their_other_columns(api: Api) -> None:
    nobody = "{action: {null: true}, who: {null: false}}"
    said = await api.ask(f"{{ models {{ decisions(filter: {nobody}) {{ nodes {{ id }} }} }} }}")
    assert [model["decisions"]["nodes"] for model in said["data"]["models"]] == [[], [], []]
    said = await api.ask('{ models { decisions(filter: {version: {in: ["1"]}}) { nodes { id } } } }')
    assert [model["decisions"]["nodes"] for model in said["data"]["models"]] == [[{"id": "1"}], [], []]


async def test_a_store_that_is_away_costs_its_fields_alone(api: Api) -> None:
    api.stores.away = {"redis"}
    said = await api.ask(
        '{ live { activeUsers } activity(first: 1) { version } user(id: "u00") { id recommendations { source } } }'
    )
    assert said["data"] == {"live": None, "activity": {"version": 0}, "user": {"id": "u00", "recommendations": None}}
    assert {error["extensions"]["status"] for error in said["errors"]} == {503}
    assert {tuple(error["path"]) for error in said["errors"]} == {("live",), ("user", "recommendations")}


async def test_two_readers_of_one_page_are_one_question(api: Api) -> None:
    for _ in range(3):
        await api.ask("{ activity(first: 2) { nodes { events } } }")
    assert api.lake.questions == ["gold.activity_minute"]


async def test_fragments_aliases_and_directives_work_as_ever(api: Api) -> None:
    query = """query ($no: Boolean!) {
        one: activity(first: 1) { ...Page } two: activity(first: 1, order: EVENTS) { ...Page }
        live @skip(if: $no) { at } }
        fragment Page on ActivityMinuteConnection { __typename nodes { ... on ActivityMinute { n: events ...Minute } } }
        fragment Minute on ActivityMinute { eventType n: events users @include(if: $no) }"""
    said = await api.ask(query, no=True)
    kind = "ActivityMinuteConnection"
    assert said == {"data": {
        "one": {"__typename": kind, "nodes": [{"n": 290, "eventType": "like", "users": 29}]},
        "two": {"__typename": kind, "nodes": [{"n": 0, "eventType": "like", "users": 0}]},
    }}  # fmt: skip
    assert "users" not in (await api.ask(query, no=False))["data"]["one"]["nodes"][0]


# --- who may see what ------------------------------------------------------------------------------------------------

FIELDS = {
    "read:tables": ["tables { name }", 'table(name: "gold.activity_minute") { name }'],
    "read:metrics": [
        "activity { version }", "live { at }", "trending { rank }", 'post(id: "p1") { id }',
        'posts(ids: ["p1"]) { id }',
        "services { name }", 'service(name: "s") { name }', "hosts { name }", 'host(name: "h") { name }',
        "anomalies { version }", "forecasts { version }",
    ],
    "read:users": ['user(id: "u01") { id }', 'users(ids: ["u01"]) { id }', "recommendations { version }"],
    "predict": ["models { name }"],
}  # fmt: skip
CASES = [(scope, field) for scope, fields in FIELDS.items() for field in fields]


@pytest.mark.parametrize(("scope", "field"), CASES, ids=[field for _, field in CASES])
async def test_a_field_needs_its_scope_and_the_others_are_answered(api: Api, scope: str, field: str) -> None:
    others = token(*(each for each in READ if each != scope), "write:events", "admin", "read:logs", "read:pii")
    other = "__typename" if scope == "read:metrics" else "fine: trending(first: 1) { rank }"
    said = await api.ask(f"{{ {field} {other} }}", others)
    name = field.partition(" ")[0].partition("(")[0]
    assert said["data"][name] is None and all(value for key, value in said["data"].items() if key != name)
    (error,) = said["errors"]
    assert error["path"] == [name]
    assert error["extensions"] == {"code": "insufficient-scope", "scope": scope, "status": 403}
    alone = await api.ask(f"{{ {field} }}", token(scope))
    assert "errors" not in alone and alone["data"][name]


def test_every_field_of_the_schema_is_in_the_matrix_of_scopes() -> None:
    tested = {field.partition(" ")[0].partition("(")[0] for _, field in CASES}
    query = schema().query_type
    assert query and tested == set(query.fields)
    for name, field in query.fields.items():
        scope = next(scope for scope, each in CASES if each.partition(" ")[0].partition("(")[0] == name)
        assert field.description and f"`{scope}`" in field.description


async def test_personal_values_are_masked_without_the_scope_and_recorded_with_it(api: Api) -> None:
    query = (
        '{ recommendations(first: 2) { nodes { userId rank } } table(name: "gold.recommendations") { rows { nodes } } }'
    )
    said = await api.ask(query)
    users = [row["userId"] for row in said["data"]["recommendations"]["nodes"]]
    assert all(user.startswith("~") for user in users) and "u0" not in str(said) and api.records == []
    seen = await api.ask(query, TRUSTED)
    assert seen["data"]["recommendations"]["nodes"][0]["userId"] == "u00"
    assert sorted(api.records) == [("gold.recommendations", ("user_id",), n) for n in (2, 6)]
    api.records.clear()
    await api.ask("{ recommendations { nodes { rank } } }", TRUSTED)
    assert api.records == []  # what is not asked for is not read


@pytest.mark.parametrize("argument", ['filter: {userId: {eq: "u00"}}', "order: USER_ID"])
async def test_what_is_hidden_cannot_be_asked_by(api: Api, argument: str) -> None:
    said = await api.ask(f"{{ recommendations({argument}) {{ nodes {{ rank }} }} }}")
    assert said["errors"][0]["extensions"] == {"code": "insufficient-scope", "scope": "read:pii", "status": 403}
    assert "errors" not in await api.ask(f"{{ recommendations({argument}) {{ nodes {{ rank }} }} }}", TRUSTED)


async def test_reads_of_users_are_recorded_once_a_request(lake: Settings) -> None:
    query = """query ($ids: [ID!]!) { users(ids: $ids) { live profile activity { nodes { userId } }
        recommendations { source } notifications { nodes { id } } } }"""
    async with serving(lake, stores()) as api:
        said = await api.ask(query, ids=USERS[:2])
    assert "errors" not in said
    assert sorted(api.records) == [
        ("notifications", ("user_id", "text"), 4), ("notifications", ("user_id", "text"), 4),
        ("recommendations", ("user_id",), 2), ("user activity", ("user_id",), 2),
    ]  # fmt: skip


@pytest.mark.parametrize("table", ["bronze.user_events", "silver.quarantine"])
async def test_closed_tables_are_neither_listed_nor_read_without_the_scope(api: Api, table: str) -> None:
    said = await api.ask(f'{{ tables {{ name }} table(name: "{table}") {{ name }} }}')
    assert table not in {each["name"] for each in said["data"]["tables"]} and said["data"]["table"] is None
    assert said["errors"][0]["extensions"]["scope"] == "read:pii"


async def test_a_users_token_sees_that_user_alone(lake: Settings) -> None:
    async with serving(lake, stores()) as api:
        said = await api.ask(
            """{ users(ids: ["u01", "u02"]) { id notifications(first: 1) { nodes { text } } }
            user(id: "u02") { id } recommendations { nodes { userId rank } }
            table(name: "silver.service_logs") { rows { nodes } } }""",
            token(*READ, user="u01"),
        )
    assert said["data"]["users"] == [{"id": "u01", "notifications": {"nodes": [{"text": "Cher ami"}]}}, None]
    assert said["data"]["user"] is None and said["data"]["table"] is None
    assert {row["userId"] for row in said["data"]["recommendations"]["nodes"]} == {"u01"}
    codes = {(*map(str, error["path"]),): error["extensions"]["code"] for error in said["errors"]}
    assert codes == {("users", "1"): "no-such-user", ("user",): "no-such-user", ("table",): "not-yours"}
