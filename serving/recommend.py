"""A user's recommendations: as of the last interaction, else by the batch, else what is popular."""

from __future__ import annotations

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
        if live := await self._reads.live_recommendations(user):
            return _made(user, "realtime", live["model_version"], live["at"], live["items"][:limit])
        if batch := (await self._reads.recommendations([user])).get(user):
            at = batch.get("at")
            return _made(user, "batch", batch.get("model_version"), at, batch["items"][:limit])
        popular = await self._reads.trending(None, limit)
        return _made(user, "popularity", None, None, popular)


def _made(user: str, source: str, version: Any, at: Any, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "user_id": user,
        "source": source,
        "model_version": version,
        "at": at,
        "age_s": age_s(at, now()) if at else None,
        "items": [{"post_id": item["post_id"], "score": item["score"]} for item in items],
    }
