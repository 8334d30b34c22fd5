"""The types of the schema that are written by hand: what stands around tables, and their nested fields."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import strawberry
from strawberry.types.info import Info

from serving.ask import ask
from serving.auth import Caller
from serving.catalog import Readable
from serving.graphql import rows
from serving.graphql.context import Context
from serving.graphql.rows import FIRST, MEANINGS, QUERY_WEIGHT, After, First, Since, Until, Version, page, words
from serving.graphql.scalars import JSON, DateTime, Long
from serving.problems import Problem
from serving.reads import age_s
from serving.service import now

STORE_WEIGHT = 5
"""What a question to Redis or MongoDB weighs, in fields."""
Asked = Info[Context, None]

# --- tables whose rows have a type -----------------------------------------------------------------------------------

ACTIVITY = rows.rows("gold.activity_minute", "ActivityMinute", "events and users a minute")
ENGAGEMENT = rows.rows("gold.post_engagement_daily", "PostEngagementDay", "what posts drew a day")
USER_DAYS = rows.rows("gold.user_activity_daily", "UserActivityDay", "what users did a day")
HEALTH = rows.rows("gold.service_health_minute", "ServiceHealthMinute", "requests of services a minute")
UTILIZATION = rows.rows("gold.host_utilization_minute", "HostUtilizationMinute", "metrics of hosts a minute")
ANOMALIES = rows.rows("gold.anomalies", "Anomaly", "unusual values")
FORECASTS = rows.rows("gold.forecasts", "Forecast", "expected values")
RECOMMENDATIONS = rows.rows("gold.recommendations", "BatchRecommendation", "recommendations of the newest batch")
DECISIONS = rows.rows("ops.promotions", "ModelDecision", "decisions on versions of models")


# --- any table -------------------------------------------------------------------------------------------------------


@strawberry.enum(description="How a condition compares.")
class Operator(Enum):
    """How a condition compares."""

    EQ = strawberry.enum_value("eq", description=MEANINGS["eq"])
    NE = strawberry.enum_value("ne", description=MEANINGS["ne"])
    GT = strawberry.enum_value("gt", description=MEANINGS["gt"])
    GE = strawberry.enum_value("ge", description=MEANINGS["ge"])
    LT = strawberry.enum_value("lt", description=MEANINGS["lt"])
    LE = strawberry.enum_value("le", description=MEANINGS["le"])
    IN = strawberry.enum_value("in", description=MEANINGS["in"])
    CONTAINS = strawberry.enum_value("contains", description=MEANINGS["contains"])
    NULL = strawberry.enum_value("null", description=MEANINGS["null"])


@strawberry.input(description="A condition on a column of any table.")
class Condition:
    """A condition on a column of any table."""

    column: str = strawberry.field(description="The column.")
    operator: Operator = strawberry.field(description="How it is compared.")
    value: JSON = strawberry.field(description="With what: a list for IN, a truth value for NULL.")


@strawberry.input(description="An order by a column of any table.")
class Order:
    """An order by a column of any table."""

    column: str = strawberry.field(description="The column.")
    descending: bool = strawberry.field(default=False, description="The greatest first.")


ROWS = rows.connection(JSON, "Row", "rows of a table")


@strawberry.type(description="A column of a table.")
class Column:
    """A column of a table."""

    name: str = strawberry.field(description="The name.")
    type: str = strawberry.field(description="The type, as Spark SQL writes it.")
    personal: bool = strawberry.field(description="Whether it is personal.")
    masked: bool = strawberry.field(description="Whether this token sees it masked.")


@strawberry.type(description="How a table is now.")
class TableState:
    """How a table is now."""

    version: Long = strawberry.field(description="The version that is served.")
    rows: Long = strawberry.field(description="Rows.")
    bytes: Long = strawberry.field(description="Bytes of files.")
    at: DateTime = strawberry.field(description="When the version was committed.")
    age_s: float = strawberry.field(description="Seconds since then.")


@strawberry.type(description="A table that this token may read.")
class Table:
    """A table that a token may read."""

    readable: strawberry.Private[Readable]
    caller: strawberry.Private[Caller]
    name: str = strawberry.field(description="`layer.name`.")
    key: list[str] = strawberry.field(description="Columns of which every combination is there once.")
    time: str | None = strawberry.field(description="The column that `from` and `to` bound.")

    @strawberry.field(description="The columns.", metadata={"size": 12})
    def columns(self) -> list[Column]:
        """The columns."""
        hidden = self.readable.hidden(self.caller)
        return [
            Column(
                name=f.name,
                type=f.dataType.simpleString(),
                personal=f.name in self.readable.personal,
                masked=f.name in hidden,
            )
            for f in self.readable.table.schema
        ]

    @strawberry.field(graphql_type=TableState | None, description="How it is now.", metadata={"weight": QUERY_WEIGHT})
    async def state(self, info: Asked) -> Any:
        """How it is now."""
        found = await info.context.service.snapshot(self.readable, self.caller)
        return {
            "version": found.version, "rows": found.rows, "bytes": found.bytes, "at": found.at,
            "age_s": age_s(found.at, now()),
        }  # fmt: skip

    @strawberry.field(
        graphql_type=ROWS | None, description="Rows, the newest first, as JSON objects.",
        metadata={"weight": QUERY_WEIGHT, "sized": "first", "size": FIRST, "leaf": 10},
    )  # fmt: skip
    async def rows(
        self,
        info: Asked,
        select: Annotated[list[str] | None, strawberry.argument(description="Columns; all by default.")] = None,
        first: First = FIRST,
        after: After = None,
        filter: Annotated[list[Condition] | None, strawberry.argument(description="All of which hold.")] = None,
        order: Annotated[list[Order] | None, strawberry.argument(description="The key always comes last.")] = None,
        since: Since = None,
        until: Until = None,
        version: Version = None,
    ) -> Any:
        """Rows, the newest first."""
        question = ask(
            self.readable, self.caller, conditions=[_words(one) for one in filter or ()],
            order=",".join(f"{'-' if one.descending else ''}{one.column}" for one in order) if order else None,
            since=since, until=until, limit=first, version=version,
        )  # fmt: skip
        wanted = ask(self.readable, self.caller, select=",".join(select)).select if select else question.select
        return await page(info.context, question, wanted, after)


def _words(one: Condition) -> rows.Words:
    operator = str(one.operator.value)
    if (operator == "in") != isinstance(one.value, list):
        raise Problem(422, "invalid-request", f"{one.column[:100]}: IN takes a list, and nothing else does.")
    if isinstance(one.value, list):
        return one.column, operator, [words(value) for value in one.value]
    return one.column, operator, words(one.value)


# --- posts -----------------------------------------------------------------------------------------------------------


@strawberry.type(description="A post.")
class Post:
    """A post."""

    id: strawberry.ID = strawberry.field(description="The post's id.")
    engagement = rows.field(ENGAGEMENT, "read:metrics", "What it drew, a day.", of="post_id", first=30)


@strawberry.type(description="A post that draws attention now.")
class TrendingPost:
    """A post that draws attention now."""

    rank: int = strawberry.field(description="The place, from 1 on.")
    post_id: strawberry.ID = strawberry.field(description="The post's id.")
    score: float = strawberry.field(description="How much attention.")

    @strawberry.field(description="The post.")
    @staticmethod
    def post(root: strawberry.Parent[Any]) -> Post:
        """The post."""
        return Post(id=root["post_id"])


# --- users -----------------------------------------------------------------------------------------------------------


@strawberry.type(description="A post that a user should see.")
class RecommendedPost:
    """A post that a user should see."""

    post_id: strawberry.ID = strawberry.field(description="The post's id.")
    score: float | None = strawberry.field(description="How well it suits; comparable in one list alone.")

    @strawberry.field(description="The post.")
    @staticmethod
    def post(root: strawberry.Parent[Any]) -> Post:
        """The post."""
        return Post(id=root["post_id"])


@strawberry.type(description="What a user should see next.")
class Recommended:
    """What a user should see next."""

    source: str = strawberry.field(description="realtime, batch, or popularity where nothing is known of the user.")
    model_version: str | None = strawberry.field(description="The version of the model.")
    at: DateTime | None = strawberry.field(description="When it was made.")
    age_s: float | None = strawberry.field(description="Seconds since then.")
    items: list[RecommendedPost] = strawberry.field(description="The best first.")


@strawberry.type(description="Something that a user was told.")
class Notification:
    """Something that a user was told."""

    id: strawberry.ID = strawberry.field(description="The notification's id.")
    user_id: strawberry.ID = strawberry.field(description="The user.")
    rule: str | None = strawberry.field(description="The rule that made it.")
    severity: str | None = strawberry.field(description="How grave.")
    kind: str | None = strawberry.field(description="fired, recovered, …")
    subject: str | None = strawberry.field(description="What it is about.")
    at: DateTime = strawberry.field(description="When.")
    text: str | None = strawberry.field(description="The text; null without `read:pii`, but for one's own.")
    quiet: bool | None = strawberry.field(description="Whether it came in quiet hours.")
    suppressed: bool | None = strawberry.field(description="Whether it was not sent, as like ones were.")


NOTIFICATIONS = rows.connection(Notification, "Notification", "notifications", versioned=False)


class Told:
    """A page of notifications as a connection's fields; cursors are those of REST."""

    def __init__(self, context: Context, user: str, found: list[dict[str, Any]], more: bool, later: bool) -> None:
        self._context, self._user, self._found = context, user, found
        self.has_next_page, self.has_previous_page = more, later
        self._cursors: dict[int, str] = {}

    def cursor(self, at: int) -> str:
        """Of a notification, sealed once."""
        if at not in self._cursors:
            row, seal = self._found[at], self._context.service.cursors.seal
            place = [row["at"], row["id"]]
            self._cursors[at] = seal(self._context.caller, f"notifications {self._user}", place, None)
        return self._cursors[at]

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The notifications."""
        return [self._context.service.told(row, self._context.caller) for row in self._found]

    @property
    def edges(self) -> list[dict[str, Any]]:
        """With their cursors."""
        return [{"cursor": self.cursor(at), "node": node} for at, node in enumerate(self.nodes)]

    @property
    def page_info(self) -> Told:
        """This page."""
        return self

    @property
    def start_cursor(self) -> str | None:
        """Of the first one."""
        return self.cursor(0) if self._found else None

    @property
    def end_cursor(self) -> str | None:
        """Of the last one."""
        return self.cursor(len(self._found) - 1) if self._found else None


@strawberry.type(description="A user.")
class User:
    """A user whom the caller may ask for."""

    id: strawberry.ID = strawberry.field(description="The user's id.")
    activity = rows.field(USER_DAYS, "read:users", "What they did, a day.", of="user_id", first=30)

    @strawberry.field(
        description="What they do now; null of one who was not seen of late.", metadata={"weight": STORE_WEIGHT}
    )
    async def live(self, info: Asked) -> JSON | None:
        """What they do now."""
        return await info.context.loaders.live(self.id)  # type: ignore[no-any-return]

    @strawberry.field(description="What the real-time processor knows of them.", metadata={"weight": STORE_WEIGHT})
    async def profile(self, info: Asked) -> JSON | None:
        """What the real-time processor knows of them."""
        return await info.context.loaders.profile(self.id)  # type: ignore[no-any-return]

    @strawberry.field(
        graphql_type=Recommended | None, description="What they should see next.",
        metadata={"weight": STORE_WEIGHT, "sized": "first", "size": FIRST, "most": 100},
    )  # fmt: skip
    async def recommendations(self, info: Asked, first: First = FIRST) -> Any:
        """What they should see next."""
        return await info.context.loaders.recommendations(self.id, first)

    @strawberry.field(
        graphql_type=NOTIFICATIONS | None, description="What they were told, the newest first.",
        metadata={"weight": STORE_WEIGHT, "sized": "first", "size": FIRST, "most": 200},
    )  # fmt: skip
    async def notifications(self, info: Asked, first: First = FIRST, after: After = None) -> Any:
        """What they were told, the newest first."""
        context, limit = info.context, first
        if after is None:
            found = await context.loaders.notifications(self.id, limit + 1)
        else:
            (at, last), _ = context.service.cursors.open(context.caller, f"notifications {self.id}", after)
            found = await context.service.reads.notifications(self.id, (at, last), limit + 1)
        shown = found[:limit]
        if shown:
            context.service.record(context.caller, "notifications", ("user_id", "text"), len(shown), None)
        return Told(context, self.id, shown, len(found) > limit, after is not None)


# --- services and hosts ----------------------------------------------------------------------------------------------


@strawberry.type(description="A path of a service.")
class SlowPath:
    """A path of a service."""

    path: str = strawberry.field(description="The path.")
    requests: Long = strawberry.field(description="Requests.")
    errors: Long = strawberry.field(description="Requests answered with 500 or above.")
    p50_ms: float | None = strawberry.field(description="Median duration.")
    p95_ms: float | None = strawberry.field(description="95th percentile of durations.")
    max_ms: float | None = strawberry.field(description="The longest duration.")


@strawberry.type(description="A service.")
class Service:
    """A service."""

    id: strawberry.Private[str]

    @strawberry.field(description="The name.")
    def name(self) -> str:
        """The name."""
        return self.id

    @strawberry.field(
        graphql_type=HEALTH.node | None, description="Its newest minute of the last day.",
        metadata={"weight": QUERY_WEIGHT},
    )  # fmt: skip
    async def newest(self, info: Asked) -> Any:
        """Its newest minute of the last day."""
        return (await info.context.loaders.newest("service")).get(self.id)

    health = rows.field(HEALTH, "read:metrics", "Its requests, errors and durations, a minute.", of="service")

    @strawberry.field(
        graphql_type=list[SlowPath] | None, description="Its slowest paths in the newest minutes of logs.",
        metadata={"weight": QUERY_WEIGHT, "sized": "first", "size": FIRST, "most": 100},
    )  # fmt: skip
    async def slowest_paths(
        self,
        info: Asked,
        minutes: Annotated[int, strawberry.argument(description="1 to 1440.")] = 60,
        first: First = FIRST,
    ) -> Any:
        """Its slowest paths in the newest minutes of logs."""
        if not 1 <= minutes <= 1440:
            raise Problem(422, "invalid-request", "minutes is from 1 to 1440.")
        return await info.context.loaders.paths(self.id, minutes, first)


@strawberry.type(description="The newest of a host.")
class HostNow:
    """The newest of a host."""

    last_seen: DateTime = strawberry.field(description="Its newest minute.")
    cpu: float | None = strawberry.field(description="Share of processors in use, 0 to 1.")
    memory: float | None = strawberry.field(description="Share of memory in use, 0 to 1.")
    disk: float | None = strawberry.field(description="Share of disk in use, 0 to 1.")


@strawberry.type(description="A host.")
class Host:
    """A host."""

    id: strawberry.Private[str]

    @strawberry.field(description="The name.")
    def name(self) -> str:
        """The name."""
        return self.id

    @strawberry.field(
        graphql_type=HostNow | None, description="Its newest values of the last day.", metadata={"weight": QUERY_WEIGHT}
    )
    async def newest(self, info: Asked) -> Any:
        """Its newest values of the last day."""
        return (await info.context.loaders.newest("host")).get(self.id)

    utilization = rows.field(UTILIZATION, "read:metrics", "Its metrics, a minute.", of="host")


# --- models ----------------------------------------------------------------------------------------------------------


@strawberry.type(description="A model, and the version that answers.")
class Model:
    """A model, and the version that answers."""

    id: strawberry.Private[str]
    name: str = strawberry.field(description="The name.")
    version: str | None = strawberry.field(description="The version that answers; null before the first.")
    kind: str | None = strawberry.field(description="How that version works.")
    published_at: DateTime | None = strawberry.field(description="Since when it answers.")
    age_s: float | None = strawberry.field(description="Seconds since then.")
    decisions = rows.field(
        DECISIONS, "predict", "Who let which version answer, when and why, and what was refused.", of="model"
    )


# --- what happens now ------------------------------------------------------------------------------------------------


@strawberry.type(description="Events of a type.")
class EventCount:
    """Events of a type."""

    event_type: str = strawberry.field(description="The type.")
    events: Long = strawberry.field(description="How many.")


@strawberry.type(description="The site as the real-time processor counts it.")
class Site:
    """The site as the real-time processor counts it."""

    at: DateTime | None = strawberry.field(description="When it was counted.")
    active_users: Long | None = strawberry.field(description="Users who are active.")
    events_1m: list[EventCount] = strawberry.field(
        description="Events of the last 60 s by type.", metadata={"size": 10}
    )


@strawberry.type(description="Something that a rule watches over.")
class Alert:
    """Something that a rule watches over."""

    rule: str = strawberry.field(description="The rule.")
    subject: str | None = strawberry.field(description="What it is about.")
    severity: str | None = strawberry.field(description="How grave.")
    state: str | None = strawberry.field(description="pending, firing or recovered.")
    since: DateTime | None = strawberry.field(description="Since when.")
    value: float | None = strawberry.field(description="What was measured.")
    text: str | None = strawberry.field(description="What is wrong.")
    silenced: bool | None = strawberry.field(description="Whether nobody is told.")


@strawberry.type(description="A version of a table that is served from now on.")
class TableVersion:
    """A version of a table that is served from now on."""

    name: str = strawberry.field(description="`layer.name`.")
    version: Long = strawberry.field(description="The version.")
    at: DateTime = strawberry.field(description="When it was committed.")


def site(found: dict[str, Any]) -> dict[str, Any]:
    """What the processor shows as a :class:`Site`."""
    counts = [{"event_type": name, "events": n} for name, n in sorted(found["events_1m"].items())]
    return {"at": found["at"], "active_users": found["active_users"], "events_1m": counts}
