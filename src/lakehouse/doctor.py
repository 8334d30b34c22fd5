"""``lakehouse doctor``: what is wrong with an installation or will be, and what to do about each of it.

Each check looks at one subject and returns what it found; one that cannot look says so, and hides no other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from lakehouse import stack
from lakehouse.contracts import TOPICS
from lakehouse.settings import PROJECT, Settings
from lakehouse.sinks.files import put
from lakehouse.sources.lake import Lake, LakeError, NoTableError
from lakehouse.sources.topics import NOTIFICATIONS, differing
from lakehouse.stack import jars, jdk, ports, probes, supervisor
from lakehouse.stack.servers import local_servers

Level = Literal["ok", "warning", "problem"]
_ANSWER_S = 5.0
_GIB = 2**30
LEAST_DISK, LOW_DISK = 2 * _GIB, 10 * _GIB
"""Free bytes below which nothing can be relied on, and below which it is time to act."""
LEAST_MEMORY = 2 * _GIB
"""Available bytes below which the kernel may soon end a server."""
SKEW_S = 2.0
"""Seconds by which a server's clock may differ from ours: windows close, tokens end and alerts fire by clocks."""


@dataclass(frozen=True)
class Finding:
    """What a check found: ``remedy`` says what to do, of all but what is well."""

    check: str
    level: Level
    said: str
    remedy: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings, more: dict[str, Check] | None = None) -> list[Finding]:
    """All that every check finds, in order; ``more`` are checks of who calls.

    A check that fails to look is itself a problem.
    """
    checks = CHECKS | (more or {})

    def look(name: str) -> list[Finding]:
        try:
            return list(checks[name](settings))
        except Exception as error:
            words = f"could not be looked at ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
            return [Finding(name, "problem", words, "see `lakehouse status`; `lakehouse up` starts what is not there")]

    with ThreadPoolExecutor(len(checks)) as pool:
        return [finding for found in pool.map(look, checks) for finding in found]


# --- this machine ----------------------------------------------------------------------------------------------------


def versions(settings: Settings) -> Iterator[Finding]:
    """Python's packages are those of the lock, and there is a Java 17."""
    wanted = dict(
        re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", (PROJECT / "requirements.lock").read_text(), re.M)
    )
    other = []
    for name, version in wanted.items():
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            have = "missing"
        if have != version:
            other.append(f"{name} {have} (locked: {version})")
    if other:
        shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        yield Finding("versions", "problem", f"not as locked: {shown}", "rm .venv/.installed && make setup")
    java, refused = jdk.find(os.environ)
    if java is None:
        seen = "; ".join(refused) or "none found"
        yield Finding("versions", "problem", f"no Java {jdk.VERSION} ({seen})", "lakehouse setup")
    if not other and java is not None:
        yield Finding("versions", "ok", f"{len(wanted)} packages as locked, Java {jdk.VERSION} at {java}")


def jar_files(settings: Settings) -> Iterator[Finding]:
    """Every pinned jar is in its place, as large as it should be; they get there only with the right checksum."""
    if jars.are_there(settings):
        yield Finding("jars", "ok", f"all there, under {jars.jars_folder(settings)}")
    else:
        yield Finding("jars", "problem", f"some are missing under {jars.jars_folder(settings)}", "lakehouse setup")


def space(settings: Settings) -> Iterator[Finding]:
    """There is room on the disk of the home, and memory."""
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    said = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < LOW_DISK:
        level: Level = "problem" if free < LEAST_DISK else "warning"
        yield Finding("disk", level, said, "make room, or move the home (LAKEHOUSE_HOME); shorten stream.time_travel")
    else:
        yield Finding("disk", "ok", said)
    memory = psutil.virtual_memory()
    said = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < LEAST_MEMORY:
        yield Finding("memory", "warning", said, "stop what is not needed, or lower spark.driver_memory")
    else:
        yield Finding("memory", "ok", said)


def private_files(settings: Settings) -> Iterator[Finding]:
    """What holds secrets or personal data can be read by its owner alone, and the home can be written."""
    wrong = [path for path in _private(settings.home) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in wrong:
        yield Finding("permissions", "problem", f"{path} can be read by others", f"chmod go= {path}")
    if settings.home.exists() and not os.access(settings.home, os.W_OK | os.X_OK):
        yield Finding("permissions", "problem", f"{settings.home} cannot be written", f"chown it to {os.getuid()}")
    elif not wrong:
        yield Finding("permissions", "ok", "the home is writable, secrets and spools are its owner's alone")


def _private(home: Path) -> Iterator[Path]:
    if (home / "secrets").exists():
        yield home / "secrets"
    for name in ("secrets", "spool"):
        yield from (path for path in (home / name).rglob("*") if path.is_file())


# --- servers ---------------------------------------------------------------------------------------------------------


def servers(settings: Settings) -> Iterator[Finding]:
    """Every server answers where the settings say."""
    for name, state in stack.status(settings).items():
        if state["ready"]:
            yield Finding("servers", "ok", f"{name} answers at {state['address']}")
        else:
            remedy = "start it there, or mend its address" if state["state"] == "EXISTING" else "lakehouse up --servers"
            said = f"{name} ({state['state'].lower()}) does not answer at {state['address']}"
            yield Finding("servers", "problem", said, remedy + (f"; its log: {state['log']}" if state["log"] else ""))


def free_ports(settings: Settings) -> Iterator[Finding]:
    """Nobody else listens where a local server, or the API, is to listen."""
    if settings.servers == "existing":
        yield Finding("ports", "ok", "servers are others'")
        return
    states = supervisor.states(settings)
    gone = {name for name, state in states.items() if state["state"] == "STOPPED"}
    stopped = [one for one in local_servers(settings) if one.name not in states or one.name in gone]
    wanted = {name: stack.port(settings, name) for server in stopped for name in server.ports}
    if "serve" not in states and "serve" not in settings.off:
        wanted["the API"] = settings.api.port
    taken = {name: port for name, port in wanted.items() if port and ports.is_taken(port)}
    for name, port in taken.items():
        remedy = "stop what listens there (ss -ltnp), or let `lakehouse up` choose another"
        yield Finding("ports", "warning", f"{port}, for {name}, is taken", remedy)
    if not taken:
        yield Finding("ports", "ok", f"{len(wanted)} are free, the rest is ours" if wanted else "all are ours")


_BLOCKS: tuple[tuple[str, Level, str, str], ...] = (
    ("MissingBlocks", "problem", "blocks are missing", "start the DataNodes that hold them; see hdfs fsck /"),
    ("CorruptBlocks", "problem", "blocks are corrupt", "hdfs fsck / names the files, lakehouse audit what is wrong"),
    ("UnderReplicatedBlocks", "warning", "blocks have too few copies", "start DataNodes, or lower hdfs.replication"),
    ("NumDeadDataNodes", "warning", "DataNodes are dead", "start them, or take them out of the cluster"),
)


def hdfs(settings: Settings) -> Iterator[Finding]:
    """Blocks have the copies that they should have, DataNodes live, there is room."""
    web = _namenode_web(settings)
    facts = probes.jmx(web, "NameNode,name=FSNamesystem")
    info = probes.jmx(web, "NameNode,name=NameNodeInfo")
    # FSNamesystem's own counts of DataNodes are some seconds old.
    live, facts["NumDeadDataNodes"] = (len(json.loads(info[name])) for name in ("LiveNodes", "DeadNodes"))
    wrong = [
        Finding("hdfs", level, f"{facts[fact]} {said}", mend) for fact, level, said, mend in _BLOCKS if facts[fact]
    ]
    if info["Safemode"]:
        said = "the NameNode is in safe mode: nothing can be written"
        wrong.append(Finding("hdfs", "problem", said, "wait, or see why: hdfs dfsadmin -safemode get"))
    if live < settings.hdfs.replication:
        said = f"{settings.hdfs.replication} copies are wanted, {live} DataNodes live"
        wrong.append(Finding("hdfs", "problem", said, "start DataNodes, or lower hdfs.replication"))
    left, total = facts["CapacityRemaining"], facts["CapacityTotal"]
    if total and left < total / 10:
        said = f"{left / _GIB:.1f} of {total / _GIB:.1f} GiB left"
        wrong.append(Finding("hdfs", "warning", said, "add disks or DataNodes"))
    said = f"{facts['BlocksTotal']:,} blocks, all with their copies, {live} DataNodes live"
    yield from wrong or [Finding("hdfs", "ok", said)]


def _namenode_web(settings: Settings) -> str:
    if settings.servers != "existing":
        return f"{ports.HOST}:{stack.port(settings, 'namenode-http')}"
    return f"{urlsplit(settings.hdfs.uri).hostname}:9870"


def clocks(settings: Settings) -> Iterator[Finding]:
    """Servers that tell the time tell ours."""
    for name, ask in (("Redis", _redis_time), ("MongoDB", _mongo_time)):
        if name.lower() in settings.off:
            continue
        before = time.time()
        theirs = ask(settings)
        after = time.time()
        skew = max(before - theirs, theirs - after, 0.0)
        if skew > SKEW_S:
            said = f"{name}'s clock differs by {skew:.1f} s"
            yield Finding("clocks", "problem", said, "keep both by NTP (chronyc tracking)")
        else:
            yield Finding("clocks", "ok", f"{name}'s clock is ours")


def _redis_time(settings: Settings) -> float:
    import redis

    with redis.Redis.from_url(
        settings.redis.url.get_secret_value(), socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S
    ) as client:
        seconds, micros = client.time()
        return float(seconds + micros / 1e6)


def _mongo_time(settings: Settings) -> float:
    from pymongo import MongoClient

    uri = settings.mongo.uri.get_secret_value()
    with MongoClient(uri, serverSelectionTimeoutMS=int(_ANSWER_S * 1000), tz_aware=True) as client:  # type: ignore[var-annotated]
        return float(client.admin.command("hello")["localTime"].timestamp())


# --- topics, tables --------------------------------------------------------------------------------------------------


def topics(settings: Settings) -> Iterator[Finding]:
    """Topics are made as the design says, and have as many copies as the settings want."""
    kafka = settings.kafka
    probes.kafka(kafka.bootstrap_servers)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    known = admin.list_topics(timeout=_ANSWER_S).topics
    names = (*TOPICS, NOTIFICATIONS)
    wrong = []
    if missing := [name for name in names if name not in known]:
        wrong.append(Finding("topics", "problem", f"missing: {', '.join(missing)}", "lakehouse up --servers"))
    there = [name for name in names if name in known]
    for other in differing(admin, there, settings):
        said = f"{other.topic} has {other.key}={other.have}, made as {other.wanted}"
        wrong.append(Finding("topics", "problem" if other.must else "warning", said, other.mend))
    for name in there:
        partitions = known[name].partitions.values()
        copies = min(len(partition.replicas) for partition in partitions)
        if copies < kafka.replication:
            said = f"{name} has {copies} copies, kafka.replication is {kafka.replication}"
            remedy = "kafka-reassign-partitions.sh, or lower kafka.replication"
            wrong.append(Finding("topics", "warning", said, remedy))
        if behind := sum(len(partition.isrs) < len(partition.replicas) for partition in partitions):
            said = f"{behind} partitions of {name} have copies that are behind"
            wrong.append(Finding("topics", "warning", said, "look at the brokers that are not in sync"))
    yield from wrong or [Finding("topics", "ok", f"{len(there)} topics, made as they should be")]


def offsets(settings: Settings) -> Iterator[Finding]:
    """The ledger and Kafka speak of the same records: no topic was made anew, none lost what was not read yet."""
    try:
        cuts = Lake(settings).cuts()
    except NoTableError:
        yield Finding("offsets", "ok", "nothing has been read yet")
        return
    config = {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "lakehouse-doctor", "log_level": 0}
    consumer = Consumer(config)
    wrong = []
    try:
        for topic, partition, end in ((cut.topic, *one) for cut in cuts.values() for one in cut.ends.items()):
            place = f"{topic}/{partition}"
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)
            if high < end:
                said = f"{place} ends at offset {high}, the ledger has read up to {end}: it was made anew"
                remedy = "keep the tables and start with new ones (another hdfs.root), or bring the old topic back"
                wrong.append(Finding("offsets", "problem", said, remedy))
            elif low > end:
                said = f"{place} begins at offset {low}, the ledger has read up to {end} only: the rest is gone"
                remedy = "raise retention.ms of the topic; lakehouse audit names what is missing"
                wrong.append(Finding("offsets", "problem", said, remedy))
    except KafkaException as error:
        raise RuntimeError(error.args[0].str()) from None
    finally:
        consumer.close()
    yield from wrong or [Finding("offsets", "ok", f"ledger and Kafka agree on {len(cuts)} topics")]


def lake(settings: Settings) -> Iterator[Finding]:
    """The lake's root can be written, and what is written can be read."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    handler = DeltaStorageHandler(settings.root)
    files = PyFileSystem(handler)
    name, body = f"_doctor/{uuid4().hex}", os.urandom(1024)
    try:
        put(handler, name, body)
        with files.open_input_stream(name) as found:
            same = found.read() == body
        files.delete_file(name)
    except OSError as error:
        raise LakeError(str(error)) from None
    if same:
        yield Finding("lake", "ok", f"{settings.root} can be written and read")
    else:
        yield Finding("lake", "problem", f"{settings.root} gives back other bytes than were written", "hdfs fsck /")


CHECKS: dict[str, Check] = {
    "versions": versions,
    "jars": jar_files,
    "space": space,
    "permissions": private_files,
    "servers": servers,
    "ports": free_ports,
    "hdfs": hdfs,
    "clocks": clocks,
    "topics": topics,
    "offsets": offsets,
    "lake": lake,
}
