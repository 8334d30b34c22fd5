"""A user's recommendations: as of the last interaction, else by the batch, else what is popular."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lakehouse.predict import Champion, Neighbours
from lakehouse.settings import Settings
from serving.reads import Reads, age_s
from serving.service import now


class Recommendations:
    """Follows the champion, and knows the way down where there is none."""

    def __init__(self, settings: Settings, reads: Reads) -> None:
        self._reads = reads
        self.champion = Champion(settings.published / "recommender", Neighbours)

    async def of_user(self, user: str, limit: int) -> dict[str, Any]:
        """``{"user_id", "model_version", "at", "age_s", "source", "items": [{"post_id", "score"}]}``."""
        return (await self.of_users([user], limit))[user]

    async def of_users(self, users: Sequence[str], limit: int) -> dict[str, dict[str, Any]]:
        """The same of several users, with at most one question to each store."""
        live = await self._reads.live_recommendations(users)
        rest = [user for user in users if user not in live]
        batch = await self._reads.recommendations(rest) if rest else {}
        popular = await self._reads.trending(None, limit) if len(batch) < len(rest) else []
        found = {}
        for user in users:
            if (known := live.get(user)) or (known := batch.get(user)):
                source = "realtime" if user in live else "batch"
                items = known["items"][:limit]
                found[user] = _made(user, source, known.get("model_version"), known.get("at"), items)
            else:
                found[user] = _made(user, "popularity", None, None, popular)
        return found


def _made(user: str, source: str, version: Any, at: Any, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "user_id": user,
        "source": source,
        "model_version": version,
        "at": at,
        "age_s": age_s(at, now()) if at else None,
        "items": [{"post_id": item["post_id"], "score": item["score"]} for item in items],
    }
