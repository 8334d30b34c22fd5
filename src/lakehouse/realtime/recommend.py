"""What a user is shown next: the champion's answer, or before there is one what others went on to, and what is popular.

The fallback counts, for each post, which posts its users had to do with just before (``posts.py``); those counts and
the popularity of all posts are in every process, from the compacted topic ``realtime-items``: what Kafka Streams calls
a global table. With them the champion's answer is mended where it cannot know: posts born after it was trained.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from heapq import nlargest
from operator import itemgetter
from typing import NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, TopicPartition

from lakehouse.predict import Champion, Neighbours, PredictError

FALLBACK = "co-visitation"
TOP = 20
CONSIDERED = 10
"""Posts of a user's history, the newest, that the fallback goes by."""
NEWS = 5
"""Every so many places is for a post that the champion does not know, if it is among the TOP most popular now."""
NEAR, NEAR_S = 30, 5.0
"""Neighbours that the fallback knows of a post, and the seconds that it goes by them before it looks again."""
_log = logging.getLogger(__name__)


class Item(msgspec.Struct, array_like=True, gc=False):
    """A post as the others know it; ``score`` is its decaying popularity as of ``at`` (see ``posts.Score``)."""

    visits: int
    score: float
    at: int
    together: dict[str, int]


class Made(NamedTuple):
    """Recommendations, best first, and what made them."""

    model_version: str
    items: list[dict[str, str | float]]


class Items:
    """All posts' items, kept up to date by a thread.

    Args:
        consumer: reads ``realtime-items`` alone, from its beginning.
        topic: its name.
        partitions: how many it has.
    """

    def __init__(self, consumer: Consumer, topic: str, partitions: int) -> None:
        self.items: dict[str, Item] = {}
        self.after: dict[str, dict[str, int]] = {}
        """Post -> posts that its users went on to, with how often."""
        self.popular: list[tuple[str, float]] = []
        self._near: dict[str, tuple[float, list[tuple[str, float]]]] = {}
        self._decode = msgspec.msgpack.Decoder(Item).decode
        self._consumer = consumer
        self._stop = threading.Event()
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._thread = threading.Thread(target=self._follow, name="items", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set():
            messages = self._consumer.consume(1000, 0.5)
            for message in messages:
                if message.error() is None:
                    self.take(message.key().decode(), message.value())
                elif message.error().code() != KafkaError._PARTITION_EOF:
                    _log.warning("the table of items: %s", message.error())
            if messages:
                self.rank()

    def take(self, name: str, value: bytes | None) -> None:
        """One record: the newest of a post, or that it has faded."""
        if value is None:
            self.items.pop(name, None)
            return
        item = self._decode(value)
        self.items[name] = item
        for before, number in item.together.items():
            self.after.setdefault(before, {})[name] = number

    def near(self, name: str) -> list[tuple[str, float]]:
        """The posts visited most with this one, before or after, at most NEAR, as it was within the last NEAR_S.

        A pair counts its co-visits over the root of both posts' visits: cosine similarity.
        """
        kept = self._near.get(name)
        now = time.monotonic()
        if kept is not None and kept[0] > now - NEAR_S:
            return kept[1]
        here = self.items.get(name)
        pairs = dict(self.after.get(name, ()))
        for other, number in here.together.items() if here else ():
            pairs[other] = pairs.get(other, 0) + number
        mine = max(here.visits if here else 1, 1)
        items = self.items
        weighed = [
            (other, number / (mine * max(items[other].visits, 1)) ** 0.5)
            for other, number in pairs.items()
            if other in items
        ]
        best = nlargest(NEAR, weighed, key=_second)
        self._near[name] = (now, best)
        return best

    def rank(self) -> None:
        """Find the popular ones again."""
        at = max((item.at for item in self.items.values()), default=0)
        half_life = 900_000_000
        self._near = {name: kept for name, kept in [*self._near.items()] if kept[0] > time.monotonic() - NEAR_S}
        scored = ((name, item.score * 2.0 ** ((item.at - at) / half_life)) for name, item in [*self.items.items()])
        self.popular = nlargest(200, scored, key=_second)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()


class Recommend:
    """Answers for the users of a process."""

    def __init__(self, items: Items, champion: Champion[Neighbours]) -> None:
        self._items, self._champion = items, champion
        self._model: Neighbours | None = None
        self.look()

    def look(self) -> None:
        """See whether another version answers now."""
        try:
            self._model = self._champion.look()
        except PredictError as error:
            _log.error("%s", error)

    def top(self, recent: Sequence[str]) -> Made:
        """The best for a user whose latest posts these are, newest last; none of them again."""
        seen = set(recent)
        if self._model is not None:
            found = self._model.top(recent, seen, TOP)
            if found:
                return Made(self._model.version, _listed(self._with_news(found, self._model, seen)))
        return Made(FALLBACK, _listed(self.fallback(recent, seen)))

    def _with_news(self, found: list[tuple[str, float]], model: Neighbours, seen: set[str]) -> list[tuple[str, float]]:
        """With what is popular now and unknown to the model in every fifth place, scored as what stands above it."""
        news = (name for name, _ in self._items.popular[:TOP] if name not in seen and not model.knows(name))
        mixed = list(found)
        for place, name in zip(range(NEWS - 1, TOP, NEWS), news, strict=False):
            mixed.insert(place, (name, mixed[min(place, len(mixed)) - 1][1]))
        return mixed[:TOP]

    def fallback(self, recent: Sequence[str], seen: set[str]) -> list[tuple[str, float]]:
        """Posts near those of the history, each of which counts a tenth less than the one after, then popular ones."""
        scores: dict[str, float] = {}
        weight = 1.0
        for name in recent[: -CONSIDERED - 1 : -1]:
            for other, near in self._items.near(name):
                scores[other] = scores.get(other, 0.0) + weight * near
            weight *= 0.9
        best = nlargest(TOP, [pair for pair in scores.items() if pair[0] not in seen], key=_second)
        if len(best) < TOP:
            have = seen.union(scores)
            best += [(name, 0.0) for name, _ in self._items.popular if name not in have][: TOP - len(best)]
        return best


_second = itemgetter(1)


def _listed(found: list[tuple[str, float]]) -> list[dict[str, str | float]]:
    return [{"post_id": name, "score": round(score, 6)} for name, score in found]
