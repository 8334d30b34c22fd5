"""``lakehouse erase``: the order of things, and the receipt.

1. The tombstone: from here on nobody takes a record in that names them.
2. The stream gives way after a last cut, and the tables are rewritten; a ledger row makes that the next cut.
3. Old versions end, stores and state are cleaned, Kafka's records up to the cut are deleted.
4. Everything is searched, and the receipt says what was found and done; it names nobody.

Each step does what is left of it, so an erasure that was interrupted is finished by running it again.
"""

from __future__ import annotations

import hmac
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from lakehouse.erasure import files, kafka, stores
from lakehouse.erasure.identifiers import Wanted, digest
from lakehouse.erasure.lake import Done, Files, TopicErasure, drop_days, drop_rows, end_history, others
from lakehouse.erasure.tombstones import ErasureError, erased, key, remember
from lakehouse.flows import FLOWS, TABLES
from lakehouse.gold import text_insights_daily, trending_posts
from lakehouse.realtime import look
from lakehouse.runtime import fanout
from lakehouse.runtime.checkpoints import Generation
from lakehouse.runtime.detect import QUERY
from lakehouse.runtime.fused import Progress
from lakehouse.runtime.ledger import CHANGES
from lakehouse.runtime.rebuild import late_stores, record, refill_store
from lakehouse.runtime.recovery import create_tables, roll_back
from lakehouse.runtime.refill import snapshot
from lakehouse.runtime.turns import only_writer
from lakehouse.session import spark_session
from lakehouse.settings import Settings
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import DeltaWriter, Storage
from lakehouse.sources.lake import Lake

GIVES_WAY = timedelta(minutes=5)
"""How long the stream may take for its last cut."""
SETTLES_S = 30.0
REALTIME_S = 60.0
"""How long the real-time processor may take to forget."""
Step = Callable[[str], None]


def erase(settings: Settings, users: Iterable[str], step: Step = lambda _: None) -> dict[str, Any]:
    """Erase users everywhere; the receipt, which is also kept in ``<home>/erasures``.

    Raises:
        ErasureError: an identifier is blank, or a server does not answer; what was not done is done by another run.
        TurnError: another process writes the tables and does not give way.
    """
    wanted = Wanted(users)
    if not wanted.identifiers or any(not one.strip() for one in wanted.identifiers):
        raise ErasureError("name at least one user, none of them blank: --user ID")
    began = datetime.now(UTC)
    secret = key(settings)
    spark = spark_session(settings, "lakehouse-erase")
    lake, storage = Lake(settings), Storage(spark, settings.home / "tmp")
    create_tables(storage, lake)
    remember(settings, lake, wanted.identifiers, began)
    step("searching the tables")
    topics = TopicErasure.of_all(lake, wanted)
    for topic in topics:
        topic.search()
    step("waiting for the stream's last cut")
    with only_writer(settings, "lakehouse erase", GIVES_WAY):
        step("rewriting the tables")
        writers = create_tables(storage, lake)
        progress = roll_back(lake, writers, check=False)
        late = late_stores(settings, lake)
        done = rewrite_tables(lake, writers, progress, topics, wanted, began)
        ends = {(topic, partition): end for topic, at in progress.items() for partition, end in at.ends.items()}
        for name in (*settings.stream.stores, QUERY):
            Generation.begin(storage, settings, name, done.since)
        # What the duplicates' index knows is digests, of users too: the stream fills it again from silver.
        for flow in FLOWS:
            shutil.rmtree(settings.home / "index" / flow.topic, ignore_errors=True)
        step("cleaning the stores")
        for store in late:
            refill_store(settings, spark, lake, storage, store)
        fanout.drop(settings, done.vanished)
    cleaned = _clean(settings, wanted)
    step("waiting for the real-time processor")
    realtime = _realtime(settings, len(erased(settings, lake).digests))
    step("deleting what Kafka no longer needs, and searching everything")
    until = time.monotonic() + SETTLES_S
    while True:
        brokers = kafka.delete_taken(settings, ends)
        cleaned += _clean(settings, wanted)
        for path in files.on_lake(settings, wanted):
            files.delete_on_lake(settings, path)
            cleaned["lake:" + path.split("/", 1)[0]] += 1
        left = scan(settings, wanted.identifiers, ends)
        # What was on its way through the processor, or taken by a reader that has not said so yet, needs a moment.
        if not left or time.monotonic() > until:
            break
        time.sleep(2)
    if "elasticsearch" in settings.stream.stores:
        stores.purge(settings)
    receipt = {
        "id": uuid4().hex,
        "began_at": _text(began),
        "finished_at": _text(datetime.now(UTC)),
        "users": sorted(digest(secret, one) for one in wanted.identifiers),
        "rows": {name: count for name, count in sorted(done.rows.items()) if count},
        "documents": dict(sorted(cleaned.items())),
        "insights_of": [day.isoformat() for day in sorted(done.days)],
        "kafka": brokers,
        "realtime": realtime,
        "left": left,
    }
    receipt["signature"] = _signature(secret, receipt)
    folder = settings.home / "erasures"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{receipt['id']}.json").write_bytes(orjson.dumps(receipt, option=orjson.OPT_INDENT_2))
    return receipt


def rewrite_tables(
    lake: Lake,
    writers: Mapping[str, DeltaWriter],
    progress: dict[str, Progress],
    topics: list[TopicErasure],
    wanted: Wanted,
    at: datetime,
) -> Done:
    """Take everybody wanted out of every table, make that the next cut, and end the versions before it."""
    done = Done()
    for topic in topics:
        topic.erase(writers, progress[topic.flow.topic], at, done)
    changes = writers[CHANGES.name]
    done.rows[CHANGES.name] += drop_rows(lake, changes, wanted).num_rows
    end_history(lake, changes, alone=True)  # before the rows that the stores are to follow from here
    done.since = {name: writers[name].version for name in fanout.FOLLOWED}
    if done.touched:
        done.touched[trending_posts.TABLE.name] = snapshot(lake, writers[trending_posts.TABLE.name])
    for flow in FLOWS:
        touched = {t.name: done.touched[t.name] for t in flow.gold_tables if t.name in done.touched}
        record(writers, flow, progress[flow.topic], touched, "erase")
    for flow in FLOWS:
        for table in (flow.bronze, flow.silver, *flow.gold_tables):
            end_history(lake, writers[table.name], alone=True)
    end_history(lake, writers[quarantine.TABLE.name], alone=False)  # replays write it, too
    for table in others():
        uri, version = lake.settings.table_uri(table.name), int(lake.table(table.name).version())
        writer = DeltaWriter(changes.storage, table, uri, version)
        done.rows[table.name] += drop_rows(lake, writer, wanted).num_rows
        if table is text_insights_daily.TABLE:
            done.days = drop_days(lake, writer, done.days)
        end_history(lake, writer, alone=False)
    return done


def scan(
    settings: Settings, users: Iterable[str], ends: kafka.Ends | None = None, step: Step = lambda _: None
) -> dict[str, int]:
    """Where users are named still, and how often: every live file of every table, every store, topic and file.

    ``ends``: of Kafka's topics only what lies before these offsets; without it all.
    """
    wanted, lake = Wanted(users), Lake(settings)
    found: Counter[str] = Counter()
    for name, table in TABLES.items():
        step(name)
        found[name] += sum(int(mask.sum()) for mask in Files(lake, table, wanted).search().values())
    for name in settings.stream.stores:
        step(name)
        for place, _ in stores.STORES[name](settings, wanted):
            found[place] += 1
    step("kafka")
    broker = kafka.Broker(settings)
    topics = broker.topics()
    compacted = broker.compacted([*topics])
    upto = {place: min(end, (ends or {}).get(place, end)) for place, end in broker.ends(topics).items()}
    for topic, _, _ in broker.naming(wanted, upto, compacted):
        found[f"kafka:{topic}"] += 1
    step("files")
    for path in files.local(settings, wanted):
        found[f"home:{path.relative_to(settings.home).parts[0]}"] += 1
    for name in files.on_lake(settings, wanted):
        found["lake:" + name.split("/", 1)[0]] += 1
    return {place: count for place, count in sorted(found.items()) if count}


def verify(settings: Settings, receipt: Path) -> bool:
    """Whether a receipt is one of ours, unchanged."""
    found = orjson.loads(receipt.read_bytes())
    return hmac.compare_digest(str(found.pop("signature", "")), _signature(key(settings), found))


def _signature(secret: bytes, receipt: dict[str, Any]) -> str:
    """HMAC-SHA-256 (RFC 2104) of the receipt as sorted JSON."""
    return hmac.new(secret, orjson.dumps(receipt, option=orjson.OPT_SORT_KEYS), "sha256").hexdigest()


def _text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(settings: Settings, wanted: Wanted) -> Counter[str]:
    cleaned: Counter[str] = Counter()
    for name in settings.stream.stores:
        hits: Iterator[stores.Hit] = stores.STORES[name](settings, wanted)
        for place, delete in hits:  # while its client is open
            delete()
            cleaned[place] += 1
    return cleaned


def _realtime(settings: Settings, digests: int) -> str:
    """Wait until every process that runs has forgotten them, and has kept that."""
    until = time.monotonic() + REALTIME_S
    while True:
        said = look.processors(settings)
        if not said:
            return "not running: it forgets them when it starts"
        if all(words.get("erased", 0) >= digests for words in said.values()):
            return f"forgotten by {len(said)}"
        if time.monotonic() > until:
            raise ErasureError(
                f"the real-time processor has not forgotten them within {REALTIME_S:.0f} s: see `lakehouse status`, "
                "then run this again"
            )
        time.sleep(0.5)
