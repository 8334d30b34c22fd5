"""Who was erased leaves every task's state, and does not come back, whatever is still on its way."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from zlib import crc32

import msgspec
import orjson
import pytest
from pymongo import DeleteOne, ReplaceOne

from lakehouse.erasure.identifiers import Erased, Wanted, digest
from lakehouse.realtime.follow import profiles
from lakehouse.realtime.users import User

from .logs import Logs
from .test_stages import SETTINGS, events

WHO = "u3"
GONE = Erased(b"k" * 32, [digest(b"k" * 32, WHO)])


def named(logs: Logs) -> list[str]:
    """Keys of changelogs whose state names them."""
    wanted = Wanted([WHO])
    return [
        key
        for log in logs.changelogs.values()
        for key, value in log.items()
        if wanted.in_text(key) or wanted.in_strings(msgspec.msgpack.decode(value))
    ]


@pytest.mark.parametrize("crash", [0.0, 0.3])
def test_they_leave_every_state_and_stay_out(crash: float) -> None:
    logs = Logs(SETTINGS, 4)
    sent = events(9, 3000)
    for half, part in enumerate((sent[: len(sent) // 2], sent[len(sent) // 2 :])):
        for appended, event in part:
            logs.add("user-events", crc32(event["user_id"].encode()) % 2, orjson.dumps(event), appended)
        if half == 0:
            logs.run(crash)
            logs.pass_time(sent[len(sent) // 2][0] * 1000)
            kinds = {key.split(":")[0] for key in named(logs)}
            assert {"user", "post"} <= kinds
        else:
            # Some of the second half is on its way between the stages when they are erased.
            logs.tasks["user-events", 0].process(
                logs.logs["user-events", 0][logs.tasks["user-events", 0].next :], logs.out
            )
            logs.context.erased = GONE
            for task in logs.tasks.values():
                task.forget(GONE)
            for place in logs.logs:
                logs.commit(place)
    logs.run(crash)
    logs.pass_time(sent[-1][0] * 1000 + 3_600_000_000)
    assert named(logs) == []
    totals = Counter(
        {
            (name, kind): n
            for task in logs.of("users")
            for name, user in task.users.items()
            for kind, n in user.totals.items()
        }
    )
    assert not any(name == WHO for name, _ in totals)
    every = {event["event_id"]: event for _, event in sent}.values()
    right = Counter((event["user_id"], event["event_type"]) for event in every if event["user_id"] != WHO)
    lost = right - totals
    assert not totals - right
    # Of others only what named them afterwards is gone.
    assert {kind for _, kind in lost} <= {"follow"}


def test_a_profile_goes_when_its_state_does() -> None:
    def message(key: str, value: bytes | None, offset: int) -> SimpleNamespace:
        return SimpleNamespace(key=key.encode, value=lambda: value, offset=lambda: offset)

    state = msgspec.msgpack.encode(User(1, 2))
    found = profiles([message("user:u1", state, 1), message("user:u2", state, 2), message("user:u1", None, 3)])
    assert [type(one) for one in found] == [DeleteOne, ReplaceOne]
    assert found[0] == DeleteOne({"_id": "u1", "version": {"$lte": 3}})
