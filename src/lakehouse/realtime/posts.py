"""Stage ``posts``: what draws attention now, what bursts, and what is visited together.

A post's score is the sum of its interactions' weights, each halved every half-life: the exponential decay of Cormode et
al., "Forward Decay" (ICDE 2009), with the weights and half-life of ``gold.trending_posts``. A burst is how far the
interactions of the last minutes exceed what the hour before lets expect, in standard deviations of a Poisson variable.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import timedelta
from heapq import nlargest
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from lakehouse.alerts import Rule, matches
from lakehouse.erasure.identifiers import Erased
from lakehouse.gold.trending_posts import HALF_LIFE, WEIGHTS
from lakehouse.realtime.messages import Touch
from lakehouse.realtime.state import MINUTE, Store
from lakehouse.realtime.task import Command, Context, Outbox, Stage, Watch, tell
from lakehouse.realtime.users import INTERACTIONS, event_facts

HALF_LIFE_US = HALF_LIFE // timedelta(microseconds=1)
TOP = 100
"""Posts of each task that ``trending:posts`` holds at least."""
TOP_OF_PART = 20
HOUR = 60
"""Minutes before a window that say what is usual."""
FADED_US = 40 * HALF_LIFE_US
"""After so long without an interaction a score is a millionth of a millionth, and zero."""
WAITING = 100
"""Events kept of a post whose author is not known yet, the newest."""
TOGETHER = 50
"""Posts visited before this one that are remembered, the most frequent."""
SECOND = 1_000_000
_NOBODY = "\0"


class Score(msgspec.Struct, array_like=True, gc=False):
    """A decaying sum: ``value`` as of ``at``."""

    value: float = 0.0
    at: int = 0

    def add(self, weight: float, time: int) -> None:
        """Add what happened at a time, before or after."""
        if time > self.at:
            self.value = self.value * 2.0 ** ((self.at - time) / HALF_LIFE_US) + weight if self.at else weight
            self.at = time
        else:
            self.value += weight * 2.0 ** ((time - self.at) / HALF_LIFE_US)

    def of(self, time: int) -> float:
        """The sum as of a time not much before ``at``."""
        return float(self.value * 2.0 ** ((self.at - time) / HALF_LIFE_US))


class Post(msgspec.Struct, array_like=True):
    """What is known of a post."""

    author: str | None = None
    score: Score = msgspec.field(default_factory=Score)
    parts: dict[str, Score] = {}
    """By ``device:<device>`` and ``referrer:<host>``."""
    minutes: dict[int, int] = {}
    """Interactions on time, by minute."""
    visits: int = 0
    together: dict[str, int] = {}
    """Post -> how often it was among the last that a user had to do with before this one."""


class Posts(Stage[Touch]):
    """One partition of the posts."""

    name = "posts"
    topic = "realtime-posts-repartition"
    entry = Touch
    feeds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self.posts = Store("post:", Post)
        self.watch = Watch(context, "post")
        self.waiting = Store("waiting:", list[Touch])
        """Events that a rule would tell a post's author of, came they before the post itself, as in a backlog."""
        self.parts = (self.posts, self.watch.standings, self.waiting)
        self.reach = self.watch.reach + HOUR
        self._rules = [rule for rule in context.rules("event") if "post_author" in rule.fields]
        self._trending = context.does("trending")
        self._by_minute: dict[int, dict[str, None]] = {}
        self._scores: dict[str, Score] = {}
        self._changed: dict[str, None] = {}
        self._shown: Set[str] = set()
        self._best: set[str] = set()
        self._as_of = 0
        self._least = 0.0
        self._ttl = int(context.settings.live_ttl.total_seconds())
        self.items: dict[str, None] = {}
        """Posts whose item for recommendations has changed."""

    def forget(self, erased: Erased) -> None:
        """Take those who were erased out of the state: as authors, and as who waits to be told of."""
        super().forget(erased)
        for name, post in list(self.posts.items()):
            if post.author is not None and post.author in erased:
                post.author = None
                self.posts.put(name, post)
        for name, waiting in list(self.waiting.items()):
            if len(kept := [touch for touch in waiting if touch.user not in erased]) < len(waiting):
                self.waiting.put(name, kept) if kept else self.waiting.delete(name)

    def fed_by(self) -> dict[str, int]:
        """The stage of users."""
        return {"users": self.context.partitions["users"]}

    def fold(self, entry: Touch, out: Outbox, offset: int) -> None:
        """Take an event that concerns a post."""
        name, kind, time = entry.post, entry.kind, entry.time
        post = self.posts.get(name)
        if post is None:
            post = Post()
        if kind == "post" and post.author is None:
            post.author = entry.user
            for early in self.waiting.get(name) or ():
                self._tell(early, entry.user, out, offset)
            self.waiting.delete(name)
        weight = WEIGHTS.get(kind)
        if weight is not None:
            post.score.add(weight, time)
            self._scores[name] = post.score
            self._changed[name] = None
            if entry.device:
                post.parts.setdefault(f"device:{entry.device[:100]}", Score()).add(weight, time)
            if entry.referrer:
                host = _host(entry.referrer)
                post.parts.setdefault(f"referrer:{host}", Score()).add(weight, time)
        if kind in INTERACTIONS:
            post.visits += 1
            if self.on_time(time, entry.late):
                minute = time // MINUTE
                post.minutes[minute] = post.minutes.get(minute, 0) + 1
                self._by_minute.setdefault(minute, {})[name] = None
                self.minutes.add(minute)
            together = post.together
            for other in entry.after:
                together[other] = together.get(other, 0) + 1
            if len(together) > 2 * TOGETHER:
                kept = sorted(together.items(), key=lambda pair: (-pair[1], pair[0]))[:TOGETHER]
                post.together = dict(kept)
            self.items[name] = None
        self.posts.put(name, post)
        if self._rules:
            self._tell(entry, post.author, out, offset)

    def _tell(self, entry: Touch, author: str | None, out: Outbox, offset: int) -> None:
        facts = event_facts(entry)
        facts["post_author"] = author or _NOBODY
        for rule in self._rules:
            if matches(rule, facts):
                if author is None:
                    waiting = self.waiting.get(entry.post) or []
                    self.waiting.put(entry.post, [*waiting[1 - WAITING :], entry])
                    return
                tell(rule, facts, entry, out, offset)

    def standing(self) -> bool:
        """Whether some post is known to burst."""
        return self.watch.any()

    def close(self, minute: int, out: Outbox, offset: int) -> None:
        """Take the rules over a minute, and forget what none looks back to."""
        if self.watch.rules:
            self.watch.minute((minute + 1) * MINUTE, lambda rule: self._facts(rule, minute), out, offset, self._about)
        old = minute - self.reach
        for name in self._by_minute.pop(old, ()):
            post = self.posts.get(name)
            if post and post.minutes.pop(old, None) is not None:
                self.posts.put(name, post)

    def _facts(self, rule: Rule, minute: int) -> dict[str, dict[str, Any]]:
        over = rule.over // timedelta(minutes=1)
        names = {name for m in range(minute - over + 1, minute + 1) for name in self._by_minute.get(m, ())}
        found = {}
        for name in names:
            post = self.posts.get(name)
            if post is not None:
                found[name] = facts(name, post, minute, over)
        return found

    def _about(self, name: str) -> dict[str, Any]:
        post = self.posts.get(name)
        return {"post_id": name, "post_author": post.author if post else None}

    # --- what is shown ---------------------------------------------------------------------------------------------

    def restored(self) -> None:
        """Know again the scores, and who counted when."""
        self.watch.restored()
        for name, post in self.posts.items():
            if post.score.at > self.watermark - FADED_US:
                self._scores[name] = post.score
            for minute in post.minutes:
                self._by_minute.setdefault(minute, {})[name] = None
        self.minutes = set(self._by_minute)

    def all_effects(self) -> None:
        """Show all of it with the next tick, as every tick does."""
        self.items |= dict.fromkeys(self._scores)

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """With a tick the best posts of this task as of now, all in all and by part; between, those that changed.

        Between ticks scores are as of the last tick too, so that they can be compared.
        """
        if not self._trending:
            self._changed.clear()
            return []
        if tick or not self._as_of:
            self._as_of = now_us // SECOND * SECOND
            return self._all(self._as_of)
        fresh: list[Any] = []
        for name in self._changed:
            score = self._scores[name].of(self._as_of)
            if score > self._least or name in self._best:
                self._best.add(name)
                fresh += (score, name)
        self._changed.clear()
        return [("ZADD", key, *fresh) for key in ("trending:posts", self._part("trending:posts"))] if fresh else []

    def _part(self, key: str, partition: int | None = None) -> str:
        return f"live:_part:{self.partition if partition is None else partition}:{key}"

    def _all(self, as_of: int) -> list[Command]:
        now = {name: score.of(as_of) for name, score in self._scores.items() if score.at > as_of - FADED_US}
        if len(now) < len(self._scores):
            # Only of what is shown: what a post is, its author too, must not depend on when somebody looks.
            for name in self._scores.keys() - now:
                del self._scores[name]
        best = nlargest(TOP, now.items(), key=lambda pair: pair[1])
        self._least = best[-1][1] if len(best) == TOP else 0.0
        wanted: dict[str, dict[str, float]] = {"trending:posts": {name: score for name, score in best if score > 0}}
        for name in wanted["trending:posts"]:
            post = self.posts.get(name)
            for part, score in post.parts.items() if post else ():
                value = score.of(as_of)
                if value > 0:
                    wanted.setdefault(f"live:trending:{part}", {})[name] = value
        self._best = set(wanted["trending:posts"])
        commands: list[Command] = [("SET", "live:trending:as_of", as_of // SECOND, "EX", self._ttl)]
        everyone = range(self.context.partitions["posts"])
        for key in wanted.keys() | self._shown:
            scores = wanted.get(key, {})
            if key != "trending:posts" and len(scores) > TOP_OF_PART:
                scores = dict(nlargest(TOP_OF_PART, scores.items(), key=lambda pair: pair[1]))
            part = self._part(key)
            commands.append(("DEL", part))
            if scores:
                commands.append(("ZADD", part, *[word for name, score in scores.items() for word in (score, name)]))
                commands.append(("EXPIRE", part, self._ttl))
            # Each task replaces its own part; what all have is their union.
            commands.append(("ZUNIONSTORE", key, len(everyone), *(self._part(key, number) for number in everyone)))
            commands.append(("EXPIRE", key, self._ttl))
        self._shown = wanted.keys()
        self._changed.clear()
        return commands


def facts(name: str, post: Post, minute: int, over: int) -> dict[str, Any]:
    """What a rule on posts is told of the ``over`` minutes that end with ``minute``."""
    here = sum(post.minutes.get(m, 0) for m in range(minute - over + 1, minute + 1))
    before = sum(post.minutes.get(m, 0) for m in range(minute - over - HOUR + 1, minute - over + 1))
    usual = before * over / HOUR
    return {
        "post_id": name,
        "post_author": post.author,
        "minute": minute * MINUTE,
        "interactions": here,
        "interactions_hour": before,
        "burst": (here - usual) / max(usual, 1.0) ** 0.5,
    }


def _host(referrer: str) -> str:
    """The host of an address, or the beginning of what is none."""
    try:
        return (urlsplit(referrer).hostname or referrer)[:100]
    except ValueError:
        return referrer[:100]
