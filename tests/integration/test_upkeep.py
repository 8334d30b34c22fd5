"""Upkeep on real servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lakehouse.alerting.database import database
from lakehouse.settings import Settings
from lakehouse.sinks import mongo_ttl


def test_documents_past_their_time_go_and_no_others(stack: Settings) -> None:
    collection = database(stack)["ttl_trial"]
    collection.create_index([("at", 1)], expireAfterSeconds=60)
    now = datetime.now(UTC)
    old, young = now - timedelta(seconds=61), now - timedelta(seconds=59)
    collection.insert_many(
        [{"_id": i, "at": old} for i in range(2500)]
        + [{"_id": "young", "at": young}, {"_id": "text", "at": "2020"}, {"_id": "none"}]
        + [{"_id": "earliest", "at": [young, old]}]
    )
    assert mongo_ttl.sweep(stack, now, dry_run=True) == {"ttl_trial": 2501}
    assert mongo_ttl.sweep(stack, now) == {"ttl_trial": 2501}
    assert {one["_id"] for one in collection.find()} == {"young", "text", "none"}
    collection.drop()
