"""A believable service with a known truth: seeded users, services and hosts whose records go to the three topics.

The live logs may go to files instead, as text (``logfiles.py``), for a shipper and the collector to bring.

Generation is pure: :class:`Simulation` turns times into records ``(topic, key, value, kind)`` and keeps the truth about
them; :func:`simulate` paces, sends and writes the truth down. Records are drawn in blocks with numpy and rendered from
fragments of JSON made beforehand, because the history should arrive faster than a stream can drain it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lakehouse.comments import LANGUAGES, comment
from lakehouse.contracts import TOPICS
from lakehouse.logfiles import LogFiles
from lakehouse.settings import Settings
from lakehouse.sources.topics import Outbox, Transport, producer, require_topics

Record = tuple[str, bytes | None, bytes | None, str]
"""(topic, key, value, kind); kind is ``valid``, ``late``, ``duplicate`` or ``broken:<how>``."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHARES = (0.6, 0.3, 0.1)
"""User events, logs and metrics among the records."""
USERS, CATALOGUE, RECENT_POSTS = 2000, 300, 3000
SECOND, MINUTE, DAY = 1_000_000, 60_000_000, 86_400_000_000
"""Times are microseconds since 1970 UTC."""
BLOCK, BLOCK_S = 4096, 0.5
"""A block holds at most this many records and, live, this many seconds."""
NULL_KEYS, DRIFT = 0.005, 0.005
"""Share of valid records without a Kafka key, and of valid events and logs with a field no contract knows."""

TYPES = ("visit", "view", "like", "unlike", "comment", "share", "bookmark", "follow", "search", "post")
VISIT, VIEW, LIKE, UNLIKE, COMMENT, SHARE, BOOKMARK, FOLLOW, SEARCH, POST = range(10)
_TYPE_SHARES = np.array([0.07, 0.50, 0.17, 0.015, 0.08, 0.03, 0.04, 0.025, 0.06, 0.01])
_OF_POST = np.array([t in (VIEW, LIKE, UNLIKE, COMMENT, SHARE, BOOKMARK, POST) for t in range(10)])
TOPIC_WORDS = {
    "travel": ("harbour walk", "night train", "island trip", "제주 여행", "기차 여행", "바다 산책"),
    "food": ("noodle soup", "sourdough bread", "street food", "김치찌개", "골목 맛집", "수제 빵"),
    "music": ("live album", "piano cover", "indie band", "라이브 공연", "피아노 연주", "인디 밴드"),
    "sport": ("marathon plan", "home match", "climbing wall", "마라톤 훈련", "홈 경기", "클라이밍"),
    "film": ("short film", "crime series", "opening scene", "단편 영화", "범죄 드라마", "첫 장면"),
    "code": ("build script", "type checker", "query planner", "빌드 스크립트", "타입 검사", "쿼리 계획"),
    "garden": ("tomato bed", "window herbs", "rain barrel", "토마토 텃밭", "창가 허브", "빗물 통"),
    "games": ("puzzle level", "co-op mode", "speed run", "퍼즐 게임", "협동 모드", "스피드런"),
}
SENTIMENTS = ("negative", "neutral", "positive")
_POSTS = {
    "en": ("Notes on a {}: what worked and what did not", "My week with the {}", "Five things about the {}"),
    "ko": ("{} 후기를 남깁니다", "이번 주 {} 이야기", "{} 처음 시작하는 분들께"),
}
PAGES = ("/", "/feed", "/explore", "/me", "/settings", "/about")
REFERRERS = ("https://search.example/", "https://news.example/daily", "https://social.example/t", "app://push")
DEVICES = ("ios", "android", "web", "tablet")

SERVICES = ("gateway", "users", "posts", "feed", "search", "notify")
_SERVICE_SHARES = np.array([0.30, 0.12, 0.18, 0.22, 0.12, 0.06])
_MEDIAN_MS = np.array([12.0, 8.0, 20.0, 35.0, 60.0, 15.0])
_ROUTES = (
    ("/", "/login", "/assets/app.js"),
    ("/v1/users/me", "/v1/users/find", "/v1/sessions"),
    ("/v1/posts", "/v1/posts/new", "/v1/comments"),
    ("/v1/feed", "/v1/feed/home", "/v1/trending"),
    ("/v1/search", "/v1/suggest"),
    ("/v1/notify", "/v1/devices"),
)
_APP_LOGS = (
    ("info", "app", "cache refreshed, {} entries in {} ms"),
    ("info", "app", "job {} finished after {} ms"),
    ("debug", "app", "connection pool holds {} of {}"),
    ("warn", "performance", "slow query {} took {} ms"),
    ("warn", "app", "retry {} of call to upstream after {} ms"),
)
_ERRORS = (
    ("TimeoutError", "upstream did not answer within {} ms", 504),
    ("ConnectionError", "connection {} refused by upstream", 503),
    ("KeyError", "no entry {} in the session store", 500),
    ("DatabaseError", "deadlock found in transaction {}", 500),
)
HOSTS = ("web-1", "web-2", "app-1", "app-2", "db-1")
_CPU_BASE = np.array([0.22, 0.20, 0.34, 0.31, 0.27])
_MEMORY_BASE = np.array([0.42, 0.44, 0.58, 0.55, 0.71])
_DISK_BASE = np.array([0.31, 0.33, 0.47, 0.44, 0.62])
METRICSETS = ("cpu", "memory", "load", "network", "filesystem", "filesystem")
_RAM, _DISK, _CORES = 16 * 2**30, 200 * 2**30, 4

COLUMNS = {
    "activity_minute": ["window_start", "event_type", "events", "users"],
    "post_engagement_daily": [
        "date",
        "post_id",
        "views",
        "likes",
        "comments",
        "shares",
        "bookmarks",
        "users",
    ],
    "user_activity_daily": ["date", "user_id", "events", "sessions", "posts", "first_at", "last_at"],
    "service_requests_minute": ["window_start", "service", "requests", "errors"],
    "metric_records_minute": ["window_start", "host", "dataset", "records"],
}
"""Of the truth's tables: gold's names where gold has them, counts to hold it against where not."""


class SimulationError(Exception):
    """An argument makes no sense; one line that says which."""


@dataclass(frozen=True)
class Incident:
    """Something that happened to one service or host between two times (microseconds since 1970 UTC).

    ``kind`` with its ``severity``: ``errors`` (error rate, 0-1), ``latency`` (factor on durations), ``load_peak``
    (factor on traffic; alone it is harmless), ``cpu``, ``memory``, ``disk`` (share added, 0-1). ``ramp`` grows it from
    nothing to its severity at the end; otherwise it is there at once.
    """

    service: str | None
    host: str | None
    start: int
    end: int
    kind: str
    severity: float
    ramp: bool

    def strength(self, times: Ints) -> Floats:
        """Share of the severity that acts at each time: 0 outside, 1 or a slope inside."""
        inside = (times >= self.start) & (times < self.end)
        slope = (times - self.start) / (self.end - self.start) if self.ramp else 1.0
        return np.asarray(inside * slope, dtype=np.float64)


def plan_incidents(rng: np.random.Generator, start: int, end: int, count: int) -> list[Incident]:
    """``count`` times trouble of services, and of hosts, each in its own slot of the interval so that none overlap.

    They last 2 to 20 minutes, or half a slot where that is shorter. Every third trouble of a service coincides with a
    peak of load, and every third slot holds such a peak alone, which is no trouble.
    """
    planned: list[Incident] = []
    for slot in range(count):
        for target in ("service", "host"):
            width = (end - start) / count
            length = int(min(rng.uniform(2, 20) * MINUTE, width / 2))
            begin = int(start + slot * width + rng.uniform(0.1, 0.9) * (width - length))
            ramp = bool(rng.random() < 0.3)
            if target == "host":
                host, kind = str(rng.choice(HOSTS)), str(rng.choice(["cpu", "memory", "disk"]))
                severity = float(rng.uniform(0.15, 0.4))
                planned.append(
                    Incident(None, host, begin, begin + length, kind, round(severity, 3), ramp or kind == "memory")
                )
                continue
            service = str(rng.choice(SERVICES))
            kinds = [("errors",), ("latency",), ("errors", "latency")][int(rng.integers(3))]
            for kind in kinds:
                severity = float(rng.uniform(0.03, 0.10) if kind == "errors" else rng.uniform(1.5, 3.0))
                planned.append(Incident(service, None, begin, begin + length, kind, round(severity, 3), ramp))
            factor = round(float(rng.uniform(1.5, 2.5)), 2)
            if slot % 3 == 1:
                planned.append(Incident(service, None, begin, begin + length, "load_peak", factor, False))
            elif slot % 3 == 2:
                other = SERVICES[(SERVICES.index(service) + 1) % len(SERVICES)]
                alone = int(start + slot * width)
                planned.append(Incident(other, None, alone, alone + length, "load_peak", factor, False))
    return planned


def rhythm(times: Ints) -> Floats:
    """Relative traffic by time of day and week (UTC), about 1 on average: least at 3 h, most at 15 h, calm weekends."""
    hours = (times % DAY) / (3600 * SECOND)
    weekday = (times // DAY + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    day = 1 + 0.55 * np.sin(2 * np.pi * (hours - 9) / 24) + 0.12 * np.sin(4 * np.pi * (hours - 6) / 24)
    return np.asarray(day * np.where(weekday >= 5, 0.8, 1.08), dtype=np.float64)


def _rfc3339(times: Ints) -> list[str]:
    """``2024-01-01T00:00:00.000000`` of each time, without the offset."""
    stamps: list[str] = np.datetime_as_string(times.astype("datetime64[us]")).tolist()
    return stamps


def _utc(micros: int) -> str:
    return datetime.fromtimestamp(micros // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S") + (
        f".{micros % SECOND:06d}Z" if micros % SECOND else "Z"
    )


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


def _pick(rng: np.random.Generator, shares: Floats, size: int) -> Ints:
    """``size`` draws of an index by weight."""
    cumulative = np.cumsum(shares)
    drawn = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], "right")
    return np.asarray(np.minimum(drawn, len(shares) - 1), dtype=np.int64)


# -- broken records -------------------------------------------------------------------------------------------------


def _without(field: bytes) -> Callable[[bytes], bytes]:
    pattern = re.compile(rb'"' + field + rb'":"[^"]*",')
    return lambda value: pattern.sub(b"", value, count=1)


def _with(field: bytes, literal: bytes) -> Callable[[bytes], bytes]:
    """Give a string field another JSON value."""
    pattern = re.compile(rb'"' + field + rb'":"[^"]*"')
    return lambda value: pattern.sub(b'"' + field + b'":' + literal, value, count=1)


def _plus(member: bytes) -> Callable[[bytes], bytes]:
    """Add a member at the end of the outermost object."""
    return lambda value: value[:-1] + b"," + member + b"}"


def _number(field: bytes, literal: bytes, member: bytes) -> Callable[[bytes], bytes]:
    """Give a number field another literal, or add the member where the record has no such field.

    A record that held the field twice would be broken for some parsers and whole for others.
    """
    pattern = re.compile(rb'"' + field + rb'":[0-9][^,}]*')

    def put(value: bytes) -> bytes:
        changed, times = pattern.subn(b'"' + field + b'":' + literal, value, count=1)
        return changed if times else _plus(member)(value)

    return put


def _breakers(
    time_field: bytes,
    wrong_type: Callable[[bytes], bytes],
    not_a_number: Callable[[bytes], bytes],
    out_of_range: Callable[[bytes], bytes],
) -> dict[str, Callable[[bytes], bytes | None]]:
    """Ways to break a record, by kind; what they make is never valid for the contract."""
    return {
        "not_utf8": _plus(b'"note":"\xff\xfe caf\xe9"'),
        "truncated": lambda value: value[: len(value) * 2 // 3],
        "wrong_type": wrong_type,
        "missing_required": _without(time_field),
        "blank_required": _with(time_field, b'" "'),
        "not_a_number": not_a_number,
        "year_9999": _with(time_field, b'"9999-12-31T23:59:59Z"'),
        "out_of_range": out_of_range,
        "too_deep": _plus(b'"deep":' + b"[" * 120 + b"]" * 120),
        "null_value": lambda value: None,
        "not_an_object": lambda value: b"[" + value + b"]",
        "large": lambda value: _plus(b'"blob":"' + b"x" * 2**20 + b'"')(out_of_range(value)),
    }


BREAKERS = {
    "user-events": {
        **_breakers(
            b"occurred_at",
            _with(b"event_id", b"12345"),
            _number(b"rating", b"NaN", b'"rating":NaN'),
            _number(b"rating", b"7.5", b'"rating":7.5'),
        ),
        "missing_event_id": _without(b"event_id"),
        "blank_user_id": _with(b"user_id", b'"  "'),
        "unknown_type": _with(b"event_type", b'"teleport"'),
        "like_without_post": lambda value: _with(b"event_type", b'"like"')(_without(b"post_id")(value)),
        "negative_duration": _number(b"duration_ms", b"-5", b'"duration_ms":-5'),
    },
    "service-logs": _breakers(
        b"@timestamp",
        _with(b"level", b"3"),
        _number(b"status_code", b"NaN", b'"http":{"response":{"status_code":NaN}}'),
        _number(b"status_code", b"1e30", b'"http":{"response":{"status_code":1e30}}'),
    ),
    "system-metrics": _breakers(
        b"@timestamp",
        _with(b"name", b"7"),  # the first name in the record: the host's
        _number(b"duration", b"NaN", b'"value":NaN'),
        _number(b"duration", b"1e999", b'"value":1e999'),
    ),
}
"""How records are broken, by topic and kind."""
LARGE_SHARE = 0.002
"""Of the broken records, those of 1 MB."""


class Truth:
    """What the simulation knows: counts by kind, and of each valid record what gold is computed from."""

    def __init__(self) -> None:
        self.kinds: dict[str, Counter[str]] = {topic: Counter() for topic in TOPICS}
        self.null_keys: Counter[str] = Counter()
        self.unknown_fields: Counter[str] = Counter()
        self.events: list[Ints] = []
        """Rows: time, type, user, post or -1, session or -1."""
        self.requests: list[Ints] = []
        """Rows: time, service, whether an error."""
        self.metrics: list[Ints] = []
        """Rows: time, host, metricset."""
        self.sentiments: dict[str, str] = {}


def _groups(*columns: Ints) -> tuple[list[Ints], Ints]:
    """The distinct combinations of the columns, sorted, and the number of the combination of each row."""
    key = np.zeros(len(columns[0]), dtype=np.int64)
    bounds = [(int(c.min()), int(c.max()) - int(c.min()) + 1) if len(c) else (0, 1) for c in columns]
    for column, (low, width) in zip(columns, bounds, strict=True):
        key = key * width + (column - low)
    distinct, group = np.unique(key, return_inverse=True)
    parts = []
    for low, width in reversed(bounds):
        parts.append(distinct % width + low)
        distinct = distinct // width
    return parts[::-1], group


def _distinct(group: Ints, values: Ints, groups: int) -> Ints:
    """Number of distinct values other than -1 in each group."""
    (of, value), _ = _groups(group, values)
    return np.bincount(of[value >= 0], minlength=groups)


def _rows(*columns: Ints) -> list[list[int]]:
    rows: list[list[int]] = np.stack(columns, axis=1).tolist()
    return rows


class Simulation:
    """The service: :meth:`block` makes the records of given times, :meth:`truth` tells what is right about them.

    The same arguments and the same calls give the same bytes. Identities hold ``run``, so that other runs, of the same
    seed too, are other records of the same users.
    """

    def __init__(self, seed: int, run: str, *, share_duplicates: float, share_late: float, share_broken: float) -> None:
        self.run = run
        self.rng = rng = np.random.default_rng(seed)
        self.shares = {"duplicates": share_duplicates, "late": share_late, "broken": share_broken}
        self.incidents: list[Incident] = []
        self.logs_as_text = False
        """Whether logs from here on are for files: text is never broken JSON, has no unknown field, lacks no key."""
        self.known = Truth()
        self._records = np.zeros(3, dtype=np.int64)
        self._ids = 0
        self._carry: list[Record] = []

        topics = len(TOPIC_WORDS)
        self.tastes = rng.dirichlet(np.full(topics, 0.25), USERS)
        self._taste_steps = np.cumsum(self.tastes, axis=1)
        self._activity = 1 / np.arange(1, USERS + 1) ** 0.7
        rng.shuffle(self._activity)
        self._korean = rng.random(USERS) < 0.4
        self._user_names = [f"u{n:05d}" for n in range(USERS)]
        self._user_keys = [name.encode() for name in self._user_names]
        self.post_names: list[str] = []
        self.post_topics = np.empty((0, topics))
        self._post_weight = np.empty(0)
        self._post_born = np.empty(0, dtype=np.int64)
        self._post_part: list[str] = []
        weights = 1 / np.arange(1, CATALOGUE + 1)
        rng.shuffle(weights)
        self._add_posts([f"p{n:05d}" for n in range(CATALOGUE)], weights, np.zeros(CATALOGUE, dtype=np.int64))
        self._session = np.full(0, -1, dtype=np.int64)
        self._session_user = np.zeros(0, dtype=np.int64)
        self._sessions = 0
        words = list(TOPIC_WORDS.values())
        by_language = [[w[:3] for w in words], [w[3:] for w in words]]
        self._words = by_language
        self._comments = Random(seed)
        self._post_texts = {
            (lang, topic): [_json(t.format(w)) for t in _POSTS[name] for w in by_language[lang][topic]]
            for lang, name in enumerate(LANGUAGES)
            for topic in range(topics)
        }
        self._searches = {
            (lang, topic): [_json(w) for w in by_language[lang][topic]] for lang in range(2) for topic in range(topics)
        }

    def _add_posts(self, names: list[str], weights: Floats, born: Ints) -> None:
        self.post_names += names
        self._post_part += [f',"post_id":"{name}","page":"/posts/{name}"' for name in names]
        topics = self.rng.dirichlet(np.full(len(TOPIC_WORDS), 0.15), len(names))
        self.post_topics = np.concatenate([self.post_topics, topics])
        self._post_weight = np.concatenate([self._post_weight, weights])
        self._post_born = np.concatenate([self._post_born, born])

    def _take_ids(self, count: int) -> range:
        self._ids += count
        return range(self._ids - count, self._ids)

    # -- one block --------------------------------------------------------------------------------------------------

    def block(self, times: Ints) -> list[Record]:
        """The records sent at these times (sorted), one each; late and broken ones and repeats among them.

        A repeat has the same key and bytes as a valid record sent before, half of them in the block before.
        """
        rng, n = self.rng, len(times)
        carried = self._carry[: n // 2]
        self._carry = self._carry[n // 2 :]
        now = int(rng.binomial(n - len(carried), self.shares["duplicates"] / 2)) if n > 1 else 0
        fresh_n = n - len(carried) - now
        # Exact shares of the topics over the whole run, in random order within the block.
        upto = np.round(np.cumsum(SHARES) * (self._records.sum() + fresh_n)).astype(np.int64)
        counts = np.maximum(np.diff(upto, prepend=0) - self._records, 0)
        counts[0] += fresh_n - counts.sum()
        self._records += counts
        which = np.repeat(np.arange(3), counts)
        rng.shuffle(which)
        sent_at = times[np.sort(rng.permutation(n)[:fresh_n])] if fresh_n < n else times
        makers = (self._events, self._logs, self._metrics)
        made = [iter(make(sent_at[which == t])) for t, make in enumerate(makers)]
        fresh = [next(made[t]) for t in which.tolist()]

        valid = [i for i, record in enumerate(fresh) if record[3] in ("valid", "late")]
        repeats = list(zip(rng.integers(0, fresh_n + 1, len(carried)).tolist(), carried, strict=True))
        for source in rng.choice(valid, now).tolist() if valid else []:
            repeats.append((int(rng.integers(source + 1, fresh_n + 1)), fresh[source]))
        later = rng.choice(valid, int(rng.binomial(n, self.shares["duplicates"] / 2))).tolist() if valid else []
        self._carry += [fresh[source] for source in later]
        records: list[Record] = []
        done = 0
        for at, (topic, key, value, _) in sorted(repeats, key=lambda repeat: repeat[0]):
            records += fresh[done:at]
            records.append((topic, key, value, "duplicate"))
            done = at
        records += fresh[done:]
        for topic, kind in ((record[0], record[3]) for record in records):
            self.known.kinds[topic][kind] += 1
        return records

    def _finish(
        self, topic: str, keys: list[bytes], texts: list[str], late: NDArray[np.bool_], drift: bool
    ) -> tuple[list[Record], NDArray[np.bool_]]:
        """Encode, break the chosen share, drop a few keys; also which records are valid."""
        rng, n = self.rng, len(texts)
        faulty = not (self.logs_as_text and topic == "service-logs")
        values: list[bytes | None] = [text.encode() for text in texts]
        some_keys: list[bytes | None] = list(keys)
        kinds = ["late" if is_late else "valid" for is_late in late.tolist()]
        broken = (rng.random(n) < self.shares["broken"]) & faulty
        ways = BREAKERS[topic]
        names = [name for name in ways if name != "large"]
        for i in np.flatnonzero(broken).tolist():
            name = "large" if rng.random() < LARGE_SHARE else names[int(rng.integers(len(names)))]
            values[i] = ways[name](texts[i].encode())
            kinds[i] = f"broken:{name}"
        for i in np.flatnonzero((rng.random(n) < NULL_KEYS) & ~broken & faulty).tolist():
            some_keys[i] = None
            self.known.null_keys[topic] += 1
        if drift:
            for i in np.flatnonzero((rng.random(n) < DRIFT) & ~broken & faulty).tolist():
                values[i] = texts[i][:-1].encode() + b',"app_version":"4.2.0"}'
                self.known.unknown_fields[topic] += 1
        return list(zip([topic] * n, some_keys, values, kinds, strict=True)), ~broken

    def _backdate(self, times: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Event times: mostly the times of sending, for the chosen share a minute to a day before, log-uniform."""
        late = self.rng.random(len(times)) < self.shares["late"]
        delay = np.exp(self.rng.uniform(np.log(MINUTE), np.log(DAY), len(times)))
        return times - (late * delay).astype(np.int64), late

    # -- user events ------------------------------------------------------------------------------------------------

    def _assign_sessions(self, times: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """(session, user, first of its session) of each event.

        A fixed number of people is online; each event is by one of them, and ends their session one time in nine. The
        number follows the rate, for about 20 s between a person's events, within what the population allows.
        """
        rng, n = self.rng, len(times)
        span = max(int(times[-1] - times[0]), 1) / SECOND
        online = int(np.clip(20 * n / span, 16, USERS // 4))
        if online > len(self._session):
            grown = online - len(self._session)
            self._session = np.concatenate([self._session, np.full(grown, -1)])
            self._session_user = np.concatenate([self._session_user, np.zeros(grown, dtype=np.int64)])
        slot = rng.integers(0, online, n)
        starts = rng.random(n) < 1 / 9
        order = np.argsort(slot, kind="stable")
        by_slot = slot[order]
        first_of_slot = np.r_[True, by_slot[1:] != by_slot[:-1]]
        new = starts[order] | (first_of_slot & (self._session[by_slot] < 0))
        # A run is a stretch of one slot's events in one session; only a slot's first run may continue an old session.
        begins = new | first_of_slot
        at = np.flatnonzero(begins)
        fresh = new[at]
        session = self._session[by_slot[at]]
        user = self._session_user[by_slot[at]]
        session[fresh] = self._sessions + np.arange(int(fresh.sum()))
        user[fresh] = _pick(rng, self._activity, int(fresh.sum()))
        self._sessions += int(fresh.sum())
        run = np.cumsum(begins) - 1
        last = np.r_[first_of_slot[1:], True]
        self._session[by_slot[last]] = session[run[last]]
        self._session_user[by_slot[last]] = user[run[last]]
        back = np.empty(n, dtype=np.int64)
        back[order] = np.arange(n)
        return session[run][back], user[run][back], new[back]

    def _choose_posts(self, users: Ints, now: int) -> Ints:
        """A post for each event: a topic by the user's taste, then a post by its share of the topic, rank and age."""
        rng = self.rng
        candidates = np.arange(len(self.post_names))
        if len(candidates) > CATALOGUE + RECENT_POSTS:
            candidates = np.r_[:CATALOGUE, len(candidates) - RECENT_POSTS : len(candidates)]
        age_h = (now - self._post_born[candidates]) / (3600 * SECOND)
        weight = self._post_weight[candidates] * (0.2 + 3 * np.exp(-np.maximum(age_h, 0) / 8))
        topic = (rng.random((len(users), 1)) > self._taste_steps[users]).sum(axis=1)
        chosen = np.empty(len(users), dtype=np.int64)
        for k in range(len(TOPIC_WORDS)):
            mine = np.flatnonzero(topic == k) if k else np.flatnonzero((topic == 0) | (topic >= len(TOPIC_WORDS)))
            # Squared: who is after a topic picks posts that are mainly about it.
            chosen[mine] = candidates[_pick(rng, weight * self.post_topics[candidates, k] ** 2, len(mine))]
        return chosen

    def _events(self, sent_at: Ints) -> list[Record]:
        if not len(sent_at):
            return []
        rng, n = self.rng, len(sent_at)
        times, late = self._backdate(sent_at)
        session, user, first = self._assign_sessions(sent_at)
        kind = _pick(rng, _TYPE_SHARES, n)
        kind[first] = VISIT
        post = self._choose_posts(user, int(sent_at[0]))
        # Reactions are to what the session viewed last, an unlike to what it liked last.
        order = np.argsort(session, kind="stable")
        index = np.arange(n)
        start = np.maximum.accumulate(np.where(np.r_[True, np.diff(session[order]) != 0], index, 0))

        def react(cause: int, *reactions: int) -> None:
            last = np.maximum.accumulate(np.where(kind[order] == cause, index, -1))
            reacts = np.isin(kind[order], reactions)
            known = reacts & (last >= start)
            post[order[known]] = post[order[last[known]]]
            kind[order[reacts & ~known]] = VIEW

        react(VIEW, LIKE, COMMENT, SHARE, BOOKMARK)
        affinity = (self.tastes[user] * self.post_topics[post]).sum(axis=1)
        # People react to what is to their taste: a reaction to something else stays a view.
        reluctant = np.isin(kind, (LIKE, SHARE, BOOKMARK)) & (rng.random(n) > 0.25 + 1.5 * affinity)
        kind[reluctant] = VIEW
        react(LIKE, UNLIKE)
        writes = np.flatnonzero(kind == POST)
        if len(writes):
            self._add_posts(
                [f"p{self.run}{i:x}" for i in self._take_ids(len(writes))],
                1 / rng.integers(1, CATALOGUE + 1, len(writes)),
                sent_at[writes],
            )
            post[writes] = len(self.post_names) - len(writes) + np.arange(len(writes))

        korean = self._korean[user]
        ids = [f"e{self.run}{i:x}" for i in self._take_ids(n)]
        users = user.tolist()
        stamps = _rfc3339(times + np.where(korean, 9 * 3600 * SECOND, 0))
        kinds = kind.tolist()
        with_session = rng.random(n) < 0.97
        session = np.where(with_session, session, -1)
        session_parts = [f',"session_id":"s{self.run}{s:x}"' if s >= 0 else "" for s in session.tolist()]
        parts = self._event_parts(kinds, users, post, affinity, ids)
        zones = ("Z", "+09:00")
        texts = [
            f'{{"event_id":"{i}","event_type":"{TYPES[k]}","user_id":"{self._user_names[u]}",'
            f'"occurred_at":"{t}{zones[z]}","device":"{DEVICES[(u + z) & 3]}"{s}{p}}}'
            for i, k, u, t, z, s, p in zip(
                ids, kinds, users, stamps, korean.tolist(), session_parts, parts, strict=True
            )
        ]
        keys = [self._user_keys[u] for u in users]
        records, valid = self._finish("user-events", keys, texts, late, drift=True)
        of_post = np.where(_OF_POST[kind], post, -1)
        self.known.events.append(np.stack([times, kind, user, of_post, session])[:, valid])
        for i in np.flatnonzero(~valid & (kind == COMMENT)).tolist():
            self.known.sentiments.pop(ids[i], None)
        return records

    def _event_parts(
        self, kinds: list[int], users: list[int], post: Ints, affinity: Floats, ids: list[str]
    ) -> list[str]:
        """The members of each event that depend on its type, as JSON text that begins with a comma."""
        rng, n = self.rng, len(kinds)
        posts, liking = post.tolist(), affinity.tolist()
        topics = self.post_topics[post].argmax(axis=1).tolist()
        dwell = rng.lognormal(np.log(4000 + 20000 * affinity), 0.7).astype(np.int64).tolist()
        rates = (rng.random(n) < 0.25).tolist()
        stars = (np.clip(np.round(2 * (1.2 + 4 * np.sqrt(affinity) + rng.normal(0, 0.6, n))), 1, 10) / 2).tolist()
        dice, choice = rng.random(n).tolist(), rng.integers(0, 2**31, n).tolist()
        parts: list[str] = []
        for i, kind in enumerate(kinds):
            c = choice[i]
            if kind == VIEW:
                part = f'{self._post_part[posts[i]]},"duration_ms":{dwell[i]}'
                parts.append(f'{part},"rating":{stars[i]}' if rates[i] and dice[i] < 0.4 else part)
            elif kind in (LIKE, UNLIKE, BOOKMARK):
                parts.append(self._post_part[posts[i]])
            elif kind == COMMENT:
                good = 0.3 + 0.8 * min(liking[i], 0.8)
                mood = 2 if dice[i] < good else 1 if dice[i] < good + 0.3 * (1 - good) else 0
                lang = int(self._korean[users[i]])
                word = self._words[lang][topics[i]][c % 3]
                text = _json(comment(self._comments, LANGUAGES[lang], mood, word))
                self.known.sentiments[ids[i]] = SENTIMENTS[mood]
                rating = f',"rating":{stars[i]}' if rates[i] else ""
                parts.append(f'{self._post_part[posts[i]]},"text":{text}{rating}')
            elif kind == SHARE:
                channel = ("link", "mail", "chat")[c % 3]
                parts.append(f'{self._post_part[posts[i]]},"properties":{{"channel":"{channel}"}}')
            elif kind == POST:
                pool = self._post_texts[(int(self._korean[users[i]]), topics[i])]
                parts.append(f'{self._post_part[posts[i]]},"text":{pool[c % len(pool)]}')
            elif kind == SEARCH:
                pool = self._searches[(int(self._korean[users[i]]), topics[i])]
                parts.append(f',"page":"/search","text":{pool[c % len(pool)]},"properties":{{"results":"{c % 90}"}}')
            elif kind == FOLLOW:
                parts.append(f',"page":"/users","properties":{{"followed":"{self._user_names[c % USERS]}"}}')
            else:
                referrer = f',"referrer":"{REFERRERS[c & 3]}"' if dice[i] < 0.6 else ""
                parts.append(f',"page":"{PAGES[c % len(PAGES)]}"{referrer},"duration_ms":{dwell[i] // 4}')
        return parts

    # -- service logs -----------------------------------------------------------------------------------------------

    def _logs(self, sent_at: Ints) -> list[Record]:
        if not len(sent_at):
            return []
        rng, n = self.rng, len(sent_at)
        times, late = self._backdate(sent_at)
        near = [x for x in self.incidents if x.service and x.end > times.min() and x.start <= times.max()]
        traffic = np.tile(_SERVICE_SHARES, (n, 1))
        for peak in (x for x in near if x.kind == "load_peak"):
            traffic[:, SERVICES.index(str(peak.service))] *= 1 + (peak.severity - 1) * peak.strength(times)
        steps = np.cumsum(traffic, axis=1)
        service = np.minimum((rng.random((n, 1)) * steps[:, -1:] > steps).sum(axis=1), len(SERVICES) - 1)
        error_rate = np.full(n, 0.01)
        median = _MEDIAN_MS[service] * (0.85 + 0.15 * rhythm(times))
        for incident in near:
            acts = incident.strength(times) * (service == SERVICES.index(str(incident.service)))
            if incident.kind == "errors":
                error_rate += (incident.severity - 0.01) * acts
            elif incident.kind == "latency":
                median *= 1 + (incident.severity - 1) * acts
        request = rng.random(n) < 0.8
        failed = request & (rng.random(n) < error_rate)
        odd = rng.random(n)
        fine = np.select([odd < 0.03, odd < 0.05, odd < 0.2], [404, 400, 201], 200)
        status = np.where(failed, 500, fine)
        duration = (rng.lognormal(np.log(median), 0.45) * np.where(failed, 2.5, 1) * 1e6).astype(np.int64)
        trace = rng.bytes(16 * n).hex()
        host = rng.integers(0, len(HOSTS), n).tolist()
        number = rng.integers(1, 5000, n).tolist()
        ids = self._take_ids(n)
        services, stamps = service.tolist(), _rfc3339(times)
        texts = [
            f'{{"@timestamp":"{t}Z","service":{{"name":"{SERVICES[s]}"}},"host":{{"name":"{HOSTS[h]}"}},'
            f'"trace":{{"id":"{trace[32 * i : 32 * i + 32]}"}},'
            + (
                _request_part(f"l{self.run}{ids[i]:x}", s, code, ns, m)
                if is_request
                else _app_part(f"l{self.run}{ids[i]:x}", s, ns, m)
            )
            for i, (t, s, h, is_request, code, ns, m) in enumerate(
                zip(stamps, services, host, request.tolist(), status.tolist(), duration.tolist(), number, strict=True)
            )
        ]
        keys = [_SERVICE_KEYS[s] for s in services]
        records, valid = self._finish("service-logs", keys, texts, late, drift=True)
        counted = valid & request
        self.known.requests.append(np.stack([times, service, failed.astype(np.int64)])[:, counted])
        return records

    # -- system metrics ---------------------------------------------------------------------------------------------

    def _metrics(self, sent_at: Ints) -> list[Record]:
        if not len(sent_at):
            return []
        rng, n = self.rng, len(sent_at)
        times, late = self._backdate(sent_at)
        number = self._records[2] - n + np.arange(n)
        kind = number % len(METRICSETS)
        host = number // len(METRICSETS) % len(HOSTS)
        season = rhythm(times)
        wave = np.sin(times / (700 * SECOND) + 1.7 * host)  # the slow change of a machine's own chores
        added = {"cpu": np.zeros(n), "memory": np.zeros(n), "disk": np.zeros(n)}
        for incident in self.incidents:
            if incident.host and incident.end > times.min() and incident.start <= times.max():
                acts = incident.strength(times) * (host == HOSTS.index(incident.host))
                added[incident.kind] += incident.severity * acts
        cpu = _CPU_BASE[host] * (0.4 + 0.6 * season) + 0.03 * wave + rng.normal(0, 0.02, n) + added["cpu"]
        memory = _MEMORY_BASE[host] + 0.04 * season + 0.01 * wave + rng.normal(0, 0.004, n) + added["memory"]
        disk = _DISK_BASE[host] + 0.02 * (times % (7 * DAY)) / (7 * DAY) + 0.1 * (kind == 5) + added["disk"]
        # Bytes since start: the integral of a daily rhythm, so that the counter never falls.
        seconds = times / SECOND
        flow = (1 + host) * 4e5 * (seconds - 1.6e9 - 0.5 * 13751 * np.cos(2 * np.pi * (seconds / 86400 - 0.375)))
        texts = [
            f'{{"@timestamp":"{t}Z",{_METRIC_HEADS[k][h]}{_metric_part(k, c, m, d, f)}}}'
            for t, k, h, c, m, d, f in zip(
                _rfc3339(times),
                kind.tolist(),
                host.tolist(),
                np.clip(cpu, 0.005, 1).round(4).tolist(),
                np.clip(memory, 0.05, 0.99).round(4).tolist(),
                np.clip(disk, 0.05, 0.99).round(4).tolist(),
                flow.astype(np.int64).tolist(),
                strict=True,
            )
        ]
        keys = [_HOST_KEYS[h] for h in host.tolist()]
        # Unknown fields do not drift here: each number is a sample, each string a dimension.
        records, valid = self._finish("system-metrics", keys, texts, late, drift=False)
        self.known.metrics.append(np.stack([times, host, kind])[:, valid])
        return records

    # -- truth ------------------------------------------------------------------------------------------------------

    def truth(self) -> dict[str, Any]:
        """What gold must show if nothing is lost and nothing counts twice, and what models should find; JSON values."""
        known = self.known
        moment, kind, user, post, session = np.concatenate([np.empty((5, 0), dtype=np.int64), *known.events], axis=1)
        day = moment // DAY
        (minutes, kinds), group = _groups(moment // MINUTE, kind)
        activity = _rows(minutes, kinds, np.bincount(group), _distinct(group, user, len(kinds)))

        of_post = post >= 0
        (days, posts), group = _groups(day[of_post], post[of_post])
        count = [np.bincount(group[kind[of_post] == k], minlength=len(days)) for k in range(len(TYPES))]
        counts = (count[VIEW], count[LIKE] - count[UNLIKE], count[COMMENT], count[SHARE], count[BOOKMARK])
        engagement = _rows(days, posts, *counts, _distinct(group, user[of_post], len(days)))

        (user_days, users), group = _groups(day, user)
        first, last = np.full(len(users), np.iinfo(np.int64).max), np.zeros(len(users), dtype=np.int64)
        np.minimum.at(first, group, moment)
        np.maximum.at(last, group, moment)
        written = np.bincount(group[kind == POST], minlength=len(users))
        sessions = _distinct(group, session, len(users))
        per_user = _rows(user_days, users, np.bincount(group), sessions, written, first, last)

        at, service, failed = np.concatenate([np.empty((3, 0), dtype=np.int64), *known.requests], axis=1)
        (at_minutes, services), group = _groups(at // MINUTE, service)
        errors = np.bincount(group[failed > 0], minlength=len(services))
        requests = _rows(at_minutes, services, np.bincount(group), errors)

        at, host, metricset = np.concatenate([np.empty((3, 0), dtype=np.int64), *known.metrics], axis=1)
        dataset = np.minimum(metricset, METRICSETS.index("filesystem"))
        (at_minutes, hosts, datasets), group = _groups(at // MINUTE, host, dataset)
        metrics = _rows(at_minutes, hosts, datasets, np.bincount(group))

        def date(number: int) -> str:
            return _utc(number * DAY)[:10]

        def start(number: int) -> str:
            return _utc(number * MINUTE)

        def plain(incident: Incident) -> dict[str, Any]:
            named = {name: value for name, value in asdict(incident).items() if value is not None}
            return named | {"start": _utc(incident.start), "end": _utc(incident.end)}

        names = self._user_names
        return {
            "run": self.run,
            "topics": {topic: self._counts(topic) for topic in TOPICS},
            "columns": COLUMNS,
            "activity_minute": [[start(m), TYPES[k], *rest] for m, k, *rest in activity],
            "post_engagement_daily": [[date(d), self.post_names[p], *rest] for d, p, *rest in engagement],
            "user_activity_daily": [[date(d), names[u], *n, _utc(a), _utc(b)] for d, u, *n, a, b in per_user],
            "service_requests_minute": [[start(m), SERVICES[s], *rest] for m, s, *rest in requests],
            "metric_records_minute": [[start(m), HOSTS[h], f"system.{METRICSETS[k]}", n] for m, h, k, n in metrics],
            "incidents": [plain(incident) for incident in self.incidents],
            "tastes": {
                "topics": list(TOPIC_WORDS),
                "users": dict(zip(names, self.tastes.round(4).tolist(), strict=True)),
                "posts": dict(zip(self.post_names, self.post_topics.round(4).tolist(), strict=True)),
            },
            "sentiments": known.sentiments,
        }

    def _counts(self, topic: str) -> dict[str, Any]:
        kinds = self.known.kinds[topic]
        how = {kind.removeprefix("broken:"): n for kind, n in sorted(kinds.items()) if kind.startswith("broken:")}
        return {
            "sent": kinds.total(),
            "valid": kinds["valid"] + kinds["late"],
            "duplicates": kinds["duplicate"],
            "broken": sum(how.values()),
            "broken_by_kind": how,
            "late": kinds["late"],
            "null_keys": self.known.null_keys[topic],
            "unknown_fields": self.known.unknown_fields[topic],
        }


_SERVICE_KEYS = [name.encode() for name in SERVICES]
_HOST_KEYS = [name.encode() for name in HOSTS]


def _request_part(event_id: str, service: int, status: int, nanoseconds: int, number: int) -> str:
    """The rest of a request's log: an access record, with ``error.*`` where it failed."""
    path = _ROUTES[service][number % len(_ROUTES[service])]
    error, level = "", "warn" if status >= 400 else "info"
    if status >= 500:
        name, message, status = _ERRORS[number % len(_ERRORS)]
        text = message.format(number)
        level = "error"
        error = (
            f',"error":{{"type":"{name}","message":"{text}","code":"E{status}","id":"{number:04x}",'
            f'"stack_trace":"{name}: {text}\\n  at handle ({SERVICES[service]}.py:{number % 400})"}}'
        )
    method = "POST" if status == 201 else "GET"
    return (
        f'"message":"{method} {path} {status} {nanoseconds // 1_000_000}ms","log":{{"level":"{level}"}},'
        f'"http":{{"request":{{"method":"{method}"}},"response":{{"status_code":{status}}}}},"url":{{"path":"{path}"}},'
        f'"event":{{"id":"{event_id}","dataset":"{SERVICES[service]}.access","duration":{nanoseconds}}}{error}}}'
    )


def _app_part(event_id: str, service: int, nanoseconds: int, number: int) -> str:
    """The rest of an application's or a performance log."""
    level, dataset, message = _APP_LOGS[number % len(_APP_LOGS)]
    duration = f',"duration":{nanoseconds * 9}' if dataset == "performance" else ""
    return (
        f'"message":"{message.format(number, nanoseconds // 1_000_000)}","log":{{"level":"{level}"}},'
        f'"event":{{"id":"{event_id}","dataset":"{SERVICES[service]}.{dataset}"{duration}}}}}'
    )


def _metric_head(kind: int, host: str) -> str:
    """Members of a metric record that do not change, as Metricbeat's system module writes them."""
    name = METRICSETS[kind]
    return (
        f'"host":{{"name":"{host}"}},"event":{{"dataset":"system.{name}","module":"system","duration":115000}},'
        f'"metricset":{{"name":"{name}","period":10000}},"service":{{"type":"system"}},"ecs":{{"version":"1.12.0"}},'
        f'"agent":{{"type":"metricbeat","version":"7.17.29","hostname":"{host}"}},"system":'
    )


_METRIC_HEADS = [[_metric_head(kind, host) for host in HOSTS] for kind in range(len(METRICSETS))]


def _metric_part(kind: int, cpu: float, memory: float, disk: float, flow: int) -> str:
    """The ``system`` object of one metricset; pct are shares of 1 (``norm``) or of the number of cores."""
    if kind == 0:
        user, system = cpu * 0.7, cpu * 0.25
        return (
            f'{{"cpu":{{"cores":{_CORES},"total":{{"pct":{cpu * _CORES:.4f},"norm":{{"pct":{cpu}}}}},'
            f'"user":{{"pct":{user * _CORES:.4f},"norm":{{"pct":{user:.4f}}}}},'
            f'"system":{{"pct":{system * _CORES:.4f},"norm":{{"pct":{system:.4f}}}}},'
            f'"idle":{{"pct":{(1 - cpu) * _CORES:.4f},"norm":{{"pct":{1 - cpu:.4f}}}}}}}}}'
        )
    if kind == 1:
        used, cached = int(memory * _RAM), int((1 - memory) * 0.7 * _RAM)
        return (
            f'{{"memory":{{"total":{_RAM},"free":{_RAM - used - cached},"used":{{"bytes":{used + cached},'
            f'"pct":{(used + cached) / _RAM:.4f}}},"actual":{{"free":{_RAM - used},'
            f'"used":{{"bytes":{used},"pct":{memory}}}}},"swap":{{"total":0,"free":0,"used":{{"bytes":0,"pct":0}}}}}}}}'
        )
    if kind == 2:
        load = cpu * _CORES * 1.1
        return (
            f'{{"load":{{"1":{load:.2f},"5":{load * 0.95:.2f},"15":{load * 0.9:.2f},"cores":{_CORES},'
            f'"norm":{{"1":{load / _CORES:.4f},"5":{load * 0.95 / _CORES:.4f},"15":{load * 0.9 / _CORES:.4f}}}}}}}'
        )
    if kind == 3:
        return (
            f'{{"network":{{"name":"eth0","in":{{"bytes":{flow},"packets":{flow // 900},"errors":0,"dropped":0}},'
            f'"out":{{"bytes":{flow * 2},"packets":{flow // 700},"errors":0,"dropped":0}}}}}}'
        )
    used = int(disk * _DISK)
    mount, device = ("/", "/dev/sda1") if kind == 4 else ("/data", "/dev/sdb1")
    return (
        f'{{"filesystem":{{"mount_point":"{mount}","device_name":"{device}","type":"ext4","total":{_DISK},'
        f'"free":{_DISK - used},"available":{_DISK - used},"files":13107200,"free_files":12000000,'
        f'"used":{{"bytes":{used},"pct":{disk}}}}}}}'
    )


# -- times and sending ----------------------------------------------------------------------------------------------


def history_times(rng: np.random.Generator, start: int, end: int, count: int) -> Iterator[Ints]:
    """``count`` sorted times between start and end as the daily rhythm has them, in blocks."""
    edges = np.append(np.arange(start, end, 10 * MINUTE), end)
    cumulative = np.append(0, np.cumsum(rhythm(edges[:-1]) * np.diff(edges)))
    for first in range(0, count, BLOCK):
        place = (np.arange(first, min(first + BLOCK, count)) + rng.random(min(BLOCK, count - first))) / count
        yield np.interp(place * cumulative[-1], cumulative, edges - start).astype(np.int64) + start


def live_times(start: int, rate: float, duration: float) -> Iterator[Ints]:
    """The times of ``rate`` records a second for ``duration`` seconds from ``start``, in blocks of a moment."""
    count = round(rate * duration)
    size = max(1, min(BLOCK, round(rate * BLOCK_S)))
    for first in range(0, count, size):
        yield start + (np.arange(first, min(first + size, count)) * (SECOND / rate)).astype(np.int64)


def simulate(
    settings: Settings,
    seed: int,
    rate: float,
    duration: float,
    history: float,
    truth: Path,
    share_duplicates: float = 0.01,
    share_late: float = 0.01,
    share_broken: float = 0.005,
    progress: Callable[[int, int], None] = lambda sent, total: None,
    *,
    history_records: int = 200_000,
    start: datetime | None = None,
    prefix: str = "",
    transport: Transport | None = None,
    logs: Path | None = None,
) -> dict[str, Any]:
    """Send a simulated history at full speed, then live records at a rate, and write down what is true of them.

    A record counts as sent once it was handed to Kafka or, a live log with ``logs``, written to its file.

    Args:
        settings: the broker.
        seed: users, posts and all draws; with the same ``start`` and the other arguments, the same bytes.
        rate: live records per second in all topics together, 6 : 3 : 1 for events, logs and metrics.
        duration: seconds of live records; their event times are the times they are due.
        history: days of event time before the start that the history covers; 0 for none.
        truth: the JSON file that is written, in one step, after the last acknowledgement and with all files on disk:
            ``parameters``, ``acknowledged``, ``written``, ``topics`` (counts, with logs in files among those of
            service-logs), gold's rows (named in ``columns``), ``incidents``, ``tastes``, ``sentiments``.
        share_duplicates: share of the records that repeat one sent before.
        share_late: share whose event time is a minute to a day before they are sent.
        share_broken: share that no contract accepts; of logs in files none.
        progress: called with (sent, total) after each block.
        history_records: size of the history.
        start: when live begins; now if None. A start other than now shifts event times, not the sending.
        prefix: put before the topics' names, for trials.
        transport: sends the records instead of a new Kafka producer.
        logs: a folder; the live logs go there as text, one file a service, and not to Kafka: late ones and repeats
            (of the history's too) among them, but none broken, with an unknown field or without a Kafka key, which
            text cannot be. Where ``share_broken`` is 0 they are the records that Kafka would have got.

    Returns:
        ``sent``, the sum of ``acknowledged`` (by Kafka) and ``written`` (to files); ``valid``, ``duplicates``,
        ``broken``, ``seconds``, ``history_records_per_s``, ``topics`` (counts as in the truth), ``truth`` (the file).

    Raises:
        SimulationError: an argument is out of bounds.
        TopicError: Kafka does not answer or lacks a topic.
        DeliveryError: a record was not acknowledged; no truth is written, since it would not be true.
        LogFileError: a log could not be written; no truth either.
    """
    shares = {"share_duplicates": share_duplicates, "share_late": share_late, "share_broken": share_broken}
    for name, share in shares.items():
        if not 0 <= share <= 0.5:
            raise SimulationError(f"{name} is {share:g}: give a share between 0 and 0.5")
    if rate <= 0 or duration < 0 or history < 0 or history_records < 0:
        raise SimulationError("rate must be above 0; duration, history and history_records must not be negative")
    if transport is None:
        require_topics(settings, [prefix + topic for topic in TOPICS])
        transport = producer(settings, **{"linger.ms": 20})  # fewer, larger requests
    begin = start or datetime.now(UTC)
    begin_us = int(begin.timestamp()) * SECOND + begin.microsecond
    parameters: dict[str, Any] = {
        "seed": seed,
        "start": _utc(begin_us),
        "rate": rate,
        "duration_s": duration,
        "history_days": history,
        "history_records": history_records if history else 0,
        **shares,
    }
    run = hashlib.blake2b(orjson.dumps(parameters), digest_size=5).hexdigest()
    world = Simulation(seed, run, share_duplicates=share_duplicates, share_late=share_late, share_broken=share_broken)
    names = {topic: prefix + topic for topic in TOPICS}
    outbox = Outbox(transport)
    total = parameters["history_records"] + round(rate * duration)
    opened: AbstractContextManager[LogFiles | None] = nullcontext() if logs is None else LogFiles(logs, SERVICES)
    with opened as files:
        began = time.monotonic()
        if history and history_records:
            since = begin_us - int(history * DAY)
            world.incidents += plan_incidents(world.rng, since, begin_us, round(6 * history))
            for times in history_times(world.rng, since, begin_us, history_records):
                for topic, key, value, _ in world.block(times):
                    outbox.send(names[topic], key, value)
                progress(outbox.sent, total)
            outbox.finish()
        history_s = time.monotonic() - began
        history_sent = sent = outbox.sent
        world.logs_as_text = files is not None
        live_us = begin_us if start else time.time_ns() // 1000
        live_from = time.monotonic()
        troubles = max(int(duration >= 300), round(duration / 1800))
        world.incidents += plan_incidents(world.rng, live_us, live_us + round(duration * SECOND), troubles)
        for times in live_times(live_us, rate, duration):
            for topic, key, value, _ in world.block(times):
                outbox.wait_until(live_from + (sent - history_sent) / rate)
                if files is not None and topic == "service-logs":
                    assert value is not None  # only a broken one is
                    files.write(orjson.loads(value))
                else:
                    outbox.send(names[topic], key, value)
                sent += 1
            progress(sent, total)
        acknowledged = outbox.finish()
    written = files.written if files is not None else 0
    found = {
        "parameters": parameters | {"logs": str(logs) if logs else None},
        "live_start": _utc(live_us),
        "acknowledged": acknowledged,
        "written": written,
        **world.truth(),
    }
    truth.parent.mkdir(parents=True, exist_ok=True)
    partial = truth.with_name(truth.name + ".partial")
    partial.write_bytes(orjson.dumps(found))
    os.replace(partial, truth)
    return {
        "sent": sent,
        "acknowledged": acknowledged,
        "written": written,
        **{name: sum(c[name] for c in found["topics"].values()) for name in ("valid", "duplicates", "broken")},
        "seconds": round(time.monotonic() - began, 3),
        "history_records_per_s": round(history_sent / history_s) if history_sent else None,
        "topics": found["topics"],
        "truth": str(truth),
    }
