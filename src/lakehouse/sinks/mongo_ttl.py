"""What MongoDB's TTL monitor does, for servers that have none: documents past their time go, by the TTL indexes.

A document goes when the date in the indexed field, the earliest of an array's, is ``expireAfterSeconds`` old; one
without a date there stays (MongoDB manual, TTL indexes). Beside a server that does it itself there is nothing to do.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pymongo import MongoClient

from lakehouse.settings import Settings

AT_ONCE = 1000
MOST = 1_000_000
"""Documents that one sweep deletes of a collection at most; the next goes on."""


def sweep(settings: Settings, now: datetime, dry_run: bool = False) -> dict[str, int]:
    """Delete what is past its time in every collection of the platform's database; how many, by collection."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongo.uri.get_secret_value(), serverSelectionTimeoutMS=3000, socketTimeoutMS=20000, tz_aware=True
    )
    with client:
        database = client[settings.mongo.database]
        found: dict[str, int] = {}
        for name in sorted(database.list_collection_names()):
            for index in database[name].list_indexes():
                if "expireAfterSeconds" in index and len(index["key"]) == 1:
                    past = _past(index, now)
                    found[name] = found.get(name, 0) + (
                        database[name].count_documents(past) if dry_run else _delete(database[name], past)
                    )
        return found


def _past(index: Any, now: datetime) -> dict[str, Any]:
    """The documents that an index lets go. ``$lt`` of a date is true of no other type, and of an array if of one."""
    (field,) = index["key"]
    past = {field: {"$lt": now - timedelta(seconds=float(index["expireAfterSeconds"]))}}
    return {"$and": [past, dict(index["partialFilterExpression"])]} if "partialFilterExpression" in index else past


def _delete(collection: Any, past: dict[str, Any]) -> int:
    deleted = 0
    while deleted < MOST:
        ids = [one["_id"] for one in collection.find(past, {"_id": 1}).limit(AT_ONCE)]
        if not ids:
            break
        # Asked again: a document may have been given more time since.
        gone = collection.delete_many({"$and": [{"_id": {"$in": ids}}, past]}).deleted_count
        if not gone:
            break
        deleted += gone
    return deleted
