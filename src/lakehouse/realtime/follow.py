"""MongoDB: profiles and notifications, each following a topic at its own pace.

Guarantee: a profile is replaced only by a newer one of its changelog, a notification is written once, and a topic's
offset is committed after the documents: writing twice changes nothing, and a database that is away delays only itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from confluent_kafka import Consumer, KafkaError, Message
from pymongo import DeleteOne, MongoClient, ReplaceOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, PyMongoError

from lakehouse.realtime.topology import changelog
from lakehouse.realtime.users import User, Users, profile
from lakehouse.settings import Settings
from lakehouse.sources.topics import NOTIFICATIONS

MOST = 1000
Write = ReplaceOne[Any] | UpdateOne | DeleteOne
_DUPLICATE_KEY = 11000
_RETRY_S = (0.5, 15.0)
_decode_user = msgspec.msgpack.Decoder(User).decode
_log = logging.getLogger(__name__)


def profiles(messages: list[Message]) -> list[Write]:
    """The newest state of each user as a document; of one who was erased, none."""
    newest = {m.key().decode(): m for m in messages if m.key().startswith(b"user:")}
    found: list[Write] = []
    for key, message in newest.items():
        if message.value() is None:  # erased
            found.append(DeleteOne({"_id": key.removeprefix("user:"), "version": {"$lte": message.offset()}}))
            continue
        document = profile(key.removeprefix("user:"), _decode_user(message.value()), message.offset())
        guard = {"_id": document["_id"], "version": {"$lte": document["version"]}}
        found.append(ReplaceOne(guard, document, upsert=True))
    return found


def notifications(messages: list[Message]) -> list[Write]:
    """Notifications as documents, each by its id."""
    found: list[Write] = []
    for message in messages:
        document = orjson.loads(message.value())
        document["_id"] = document.pop("id")
        found.append(UpdateOne({"_id": document["_id"]}, {"$setOnInsert": document}, upsert=True))
    return found


class Follower:
    """A thread that writes what a topic says into a collection of MongoDB."""

    def __init__(
        self, settings: Settings, name: str, topic: str, collection: str,
        documents: Callable[[list[Message]], list[Write]],
    ) -> None:  # fmt: skip
        self._settings, self._name, self._topic = settings, name, topic
        self._collection, self._documents = collection, documents
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=collection, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        config = {
            "bootstrap.servers": self._settings.kafka.bootstrap_servers,
            "group.id": f"{self._settings.realtime.prefix}lakehouse-realtime-{self._collection}",
            "group.instance.id": self._name,
            "session.timeout.ms": 10_000,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        consumer = Consumer(config, logger=_log)
        client: MongoClient[dict[str, Any]] = MongoClient(
            self._settings.mongo.uri.get_secret_value(), serverSelectionTimeoutMS=3000, socketTimeoutMS=20000
        )
        collection = client[self._settings.mongo.database][self._collection]
        consumer.subscribe([self._topic])
        try:
            while not self._stop.is_set():
                messages = []
                for message in consumer.consume(MOST, 0.5):
                    if message.error() is None:
                        messages.append(message)
                    elif message.error().code() != KafkaError._PARTITION_EOF:
                        _log.warning("%s: %s", self._topic, message.error())
                if messages and self._write(collection, messages):
                    consumer.commit(asynchronous=False)
        except Exception:
            _log.exception("%s is no longer written", self._collection)
        finally:
            consumer.close()
            client.close()

    def _write(self, collection: Collection[dict[str, Any]], messages: list[Message]) -> bool:
        """Write until it is done; False where the end comes first."""
        operations = self._documents(messages)
        wait = _RETRY_S[0]
        while operations:
            try:
                collection.bulk_write(operations, ordered=False)
                break
            except BulkWriteError as error:
                # The upsert of an older version finds no match and then the newer document's _id: nothing to do.
                if all(e["code"] == _DUPLICATE_KEY for e in error.details["writeErrors"]):
                    break
                self._tell(wait, error)
            except PyMongoError as error:
                self._tell(wait, error)
            if self._stop.wait(wait):
                return False
            wait = min(2 * wait, _RETRY_S[1])
        return True

    def _tell(self, wait: float, error: PyMongoError) -> None:
        words = str(error).partition(" (configured timeouts")[0][:300]
        _log.warning("%s is not written, tried again in %.1f s: %s", self._collection, wait, words)

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after what is being written."""
        self._stop.set()
        self._thread.join()


def followers(settings: Settings, name: str) -> list[Follower]:
    """Those that the enabled parts need, of the process of a name."""
    prefix, made = settings.realtime.prefix, list[Follower]()
    if "mongodb" in settings.off:
        return made
    if "activity" in settings.realtime.parts:
        made.append(Follower(settings, name, prefix + changelog(Users), "user_profiles", profiles))
    if "notifications" in settings.realtime.parts:
        made.append(Follower(settings, name, prefix + NOTIFICATIONS, "notifications", notifications))
    return made
