"""``/v1/stream``: what is on the wire, who gets what, and that whoever comes again has missed nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import string
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx2
import orjson
import pytest
from fastapi import FastAPI, Header
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.types import Message

from lakehouse.alerts import read
from serving import problems
from serving.auth import Caller
from serving.live import frames
from serving.live.feeds import RedisFeed, TableFeed, live, trending
from serving.live.hub import KINDS, Hub, Record, Stream, Wish
from serving.live.position import Position
from serving.live.route import EventStream, router
from serving.live.wording import ByRules
from tests.unit.serving.event_source import Event, EventSource

pytestmark = pytest.mark.anyio
MARK = b"abcd"
WORDING = ByRules(read(), lambda user: f"~{len(user)}")
METRICS, USERS, PII = "read:metrics", "read:users", "read:pii"
ALL = Wish(frozenset(KINDS), masked=False)


def told(events: Sequence[Event]) -> list[str]:
    """Ids of the notifications and alerts."""
    return [event.json["id"] for event in events if event.name in ("notification", "alert")]


def names(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events]


def document(number: int, user: str = "u1", **fields: Any) -> bytes:
    base = {
        "id": str(number), "user_id": user, "rule": "new follower", "severity": "info", "kind": "fired",
        "subject": f"e{number}", "at": "2026-01-31T12:00:00Z", "text": f"u9 follows you ({number})", "quiet": False,
        "suppressed": False,
    }  # fmt: skip
    return orjson.dumps(base | fields)


def record(number: int, partition: int = 0, offset: int | None = None, user: str = "u1", **fields: Any) -> Record:
    return Record(partition, number if offset is None else offset, user, document(number, user, **fields))


def hub(partitions: int = 1, **options: Any) -> Hub:
    """One that has read an empty topic to its end."""
    made = Hub(WORDING, **options)
    made.begin(MARK, [0] * partitions, [0] * partitions)
    made.caught_up()
    return made


async def drain(stream: Stream) -> bytes:
    made = bytearray()
    while True:
        stream.awake.clear()
        body = await stream.due()
        made += body
        if not body and not stream.awake.is_set():
            return bytes(made)
        if stream.over:
            return bytes(made) + stream.last()


# --- on the wire -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(string.ascii_letters, min_size=1))
def test_what_is_written_is_what_a_client_reads_whatever_lines_it_has(data: str, name: str) -> None:
    client = EventSource()
    client.feed(frames.event(name, data.encode(), "an-id") + frames.place("another"))
    (event,) = client.events
    assert event.name == name and event.last_id == "an-id" and client.last_id == "another"
    assert event.data == data.replace("\r\n", "\n").replace("\r", "\n")


def test_data_of_several_lines_are_several_fields() -> None:
    assert frames.event("a", b"1\n\r\n2\r3", "x") == b"event: a\nid: x\ndata: 1\ndata: \ndata: 2\ndata: 3\n\n"


@pytest.mark.parametrize("broken", ["a\nb", "a\rb", "a\0b"])
def test_a_name_or_place_that_would_be_read_as_another_field_is_refused(broken: str) -> None:
    with pytest.raises(ValueError):
        frames.event(broken, b"")
    with pytest.raises(ValueError):
        frames.place(broken)


POSITIONS = st.builds(Position, st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 2**63 - 1)).map(tuple))


@settings(deadline=None)
@given(POSITIONS)
def test_a_position_is_read_as_it_was_written(position: Position) -> None:
    assert Position.parse(str(position)) == position


@settings(deadline=None)
@given(POSITIONS, st.data())
def test_a_position_with_one_character_changed_or_cut_off_is_none(position: Position, data: st.DataObject) -> None:
    text = str(position)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([c for c in string.ascii_letters + string.digits + "-_=" if c != text[at]]))
    for broken in (text[:at] + other + text[at + 1 :], text[:at], text + "A"):
        with pytest.raises(ValueError):
            Position.parse(broken)


@settings(deadline=None)
@given(st.text())
def test_rubbish_is_no_position(text: str) -> None:
    with pytest.raises(ValueError):
        Position.parse(text)


def test_a_position_of_two_partitions_is_short() -> None:
    assert len(str(Position(MARK, (1_234_567, 7_654_321)))) <= 24


# --- nothing is missed -----------------------------------------------------------------------------------------------


class Process:
    """An API process that reads a topic in an order of its own: each partition in order, partitions as they come."""

    def __init__(self, topic: list[list[Record]], kept: int, ends: Callable[[], list[int]]) -> None:
        self.hub = Hub(WORDING, kept=(kept, 1 << 20))
        self.topic = topic
        self.read = self.hub.begin(MARK, [0 for _ in topic], ends(), self._ends)
        self.now = ends
        self.catch_up()

    async def _ends(self) -> list[int]:
        return self.now()

    def take(self, partition: int, most: int) -> None:
        found = self.topic[partition][self.read[partition] : self.read[partition] + most]
        self.read[partition] += len(found)
        # Each process has objects of its own.
        self.hub.take([Record(r.partition, r.offset, r.user_id, r.value) for r in found], {})

    def catch_up(self) -> None:
        for partition in range(len(self.topic)):
            self.take(partition, len(self.topic[partition]))
        self.hub.caught_up()


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[Any, ...]]]:
    partitions = draw(st.integers(1, 3))
    partition = st.integers(0, partitions - 1)
    steps = st.one_of(
        st.tuples(st.just("write"), partition, st.integers(1, 6)),
        st.tuples(st.just("read"), st.integers(0, 1), partition, st.integers(1, 4)),
        st.tuples(st.just("receive"), st.floats(0, 1)),
        st.tuples(st.just("move"), st.integers(0, 1)),
        st.tuples(st.just("restart"), st.integers(0, 1)),
    )
    return partitions, draw(st.lists(steps, max_size=60))


async def lived(history: tuple[int, list[tuple[Any, ...]]], kept: int) -> tuple[list[str], list[str], list[str]]:
    """What was written since a client first came, what it got over two processes, and the gaps that it was told of."""
    partitions, steps = history
    topic: list[list[Record]] = [[] for _ in range(partitions)]
    count = 0

    def ends() -> list[int]:
        return [len(records) for records in topic]

    processes = [Process(topic, kept, ends) for _ in range(2)]
    client = EventSource()
    at, stream = 0, Stream(processes[0].hub, ALL, None)
    client.feed(await drain(stream))

    async def come(process: int) -> Stream:
        client.begin()
        return Stream(processes[process].hub, ALL, client.last_id or None)

    for step in [*steps, ("receive", 1.0)]:
        match step:
            case ("write", partition, many):
                for _ in range(many):
                    topic[partition].append(record(count, partition, len(topic[partition])))
                    count += 1
            case ("read", process, partition, most):
                processes[process].take(partition, most)
            case ("receive", share):  # what comes through before the line breaks, perhaps in the middle of an event
                body = await drain(stream)
                client.feed(body[: int(len(body) * share)])
                if share < 1:
                    stream = await come(at)
            case ("move", process):
                at, stream = process, await come(process)
            case ("restart", process):
                processes[process] = Process(topic, kept, ends)
                if process == at:
                    stream = await come(at)
    for process in processes:
        process.catch_up()
    for _ in range(2):  # one that was too slow comes again
        client.feed(await drain(stream))
        stream = await come(at)
    written = [json.loads(r.value)["id"] for records in topic for r in records]
    return written, told(client.events), [event.json["reason"] for event in client.events if event.name == "gap"]


@settings(max_examples=300, deadline=None)
@given(histories())
def test_who_comes_again_anywhere_has_each_notification_exactly_once(history: Any) -> None:
    written, got, gaps = asyncio.run(lived(history, kept=10_000))
    assert sorted(got) == sorted(written) and len(set(got)) == len(got) and not gaps


@settings(max_examples=300, deadline=None)
@given(histories())
def test_where_too_little_is_kept_nothing_is_missing_without_word_of_a_gap(history: Any) -> None:
    written, got, gaps = asyncio.run(lived(history, kept=3))
    if not gaps:
        assert sorted(got) == sorted(written)
    assert set(got) <= set(written) and set(gaps) <= {"too old"}


async def resumed(here: Hub, last_id: str, wish: Wish = ALL) -> list[Event]:
    return EventSource().feed(await drain(Stream(here, wish, last_id)))


@pytest.mark.parametrize(
    ("last_id", "reason"),
    [
        ("rubbish", "malformed"),
        ("\x7f\u2028ü", "malformed"),
        (str(Position(MARK, (1, 1)))[:-1], "malformed"),
        (str(Position(b"efgh", (1, 1))), "other topic"),
        (str(Position(MARK, (7, 1))), "too old"),
        (str(Position(MARK, (10, 13))), "ahead"),
        (str(Position(MARK, (10, 2, 0))), "ahead"),
        (str(Position(MARK, (2**63 - 1, 2**63 - 1))), "ahead"),
    ],
)
async def test_a_wrong_place_begins_at_the_oldest_that_is_kept_and_says_so(last_id: str, reason: str) -> None:
    here = hub(2, kept=(2, 1 << 20))
    here.take([record(n) for n in range(10)] + [record(100 + n, 1, n) for n in range(2)], {})
    first, *rest = await resumed(here, last_id)
    assert (first.name, first.json) == ("gap", {"reason": reason})
    assert told(rest) == ["8", "9", "100", "101"]
    assert await resumed(here, first.last_id) == rest  # the gap's own place is one to go on from
    assert await resumed(here, rest[-1].last_id) == []


async def test_a_place_that_another_process_gave_and_this_one_has_not_come_to_is_waited_for() -> None:
    here = Hub(WORDING)

    async def ends() -> list[int]:
        return [5]

    here.begin(MARK, [0], [1], ends)
    here.take([record(0)], {})
    here.caught_up()
    client, stream = EventSource(), Stream(here, ALL, str(Position(MARK, (3,))))
    assert client.feed(await drain(stream)) == []
    here.take([record(n) for n in range(1, 5)], {})
    assert told(client.feed(await drain(stream))) == ["3", "4"]


async def test_while_nobody_can_say_where_the_topic_ends_a_place_beyond_is_kept_for_later() -> None:
    here, away = Hub(WORDING), True

    async def ends() -> list[int]:
        if away:
            raise ConnectionError("no broker")
        return [5]

    here.begin(MARK, [0], [1], ends)
    here.caught_up()
    client, stream = EventSource(), Stream(here, ALL, str(Position(MARK, (3,))))
    assert client.feed(await drain(stream)) == []
    away = False
    here.take([record(n) for n in range(5)], {})
    assert told(client.feed(await drain(stream))) == ["3", "4"]


async def test_who_comes_before_the_topic_was_read_begins_at_its_end() -> None:
    here = Hub(WORDING)
    client, stream = EventSource(), Stream(here, ALL, None)
    assert await drain(stream) == b""
    here.begin(MARK, [0], [3])
    here.take([record(n) for n in range(3)], {})
    assert await drain(stream) == b""
    here.caught_up()
    assert client.feed(await drain(stream)) == [] and client.last_id
    here.take([record(3)], {})
    assert told(client.feed(await drain(stream))) == ["3"]


async def test_offsets_without_a_notification_are_gone_past_with_the_heartbeat() -> None:
    here, client = hub(), EventSource()
    stream = Stream(here, Wish(ALL.kinds, notified="u2"), None)
    client.feed(await drain(stream))
    first = client.last_id
    here.take([record(n) for n in range(9)], {0: 12})
    assert client.feed(await drain(stream) + stream.heartbeat()) == []
    assert client.last_id != first and client.comments == 1
    assert Position.parse(client.last_id).offsets == (12,)
    assert stream.heartbeat() == b":\n\n"
    assert await resumed(here, client.last_id) == []


async def test_a_topic_that_is_made_anew_under_a_stream_is_a_gap() -> None:
    here, client = hub(), EventSource()
    stream = Stream(here, ALL, None)
    here.take([record(0)], {})
    client.feed(await drain(stream))
    here.begin(b"else", [0, 0], [1, 0])
    here.take([record(7)], {})
    here.caught_up()
    found = client.feed(await drain(stream))
    assert names(found) == ["gap", "notification"] and found[0].json == {"reason": "other topic"}
    assert told(found) == ["7"]


async def test_a_reader_that_starts_again_goes_on_and_takes_new_partitions_from_their_beginning() -> None:
    here, client = hub(), EventSource()
    with here.stream("t", ALL) as stream:
        here.take([record(0)], {})
        client.feed(await drain(stream))
        old = client.last_id
        assert here.begin(MARK, [0, 0], [5, 4]) == [1, 0]
        here.take([record(1, 1, 0), record(2, 0, 1)], {})
        assert client.feed(await drain(stream)) == []
        here.caught_up()
        assert told(client.feed(await drain(stream))) == ["1", "2"]
    assert told(await resumed(here, old)) == ["1", "2"]


async def test_notifications_are_kept_up_to_a_number_of_bytes() -> None:
    here = hub(kept=(1000, 10_000))
    here.take([record(n, text="x" * 1000) for n in range(50)], {})
    assert 5 < len(here.all_kept()) < 10 and here.floor == [50 - len(here.all_kept())]


# --- states ----------------------------------------------------------------------------------------------------------


async def test_of_a_state_who_comes_and_who_is_slow_get_the_last_value_alone() -> None:
    here = hub()
    here.show("live", {"active_users": 1})
    stream = Stream(here, ALL, None)
    for n in range(2, 5):
        here.show("live", {"active_users": n})
        here.show("table", {"name": "gold.a", "version": n, "at": None}, "gold.a")
    here.show("table", {"name": "gold.b", "version": 1, "at": None}, "gold.b")
    found = EventSource().feed(await drain(stream))
    assert [(e.name, e.json.get("active_users", e.json.get("version"))) for e in found] == [
        ("live", 4), ("table", 4), ("table", 1),
    ]  # fmt: skip
    here.show("live", {"active_users": 4})
    assert await drain(stream) == b""


async def test_a_store_that_is_away_is_told_once_and_again_when_it_is_back() -> None:
    here, client = hub(), EventSource()
    stream = Stream(here, Wish(frozenset({"live"})), None)
    here.store("redis", True)
    assert client.feed(await drain(stream)) == []
    for _ in range(3):
        here.store("redis", False, "refused")
        here.store("kafka", False, "of no interest to this stream")
    (away,) = client.feed(await drain(stream))
    late = EventSource().feed(await drain(Stream(here, Wish(frozenset({"trending"})), None)))
    here.store("redis", True)
    (back,) = client.feed(await drain(stream))
    assert [(e.name, e.json["name"], e.json["up"]) for e in (away, *late, back)] == [
        ("store", "redis", False), ("store", "redis", False), ("store", "redis", True),
    ]  # fmt: skip
    assert await drain(Stream(here, Wish(frozenset({"live"})), None)) == b""


def test_states_have_the_form_of_the_answers_of_the_api() -> None:
    site = {"at": "2026-01-31T12:00:00Z", "active_users": "3", "events_1m:view": "7"}
    assert live(site) == {"at": site["at"], "active_users": 3, "events_1m": {"view": 7}}
    assert live({}) == {"at": None, "active_users": None, "events_1m": {}}
    assert trending([("p1", 2.0049), ("p2", 1.0)])["data"] == [
        {"rank": 1, "post_id": "p1", "score": 2.0}, {"rank": 2, "post_id": "p2", "score": 1.0},
    ]  # fmt: skip


@dataclass(frozen=True)
class Version:
    name: str
    version: int
    at: datetime


async def test_versions_of_tables_are_asked_for_while_somebody_wants_them_and_a_lake_away_is_told() -> None:
    answers: list[Any] = [OSError("no namenode"), [Version("gold.a", 3, datetime(2026, 1, 31, tzinfo=UTC))]]

    def served() -> list[Version]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    here = Hub(WORDING, [TableFeed(served, every_s=0.01)])
    client = EventSource()
    with here.stream("t", Wish(frozenset({"table"}))) as stream:
        while names(client.events)[-1:] != ["table"]:
            await asyncio.wait_for(stream.awake.wait(), 5)
            client.feed(await drain(stream))
    assert [e.json.get("up") for e in client.events[:-1]] in ([False, True], [True])
    assert client.events[-1].json == {"name": "gold.a", "version": 3, "at": "2026-01-31T00:00:00.000Z"}
    await here.close()


async def test_a_redis_that_is_away_ends_neither_feed_nor_stream() -> None:
    from lakehouse.settings import Redis, Settings

    here = Hub(WORDING, [RedisFeed(Settings(redis=Redis(url=SecretStr("redis://127.0.0.1:1/0"))), every_s=0.01)])
    with here.stream("t", Wish(frozenset({"live"}))) as stream:
        await asyncio.wait_for(stream.awake.wait(), 5)
        (event,) = EventSource().feed(await drain(stream))
        assert event.json["up"] is False and stream.over is None
    await here.close()


async def test_a_feed_that_fails_is_started_again() -> None:
    runs = asyncio.Semaphore(0)

    class Failing:
        async def run(self, _: Hub) -> None:
            runs.release()
            raise RuntimeError("of a kind nobody thought of")

    here = Hub(WORDING, [Failing()], restarts_s=(0.0, 0.0))
    with here.stream("t", ALL):
        for _ in range(3):
            await asyncio.wait_for(runs.acquire(), 5)
    await here.close()


# --- who sees what ---------------------------------------------------------------------------------------------------


def app(here: Hub, heartbeat_s: float = 15.0, recorded: list[Caller] | None = None) -> FastAPI:
    """The route, with callers as the header says."""
    made = FastAPI()
    problems.install(made)

    async def allowed(x_caller: Annotated[str, Header()]) -> Caller:
        subject, scopes, user = json.loads(x_caller)
        return Caller(subject, frozenset(scopes), user)

    made.include_router(router(here, allowed, (recorded if recorded is not None else []).append))
    return made


def caller(*scopes: str, subject: str = "tester", user: str | None = None) -> dict[str, str]:
    return {"x-caller": json.dumps([subject, scopes, user])}


class Connection:
    """A client's side of ASGI: what was sent, stalled or closed as told."""

    def __init__(self, server: FastAPI, query: str, headers: dict[str, str]) -> None:
        self.status, self.body = 0, bytearray()
        self.headers: dict[str, str] = {}
        self.source = EventSource()
        self.reads, self.left, self.came = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.finished = self.aborted = False
        scope = {
            "type": "http", "method": "GET", "path": "/v1/stream", "raw_path": b"/v1/stream", "root_path": "",
            "query_string": query.encode(), "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
            "http_version": "1.1", "scheme": "http", "server": ("api", 80), "client": ("c", 1), "asgi": {},
            "extensions": {"lakehouse.abort": {"abort": self._abort}},
        }  # fmt: skip
        self.task = asyncio.create_task(server(scope, self._receive, self._send))

    def _abort(self) -> None:
        self.aborted = True
        self.left.set()

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self.body += message["body"]
            self.source.feed(message["body"])
            self.finished = not message.get("more_body")
        self.came.set()

    @property
    def events(self) -> list[Event]:
        return self.source.events

    async def until(self, true: Callable[..., bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self.came.clear()
                await self.came.wait()

    async def end(self) -> None:
        self.left.set()
        await asyncio.wait_for(self.task, 10)


@asynccontextmanager
async def connection(server: FastAPI, query: str = "", **headers: str) -> AsyncIterator[Connection]:
    made = Connection(server, query, headers)
    await made.until(lambda: made.status != 0)
    try:
        yield made
    finally:
        await made.end()


async def test_a_stream_is_never_stored_nor_buffered_and_says_when_to_come_again() -> None:
    async with connection(app(hub()), **caller(METRICS)) as it:
        await it.until(lambda: it.source.retry is not None)
        assert it.headers["content-type"].startswith("text/event-stream") and "content-length" not in it.headers
        assert (it.headers["cache-control"], it.headers["x-accel-buffering"]) == ("no-store", "no")
        assert 1000 <= (it.source.retry or 0) <= 3000


@pytest.mark.parametrize(
    ("scopes", "query", "status", "name"),
    [
        ([], "", 403, "insufficient-scope"),
        (["read:logs", "admin", PII], "", 403, "insufficient-scope"),
        ([METRICS], "events=notification", 403, "insufficient-scope"),
        ([USERS], "events=live", 403, "insufficient-scope"),
        ([USERS], "events=alert,notification", 403, "insufficient-scope"),
        ([METRICS], "user_id=u1", 403, "insufficient-scope"),
        ([METRICS], "events=live,lives", 422, "invalid-request"),
        ([METRICS], "events=", 422, "invalid-request"),
        ([METRICS], "events=" + "x" * 300, 422, "invalid-request"),
    ],
)
async def test_who_may_not_is_told_what_is_lacking(scopes: list[str], query: str, status: int, name: str) -> None:
    transport = httpx2.ASGITransport(app(hub()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get(f"/v1/stream?{query}", headers=caller(*scopes))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, name)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_without_a_choice_a_stream_holds_what_the_scopes_allow() -> None:
    here = hub()
    here.show("live", {})
    here.show("table", {"version": 1}, "gold.a")
    seen = {}
    for scopes in ([METRICS], [USERS], ["read:tables"], [METRICS, USERS]):
        async with connection(app(here), **caller(*scopes, subject=str(scopes))) as it:
            await it.until(lambda: it.source.retry is not None)
            here.take([record(here.head), record(here.head + 1, user="ops", rule="host cpu high")], {})
            here.show("live", {"n": here.head})
            here.show("table", {"version": here.head + 1}, "gold.a")
            last = "live" if METRICS in scopes else "table" if "read:tables" in scopes else "notification"
            twice = last != "notification"
            await it.until(lambda it=it, last=last, twice=twice: names(it.events).count(last) > twice)
            seen[" ".join(scopes)] = {*names(it.events)}
    assert seen == {
        METRICS: {"live", "table", "alert"},
        USERS: {"notification"},
        "read:tables": {"table"},
        f"{METRICS} {USERS}": {"live", "table", "alert", "notification"},
    }


async def shown(scopes: list[str], user: str | None, query: str = "") -> list[Any]:
    """Of a notification to u1, one to u2 and an alert: what comes through."""
    here = hub()
    wanted = str(Position(MARK, (0,)))
    here.take(
        [
            record(0), record(1, user="u2"),
            record(2, user="ops", rule="host cpu high", subject="web-1", text="web-1 is busy", kind="recovered"),
            record(3, user="ops", rule="a rule that is no more", subject="e9", text="u7 did it"),
        ],
        {},
    )  # fmt: skip
    server = app(here)
    async with connection(server, query, **caller(*scopes, user=user), **{"Last-Event-ID": wanted}) as it:
        await it.until(lambda: it.source.retry is not None)
        here.show("live", {"the last": True})
        here.end()
        await it.until(lambda: it.finished)
        return [(e.name, e.json) for e in it.events if e.name in ("notification", "alert")]


async def test_a_users_token_gets_its_own_alone_and_in_full() -> None:
    found = await shown([USERS, METRICS], "u2")
    assert [(name, data["id"], data["user_id"], data["text"]) for name, data in found] == [
        ("notification", "1", "u2", "u9 follows you (1)")
    ]
    assert await shown([USERS, METRICS], "u3") == []
    assert [data["id"] for _, data in await shown([USERS, METRICS], "u1", "user_id=u1")] == ["0"]


async def test_a_users_token_cannot_ask_for_anothers() -> None:
    transport = httpx2.ASGITransport(app(hub()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("/v1/stream?user_id=u1", headers=caller(USERS, PII, user="u2"))
    assert answer.status_code == 404


async def test_others_choose_a_user_and_still_get_alerts() -> None:
    found = await shown([USERS, METRICS, PII], None, "user_id=u2")
    assert [(name, data["id"]) for name, data in found] == [("notification", "1"), ("alert", "2"), ("alert", "3")]


async def test_without_pii_users_are_pseudonyms_and_texts_null_unless_they_are_of_the_platform() -> None:
    masked = await shown([USERS, METRICS], None)
    assert [(data.get("user_id"), data["text"]) for _, data in masked] == [
        ("~2", None), ("~2", None), (None, "web-1 is busy"), (None, None),
    ]  # fmt: skip
    assert [data.get("state") for _, data in masked] == [None, None, "recovered", "firing"]
    said = json.dumps(masked)
    assert not any(name in said for name in ("u1", "u2", "u7", "u9"))
    full = await shown([USERS, METRICS, PII], None)
    assert [data["text"] for _, data in full][2:] == ["web-1 is busy", "u7 did it"] and full[0][1]["user_id"] == "u1"


async def test_reading_of_personal_data_is_recorded_when_a_stream_begins() -> None:
    recorded: list[Caller] = []
    here = hub()
    for number, (scopes, user) in enumerate(
        [((METRICS,), None), ((USERS,), None), ((USERS, PII), None), ((USERS,), "u1")]
    ):
        async with connection(app(here, recorded=recorded), **caller(*scopes, subject=str(number), user=user)):
            pass
    assert [one.subject for one in recorded] == ["2", "3"]


# --- clients that are slow, gone or many -----------------------------------------------------------------------------


async def serve(response: EventStream) -> Connection:
    made = FastAPI()

    @made.get("/v1/stream")
    async def stream() -> EventStream:
        return response

    return Connection(made, "", {})


async def test_a_client_that_does_not_read_is_dropped_and_others_go_on() -> None:
    here = hub()
    stuck = await serve(EventStream(here, "a", ALL, write_s=0.05))
    well = await serve(EventStream(here, "b", ALL))
    await stuck.until(lambda: stuck.source.last_id != "")
    await well.until(lambda: well.source.last_id != "")
    stuck.reads.clear()
    here.take([record(0)], {})
    await asyncio.wait_for(stuck.task, 10)
    assert stuck.aborted and here.streams == 1 and here.counts["end:slow"] == 1
    here.take([record(1)], {})
    await well.until(lambda: len(well.events) == 2)
    assert told(well.events) == ["0", "1"]
    assert told(await resumed(here, stuck.source.last_id)) == ["0", "1"]
    await well.end()


async def test_a_client_slower_than_what_is_kept_ends_with_a_word_and_others_go_on() -> None:
    here = hub(kept=(10, 1 << 20))
    slow = await serve(EventStream(here, "a", ALL))
    well = await serve(EventStream(here, "b", ALL))
    for one in (slow, well):
        await one.until(lambda one=one: one.source.last_id != "")
    slow.reads.clear()
    for n in range(40):
        here.take([record(n)], {})
        await well.until(lambda n=n: len(well.events) == n + 1)
    slow.reads.set()
    await slow.until(lambda: slow.finished)
    assert slow.events[-1].name == "end" and slow.events[-1].json == {"reason": "slow"}
    assert told(well.events) == [str(n) for n in range(40)]
    await asyncio.wait_for(slow.task, 10)
    await well.end()
    assert here.streams == 0


async def test_a_silent_stream_has_heartbeats() -> None:
    it = await serve(EventStream(hub(), "a", ALL, heartbeat_s=0.01))
    await it.until(lambda: it.source.comments >= 3)
    assert it.events == []
    await it.end()


async def test_at_the_end_of_the_process_every_stream_ends_at_once_even_one_that_does_not_read() -> None:
    here = hub()
    well = [await serve(EventStream(here, str(n), ALL)) for n in range(20)]
    for one in well:
        await one.until(lambda one=one: one.source.last_id != "")
    stuck = await serve(EventStream(here, "stuck", ALL))
    await stuck.until(lambda: stuck.source.last_id != "")
    stuck.reads.clear()
    here.show("live", {})
    for one in well:
        await one.until(lambda one=one: one.events != [])
    began = asyncio.get_running_loop().time()
    here.end()
    for one in [*well, stuck]:
        await asyncio.wait_for(one.task, 10)
    assert asyncio.get_running_loop().time() - began < 3
    assert all(one.finished and one.events[-1].json == {"reason": "shutdown"} for one in well)
    assert stuck.aborted and here.streams == 0
    refused = await serve(EventStream(here, "late", ALL))
    with pytest.raises(problems.Problem) as problem:
        await refused.task
    assert problem.value.status == 503


async def test_a_stream_ends_when_its_token_does_and_after_a_while_in_any_case() -> None:
    expired = await serve(
        EventStream(hub(), "a", ALL, expires=(datetime.now(UTC) + timedelta(seconds=0.05)).timestamp())
    )
    old = await serve(EventStream(hub(lasts_s=0.05), "a", ALL))
    for it, reason in ((expired, "expired"), (old, "lifetime")):
        await it.until(lambda it=it: it.finished)
        assert it.events[-1].json == {"reason": reason}


async def test_streams_of_a_token_and_in_all_are_bounded_and_a_place_is_given_back() -> None:
    here = hub(most=(3, 2))
    server = app(here)
    transport = httpx2.ASGITransport(server)
    async with (
        connection(server, **caller(METRICS)),
        connection(server, **caller(METRICS, USERS)),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        answer = await client.get("/v1/stream", headers=caller(METRICS))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        async with connection(server, **caller(METRICS, subject="another")):
            answer = await client.get("/v1/stream", headers=caller(METRICS, subject="third"))
            assert answer.status_code == 503 and "retry-after" in answer.headers
    async with connection(server, **caller(METRICS)) as it:
        assert it.status == 200


async def test_ten_thousand_clients_that_come_and_go_leave_nothing() -> None:
    here = hub()
    server, before = app(here), len(asyncio.all_tasks())
    here.take([record(n) for n in range(100)], {})
    for _ in range(100):
        many = [Connection(server, "", caller(METRICS, USERS, subject=str(n))) for n in range(100)]
        for n, one in enumerate(many):
            if n % 3:  # others leave before anything was sent
                await one.until(lambda one=one: one.status != 0)
        await asyncio.gather(*(one.end() for one in many))
    assert here.counts["opened"] == 10_000 and here.streams == 0 and not here._of
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, Stream)]
    assert len(asyncio.all_tasks()) == before
