"""Erasing from MongoDB, Redis and Elasticsearch: every document, key and member that names somebody goes.

The stores are read whole, as text may stand where no index looks. Deleting twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson
import redis
from elasticsearch import Elasticsearch, helpers
from pymongo import MongoClient

from lakehouse.erasure.identifiers import Wanted
from lakehouse.settings import Settings

Hit = tuple[str, Callable[[], Any]]
"""Where somebody is named, such as ``mongodb:user_profiles``, and what takes that away."""
_BATCH = 500


def mongodb(settings: Settings, wanted: Wanted) -> Iterator[Hit]:
    """Documents of every collection."""
    with MongoClient[dict[str, Any]](settings.mongo.uri.get_secret_value(), serverSelectionTimeoutMS=30_000) as client:
        database = client[settings.mongo.database]
        for name in database.list_collection_names():
            for document in database[name].find(batch_size=_BATCH):
                if wanted.in_strings(document):
                    yield f"mongodb:{name}", partial(database[name].delete_one, {"_id": document["_id"]})


def redis_(settings: Settings, wanted: Wanted) -> Iterator[Hit]:
    """Keys; of hashes, sets, lists and streams the members. Texts and JSON go whole: their writers set them again."""
    client: Any = redis.Redis.from_url(settings.redis.url.get_secret_value(), socket_timeout=10)
    try:
        for key in client.scan_iter(count=1000):
            place = f"redis:{key.decode(errors='replace').split(':')[0]}"
            if wanted.in_bytes(key):
                yield place, partial(client.delete, key)
                continue
            kind = client.type(key)
            if kind == b"string":
                value = client.get(key)
                if value is not None and wanted.in_bytes(value):
                    yield place, partial(client.delete, key)
            elif kind == b"hash":
                for name, value in client.hscan_iter(key):
                    if wanted.in_bytes(name) or wanted.in_bytes(value):
                        yield place, partial(client.hdel, key, name)
            elif kind == b"zset":
                for member, _ in client.zscan_iter(key):
                    if wanted.in_bytes(member):
                        yield place, partial(client.zrem, key, member)
            elif kind == b"set":
                for member in client.sscan_iter(key):
                    if wanted.in_bytes(member):
                        yield place, partial(client.srem, key, member)
            elif kind == b"list":
                for member in client.lrange(key, 0, -1):
                    if wanted.in_bytes(member):
                        yield place, partial(client.lrem, key, 0, member)
            elif kind == b"stream":
                for entry, fields in client.xrange(key):
                    if wanted.in_strings(fields):
                        yield place, partial(client.xdel, key, entry)
    finally:
        client.close()


def elasticsearch(settings: Settings, wanted: Wanted) -> Iterator[Hit]:
    """Documents of every index."""
    with Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=60) as client:
        names = [name for name in client.indices.get(index="*", expand_wildcards="open").body if name[0] != "."]
        for name in names:
            client.indices.refresh(index=name)
            for hit in helpers.scan(client, index=name, size=2000):
                if wanted.in_text(hit["_id"]) or wanted.in_bytes(orjson.dumps(hit["_source"])):
                    delete = client.options(ignore_status=404).delete
                    yield f"elasticsearch:{name}", partial(delete, index=name, id=hit["_id"])


STORES = {"mongodb": mongodb, "redis": redis_, "elasticsearch": elasticsearch}


def purge(settings: Settings) -> None:
    """Let Elasticsearch write anew the segments that still hold deleted documents."""
    with Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=600) as client:
        names = [name for name in client.indices.get(index="*", expand_wildcards="open").body if name[0] != "."]
        if names:
            client.indices.forcemerge(index=names, only_expunge_deletes=True)
            client.indices.refresh(index=names)
