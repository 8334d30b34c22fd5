"""Trending topics: terms whose rate rises against their own past."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import log, sqrt

PRIOR = 1000.0
"""How many words the prior weighs: what both times have in common (Monroe et al., section 3.3.5)."""


@dataclass(frozen=True)
class Topic:
    """A term, how often it was counted in the window and before, and by how many standard errors its odds rose."""

    term: str
    count: float
    before: float
    z: float


def trending(
    counts: Iterable[tuple[datetime, str, float]],
    now: datetime,
    window: timedelta,
    past: timedelta,
    *,
    top: int = 20,
    least: float = 3,
    z: float = 1.96,
) -> list[Topic]:
    """The terms whose odds in the last ``window`` are higher than in the ``past`` before it, most certain first.

    The log-odds ratio with an informative Dirichlet prior over its standard error (Monroe, Colaresi and Quinn,
    "Fightin' Words", Political Analysis 16(4), 2008, equations 16 to 22): a rare term needs more than a frequent one,
    and that all terms grow moves none.

    Args:
        counts: (time, term, how often), in any order; what is outside of both times does not count.
        now: the window's end, exclusive.
        window: for which terms are ranked.
        past: before it, against which.
        top: at most so many.
        least: a term counted less often in the window is none.
        z: a term that rose by fewer standard errors is none.
    """
    recent: defaultdict[str, float] = defaultdict(float)
    before: defaultdict[str, float] = defaultdict(float)
    for time, term, count in counts:
        if now - window <= time < now:
            recent[term] += count
        elif now - window - past <= time < now - window:
            before[term] += count
    n, m = sum(recent.values()), sum(before.values())
    if not n:
        return []
    topics = []
    for term, count in recent.items():
        prior = PRIOR * (count + before[term]) / (n + m)
        here, there = count + prior, before[term] + prior
        others_here, others_there = n + PRIOR - here, m + PRIOR - there
        if min(others_here, others_there) <= 0:  # the only term there is
            continue
        score = (log(here / others_here) - log(there / others_there)) / sqrt(1 / here + 1 / there)
        if count >= least and score >= z:
            topics.append(Topic(term, count, before[term], score))
    return sorted(topics, key=lambda topic: (-topic.z, topic.term))[:top]
