"""MongoDB, the lake's collections: one document per gold row.

Guarantee: a document is replaced only by one of the same or a higher ``version`` (of its gold table), so writing a
batch twice, or an old batch after a new one, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import MongoClient, ReplaceOne
from pymongo.errors import BulkWriteError
from pyspark.sql import types as T

from lakehouse.settings import Settings
from lakehouse.tables import Table

COLLECTIONS = {"gold.post_engagement_daily": "post_engagement", "gold.user_activity_daily": "user_activity"}
PROGRESS = "_lakehouse_progress"
_DUPLICATE_KEY = 11000
CHUNK = 200
"""Documents a request: a server with a tenth of a core answers within the socket's timeout."""


class MongoSink:
    """Writes gold rows; made per query run, since a client holds sockets."""

    def __init__(self, settings: Settings):
        client: MongoClient[dict[str, Any]] = MongoClient(
            settings.mongo.uri.get_secret_value(), serverSelectionTimeoutMS=3000, socketTimeoutMS=20000, tz_aware=True
        )
        self.database = client[settings.mongo.database]

    def upsert(self, table: Table, rows: Sequence[tuple[str, int, dict[str, Any]]]) -> None:
        """Write (key, version, row) of one gold table; times of ``row`` are RFC 3339 text, stored as BSON dates."""
        times = [f.name for f in table.schema if isinstance(f.dataType, T.TimestampType)]
        collection = self.database[COLLECTIONS[table.name]]
        for at in range(0, len(rows), CHUNK):
            operations = []
            for key, version, row in rows[at : at + CHUNK]:
                document = row | {name: datetime.fromisoformat(row[name]) for name in times if row[name] is not None}
                document |= {"_id": key, "version": version}
                operations.append(ReplaceOne({"_id": key, "version": {"$lte": version}}, document, upsert=True))
            try:
                collection.bulk_write(operations, ordered=False)
            except BulkWriteError as error:
                # The upsert of an older version finds no match and then the newer document's _id: nothing to do.
                others = [e for e in error.details["writeErrors"] if e["code"] != _DUPLICATE_KEY]
                if others:
                    raise

    def delete(self, table: str, keys: Sequence[str]) -> None:
        """Delete the documents of gold rows that are no longer there."""
        self.database[COLLECTIONS[table]].delete_many({"_id": {"$in": list(keys)}})

    def progress(self) -> dict[str, Any]:
        """How far the fan-out to this store is."""
        found = self.database[PROGRESS].find_one({"_id": "fanout"}) or {}
        return {"changes": found.get("changes", {}), "silver": found.get("silver", {})}

    def advance(self, progress: dict[str, Any]) -> None:
        """Record progress, after the documents."""
        self.database[PROGRESS].replace_one({"_id": "fanout"}, {"_id": "fanout", **progress}, upsert=True)
