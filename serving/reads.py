"""What is read from the stores beside the lake: Redis, MongoDB, Elasticsearch. Nothing here writes.

A store that does not answer is a 503 that names it, and costs nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import orjson
import redis.asyncio
from elasticsearch import ApiError, AsyncElasticsearch, TransportError
from pymongo import DESCENDING, AsyncMongoClient
from pymongo.errors import PyMongoError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from lakehouse.settings import Settings
from serving.problems import Problem

ANSWERS_S = 3.0
FOUND_S = 1.5
"""How long a MongoDB is looked for: the driver tries a server that refuses again until then."""
_log = logging.getLogger(__name__)
Found = TypeVar("Found")


class Reads:
    """Clients of the three stores; each connects when it is first asked."""

    def __init__(self, settings: Settings) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.redis.url.get_secret_value(), max_connections=64, timeout=ANSWERS_S,  # more at a time wait
            decode_responses=True, encoding_errors="replace",
            socket_timeout=ANSWERS_S, socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 1, (ConnectionError,)),  # Redis has closed it; silence is not asked again
        )  # fmt: skip
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        milliseconds = round(ANSWERS_S * 1000)
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            settings.mongo.uri.get_secret_value(), tz_aware=True, connect=False,
            serverSelectionTimeoutMS=round(FOUND_S * 1000), socketTimeoutMS=milliseconds, connectTimeoutMS=1000,
        )  # fmt: skip
        self._mongo = self._client[settings.mongo.database]
        self._elastic = AsyncElasticsearch(
            settings.elasticsearch.url.get_secret_value(), request_timeout=2 * ANSWERS_S, max_retries=0
        )

    async def close(self) -> None:
        """Let go of connections."""
        await self._redis.aclose()
        await self._client.close()
        await self._elastic.close()

    # --- Redis: what the real-time processor shows -----------------------------------------------------------------

    async def _of_redis(self, answer: Awaitable[Found]) -> Found:
        try:
            return await answer
        except (RedisError, OSError) as error:
            raise _away("redis", error) from None

    async def site(self) -> dict[str, Any]:
        """``{"at", "active_users", "events_1m": {type: n}}``; nulls where no processor shows anything."""
        found = await self._of_redis(self._redis.hgetall("live:site"))
        counts = {k.removeprefix("events_1m:"): int(v) for k, v in found.items() if k.startswith("events_1m:")}
        active = found.get("active_users")
        return {"at": found.get("at"), "active_users": active and int(active), "events_1m": counts}

    async def trending(self, part: str | None, limit: int) -> list[dict[str, Any]]:
        """The best posts now, ``{"rank", "post_id", "score"}``; of a part, ``device:<name>`` or ``referrer:<host>``."""
        key = f"live:trending:{part}" if part else "trending:posts"
        found = await self._of_redis(self._redis.zrevrange(key, 0, limit - 1, withscores=True))
        return [{"rank": rank, "post_id": post, "score": score} for rank, (post, score) in enumerate(found, 1)]

    async def live_users(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What users are doing; those who were not seen of late are left out."""
        return await self._of_each("live:user:", users)

    async def live_recommendations(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        """``{"model_version", "at", "items"}`` as of the last interaction of users who had some of late."""
        return await self._of_each("recs:", users)

    async def _of_each(self, prefix: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """JSON by name, in one round trip."""
        found = await self._of_redis(self._redis.mget([prefix + name for name in names])) if names else []
        read = {name: _object(prefix + name, words) for name, words in zip(names, found, strict=True) if words}
        return {name: value for name, value in read.items() if value is not None}

    async def processors(self) -> dict[str, Any]:
        """What the real-time processes last said of themselves, by name."""
        found = await self._of_redis(self._redis.hgetall("live:processors"))
        read = {name: _object("live:processors", words) for name, words in found.items()}
        return {name: value for name, value in read.items() if value is not None}

    # --- MongoDB: profiles, notifications, batch recommendations -----------------------------------------------------

    async def _of_mongo(self, answer: Awaitable[Found]) -> Found:
        try:
            return await answer
        except PyMongoError as error:
            raise _away("mongodb", error) from None

    async def profiles(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Profiles of users, as the real-time processor keeps them."""
        cursor = self._mongo.user_profiles.find({"_id": {"$in": list(users)}})
        found = await self._of_mongo(cursor.to_list())
        return {one.pop("_id"): {k: v for k, v in one.items() if k != "version"} for one in found}

    async def recommendations(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The batch's recommendations of users that have some."""
        cursor = self._mongo.recommendations.find({"_id": {"$in": list(users)}})
        return {document.pop("_id"): document for document in await self._of_mongo(cursor.to_list())}

    async def notifications(self, user: str, before: tuple[str, str] | None, limit: int) -> list[dict[str, Any]]:
        """A user's notifications, the newest first, from after (at, id) on."""
        wanted: dict[str, Any] = {"user_id": user}
        if before:
            at, identity = before
            wanted["$or"] = [{"at": {"$lt": at}}, {"at": at, "_id": {"$lt": identity}}]
        cursor = self._mongo.notifications.find(wanted).sort([("at", DESCENDING), ("_id", DESCENDING)]).limit(limit)
        found = await self._of_mongo(cursor.to_list())
        return [_notification(document) for document in found]

    async def newest_notifications(self, users: Sequence[str], limit: int) -> dict[str, list[dict[str, Any]]]:
        """The newest notifications of each of several users, in one round trip."""
        each = {
            f"u{place}": [
                {"$match": {"user_id": user}}, {"$sort": {"at": DESCENDING, "_id": DESCENDING}}, {"$limit": limit}
            ]
            for place, user in enumerate(users)
        }  # fmt: skip
        wanted: list[dict[str, Any]] = [{"$match": {"user_id": {"$in": list(users)}}}, {"$facet": each}]

        async def ask() -> list[dict[str, Any]]:
            return await (await self._mongo.notifications.aggregate(wanted)).to_list()

        (found,) = await self._of_mongo(ask())
        return {user: [_notification(d) for d in found[name]] for name, user in zip(each, users, strict=True)}

    # --- Elasticsearch: logs ---------------------------------------------------------------------------------------

    async def search(self, index: str, **body: Any) -> dict[str, Any]:
        """A search's answer.

        Raises:
            Problem: 503 it does not answer; 422 the words are no query.
        """
        try:
            found = await self._elastic.search(index=index, **body)
        except ApiError as error:
            if error.status_code == 400:
                raise Problem(422, "invalid-request", "Elasticsearch does not understand the search.") from None
            if error.status_code == 404:
                detail = f"Elasticsearch has no index {index} yet: the stream makes it with its first log."
                raise Problem(503, "store-away", detail, {"Retry-After": "5"}, store="elasticsearch") from None
            raise _away("elasticsearch", error) from None
        except TransportError as error:
            raise _away("elasticsearch", error) from None
        if found["_shards"]["failed"]:
            raise _away("elasticsearch", RuntimeError("some shards failed"))
        return dict(found.body)


def _object(key: str, words: str) -> Any:
    """JSON that one of ours has written; of what is none, None."""
    try:
        return orjson.loads(words)
    except ValueError:
        _log.warning("%s in Redis is no JSON: it is passed over", key)
        return None


def _notification(document: dict[str, Any]) -> dict[str, Any]:
    return {"id": document.pop("_id"), **document}


def _away(store: str, error: Exception) -> Problem:
    detail = f"{store} does not answer ({type(error).__name__}): try again later; `lakehouse status` shows it."
    return Problem(503, "store-away", detail, {"Retry-After": "5"}, store=store)


def age_s(at: str | datetime, now: datetime) -> float:
    """Seconds since a time."""
    then = datetime.fromisoformat(at) if isinstance(at, str) else at
    return round((now - then).total_seconds(), 3)
