"""Stage ``users``: what each user is doing, and the whole site's counts.

State of a user: totals by type, sessions (closed by inactivity), events of the last minutes by type, the current page,
the step of the funnel, and the posts of late. Every part is a fold that does not depend on the order of its events.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec
import orjson

from lakehouse import features
from lakehouse.alerts import matches
from lakehouse.realtime.messages import Event, Touch
from lakehouse.realtime.recommend import Recommend
from lakehouse.realtime.state import MINUTE, Seen, Store
from lakehouse.realtime.task import Command, Context, Outbox, Stage, tell

SECOND = 1_000_000
WINDOW = 15
"""Minutes of the hopping window, which hops by one."""
SITE_MINUTES = 60
RECENT = 100
"""Posts kept of each user, newest last: what recommendations go by, and what they leave out."""
AFTER = 5
"""Posts before this one that count as visited together with it."""
INTERACTIONS = frozenset(features.INTERACTIONS)
ACTIVE_US = 5 * MINUTE
_EPOCH = datetime(1970, 1, 1)


class Session(msgspec.Struct, array_like=True, gc=False):
    """Events of a user with no gap longer than the setting; ``steps`` has a bit for each step of the funnel."""

    start: int
    end: int
    events: int
    steps: int


class User(msgspec.Struct, array_like=True):
    """What is known of a user. ``closed`` and ``closed_us`` are the number and length of the sessions that ended."""

    first: int
    last: int
    events: int = 0
    late: int = 0
    totals: dict[str, int] = {}
    page: str | None = None
    page_at: int = -1
    page_id: str = ""
    device: str | None = None
    closed: int = 0
    closed_us: int = 0
    ended: Session | None = None
    """The last session that ended."""
    open: list[Session] = []
    minutes: dict[int, dict[str, int]] = {}
    recent: list[str] = []

    def session(self) -> Session | None:
        """The latest session, open or ended."""
        return max(self.open, key=lambda session: session.end) if self.open else self.ended

    def sessions(self) -> int:
        """How many sessions there were."""
        return self.closed + len(self.open)

    def session_us(self) -> int:
        """How long they were together, each from its first event to its last."""
        return self.closed_us + sum(session.end - session.start for session in self.open)


class SiteMinute(msgspec.Struct, array_like=True):
    """Events by type and distinct users of one minute, of the users of one task."""

    events: dict[str, int] = {}
    users: int = 0


class Users(Stage[Event]):
    """One partition of the users."""

    name = "users"
    topic = "realtime-users-repartition"
    entry = Event
    feeds: ClassVar[tuple[str, ...]] = ("posts",)

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        settings = context.settings
        self.seen = Seen(settings.duplicate_horizon // timedelta(microseconds=1))
        self.users = Store("user:", User)
        self.site = Store("site:", SiteMinute)
        self.parts = (self.seen, self.users, self.site)
        self._gap = settings.session_gap // timedelta(microseconds=1)
        self._steps = {kind: 1 << step for step, kinds in enumerate(settings.funnel) for kind in kinds}
        self._funnel = settings.funnel
        self._activity = context.does("activity")
        self._posts = context.does("trending") or context.does("recommendations") or context.does("notifications")
        self._together = context.does("recommendations")
        # A rule that names the author of a post is for the stage that knows them.
        self._rules = [rule for rule in context.rules("event") if "post_author" not in rule.fields]
        self._changed: dict[str, bool] = {}
        """Users whose keys in Redis are to be written; True: recommendations, too."""
        self._active: dict[str, int] = {}
        self._site_changed: dict[int, None] = {}
        self._ttl = int(settings.live_ttl.total_seconds())
        self._features_ttl = int(settings.features_ttl.total_seconds())
        self.recommend: Recommend | None = None

    def fed_by(self) -> dict[str, int]:
        """The route of user events."""
        return {"user-events": self.context.partitions["user-events"]}

    def fold(self, entry: Event, out: Outbox, offset: int) -> None:
        """Take an event, the first of its id."""
        if not self.seen.first(entry.id, entry.appended):
            self.count("duplicates")
            return
        time, kind, name = entry.time, entry.kind, entry.user
        user = self.users.get(name)
        if user is None:
            user = User(time, time)
        elif time > user.last:
            user.last = time
        elif time < user.first:
            user.first = time
        user.events += 1
        totals = user.totals
        totals[kind] = totals.get(kind, 0) + 1
        if entry.page is not None and (time, entry.id) > (user.page_at, user.page_id):
            user.page, user.page_at, user.page_id, user.device = entry.page, time, entry.id, entry.device
        late = not self.on_time(time, entry.late)
        if late:
            user.late += 1
            self.count("late")
        else:
            self._window(user, time // MINUTE, kind)
            self._session(user, time, self._steps.get(kind, 0))
        post = entry.post
        interacts = post is not None and kind in INTERACTIONS
        if post is not None and self._posts:
            after = [p for p in user.recent[-AFTER:] if p != post] if interacts and self._together else []
            out.put(
                "posts",
                post,
                Touch(
                    offset, entry.appended, time, late, entry.id, kind, name, post, entry.device, entry.referrer,
                    after, entry.facts,
                ),
            )  # fmt: skip
            if interacts:
                recent = user.recent
                if post in recent:
                    recent.remove(post)
                recent.append(post)
                if len(recent) > RECENT:
                    del recent[0]
        self.users.put(name, user)
        self._changed[name] = self._changed.get(name, False) or interacts
        for rule in self._rules:
            facts = event_facts(entry)
            if matches(rule, facts):
                tell(rule, facts, entry, out, offset)

    def _window(self, user: User, minute: int, kind: str) -> None:
        here = user.minutes.get(minute)
        site = self.site.get(str(minute)) or SiteMinute()
        self.minutes.add(minute)
        if here is None:
            oldest = self.watermark // MINUTE - WINDOW - self.lateness // MINUTE
            for old in [m for m in user.minutes if m < oldest]:
                del user.minutes[old]
            user.minutes[minute] = {kind: 1}
            site.users += 1
        else:
            here[kind] = here.get(kind, 0) + 1
        site.events[kind] = site.events.get(kind, 0) + 1
        self._site_changed[minute] = None
        self.site.put(str(minute), site)

    def _session(self, user: User, time: int, steps: int) -> None:
        gap = self._gap
        # None that ended before this can still be met by an event that is on time.
        final = self.watermark - self.lateness - gap
        start, end, events, kept = time, time, 1, []
        for session in user.open:
            if session.start - gap <= time <= session.end + gap:
                start, end = min(start, session.start), max(end, session.end)
                events, steps = events + session.events, steps | session.steps
            elif session.end < final:
                user.closed += 1
                user.closed_us += session.end - session.start
                if user.ended is None or session.end > user.ended.end:
                    user.ended = session
            else:
                kept.append(session)
        kept.append(Session(start, end, events, steps))
        user.open = kept

    def close(self, minute: int, out: Outbox, offset: int) -> None:
        """Forget what the site did longer ago than is shown."""
        self.site.delete(str(minute - SITE_MINUTES))

    # --- what is shown ---------------------------------------------------------------------------------------------

    def restored(self) -> None:
        """Know again who is active."""
        self.minutes = {int(minute) for minute, _ in self.site.items()}
        self._active = dict(
            sorted(
                ((name, user.last) for name, user in self.users.items() if user.last > self.watermark - ACTIVE_US),
                key=lambda found: found[1],
            )
        )

    def all_effects(self) -> None:
        """Show all users of late again; keys of others have run out."""
        oldest = self.watermark - self._features_ttl * SECOND
        self._changed |= {name: True for name, user in self.users.items() if user.last > oldest}
        self.tick_effects()

    def tick_effects(self) -> None:
        """Show all minutes of the site again."""
        self._site_changed |= {int(minute): None for minute, _ in self.site.items()}

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """Keys of the users that changed; with a tick the site's."""
        commands: list[Command] = []
        get = self.users.get
        stamp = _utc(now_us)
        for name, interacted in self._changed.items():
            user = get(name)
            if user is None:
                continue
            if self._activity:
                live, features = self.live(user), self.features(user)
                commands.append(("SET", f"live:user:{name}", orjson.dumps(live).decode(), "EX", self._ttl))
                key = f"features:user:{name}"
                commands.append(("HSET", key, *[part for item in features.items() for part in item]))
                commands.append(("EXPIRE", key, self._features_ttl))
            if interacted and self.recommend is not None:
                made = self.recommend.top(user.recent)
                body = orjson.dumps({"model_version": made.model_version, "at": stamp, "items": made.items}).decode()
                commands.append(("SET", f"recs:{name}", body, "EX", self._features_ttl))
            self._active.pop(name, None)
            if user.last > self.watermark - ACTIVE_US:
                self._active[name] = user.last
        self._changed.clear()
        if tick and self._activity:
            commands += self._site()
        return commands

    def live(self, user: User) -> dict[str, Any]:
        """The JSON of ``live:user:<id>``."""
        newest = max(user.minutes, default=None)
        session = user.session()
        window: dict[str, int] = {}
        if newest is not None:
            for minute, counts in user.minutes.items():
                if minute > newest - WINDOW:
                    for kind, number in counts.items():
                        window[kind] = window.get(kind, 0) + number
        return {
            "last_at": _utc(user.last),
            "page": user.page,
            "device": user.device,
            "minute": None if newest is None else _utc(newest * MINUTE),
            "events_1m": {} if newest is None else user.minutes[newest],
            "events_15m": window,
            "session": None
            if session is None
            else {
                "start": _utc(session.start),
                "end": _utc(session.end),
                "events": session.events,
                "funnel_step": self.funnel_step(session),
            },
        }

    def funnel_step(self, session: Session) -> str | None:
        """The farthest step of the funnel that a session reached, by the names of its types."""
        reached = session.steps.bit_length()
        return "/".join(self._funnel[reached - 1]) if reached else None

    def features(self, user: User) -> dict[str, str | int | float]:
        """The hash ``features:user:<id>``."""
        session = user.session()
        return {
            "at": _utc(user.last),
            "events": user.events,
            "sessions": user.sessions(),
            **features.of_minutes(user.minutes),
            "session_events": session.events if session else 0,
            "session_s": (session.end - session.start) / SECOND if session else 0,
            "device": user.device or "",
        }

    def _site(self) -> list[Command]:
        """This task's part of ``live:site`` and ``live:site:<minute>``; a script in Redis adds the parts up."""
        oldest = self.watermark - ACTIVE_US
        for name in list(self._active):
            if self._active[name] > oldest:
                break
            del self._active[name]
        newest = self.watermark // MINUTE
        commands: list[Command] = []
        rate: dict[str, int] = {}
        for minute in range(newest - 1, newest + 1):
            site = self.site.get(str(minute))
            # Of the minute before, the share that lies within the last 60 s.
            share = 1.0 if minute == newest else 1 - self.watermark % MINUTE / MINUTE
            for kind, number in site.events.items() if site else ():
                rate[kind] = rate.get(kind, 0) + round(number * share)
        fields = {"active_users": len(self._active), **{f"events_1m:{kind}": n for kind, n in rate.items()}}
        commands.append(("SUM", "live:site", self.partition, _utc(self.watermark), self._ttl, fields))
        for minute in self._site_changed:
            site = self.site.get(str(minute))
            if site:
                fields = {"users": site.users, **site.events}
                key = f"live:site:{_utc(minute * MINUTE)}"
                ttl = SITE_MINUTES * 60 + self._ttl
                commands.append(("SUM", key, self.partition, _utc(self.watermark), ttl, fields))
        self._site_changed.clear()
        return commands


def event_facts(entry: Event | Touch) -> dict[str, Any]:
    """An event's fields by the names of the contract, for rules."""
    facts: dict[str, Any] = {
        "event_id": entry.id, "event_type": entry.kind, "user_id": entry.user, "post_id": entry.post,
        "device": entry.device, "referrer": entry.referrer,
    }  # fmt: skip
    if entry.facts:
        facts |= entry.facts
    return facts


def profile(name: str, user: User, version: int) -> dict[str, Any]:
    """The document of ``user_profiles`` in MongoDB; times are dates, spans seconds."""
    session = user.session()
    return {
        "_id": name,
        "version": version,
        "first_at": _date(user.first),
        "last_at": _date(user.last),
        "events": user.events,
        "late_events": user.late,
        "by_type": user.totals,
        "sessions": user.sessions(),
        "session_s": user.session_us() / SECOND,
        "last_session": None
        if session is None
        else {"start": _date(session.start), "end": _date(session.end), "events": session.events},
        "page": user.page,
        "device": user.device,
        "recent_posts": user.recent[::-1],
    }


def _date(us: int) -> datetime:
    return datetime.fromtimestamp(us // SECOND, UTC).replace(microsecond=us % SECOND)


def _utc(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).isoformat() + "Z"
