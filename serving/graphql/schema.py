"""The schema: what can be asked, and what can be subscribed to. It is committed as ``docs/schema.graphql``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any

import strawberry
from graphql import GraphQLSchema
from strawberry.schema.config import StrawberryConfig

from serving.auth import Scope
from serving.catalog import catalog, find
from serving.graphql import rows, types
from serving.graphql.live import Topic
from serving.graphql.rows import FIRST, QUERY_WEIGHT, First
from serving.graphql.scalars import SCALARS
from serving.graphql.types import STORE_WEIGHT, Asked
from serving.problems import Problem

MOST_IDS = 100
"""Parents of one field; their nested fields are loaded together."""
Id = Annotated[strawberry.ID, strawberry.argument(description="The id.")]
Name = Annotated[str, strawberry.argument(description="The name.")]
Ids = Annotated[list[strawberry.ID], strawberry.argument(description=f"Up to {MOST_IDS} ids.")]
Device = Annotated[str | None, strawberry.argument(description="Among users of a device.")]
Referrer = Annotated[str | None, strawberry.argument(description="Among users who came from a host: example.com.")]
_TRENDING = {"weight": STORE_WEIGHT, "sized": "first", "size": FIRST, "most": 100}
_MANY = {"sized": "ids", "size": MOST_IDS}


def _said(words: str, scope: Scope) -> str:
    return f"{words} Needs the scope `{scope}`."


def _each(ids: list[strawberry.ID]) -> list[strawberry.ID]:
    if len(ids) > MOST_IDS:
        raise Problem(422, "invalid-request", f"At most {MOST_IDS} ids.")
    return [_named(one) for one in ids]


def _named(one: strawberry.ID) -> strawberry.ID:
    if not 0 < len(one) <= 300 or "\x00" in one:
        raise Problem(422, "invalid-request", "An id or a name has 1 to 300 characters, none of them NUL.")
    return one


def _part(device: str | None, referrer: str | None) -> str | None:
    for name, value in (("device", device), ("referrer", referrer)):
        if value:
            if len(value) > 100:
                raise Problem(422, "invalid-request", f"{name} has at most 100 characters.")
            return f"{name}:{value}"
    return None


@strawberry.type(
    description="What can be asked. A field whose scope the token lacks is null, with an error of its own."
)
class Query:
    """What can be asked."""

    @strawberry.field(
        graphql_type=list[types.Table] | None, metadata={"size": 25},
        description=_said("The tables that this token may read.", "read:tables"),
    )  # fmt: skip
    def tables(self, info: Asked) -> Any:
        """The tables that this token may read."""
        context = info.context
        context.need("read:tables")
        found = []
        for readable in catalog().values():
            try:
                readable.admit(context.caller)
            except Problem:
                continue
            found.append(_table(info, readable.name))
        return found

    @strawberry.field(graphql_type=types.Table | None, description=_said("A table.", "read:tables"))
    def table(self, info: Asked, name: Annotated[str, strawberry.argument(description="`layer.name`.")]) -> Any:
        """A table."""
        info.context.need("read:tables")
        return _table(info, name)

    activity = rows.field(types.ACTIVITY, "read:metrics", "Events and users a minute, by type of event.")

    @strawberry.field(
        graphql_type=types.Site | None, metadata={"weight": STORE_WEIGHT, "size": 1},
        description=_said("Who is active now, and events of the last 60 s by type.", "read:metrics"),
    )  # fmt: skip
    async def live(self, info: Asked) -> Any:
        """Who is active now."""
        info.context.need("read:metrics")
        return types.site(await info.context.service.reads.site())

    @strawberry.field(
        graphql_type=list[types.TrendingPost] | None, metadata=_TRENDING,
        description=_said("The posts that draw attention now, the most first.", "read:metrics"),
    )  # fmt: skip
    async def trending(
        self, info: Asked, device: Device = None, referrer: Referrer = None, first: First = FIRST
    ) -> Any:
        """The posts that draw attention now."""
        info.context.need("read:metrics")
        return await info.context.service.reads.trending(_part(device, referrer), first)

    @strawberry.field(graphql_type=types.Post | None, description=_said("A post, by its id.", "read:metrics"))
    def post(self, info: Asked, id: Id) -> Any:
        """A post, by its id."""
        info.context.need("read:metrics")
        return types.Post(id=_named(id))

    @strawberry.field(
        graphql_type=list[types.Post] | None, metadata=_MANY, description=_said("Posts, by their ids.", "read:metrics")
    )
    def posts(self, info: Asked, ids: Ids) -> Any:
        """Posts, by their ids."""
        info.context.need("read:metrics")
        return [types.Post(id=one) for one in _each(ids)]

    @strawberry.field(
        graphql_type=types.User | None,
        description=_said("A user, by their id; a user's token finds that user alone.", "read:users"),
    )
    def user(self, info: Asked, id: Id) -> Any:
        """A user, by their id."""
        info.context.need("read:users")
        info.context.service.about(info.context.caller, _named(id))
        return types.User(id=id)

    @strawberry.field(
        graphql_type=list[types.User | None] | None, metadata=_MANY,
        description=_said("Users, by their ids; null for each whom a user's token does not find.", "read:users"),
    )  # fmt: skip
    def users(self, info: Asked, ids: Ids) -> Any:
        """Users, by their ids."""
        info.context.need("read:users")
        found: list[types.User | Problem] = []
        for one in _each(ids):
            try:
                info.context.service.about(info.context.caller, one)
                found.append(types.User(id=one))
            except Problem as problem:
                found.append(problem)
        return found

    @strawberry.field(
        graphql_type=list[types.Service] | None, metadata={"weight": QUERY_WEIGHT, "size": 20},
        description=_said("The services that had requests in the last day.", "read:metrics"),
    )  # fmt: skip
    async def services(self, info: Asked) -> Any:
        """The services that had requests in the last day."""
        info.context.need("read:metrics")
        return [types.Service(id=name) for name in await info.context.loaders.newest("service")]

    @strawberry.field(graphql_type=types.Service | None, description=_said("A service, by its name.", "read:metrics"))
    def service(self, info: Asked, name: Name) -> Any:
        """A service, by its name."""
        info.context.need("read:metrics")
        return types.Service(id=_named(strawberry.ID(name)))

    @strawberry.field(
        graphql_type=list[types.Host] | None, metadata={"weight": QUERY_WEIGHT, "size": 20},
        description=_said("The hosts that were seen in the last day.", "read:metrics"),
    )  # fmt: skip
    async def hosts(self, info: Asked) -> Any:
        """The hosts that were seen in the last day."""
        info.context.need("read:metrics")
        return [types.Host(id=name) for name in await info.context.loaders.newest("host")]

    @strawberry.field(graphql_type=types.Host | None, description=_said("A host, by its name.", "read:metrics"))
    def host(self, info: Asked, name: Name) -> Any:
        """A host, by its name."""
        info.context.need("read:metrics")
        return types.Host(id=_named(strawberry.ID(name)))

    anomalies = rows.field(types.ANOMALIES, "read:metrics", "What was unusual.")
    forecasts = rows.field(types.FORECASTS, "read:metrics", "What is expected.")
    recommendations = rows.field(types.RECOMMENDATIONS, "read:users", "Recommendations of the newest batch.")

    @strawberry.field(
        graphql_type=list[types.Model] | None, metadata={"weight": STORE_WEIGHT, "size": 3},
        description=_said("The models and the version of each that answers.", "predict"),
    )  # fmt: skip
    async def models(self, info: Asked) -> Any:
        """The models and the version of each that answers."""
        context = info.context
        context.need("predict")
        found = await context.service.thread(context.platform.predictions.models)
        return [types.Model(id=one["name"], **{"kind": None, **one}) for one in found]


@strawberry.type(description="What can be subscribed to. Of states the newest comes first, and then every change.")
class Subscription:
    """What can be subscribed to."""

    @strawberry.subscription(
        graphql_type=types.Site, metadata={"size": 1},
        description=_said("Who is active, and events of the last 60 s by type.", "read:metrics"),
    )  # fmt: skip
    async def live(self, info: Asked) -> AsyncIterator[Any]:
        """Who is active."""
        info.context.need("read:metrics")
        async for _, value in _listening(info, Topic("live")):
            yield types.site(value)

    @strawberry.subscription(
        graphql_type=list[types.TrendingPost], metadata=_TRENDING,
        description=_said("The posts that draw attention, the most first.", "read:metrics"),
    )  # fmt: skip
    async def trending(
        self, info: Asked, device: Device = None, referrer: Referrer = None, first: First = FIRST
    ) -> AsyncIterator[Any]:
        """The posts that draw attention."""
        info.context.need("read:metrics")
        before = None
        async for _, value in _listening(info, Topic("trending", _part(device, referrer))):
            if before != (before := value[:first]):
                yield before

    @strawberry.subscription(
        graphql_type=types.Notification,
        description=_said("What a user is told from now on; a user's token hears that user alone.", "read:users"),
    )
    async def notifications(self, info: Asked, user: Id) -> AsyncIterator[Any]:
        """What a user is told from now on."""
        context = info.context
        context.need("read:users")
        context.service.about(context.caller, _named(user))
        async for _, value in _listening(info, Topic("notification", user)):
            context.service.record(context.caller, "notifications", ("user_id", "text"), 1, None)
            yield context.service.told(value, context.caller)

    @strawberry.subscription(
        graphql_type=types.Alert, description=_said("What rules find wrong, and what is well again.", "read:metrics")
    )
    async def alerts(self, info: Asked) -> AsyncIterator[Any]:
        """What rules find wrong, and what is well again."""
        info.context.need("read:metrics")
        async for _, value in _listening(info, Topic("alert")):
            yield value

    @strawberry.subscription(
        graphql_type=types.TableVersion,
        description=_said("Versions of tables that are served from now on, and now.", "read:metrics"),
    )
    async def table_versions(
        self, info: Asked, names: Annotated[list[str], strawberry.argument(description="Up to 20, `layer.name`.")]
    ) -> AsyncIterator[Any]:
        """Versions of tables that are served from now on, and now."""
        info.context.need("read:metrics")
        if not 0 < len(names) <= 20:
            raise Problem(422, "invalid-request", "names are 1 to 20 tables.")
        for name in names:
            find(name).admit(info.context.caller)
        async for _, value in _listening(info, *(Topic("table", name) for name in dict.fromkeys(names))):
            yield value


async def _listening(info: Asked, *topics: Topic) -> AsyncIterator[Any]:
    listening = info.context.platform.source.listen(info.context.caller, *topics)
    try:
        async for found in listening:
            yield found
    finally:
        await listening.aclose()  # type: ignore[attr-defined]


def _table(info: Asked, name: Name) -> types.Table:
    readable = find(name)
    readable.admit(info.context.caller)
    return types.Table(
        readable=readable, caller=info.context.caller, name=name, key=list(readable.table.key), time=readable.time
    )


def _value(source: Any, name: str) -> Any:
    """A plain field: of a row, its column."""
    return source.get(name) if type(source) is dict else getattr(source, name)


class _Schema(strawberry.Schema):
    """Strawberry's schema, of which the types are used: documents are run by :mod:`serving.graphql.execution`."""

    @property
    def compiled(self) -> GraphQLSchema:
        """The schema as graphql-core has it."""
        return self._schema


@cache
def _made() -> _Schema:
    config = StrawberryConfig(default_resolver=_value, scalar_map=SCALARS, disable_field_suggestions=True)
    return _Schema(Query, subscription=Subscription, config=config)


def schema() -> GraphQLSchema:
    """The schema, made once."""
    return _made().compiled


def sdl() -> str:
    """The schema as text, as it is committed."""
    return _made().as_str() + "\n"
