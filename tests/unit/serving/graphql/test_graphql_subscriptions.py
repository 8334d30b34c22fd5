"""Subscriptions: as server-sent events and over a WebSocket, from sources that are polled or told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from starlette.types import Message

from lakehouse.settings import Settings
from serving.auth import Caller
from serving.graphql import http, live, sockets
from serving.graphql.live import Listener, Polled, Seats, Topic
from serving.live.hub import Hub, Record
from serving.problems import Problem
from tests.unit.serving.event_source import EventSource
from tests.unit.serving.graphql.graphql_fakes import EVERYTHING, NOON, READ, TRUSTED, Api, Stores, serving, token

pytestmark = pytest.mark.anyio
WAIT_S = 5.0
CALLER = Caller("tester", frozenset(READ))


class Told:
    """A source whose news are put in by hand."""

    def __init__(self) -> None:
        self.listeners: list[tuple[tuple[Topic, ...], Listener]] = []
        self.came = asyncio.Event()

    async def listen(self, caller: Caller, *topics: Topic) -> AsyncIterator[tuple[Topic, Any]]:
        listener = Listener()
        self.listeners.append((topics, listener))
        self.came.set()
        try:
            while True:
                yield await listener.take()
        finally:
            self.listeners.remove((topics, listener))

    def tell(self, topic: Topic, value: Any) -> None:
        for topics, listener in self.listeners:
            if topic in topics:
                listener.put(topic, value)

    async def heard(self, count: int = 1) -> None:
        """Wait until so many listen."""
        async with asyncio.timeout(WAIT_S):
            while len(self.listeners) != count:
                await asyncio.sleep(0.001)


class Connection:
    """One call of an application by ASGI: what is sent to it, and what it sends."""

    def __init__(self, api: Api, scope: dict[str, Any], *first: dict[str, Any]) -> None:
        self.inward: asyncio.Queue[Message] = asyncio.Queue()
        self.outward: asyncio.Queue[Message] = asyncio.Queue()
        for message in first:
            self.inward.put_nowait(message)
        common = {"asgi": {"version": "3.0"}, "path": "/graphql", "raw_path": b"/graphql", "query_string": b"",
                  "server": ("api", 80), "client": ("x", 1), "root_path": ""}  # fmt: skip
        self.task = asyncio.create_task(api.app(common | scope, self.inward.get, self.outward.put))

    async def next(self) -> Message:
        async with asyncio.timeout(WAIT_S):
            return await self.outward.get()

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class Stream(Connection):
    """A subscription as server-sent events."""

    def __init__(self, api: Api, query: str, headers: dict[str, str] = EVERYTHING, **variables: Any) -> None:
        given = {"content-type": "application/json", "accept": "text/event-stream"} | headers
        listed = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        body = orjson.dumps({"query": query, "variables": variables})
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "headers": listed}
        super().__init__(api, scope, {"type": "http.request", "body": body, "more_body": False})
        self.source = EventSource()

    async def start(self) -> tuple[int, str]:
        started = await self.next()
        return started["status"], dict(started["headers"])[b"content-type"].decode()

    async def events(self, count: int) -> list[tuple[str, Any]]:
        while len(self.source.events) < count:
            self.source.feed((await self.next())["body"])
        found, self.source.events = self.source.events[:count], self.source.events[count:]
        return [(event.name, orjson.loads(event.data) if event.data else None) for event in found]


class Socket(Connection):
    """A WebSocket by graphql-transport-ws."""

    def __init__(self, api: Api, headers: dict[str, str] | None = None, protocol: str = sockets.PROTOCOL) -> None:
        listed = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "headers": listed,
            "subprotocols": [protocol],
            "http_version": "1.1",
        }
        super().__init__(api, scope, {"type": "websocket.connect"})

    def say(self, message: Any) -> None:
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        self.inward.put_nowait({"type": "websocket.receive", "text": text})

    def ask(self, identity: str, query: str, **variables: Any) -> None:
        self.say({"id": identity, "type": "subscribe", "payload": {"query": query, "variables": variables}})

    async def hear(self) -> Any:
        message = await self.next()
        return orjson.loads(message["text"]) if message["type"] == "websocket.send" else message

    async def closed(self) -> tuple[int, str]:
        message = await self.hear()
        assert message["type"] == "websocket.close", message
        return message["code"], message["reason"]

    async def ready(self, headers: dict[str, str] = EVERYTHING) -> Socket:
        assert (await self.hear())["type"] == "websocket.accept"
        self.say({"type": "connection_init", "payload": headers})
        assert await self.hear() == {"type": "connection_ack"}
        return self


@asynccontextmanager
async def told(lake: Settings, stores: Stores | None = None) -> AsyncIterator[tuple[Api, Told]]:
    source = Told()
    async with serving(lake, stores, source=source) as api:
        yield api, source


SITE = {"at": "2026-11-24T12:00:00Z", "active_users": 3, "events_1m": {"view": 4, "like": 1}}
LIVE = "subscription { live { activeUsers events1m { eventType events } } }"


async def test_a_subscription_is_a_stream_of_events_one_an_answer(lake: Settings) -> None:
    async with told(lake) as (api, source):
        stream = Stream(api, LIVE)
        assert await stream.start() == (200, "text/event-stream; charset=utf-8")
        await source.heard()
        for active in (3, 4):
            source.tell(Topic("live"), SITE | {"active_users": active})
            site = {
                "activeUsers": active,
                "events1m": [{"eventType": "like", "events": 1}, {"eventType": "view", "events": 4}],
            }
            assert await stream.events(1) == [("next", {"data": {"live": site}})]
        stream.inward.put_nowait({"type": "http.disconnect"})
        await source.heard(0)  # who is gone listens no more
        await stream.end()


async def test_a_query_can_be_asked_as_events_too(api: Api) -> None:
    stream = Stream(api, "{ live { activeUsers } }")
    assert await stream.start() == (200, "text/event-stream; charset=utf-8")
    assert await stream.events(2) == [("next", {"data": {"live": {"activeUsers": 2}}}), ("complete", None)]


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        (LIVE, token("read:users"), 403, "insufficient-scope"),
        ('subscription { notifications(user: "u1") { text } }', token("read:metrics"), 403, "insufficient-scope"),
        ('subscription { notifications(user: "u1") { text } }', token(*READ, user="u2"), 404, "no-such-user"),
        ('subscription { tableVersions(names: ["gold.nothing"]) { version } }', EVERYTHING, 404, "no-such-table"),
        (
            'subscription { tableVersions(names: ["bronze.user_events"]) { version } }', EVERYTHING, 403,
            "insufficient-scope",
        ),
        ("subscription { tableVersions(names: []) { version } }", EVERYTHING, 422, "invalid-request"),
        ("subscription { nothing }", EVERYTHING, 400, "invalid"),
        ("subscription { live { at } alerts { rule } }", EVERYTHING, 400, "invalid"),
        ("subscription { trending(first: 101) { rank } }", EVERYTHING, 400, "limit-first"),
    ],
)  # fmt: skip
async def test_what_may_not_be_subscribed_to_is_refused_at_once(
    lake: Settings, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    async with told(lake) as (api, source):
        answer = await api.client.post(
            "/graphql", json={"query": query}, headers=headers | {"Accept": "text/event-stream"}
        )
        found = answer.json()["errors"][0]["extensions"]
        assert (answer.status_code, found["status"], found["code"]) == (status, status, code) and not source.listeners


async def test_notifications_are_masked_recorded_and_of_the_users_own_token_whole(lake: Settings) -> None:
    row = {"id": "1", "user_id": "u1", "at": "2026-11-24T12:00:00Z", "text": "Cher ami", "rule": "r"}
    query = 'subscription { notifications(user: "u1") { id text } }'
    for headers, text in ((EVERYTHING, None), (TRUSTED, "Cher ami"), (token(*READ, user="u1"), "Cher ami")):
        async with told(lake) as (api, source):
            stream = Stream(api, query, headers)
            await stream.start()
            await source.heard()
            source.tell(Topic("notification", "u1"), row)
            source.tell(Topic("notification", "u2"), row | {"id": "2"})
            assert await stream.events(1) == [("next", {"data": {"notifications": {"id": "1", "text": text}}})]
            assert api.records == [("notifications", ("user_id", "text"), 1)]
            await stream.end()


async def test_an_event_has_children_of_its_own_and_none_that_is_as_the_one_before(lake: Settings) -> None:
    async with told(lake) as (api, source):
        stream = Stream(
            api, "subscription { trending(first: 2) { rank post { engagement(first: 1) { nodes { views } } } } }"
        )
        await stream.start()
        await source.heard()
        for posts in (["p1", "p2", "p9"], ["p3", "p1", "p9"], ["p3", "p1", "p8"], ["p1"]):
            rows = [{"rank": n, "post_id": post, "score": 1.0} for n, post in enumerate(posts, 1)]
            source.tell(Topic("trending"), rows)
            if posts[2:] == ["p8"]:
                continue  # the first two are as before: that is no news
            ((_, answer),) = await stream.events(1)
            views = [row["post"]["engagement"]["nodes"][0]["views"] for row in answer["data"]["trending"]]
            assert views == [int(post[1:]) for post in posts[:2]]
        assert api.lake.questions == ["gold.post_engagement_daily"] * 2  # of p1 and p2, of p3
        await stream.end()


async def test_a_slow_subscriber_ends_cleanly_and_states_keep_the_newest_alone() -> None:
    listener = Listener()
    for n in range(5_000):
        listener.put(Topic("live"), n)
        listener.put(Topic("table", "a"), n)
    assert [await listener.take(), await listener.take()] == [(Topic("live"), 4_999), (Topic("table", "a"), 4_999)]
    for n in range(live.MOST_WAITING + 1):
        listener.put(Topic("alert"), n)
    with pytest.raises(Problem, match="too slowly"):
        await listener.take()


async def test_a_subscriber_who_is_too_slow_is_told_so(lake: Settings) -> None:
    async with told(lake) as (api, source):
        stream = Stream(api, "subscription { alerts { rule } }")
        await stream.start()
        await source.heard()
        for n in range(live.MOST_WAITING + 1):
            source.tell(Topic("alert"), {"rule": str(n)})
        first, (name, answer), last = await stream.events(3)
        assert first == ("next", {"data": {"alerts": {"rule": "0"}}})  # which was on its way
        assert (name, answer["errors"][0]["extensions"]["code"]) == ("next", "too-slow") and last == ("complete", None)
        await source.heard(0)


async def test_subscriptions_of_one_subject_are_bounded_and_given_back(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with told(lake) as (api, source):
        streams = [Stream(api, LIVE) for _ in range(http.SUBSCRIPTIONS)]
        for stream in streams:
            await stream.start()
        headers = EVERYTHING | {"Accept": "text/event-stream"}
        refused = await api.client.post("/graphql", json={"query": LIVE}, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        other = Stream(api, LIVE, token(*READ, subject="another"))
        assert (await other.start())[0] == 200
        await source.heard(http.SUBSCRIPTIONS + 1)
        streams[0].inward.put_nowait({"type": "http.disconnect"})
        await source.heard(http.SUBSCRIPTIONS)
        again = Stream(api, LIVE)
        assert (await again.start())[0] == 200
        for stream in (*streams, other, again):
            await stream.end()
        await source.heard(0)


async def test_a_stream_ends_with_its_token(lake: Settings) -> None:
    async with told(lake) as (api, _):
        stream = Stream(api, LIVE, token(*READ, ttl=timedelta(seconds=1)))
        await stream.start()
        (name, answer), last = await stream.events(2)
        assert (name, answer["errors"][0]["extensions"]["code"]) == ("next", "expired") and last == ("complete", None)


def test_seats_are_counted_by_subject_and_in_all() -> None:
    seats = Seats(2, 3)
    with seats.taken("a"), seats.taken("a"), seats.taken("b"):
        for subject in ("a", "c"):
            with pytest.raises(Problem), seats.taken(subject):
                pass
    with seats.taken("c"):
        pass


# --- the source that asks --------------------------------------------------------------------------------------------


class Snapshots:
    def __init__(self) -> None:
        self.version = 1

    async def __call__(self, name: str) -> Any:
        return SimpleNamespace(name=name, version=self.version, at=NOON)


async def test_polled_states_come_first_and_then_as_they_change_asked_once_for_everybody() -> None:
    stores, snapshots = Stores(), Snapshots()
    polled = Polled(stores, snapshots, every_s=0.001)  # type: ignore[arg-type]
    topics = (Topic("live"), Topic("table", "gold.x"))
    one, two = polled.listen(CALLER, *topics), polled.listen(CALLER, Topic("live"))
    async with asyncio.timeout(WAIT_S):
        first = dict([await anext(one), await anext(one)])
        assert first == {topics[0]: stores.site_now, topics[1]: {"name": "gold.x", "version": 1, "at": NOON}}
        assert await anext(two) == (Topic("live"), stores.site_now)
        asked = len(stores.asked)
        snapshots.version = 2
        assert (await anext(one))[1]["version"] == 2
        stores.site_now = stores.site_now | {"active_users": 9}
        assert (await anext(one))[1]["active_users"] == (await anext(two))[1]["active_users"] == 9
        await one.aclose()
        await two.aclose()
    assert len(stores.asked) > asked
    count = len(stores.asked)
    await asyncio.sleep(0.02)
    assert len(stores.asked) <= count + 1  # with nobody there nothing is asked


async def test_polled_notifications_are_those_that_come_after_each_once() -> None:
    stores = Stores()
    rows = [{"id": str(n), "user_id": "u1", "at": f"2026-11-24T12:00:0{n}Z"} for n in range(6)]
    stores.told["u1"] = rows[:2]
    polled = Polled(stores, Snapshots(), every_s=0.001)  # type: ignore[arg-type]
    listening = polled.listen(CALLER, Topic("notification", "u1"))
    first = asyncio.ensure_future(anext(listening))
    async with asyncio.timeout(WAIT_S):
        while len(stores.asked) < 2:
            await asyncio.sleep(0.001)
        stores.told["u1"] = rows[:4]
        found = [(await first)[1]["id"], (await anext(listening))[1]["id"]]
        stores.told["u1"] = rows
        found += [(await anext(listening))[1]["id"], (await anext(listening))[1]["id"]]
    await listening.aclose()
    assert found == ["2", "3", "4", "5"]


async def test_a_store_that_was_away_is_followed_again() -> None:
    stores = Stores()
    stores.away = {"redis"}
    polled = Polled(stores, Snapshots(), every_s=0.001)  # type: ignore[arg-type]
    listening = polled.listen(CALLER, Topic("live"))
    first = asyncio.ensure_future(anext(listening))
    async with asyncio.timeout(WAIT_S):
        while len(stores.asked) < 3:
            await asyncio.sleep(0.001)
        assert not first.done()
        stores.away = set()
        assert (await first)[1] == stores.site_now
    await listening.aclose()


async def test_alerts_need_a_source_that_knows_them(api: Api) -> None:
    answer = await api.client.post(
        "/graphql",
        json={"query": "subscription { alerts { rule } }"},
        headers=EVERYTHING | {"Accept": "text/event-stream"},
    )
    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (503, "no-alerts")


# --- the hub of the stream -------------------------------------------------------------------------------------------


class Wordings:
    """Everything that is told ``ops`` is an alert."""

    def alert(self, user_id: str) -> bool:
        return user_id == "ops"

    def data(self, value: bytes, alert: bool, masked: bool) -> bytes:
        return orjson.dumps(orjson.loads(value) | ({"text": None} if masked else {}))


def record(offset: int, user: str, text: str) -> Record:
    row = {"id": str(offset), "user_id": user, "at": "2026-11-24T12:00:00Z", "text": text, "rule": "r\n\nr"}
    return Record(0, offset, user, orjson.dumps(row))


@asynccontextmanager
async def hubbed(lake: Settings) -> AsyncIterator[tuple[Api, Hub]]:
    hub = Hub(Wordings())
    hub.begin(b"mark", [0], [0])
    hub.caught_up()
    async with serving(lake, streams=hub) as api:
        yield api, hub
    await hub.close()


async def heard(hub: Hub, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while hub.streams != count:
            await asyncio.sleep(0.001)


async def test_the_hub_tells_counters_alerts_and_notifications_each_to_whom_they_are_for(lake: Settings) -> None:
    async with hubbed(lake) as (api, hub):
        site, alerts, other = (
            Stream(api, query, headers)
            for query, headers in (
                (LIVE, EVERYTHING),
                ("subscription { alerts { rule text } }", EVERYTHING),
                ('subscription { notifications(user: "u1") { id text userId } }', TRUSTED),
            )
        )
        hub.show("live", SITE)
        for stream in (site, alerts, other):
            assert (await stream.start())[0] == 200
        await heard(hub, 3)
        assert (await site.events(1))[0][1]["data"]["live"]["activeUsers"] == 3
        await asyncio.sleep(0.01)  # until they know where in the topic they are
        hub.take(
            [record(0, "u1", "one"), record(1, "ops", "two"), record(2, "u2", "three"), record(3, "u1", "four")], {0: 4}
        )
        assert (await alerts.events(1))[0][1] == {"data": {"alerts": {"rule": "r\n\nr", "text": None}}}
        found = [answer["data"]["notifications"] for _, answer in await other.events(2)]
        assert found == [{"id": n, "text": text, "userId": "u1"} for n, text in (("0", "one"), ("3", "four"))]
        hub.show("live", SITE | {"active_users": 7})
        assert (await site.events(1))[0][1]["data"]["live"]["activeUsers"] == 7
        for stream in (site, alerts, other):
            await stream.end()
        await heard(hub, 0)


async def test_subscriptions_end_when_the_process_does_and_none_begins(lake: Settings) -> None:
    async with hubbed(lake) as (api, hub):
        streams = [Stream(api, query) for query in (
            LIVE, "subscription { alerts { rule } }", "subscription { trending(first: 1) { rank } }",
            'subscription { tableVersions(names: ["gold.activity_minute"]) { name version } }',
        )]  # fmt: skip
        for stream in streams:
            await stream.start()
        await heard(hub, 4)
        assert (await streams[2].events(1))[0][1] == {"data": {"trending": [{"rank": 1}]}}
        version = {"name": "gold.activity_minute", "version": 0}
        assert (await streams[3].events(1))[0][1] == {"data": {"tableVersions": version}}
        hub.end()
        for stream in streams:
            assert await stream.events(1) == [("complete", None)]
        headers = EVERYTHING | {"Accept": "text/event-stream"}
        assert (await api.client.post("/graphql", json={"query": LIVE}, headers=headers)).status_code == 503


# --- WebSockets ------------------------------------------------------------------------------------------------------


async def test_a_socket_answers_queries_and_subscriptions_side_by_side(lake: Settings) -> None:
    async with told(lake) as (api, source):
        socket = await Socket(api).ready()
        socket.say({"type": "ping"})
        assert await socket.hear() == {"type": "pong"}
        socket.ask("s", LIVE)
        await source.heard()
        socket.ask("q", "query ($n: Int!) { activity(first: $n) { nodes { events } } }", n=1)
        assert await socket.hear() == {
            "id": "q",
            "type": "next",
            "payload": {"data": {"activity": {"nodes": [{"events": 290}]}}},
        }
        assert await socket.hear() == {"id": "q", "type": "complete"}
        source.tell(Topic("live"), SITE)
        answer = await socket.hear()
        assert (answer["id"], answer["type"], answer["payload"]["data"]["live"]["activeUsers"]) == ("s", "next", 3)
        socket.say({"id": "s", "type": "complete"})
        await source.heard(0)
        socket.ask("s", LIVE)  # the id is free again
        await source.heard()
        socket.inward.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await source.heard(0)
        await asyncio.wait_for(socket.task, WAIT_S)


async def test_errors_of_an_operation_leave_the_connection_open(lake: Settings) -> None:
    async with told(lake) as (api, _):
        socket = await Socket(api).ready(token("read:users"))
        for query, code in (("{ nothing }", "invalid"), (LIVE, "insufficient-scope"), ("}", "syntax"),
                            ("{ activity(first: 0) { version } }", "limit-first")):  # fmt: skip
            socket.ask("1", query)
            answer = await socket.hear()
            assert (answer["type"], answer["id"], answer["payload"][0]["extensions"]["code"]) == ("error", "1", code)
        socket.ask("1", "{ activity { version } }")
        assert (await socket.hear())["payload"]["data"] == {"activity": None}
        await socket.end()


async def test_the_token_may_come_in_the_header(api: Api) -> None:
    socket = Socket(api, EVERYTHING)
    assert (await socket.hear())["subprotocol"] == sockets.PROTOCOL
    socket.say({"type": "connection_init"})
    assert await socket.hear() == {"type": "connection_ack"}
    await socket.end()


INIT = {"type": "connection_init", "payload": EVERYTHING}
ASK = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { live { at } }"}}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([{"type": "connection_init"}], 4403),
        ([{"type": "connection_init", "payload": {"Authorization": "Bearer x"}}], 4403),
        ([{"type": "connection_init", "payload": ["x"]}], 4403),
        ([{"type": "connection_init", "payload": token(*READ, ttl=timedelta(minutes=-1))}], 4403),
        ([ASK], 4401),
        ([INIT, INIT], 4429),
        ([INIT, ASK, ASK], 4409),
        (["nonsense"], 4400), (["[]"], 4400), ([{}], 4400), ([{"type": "nothing"}], 4400),
        ([INIT, {"type": "subscribe"}], 4400), ([INIT, {**ASK, "id": ""}], 4400),
        ([INIT, {**ASK, "id": "x" * 101}], 4400),
        ([INIT, {**ASK, "payload": {}}], 4400), ([INIT, {**ASK, "payload": [ASK["payload"]]}], 4400),
        (["x" * 300_000], 4400),
        ([INIT, *({**ASK, "id": str(n)} for n in range(sockets.OPERATIONS + 1))], 4400),
    ],
)  # fmt: skip
async def test_what_breaks_the_protocol_closes_the_connection_with_its_code(
    lake: Settings, messages: list[Any], code: int
) -> None:
    async with told(lake) as (api, source):
        socket = Socket(api)
        assert (await socket.hear())["type"] == "websocket.accept"
        for message in messages:
            socket.say(message)
        while (answer := await socket.hear())["type"] != "websocket.close":
            pass
        assert answer["code"] == code and len(answer["reason"].encode()) <= 123
        await asyncio.wait_for(socket.task, WAIT_S)
        await source.heard(0)


async def test_another_protocol_is_not_accepted(api: Api) -> None:
    socket = Socket(api, protocol="graphql-ws")
    assert (await socket.closed())[0] == 4406


async def test_a_connection_ends_with_its_token(lake: Settings) -> None:
    async with told(lake) as (api, _):
        socket = await Socket(api).ready(token(*READ, ttl=timedelta(seconds=1)))
        assert await socket.closed() == (4403, "The token has expired")
