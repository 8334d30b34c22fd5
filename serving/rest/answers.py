"""What the routes that answer with no table's rows say: their JSON, typed and documented, for the API's description.

Routes write JSON themselves; tests hold them to what is said here.
"""

from __future__ import annotations

from datetime import date as Date
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Row = TypeVar("Row")
Count = Annotated[int, Field(ge=0)]
Version = Annotated[int | None, Field(description="The version of the table that answers; null where no table does.")]
Cursor = Annotated[str | None, Field(description="`cursor` of the following page; null at the end.")]
Share = Annotated[float, Field(ge=0, le=1)]
ModelVersion = Annotated[str, Field(examples=["3"])]
Post = Annotated[str, Field(examples=["p00017"])]
User = Annotated[str, Field(examples=["u00036"])]
Service = Annotated[str, Field(examples=["gateway"])]
Host = Annotated[str, Field(examples=["db-1"])]


class _Said(BaseModel):
    """Nothing but these fields, all of them but those that have a default."""

    model_config = ConfigDict(extra="forbid")


class Collection(_Said, Generic[Row]):
    """Rows."""

    data: list[Row]
    next: Cursor
    version: Version


# --- tables --------------------------------------------------------------------------------------------------------


class Column(_Said):
    """A column of a table."""

    name: str = Field(examples=["user_id"])
    type: str = Field(description="In Spark's words.", examples=["string"])
    personal: bool = Field(description="Whether it holds personal data.")
    masked: bool = Field(description="Whether this token sees pseudonyms, or null, in its place.")


class Table(_Said):
    """A table that this token may read."""

    name: str = Field(examples=["gold.activity_minute"])
    key: list[str] = Field(description="Columns of which no two rows have the same values.")
    time: str | None = Field(description="The column that `from` and `to` are about.", examples=["window_start"])
    columns: list[Column]


class TableNow(Table):
    """A table and how it is now."""

    version: Count = Field(description="The version that is served.")
    rows: Count
    bytes: Count = Field(description="Of its files.")
    at: datetime = Field(description="When the version was committed.")
    age_s: float = Field(description="Seconds since then.")


# --- what is measured ----------------------------------------------------------------------------------------------


class LiveActivity(_Said):
    """What happens on the site now, as the real-time processor counts it."""

    at: datetime | None = Field(description="When it was counted; null where no processor shows anything.")
    active_users: Count | None = Field(description="Users who were seen of late.", examples=[41])
    events_1m: dict[str, Count] = Field(description="Events of the last 60 s, by type.", examples=[{"view": 120}])


class TrendingPost(_Said):
    """A post that draws attention."""

    rank: int = Field(ge=1)
    post_id: Post
    score: float = Field(description="Attention, which fades with time.")


class ServiceNow(_Said):
    """The newest minute of a service."""

    service: Service | None
    window_start: datetime
    requests: Count
    errors: Count
    error_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class SlowPath(_Said):
    """A path of a service, and how long its requests took."""

    path: str = Field(examples=["/v1/posts"])
    requests: Count
    errors: Count
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None


class HostNow(_Said):
    """A host, and its newest measures, shares of 1."""

    host: Host | None
    last_seen: datetime
    cpu: float | None
    memory: float | None
    disk: float | None


# --- a user --------------------------------------------------------------------------------------------------------


class Day(_Said):
    """A day of a user."""

    date: Date
    events: int
    sessions: int
    posts: int
    first_at: datetime
    last_at: datetime


class Session(_Said):
    """A span of activity without a long pause."""

    start: datetime
    end: datetime
    events: Count


class LiveSession(Session):
    """The session that goes on, or the last one."""

    funnel_step: str | None = Field(description="How far it came.", examples=["view"])


class LiveUser(_Said):
    """What a user does now."""

    last_at: datetime
    page: str | None
    device: str | None
    minute: datetime | None = Field(description="The newest minute with an event.")
    events_1m: dict[str, Count] = Field(description="Events of that minute, by type.")
    events_15m: dict[str, Count] = Field(description="Events of the 15 minutes up to it, by type.")
    session: LiveSession | None


class Profile(_Said):
    """What is known of a user, from all of their events."""

    first_at: datetime
    last_at: datetime
    events: Count
    late_events: Count
    by_type: dict[str, Count]
    sessions: Count
    session_s: float = Field(description="Of all sessions together.")
    last_session: Session | None
    page: str | None
    device: str | None
    recent_posts: list[str]


class UserActivity(_Said):
    """A user's days, what they do now, and their profile."""

    user_id: User
    days: list[Day] = Field(description="The newest first.")
    live: LiveUser | None = Field(description="Null where they were not seen of late.")
    profile: Profile | None
    version: Count = Field(description="The version of `gold.user_activity_daily` that answers.")


class Item(_Said):
    """A post that is recommended."""

    post_id: Post
    score: float | None


class Recommended(_Said):
    """What a user should see next."""

    user_id: User
    source: Literal["realtime", "batch", "popularity"] = Field(
        description="As of the last interaction, as of the last batch, or what is popular where nothing is known."
    )
    model_version: ModelVersion | None
    at: datetime | None
    age_s: float | None = Field(description="Seconds since then.")
    items: list[Item] = Field(description="The best first.")


class Notification(_Said):
    """What a user was told."""

    id: str
    user_id: User
    rule: str = Field(examples=["comment on my post"])
    severity: Literal["info", "warning", "critical"]
    kind: Literal["fired", "recovered"]
    subject: str = Field(description="What it is about.", examples=["p00017"])
    at: datetime
    text: str | None = Field(description="Null without `read:pii`, but for one's own.")
    quiet: bool | None = Field(None, description="Whether it fell into the user's quiet hours.")
    suppressed: bool | None = Field(None, description="Whether it was one too many, or of long ago.")


# --- logs ----------------------------------------------------------------------------------------------------------


class Log(_Said):
    """A log."""

    id: str
    time: datetime | None
    level: str | None = Field(examples=["error"])
    service: Service | None
    host: Host | None
    message: str | None = Field(description="Null without `read:pii`.")
    error: str | None = Field(description="Null without `read:pii`.")
    trace_id: str | None
    path: str | None = Field(examples=["/v1/posts"])
    status: int | None = Field(examples=[200])
    duration_ms: float | None


class Bar(_Said):
    """Logs of a span of time."""

    time: datetime = Field(description="Its beginning.")
    count: Count
    errors: Count = Field(description="Logs of an error's level, or of a response of 500 or more.")


class Facet(_Said):
    """How many logs have a value."""

    value: str
    count: Count


class Facets(_Said):
    """The commonest values."""

    service: list[Facet]
    level: list[Facet]
    host: list[Facet]


class Logs(_Said):
    """Logs that were found, the newest first. What counts all of them is there in the first page alone."""

    data: list[Log]
    next: Cursor
    version: None = None
    total: Count | None = Field(None, description="All that were found.")
    histogram: list[Bar] | None = None
    facets: Facets | None = None
    begin: datetime | None = Field(None, alias="from", description="The span that was searched.")
    end: datetime | None = Field(None, alias="to")
    step_s: int | None = Field(None, description="How long a bar of the histogram is.")


# --- models --------------------------------------------------------------------------------------------------------


class Model(_Said):
    """A model, and the version of it that answers."""

    name: Literal["recommender", "anomaly", "trend"]
    version: ModelVersion | None = Field(description="Null before the first.")
    kind: str | None
    published_at: datetime | None
    age_s: float | None


class Decision(_Said):
    """Who let which version answer, when and why, or refused it."""

    id: str
    model: str
    version: ModelVersion | None
    action: str = Field(examples=["promoted"])
    previous: ModelVersion | None
    who: str | None
    why: str | None
    reasons: list[str] | None = Field(description="The gate's.")
    measured: str | None = Field(description="The gate's figures, as JSON.")
    data: dict[str, int] | None = Field(description="The versions of tables that the model was trained on.")
    decided_at: datetime


class Tastes(_Said):
    """Posts for a history."""

    model_version: ModelVersion | None
    at: datetime | None
    source: Literal["champion", "popularity"]
    items: list[Item]


class Minute(_Said):
    """How unusual a minute is."""

    score: Share
    alarm: bool = Field(description="Whether the score is 0.5 or more.")
    expected: list[float | None] = Field(description="Of every value.")


class Unusual(_Said):
    """How unusual minutes are."""

    model_version: ModelVersion
    at: datetime
    minutes: list[Minute]


class Outlook(_Said):
    """What comes next."""

    model_version: ModelVersion
    at: datetime
    mean: list[float | None]
    lo: list[float | None]
    hi: list[float | None]


# --- the platform --------------------------------------------------------------------------------------------------


class Alert(_Said):
    """What a rule says of a subject."""

    rule: str = Field(examples=["error rate of a service"])
    subject: str = Field(examples=["gateway"])
    severity: Literal["info", "warning", "critical"]
    state: Literal["pending", "firing", "recovered"]
    since: datetime = Field(description="The first minute that matched.")
    value: float | str | bool | None = Field(description="Of the rule's first condition; null for real-time rules.")
    text: str
    recovered_at: datetime | None
    at: datetime = Field(description="As of when it is known.")
    source: Literal["tables", "realtime"]
    silenced: bool
    silenced_until: datetime | None


class Topic(_Said):
    """How far a topic is in gold."""

    lag_records: Count | None = Field(description="Records that are in Kafka but not in gold; null if not known.")
    lag_seconds: float | None = Field(description="The age of the oldest of them.")
    seq: int | None = Field(description="The newest batch.")
    last_cut_at: datetime | None = Field(description="When that was committed.")
    cut_age_s: float | None
    error: str | None = Field(None, description="Why nothing is known.")


class TableVersion(_Said):
    """A table as of its topic's newest batch."""

    name: str = Field(examples=["gold.activity_minute"])
    version: Count
    at: datetime
    age_s: float | None


class StoreNow(_Said):
    """How far a store is behind the tables."""

    reachable: bool
    behind_batches: dict[str, Count] | None = Field(None, description="Batches that it lacks, by topic.")
    error: str | None = None


class Batch(_Said):
    """A batch of a topic."""

    topic: str = Field(examples=["user-events"])
    seq: int
    records: Count
    valid: Count
    quarantined: Count
    duplicates: Count
    batch_ms: int | None
    committed_at: datetime


class Total(_Said):
    """All batches of a topic."""

    topic: str = Field(examples=["user-events"])
    records: Count
    valid: Count
    quarantined: Count
    duplicates: Count


class Pipeline(_Said):
    """How the pipeline is."""

    at: datetime = Field(description="When it was asked; some seconds ago at most.")
    topics: dict[str, Topic]
    tables: list[TableVersion]
    stores: dict[str, StoreNow]
    batches: list[Batch] = Field(description="The newest 60 of every topic.")
    totals: list[Total]


class LineageSource(_Said):
    """A column that another is made from, or that decides which rows there are."""

    id: str = Field(description="What it is a column of.", examples=["silver.user_events"])
    column: str = Field(examples=["occurred_at"])
    how: str = Field(
        description="As OpenLineage has it: IDENTITY, TRANSFORMATION, AGGREGATION of its values; CONDITIONAL, FILTER, "
        "GROUP_BY, WINDOW where they decide only.",
        examples=["AGGREGATION"],
    )
    what: str | None = Field(description="Such as the place in a record's JSON.", examples=["$.occurred_at"])


class LineageColumn(_Said):
    """A column and what it is made from; nothing where that is not declared."""

    name: str = Field(examples=["window_start"])
    type: str = Field(description="In Spark's words.", examples=["timestamp"])
    sources: list[LineageSource]


class LineageNode(_Said):
    """A topic, table, model, or key of a store."""

    id: str = Field(examples=["gold.activity_minute"])
    kind: str = Field(description="topic, table, model or store.", examples=["table"])
    stage: str = Field(description="topic, bronze, silver, gold, model, made or store.", examples=["gold"])
    system: str = Field(description="What holds it.", examples=["delta"])
    name: str = Field(description="Its name there.", examples=["gold.activity_minute"])
    job: str = Field(description="What writes it.", examples=["ingest.user-events"])
    version: Count | None = Field(description="Of a table, as of its topic's newest batch.")
    batch: Count | None = Field(description="The newest batch of a topic.")
    behind: Count | None = Field(description="Batches that a store lacks.")
    at: datetime | None = Field(description="When that batch was committed.")


class LineageEdge(_Said):
    """What is made from what."""

    source: str = Field(examples=["silver.user_events"])
    target: str = Field(examples=["gold.activity_minute"])


class Lineage(_Said):
    """The graph, its nodes in the order of the flow."""

    nodes: list[LineageNode]
    edges: list[LineageEdge]


class LineageOf(LineageNode):
    """One node: all that it is made from and goes into, and its columns."""

    sources: list[str] = Field(description="What it is made from at one remove.")
    upstream: list[str]
    downstream: list[str]
    columns: list[LineageColumn]
    decided_by: list[LineageSource] = Field(description="What decides which rows there are, and how they are grouped.")


class Report(_Said):
    """The report of a day that is kept."""

    date: Date
    languages: list[str] = Field(description="In which the page is kept.", examples=[["en", "ko"]])
    pdf: list[str] = Field(description="In which the PDF is kept.", examples=[["en"]])
    made_at: datetime
    url: str = Field(examples=["/reports/2026-01-31"])


class Health(_Said):
    """That it is well."""

    status: Literal["ok", "ready"]


def said(shape: Any, description: str = "The answer") -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of what a route answers with."""
    return {200: {"model": shape, "description": description}}
