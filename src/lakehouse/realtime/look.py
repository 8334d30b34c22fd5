"""``lakehouse live``: what the processor shows in Redis, for people."""

from __future__ import annotations

import time
from typing import Any

import orjson
import redis

from lakehouse.settings import Settings


class LookError(Exception):
    """Redis does not answer, or shows nothing; one line that names the mend."""


def site(settings: Settings) -> dict[str, Any]:
    """``{"site": {...}, "trending": [{"post_id", "score"}], "processors": {...}}``.

    Raises:
        LookError: Redis does not answer.
    """
    with _client(settings) as client:
        counts, trending, said = _ask(
            lambda: (
                client.hgetall("live:site"),
                client.zrevrange("trending:posts", 0, 9, withscores=True),
                _processors(client),
            )
        )
    return {
        "site": {name: int(value) if value.isdecimal() else value for name, value in counts.items()},
        "trending": [{"post_id": post, "score": score} for post, score in trending],
        "processors": said,
    }


def processors(settings: Settings) -> dict[str, Any]:
    """What the processes last said of themselves, within a minute, by name.

    Raises:
        LookError: Redis does not answer.
    """
    with _client(settings) as client:
        found: dict[str, Any] = _ask(lambda: _processors(client))
        return found


def _processors(client: Any) -> dict[str, Any]:
    said = {name: orjson.loads(words) for name, words in client.hgetall("live:processors").items()}
    return {name: words for name, words in said.items() if words["at"] > time.time() - 60}


def user(settings: Settings, name: str) -> dict[str, Any]:
    """``{"live", "features", "recommendations", "notifications"}`` of a user, null or empty where there is nothing.

    Raises:
        LookError: Redis does not answer, or has nothing of this user.
    """
    with _client(settings) as client:
        live, features, made, told = _ask(
            lambda: (
                client.get(f"live:user:{name}"),
                client.hgetall(f"features:user:{name}"),
                client.get(f"recs:{name}"),
                client.get(f"live:notifications:{name}"),
            )
        )
    if not (live or features or made or told):
        raise LookError(f"nothing is live of user {name!r}: no event of late, or no processor; see `lakehouse status`")
    return {
        "live": orjson.loads(live) if live else None,
        "features": features,
        "recommendations": orjson.loads(made) if made else None,
        "notifications": orjson.loads(told) if told else [],
    }


def _client(settings: Settings) -> Any:
    url = settings.redis.url.get_secret_value()
    return redis.Redis.from_url(url, decode_responses=True, socket_connect_timeout=3, socket_timeout=5)


def _ask(what: Any) -> Any:
    try:
        return what()
    except redis.RedisError as error:
        raise LookError(f"Redis does not answer ({error}): start it with `lakehouse up --servers`") from None
