"""What a report says of a UTC day, as plain data: no store, no clock, no words.

Shares and rates are 0-1, times UTC, durations in the unit of their name. None is what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from datetime import date as Date
from typing import Literal

HOURS = 24
DAY = timedelta(days=1)
Hourly = tuple[float | None, ...]
"""A value an hour of the day; None where there is none, or the hour is yet to come."""


@dataclass(frozen=True)
class Day:
    """The day of a report, as far as it has come ``now``."""

    date: Date
    now: datetime

    @property
    def begin(self) -> datetime:
        """Its midnight."""
        return datetime.combine(self.date, time(), UTC)

    @property
    def end(self) -> datetime:
        """The first moment that is no longer of it, or not yet."""
        return min(self.begin + DAY, self.now)

    @property
    def whole(self) -> bool:
        """Whether it is over."""
        return self.now >= self.begin + DAY

    def back(self, days: int) -> tuple[datetime, datetime]:
        """The same hours of an earlier day, so that a day that is not over is compared with as much of that one."""
        return self.begin - days * DAY, self.end - days * DAY


@dataclass(frozen=True)
class Figure:
    """A number, and what it was in the same hours of the day and the week before."""

    value: float | None
    day_before: float | None = None
    week_before: float | None = None

    @property
    def change(self) -> float | None:
        """Relative to the day before."""
        return change(self.value, self.day_before)

    @property
    def week_change(self) -> float | None:
        """Relative to the week before."""
        return change(self.value, self.week_before)


def change(value: float | None, before: float | None) -> float | None:
    """By which share of what was before it is more; None where that cannot be said."""
    return None if value is None or not before else value / before - 1


# --- what people do ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EventType:
    """Events of one type."""

    name: str
    events: Figure
    users: int | None
    hours: Hourly


@dataclass(frozen=True)
class Activity:
    """Events and the users behind them."""

    events: Figure
    users: Figure
    sessions: Figure
    types: tuple[EventType, ...]
    """Most frequent first."""
    hours: Hourly
    users_by_hour: Hourly
    day_before: Hourly
    week_before: Hourly

    @property
    def empty(self) -> bool:
        """Whether nobody did anything."""
        return not self.types


@dataclass(frozen=True)
class Post:
    """What was done with a post; ``attention`` weighs it as gold.trending_posts does, ``before``: a day ago."""

    post_id: str
    views: int
    likes: int
    comments: int
    shares: int
    bookmarks: int
    users: int
    attention: int
    before: int


@dataclass(frozen=True)
class Engagement:
    """Posts: how many anybody had to do with, those with most attention, and those that gained most of it."""

    posts: Figure
    interactions: Figure
    """Likes, comments, shares and bookmarks."""
    top: tuple[Post, ...]
    rising: tuple[Post, ...]

    @property
    def empty(self) -> bool:
        """Whether no post was touched."""
        return not self.top


Uses = tuple[str, int]
"""A term, and how often it was there."""


@dataclass(frozen=True)
class Keyword:
    """A keyword of a source of texts; ``new``: not one of the day before."""

    term: str
    count: int
    new: bool


@dataclass(frozen=True)
class Mood:
    """Comments by sentiment, of all languages (``language`` is None) or one."""

    language: str | None
    positive: int
    neutral: int
    negative: int
    negative_before: float | None
    """The share of negative ones the day before."""

    @property
    def comments(self) -> int:
        """All."""
        return self.positive + self.neutral + self.negative

    @property
    def negative_share(self) -> float | None:
        """Of all."""
        return self.negative / self.comments if self.comments else None


@dataclass(frozen=True)
class ErrorGroup:
    """Like error messages; ``message`` is the most frequent one, masked; ``before`` how many the day before."""

    message: str
    count: int
    before: int | None


@dataclass(frozen=True)
class Texts:
    """What texts were about, in terms that were used several times."""

    keywords: Mapping[str, tuple[Keyword, ...]]
    """By source: posts, comments, searches, errors."""
    moods: tuple[Mood, ...]
    errors: tuple[ErrorGroup, ...]

    @property
    def empty(self) -> bool:
        """Whether no text was analysed."""
        return not (self.keywords or self.moods or self.errors)


# --- what runs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A service's requests."""

    name: str
    requests: Figure
    errors: int
    error_rate: Figure
    p50_ms: float | None
    p95_ms: Figure
    p99_ms: float | None
    requests_by_hour: Hourly
    error_rate_by_hour: Hourly


@dataclass(frozen=True)
class Minute:
    """A minute of a service that was worse than its others."""

    at: datetime
    service: str
    requests: int
    errors: int
    error_rate: float | None
    p95_ms: float | None


@dataclass(frozen=True)
class Services:
    """All services together, and each."""

    requests: Figure
    errors: Figure
    error_rate: Figure
    p95_ms: Figure
    requests_by_hour: Hourly
    error_rate_by_hour: Hourly
    p95_by_hour: Hourly
    each: tuple[Service, ...]
    """Those with most requests first."""
    more: int
    """How many are left out of ``each``."""
    failing: tuple[Minute, ...]
    slow: tuple[Minute, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing was asked."""
        return not self.each


@dataclass(frozen=True)
class Episode:
    """Anomalies of one subject without a quarter of an hour's pause; the figures are those of the most unusual one."""

    kind: str
    name: str
    begin: datetime
    end: datetime
    minutes: int
    measures: tuple[str, ...]
    score: float
    value: float
    expected: float
    confirmed: tuple[str, ...]
    """Rules that fired on the same subject at about that time."""


@dataclass(frozen=True)
class Recurring:
    """Episodes of one subject with the same most unusual measure; the figures are those of the most unusual one."""

    kind: str
    name: str
    measure: str
    episodes: int
    minutes: int
    begin: datetime
    end: datetime
    score: float
    value: float
    expected: float
    confirmed: tuple[str, ...]


@dataclass(frozen=True)
class Firing:
    """How long a rule on a service, a host or the platform itself held; ``end`` is None where it still does."""

    rule: str
    severity: str
    subject: str
    begin: datetime
    end: datetime | None


@dataclass(frozen=True)
class RuleCount:
    """What a rule told."""

    rule: str
    severity: str
    fired: int
    recovered: int
    suppressed: int
    """Of those that fired: kept, but nobody was disturbed."""


@dataclass(frozen=True)
class Incidents:
    """What was unusual, and what was told about it."""

    episodes: tuple[Episode, ...]
    """Oldest first."""
    by_hour: Hourly
    """Episodes that began."""
    number: Figure
    firings: tuple[Firing, ...]
    rules: tuple[RuleCount, ...]
    told: bool
    """Whether MongoDB, which has what was told, answered."""

    @property
    def recurring(self) -> tuple[Recurring, ...]:
        """Episodes that are of a kind, together: what a rule confirms first, then the most unusual."""
        alike: dict[tuple[str, str, str], list[Episode]] = {}
        for one in self.episodes:
            alike.setdefault((one.kind, one.name, one.measures[0]), []).append(one)
        found = []
        for (kind, name, measure), each in alike.items():
            worst = max(each, key=lambda one: one.score)
            minutes, rules = sum(one.minutes for one in each), sorted({rule for one in each for rule in one.confirmed})
            begin, end = each[0].begin, max(one.end for one in each)
            figures = (worst.score, worst.value, worst.expected)
            found.append(Recurring(kind, name, measure, len(each), minutes, begin, end, *figures, tuple(rules)))
        return tuple(sorted(found, key=lambda one: (not one.confirmed, -one.score, one.kind, one.name, one.measure)))

    @property
    def empty(self) -> bool:
        """Whether nothing was unusual and no rule held."""
        return not (self.episodes or self.firings or self.rules)


@dataclass(frozen=True)
class Use:
    """How much of something a host used in its minutes: mean, 95th percentile, maximum; and what is too much."""

    mean: float
    p95: float
    highest: float
    limit: float

    @property
    def near(self) -> bool:
        """Whether 95 % of the minutes were not below nine tenths of the limit."""
        return self.p95 >= 0.9 * self.limit

    @property
    def over(self) -> bool:
        """Whether it reached the limit at any time."""
        return self.highest >= self.limit


@dataclass(frozen=True)
class Host:
    """A host's resources; ``full_in_days``: of its fullest file system, if it goes on as in the last week."""

    name: str
    cpu: Use | None
    memory: Use | None
    disk: Use | None
    cpu_by_hour: Hourly
    full_in_days: float | None

    @property
    def uses(self) -> dict[str, Use]:
        """What is known of, by name."""
        known = {"cpu": self.cpu, "memory": self.memory, "disk": self.disk}
        return {name: use for name, use in known.items() if use is not None}

    @property
    def nearness(self) -> float:
        """The largest share of a limit that 5 % of the minutes reached."""
        return max((use.p95 / use.limit for use in self.uses.values()), default=0.0)


@dataclass(frozen=True)
class Hosts:
    """Hosts, those nearest to a limit first."""

    each: tuple[Host, ...]
    more: int

    @property
    def empty(self) -> bool:
        """Whether nothing was measured."""
        return not self.each


# --- what is foreseen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foretold:
    """Five minutes of a series as they were foretold."""

    at: datetime
    mean: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Outlook:
    """A series: what it was in the day, and what was foretold of it, before the day and for the hours after it."""

    series: str
    actual: tuple[tuple[datetime, float], ...]
    foretold: tuple[Foretold, ...]
    """Forecasts that were made before their time."""
    expected: float | None
    """Of the hours ahead, the mean; a sum where ``counts``."""
    same_hours_before: float | None
    """What it was in the same hours the day before."""
    counts: bool


@dataclass(frozen=True)
class Judged:
    """How forecasts of like series turned out; the last one that was made before its time counts."""

    measure: str
    series: int
    steps: int
    coverage: float
    """The share of values within the interval, 0.95 of which were to be."""
    error: float | None
    """Mean absolute error, relative to that of the last value known when the forecast was made."""


@dataclass(frozen=True)
class Reaching:
    """A series that may reach its limit in the hours ahead: ``certain`` where it is expected to."""

    series: str
    limit: float
    at: datetime
    certain: bool


@dataclass(frozen=True)
class Forecasts:
    """What is expected from ``begin`` to ``end``, and how the day's forecasts did."""

    begin: datetime
    end: datetime | None
    made_at: datetime | None
    version: str | None
    outlooks: tuple[Outlook, ...]
    judged: tuple[Judged, ...]
    coverage: float | None
    reaching: tuple[Reaching, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing was foretold."""
        return not (self.outlooks or self.judged)


# --- how well it is done -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """What the gate or a person decided on a version."""

    version: str
    action: Literal["promoted", "rolled back", "refused"]
    why: str
    reasons: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class Measure:
    """A figure of a version on held-out time, beside that of what it had to beat."""

    name: str
    value: float
    rival: float | None


@dataclass(frozen=True)
class Model:
    """Which version of a model answered at the end of the day, why, and what it was worth."""

    name: str
    champion: Decision | None
    previous: str | None
    measures: tuple[Measure, ...]
    rival: str | None
    last: Decision
    decisions: int
    """How many in the day."""
    refused: int
    used_at: datetime | None
    """When its newest batch answers were made."""


@dataclass(frozen=True)
class Models:
    """All."""

    each: tuple[Model, ...]

    @property
    def empty(self) -> bool:
        """Whether none was ever decided on."""
        return not self.each


@dataclass(frozen=True)
class Intake:
    """The records of a topic that came in during the day, by the ledger."""

    topic: str
    records: Figure
    valid: int
    quarantined: Figure
    duplicates: int
    balanced: bool
    """Whether valid, quarantined and duplicates add up to the records, in every batch."""
    gaps: int
    """Batches that did not begin where the one before had ended."""

    @property
    def quarantined_share(self) -> float | None:
        """Of the records."""
        return _share(self.quarantined.value, self.records.value)

    @property
    def quarantined_before(self) -> float | None:
        """The same, the day before."""
        return _share(self.quarantined.day_before, self.records.day_before)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


@dataclass(frozen=True)
class Reason:
    """Why records of a topic were quarantined, and what has become of them."""

    topic: str
    reason: str
    records: int
    open: int
    replayed: int
    discarded: int


@dataclass(frozen=True)
class Drift:
    """A field that the contract does not know; ``new``: not seen in the week before."""

    topic: str
    field: str
    records: int
    new: bool


@dataclass(frozen=True)
class Quality:
    """What came in, and what became of it."""

    intakes: tuple[Intake, ...]
    records: Figure
    records_by_hour: Hourly
    quarantined: Figure
    reasons: tuple[Reason, ...]
    drift: tuple[Drift, ...]
    warnings: tuple[tuple[str, str, int], ...]
    """(topic, rule, records): expectations that flag and do not refuse."""

    @property
    def empty(self) -> bool:
        """Whether nothing came in."""
        return not self.intakes

    @property
    def balanced(self) -> bool:
        """Whether every record is accounted for, by the ledger."""
        return all(intake.balanced for intake in self.intakes)

    @property
    def share(self) -> float | None:
        """Of all records that came, those quarantined."""
        return _share(self.quarantined.value, self.records.value)


@dataclass(frozen=True)
class Batches:
    """A topic's batches; a record's delay is from its arrival in Kafka until gold and the ledger had it."""

    topic: str
    number: int
    p50_ms: float
    p95_ms: float
    highest_ms: float
    delay_p50_s: float | None
    delay_p95_s: Figure
    """Of the oldest record of a batch."""
    on_time: float | None
    """The share of batches within the contract's freshness."""
    objective_s: float
    delay_by_hour: Hourly


@dataclass(frozen=True)
class Job:
    """A job of the timetable in the day; ``last`` is the outcome of its last run."""

    name: str
    runs: int
    failed: int
    problems: int
    longest_s: float
    last: str


@dataclass(frozen=True)
class Freshness:
    """How quickly records were there to be read, and whether what was planned ran."""

    topics: tuple[Batches, ...]
    jobs: tuple[Job, ...]

    @property
    def empty(self) -> bool:
        """Whether no batch was made and nothing was planned."""
        return not (self.topics or self.jobs)


@dataclass(frozen=True)
class Report:
    """All of a day."""

    day: Day
    activity: Activity
    engagement: Engagement
    services: Services
    incidents: Incidents
    hosts: Hosts
    forecasts: Forecasts
    models: Models
    texts: Texts
    quality: Quality
    freshness: Freshness
    missing: tuple[str, ...]
    """Tables that are not there."""
    versions: Mapping[str, int]
    """The version of each table that was read."""

    @property
    def empty(self) -> bool:
        """Whether nothing at all is known of the day; models answer on days without anything, too."""
        sections = (self.activity, self.engagement, self.services, self.incidents, self.hosts, self.texts)
        return all(section.empty for section in sections) and self.quality.empty and not self.freshness.topics
