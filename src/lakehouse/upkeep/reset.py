"""``lakehouse reset``: the real-time processor, or the stream's detector, begins again without what it has kept.

For code that can't read what older code kept. Nothing of the lake is touched.
"""

from __future__ import annotations

import json
import time
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from lakehouse.realtime.processor import GROUP, ITEMS
from lakehouse.realtime.topology import TASKS, changelog
from lakehouse.runtime.holds import DETECTOR
from lakehouse.runtime.turns import GIVES_WAY, only_writer
from lakehouse.settings import Settings
from lakehouse.sinks.files import Files
from lakehouse.sources.lake import Lake
from lakehouse.upkeep import deployed

WHAT = ("realtime", "detector")
_ANSWER_S = 15.0
_LOADING = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR)
"""What a broker says of groups soon after its start."""
_FOLLOWED = ("_internal.gold_changes", "silver.system_metrics", "silver.service_logs")


class ResetError(Exception):
    """It can't be done now; the message says what to do first."""


def reset(settings: Settings, what: str) -> dict[str, Any]:
    """Let ``realtime`` or ``detector`` begin again; what was taken away.

    Raises:
        ResetError: it is running, or Kafka does not answer.
    """
    if what not in WHAT:
        raise ResetError(f"{what}: one of {', '.join(WHAT)}")
    found = realtime(settings) if what == "realtime" else detector(settings)
    deployed.settle(settings, f"lakehouse reset {what}")
    return found


def realtime(settings: Settings) -> dict[str, Any]:
    """Delete the topics between its stages and those that keep their state: all is folded again from the first record.

    What Redis and MongoDB show stays until the fold has come as far; notifications are made again under the ids that
    they had.
    """
    import redis
    from pymongo import MongoClient

    prefix = settings.realtime.prefix
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0})
    group, profiles = prefix + GROUP, f"{prefix}lakehouse-realtime-user_profiles"
    try:
        if not _ended(admin, group):
            raise ResetError("the real-time processor is running: `lakehouse down`, then `lakehouse up --servers`")
        there = set(admin.list_topics(timeout=_ANSWER_S).topics)
        own = (
            {changelog(kind) for kind in TASKS} | {k.topic for k in TASKS if k.topic.startswith("realtime-")} | {ITEMS}
        )
        topics = sorted({prefix + name for name in own} & there)
        for done in (admin.delete_topics(topics, request_timeout=_ANSWER_S) if topics else {}).values():
            done.result()
        _until_gone(admin, set(topics))
        for done in admin.delete_consumer_groups([group, profiles], request_timeout=_ANSWER_S).values():
            _passing_over(done, KafkaError.GROUP_ID_NOT_FOUND)
    except KafkaException as error:
        raise ResetError(f"Kafka: {error.args[0].name()} {error.args[0].str()}") from None
    # Both are only set to what is newer, by offsets that begin again now.
    with redis.Redis.from_url(settings.redis.url.get_secret_value(), socket_timeout=10) as client:
        marks = list(client.scan_iter("live:_shown:*", count=1000))
        if marks:
            client.delete(*marks)
    mongo: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongo.uri.get_secret_value(), serverSelectionTimeoutMS=3000, socketTimeoutMS=60000
    )
    with mongo:
        mongo[settings.mongo.database]["user_profiles"].update_many({}, {"$set": {"version": -1}})
    return {"topics": topics, "marks": len(marks)}


def _until_gone(admin: AdminClient, topics: set[str]) -> None:
    until = time.monotonic() + _ANSWER_S
    while topics & set(admin.list_topics(timeout=_ANSWER_S).topics):
        if time.monotonic() > until:
            raise ResetError("Kafka still shows topics that it is to delete: try again")
        time.sleep(0.1)


def _ended(admin: AdminClient, group: str) -> bool:
    """Whether nobody is in a group; Kafka 4 knows none that never was (KIP-1043)."""
    until = time.monotonic() + _ANSWER_S
    while True:
        try:
            state = admin.describe_consumer_groups([group], request_timeout=_ANSWER_S)[group].result().state
            return state in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return True
            if error.args[0].code() not in _LOADING or time.monotonic() > until:
                raise
            time.sleep(0.2)


def _passing_over(done: Any, code: int) -> None:
    try:
        done.result()
    except KafkaException as error:
        if error.args[0].code() != code:
            raise


def detector(settings: Settings) -> dict[str, Any]:
    """Give up its checkpoint: it learns from what comes into the tables from now on. The stream gives way for it.

    Raises:
        TurnError: another process writes the tables and does not give way.
    """
    with only_writer(settings, "lakehouse reset", GIVES_WAY):
        files, lake, folder = Files(settings.root), Lake(settings), f"_checkpoints/{DETECTOR}"
        number = int((files.read(f"{folder}/generation") or b"1").decode().partition("\n")[0])
        since = {name: lake.table(name).version() for name in _FOLLOWED}
        # As runtime/checkpoints.py: the number first, here by a write that replaces the one before in one step.
        files.put(f"{folder}/generation", f"{number + 1}\n{json.dumps(since)}".encode())
        old = files.walk(f"{folder}/g{number}")
        for path in old:
            files.delete(path)
    return {"checkpoint": f"{folder}/g{number + 1}", "deleted_files": len(old)}
