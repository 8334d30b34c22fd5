"""Stages against a plain computation over the same records, whatever the order, the batches and the crashes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zlib import crc32

import orjson
import pytest

from lakehouse import alerts
from lakehouse.gold.trending_posts import HALF_LIFE, WEIGHTS
from lakehouse.realtime.users import INTERACTIONS
from lakehouse.settings import Realtime

from .logs import Logs

START = 1_780_000_000_000_000
MINUTE = 60_000_000
SETTINGS = Realtime(session_gap=timedelta(minutes=4), lateness=timedelta(seconds=30))


def events(seed: int, count: int) -> list[tuple[int, dict[str, Any]]]:
    """(append time in ms, event), in the order of arrival: an hour, a tenth late, a tenth twice."""
    random = Random(seed)
    made = []
    for number in range(count):
        arrival = START + number * 3600_000_000 // count
        delay = random.choice([0] * 6 + [random.randint(0, 20_000_000)] * 3 + [random.randint(0, 1800_000_000)])
        kind = random.choice(["visit", "view", "view", "view", "like", "unlike", "comment", "share", "post", "follow"])
        event: dict[str, Any] = {
            "event_id": f"e{number}", "event_type": kind, "user_id": f"u{random.randint(0, 40)}",
            "occurred_at": datetime.fromtimestamp((arrival - delay) / 1e6, UTC).isoformat(),
            "page": f"/p{number}", "device": random.choice(["ios", "web"]),
        }  # fmt: skip
        if kind not in ("visit", "follow"):
            event["post_id"] = f"p{min(int(random.expovariate(0.1)), 60)}"
        if kind == "follow":
            event["properties"] = {"followed": f"u{random.randint(0, 40)}"}
        if kind == "post":
            event["user_id"] = author(event["post_id"])
        made.append((arrival // 1000, event))
        if random.random() < 0.1:
            made.append((arrival // 1000 + random.randint(0, 60_000), event))
    return sorted(made, key=lambda pair: pair[0])


def author(post: str) -> str:
    return f"u{crc32(post.encode()) % 41}"


class Batch:
    """What should come out, computed at once from the logs of user events, partition by partition."""

    def __init__(self, logs: Logs) -> None:
        self.events: list[tuple[int, bool, dict[str, Any]]] = []
        seen = set()
        for number in range(2):
            time = 0
            for record in logs.logs["user-events", number]:
                event = orjson.loads(record.value() or b"")
                at = round(datetime.fromisoformat(event["occurred_at"]).timestamp() * 1e6)
                time = max(time, min(at, record.appended_ms * 1000))
                if event["event_id"] not in seen:
                    seen.add(event["event_id"])
                    self.events.append((at, at < time - 30_000_000, event))

    def windows(self) -> dict[str, Counter[tuple[int, str]]]:
        found: dict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
        for at, late, event in self.events:
            if not late:
                found[event["user_id"]][at // MINUTE, event["event_type"]] += 1
        return found

    def sessions(self) -> dict[str, list[list[int]]]:
        found: dict[str, list[list[int]]] = defaultdict(list)
        for at, late, event in sorted(self.events, key=lambda e: e[0]):
            mine = found[event["user_id"]]
            if late:
                continue
            if mine and at - mine[-1][1] <= 4 * MINUTE:
                mine[-1][1], mine[-1][2] = at, mine[-1][2] + 1
            else:
                mine.append([at, at, 1])
        return found

    def scores(self, as_of: int) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for at, _, event in self.events:
            if "post_id" in event and event["event_type"] in WEIGHTS:
                age = (as_of - at) / (HALF_LIFE / timedelta(microseconds=1))
                found[event["post_id"]] += WEIGHTS[event["event_type"]] * 2.0**-age
        return found


def fed(seed: int, count: int = 3000, keyed: bool = True, rules: alerts.Alerts | None = None) -> Logs:
    logs = Logs(SETTINGS, seed, rules=rules)
    for appended, event in events(seed, count):
        partition = crc32(event["user_id"].encode()) % 2 if keyed else logs.random.randint(0, 1)
        logs.add("user-events", partition, orjson.dumps(event), appended)
    return logs


@pytest.mark.parametrize("crash", [0.0, 0.3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_windows_sessions_and_totals_are_those_of_a_batch(seed: int, crash: float) -> None:
    logs = fed(seed)
    logs.run(crash)
    batch = Batch(logs)
    states = {name: user for task in logs.of("users") for name, user in task.users.items()}
    totals = Counter((event["user_id"], event["event_type"]) for _, _, event in batch.events)
    assert {(n, k): c for n, user in states.items() for k, c in user.totals.items()} == dict(totals)
    windows, sessions = batch.windows(), batch.sessions()
    for name, user in states.items():
        kept = {(minute, kind): n for minute, kinds in user.minutes.items() for kind, n in kinds.items()}
        oldest = min(user.minutes, default=0)
        assert kept == {key: n for key, n in windows[name].items() if key[0] >= oldest}
        assert user.sessions() == len(sessions[name])
        assert user.session_us() == sum(end - start for start, end, _ in sessions[name])
        latest = user.session()
        if latest:
            assert [latest.start, latest.end, latest.events] == sessions[name][-1]


@pytest.mark.parametrize("crash", [0.0, 0.3])
def test_trending_scores_are_those_of_a_batch(crash: float) -> None:
    logs = fed(5)
    logs.run(crash)
    as_of = START + 3600_000_000
    mine = {name: post.score.of(as_of) for task in logs.of("posts") for name, post in task.posts.items()}
    theirs = Batch(logs).scores(as_of)
    assert {name: score for name, score in mine.items() if score} == pytest.approx(
        {name: score for name, score in theirs.items() if score}, rel=1e-9, abs=1e-9
    )


def test_site_minutes_are_those_of_a_batch_with_users_counted_once() -> None:
    logs = fed(6)
    logs.run(0.2)
    mine: dict[int, list[Any]] = {}
    for task in logs.of("users"):
        for minute, site in task.site.items():
            events, users = mine.setdefault(int(minute), [Counter(), 0])
            events.update(site.events)
            mine[int(minute)][1] = users + site.users
    windows = Batch(logs).windows()
    for minute, (counts, users) in mine.items():
        there = {name: counter for name, counter in windows.items() if any(m == minute for m, _ in counter)}
        assert users == len(there)
        wanted: Counter[str] = Counter()
        for counter in there.values():
            wanted.update({kind: n for (m, kind), n in counter.items() if m == minute})
        assert counts == wanted


@pytest.mark.parametrize("crash", [0.0, 0.4])
@pytest.mark.parametrize("seed", [7, 8])
def test_who_is_told_what_is_what_a_batch_says(seed: int, crash: float) -> None:
    rules = replace(alerts.read(), limits=alerts.Limits(10**6, timedelta(hours=1)))
    logs = fed(seed, 2000, rules=rules)
    logs.run(crash)
    logs.pass_time(START + 7200_000_000)
    batch = Batch(logs)
    written = {e["post_id"] for _, _, e in batch.events if e["event_type"] == "post"}
    wanted = set()
    for _, _, event in batch.events:
        if event["event_type"] == "follow":
            wanted.add(("new follower", event["properties"]["followed"], event["event_id"]))
            wanted.discard(("new follower", event["user_id"], event["event_id"]))  # not of oneself
        elif event["event_type"] == "comment" and event["post_id"] in written:
            wanted.add(("comment on my post", author(event["post_id"]), event["event_id"]))
            wanted.discard(("comment on my post", event["user_id"], event["event_id"]))  # not of one's own
    mine = [(n["rule"], n["user_id"], n["subject"]) for n in logs.notifications if "trending" not in n["rule"]]
    assert len(mine) == len(set(mine))
    assert set(mine) == wanted


def test_a_post_bursts_when_the_counts_of_a_batch_say_so() -> None:
    logs = fed(9, 6000)
    logs.run(0.2)
    logs.pass_time(START + 7200_000_000)
    per_minute: Counter[tuple[str, int]] = Counter()
    author = {}
    for at, late, event in Batch(logs).events:
        if event["event_type"] == "post":
            author[event["post_id"]] = event["user_id"]
        if not late and event["event_type"] in INTERACTIONS and "post_id" in event:
            per_minute[event["post_id"], at // MINUTE] += 1
    candidates = [
        (entry.document["subject"], entry.time)
        for number in range(2)
        for record in logs.logs["realtime-inbox-repartition", number]
        for entry in logs.of("inbox")[0]._decode(record.value()).entries
        if "trending" in entry.document["rule"]
    ]
    assert candidates
    for post, end in set(candidates):
        minute = end // MINUTE - 1
        here = sum(per_minute[post, m] for m in range(minute - 4, minute + 1))
        before = sum(per_minute[post, m] for m in range(minute - 64, minute - 4))
        assert here >= 20
        assert (here - before * 5 / 60) / max(before * 5 / 60, 1) ** 0.5 >= 3


def test_what_is_shown_takes_nothing_from_what_is_known() -> None:
    logs = fed(3, 500)
    logs.run()
    known = [{name: post.author for name, post in task.posts.items()} for task in logs.of("posts")]
    for task in logs.of("posts"):
        task.effects(START + 30 * 24 * 3600_000_000, tick=True)  # a month on, every score has faded
    assert any(any(authors.values()) for authors in known)
    assert [{name: post.author for name, post in task.posts.items()} for task in logs.of("posts")] == known
