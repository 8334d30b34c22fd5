"""The way back for records that broke their contract: find them, mend them, send them again, or let them go.

A replay is a new record with the header ``lakehouse-replay-of: topic/partition/offset``; the stream takes it once
however often it is sent. The original stays in ``silver.quarantine`` and stays counted there; only its status changes.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from deltalake.exceptions import CommitFailedError

from lakehouse.contracts import TOPICS, contracts
from lakehouse.quality.checks import checker
from lakehouse.query import query, rows
from lakehouse.replay import record_key
from lakehouse.settings import Settings
from lakehouse.silver.quarantine import TABLE
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import DeliveryError, Outbox, producer, require_topics

REPLAY_HEADER = "lakehouse-replay-of"
STATUSES = ("open", "replayed", "discarded")
CHUNK_RECORDS, CHUNK_BYTES = 5000, 64 << 20
"""Records and bytes of values that are sent, acknowledged and marked together."""
EDIT_TIMEOUT_S = 30.0
_COMMITS = 20

Id = tuple[str, int, int]
"""topic, partition, offset."""


class QuarantineError(Exception):
    """A selection or a mend that cannot be carried out; one line that says why."""


@dataclass(frozen=True)
class Selection:
    """Which quarantined records: all conditions hold; ``since``/``until`` bound the Kafka append time (half open)."""

    ids: tuple[Id, ...] = ()
    reason: str | None = None
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: str | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """The condition, with its parameters."""
        parts, values = ["true"], list[Any]()
        if self.ids:
            parts.append("(" + " or ".join(['(topic = ? and partition = ? and "offset" = ?)'] * len(self.ids)) + ")")
            values += [part for one in self.ids for part in one]
        for condition, value in (
            ("contains(array_to_string(reasons, chr(10)), ?)", self.reason),
            ("topic = ?", self.topic),
            ("timestamp >= ?", self.since),
            ("timestamp < ?", self.until),
            ("status = ?", self.status),
        ):
            if value is not None:
                parts.append(condition)
                values.append(value)
        return " and ".join(parts), values


def parse_id(text: str) -> Id:
    """``topic/partition/offset``.

    Raises:
        QuarantineError: it is not of that form.
    """
    topic, *numbers = text.split("/")
    if len(numbers) != 2 or topic not in TOPICS or not all(number.isdecimal() for number in numbers):
        raise QuarantineError(f"{text!r} is no record id: topic/partition/offset, such as {TOPICS[0]}/0/17")
    return topic, int(numbers[0]), int(numbers[1])


def show_id(record: Id) -> str:
    """An id as text."""
    return "/".join(map(str, record))


# --- looking -------------------------------------------------------------------------------------------------------


def ls(settings: Settings, selection: Selection, limit: int = 50) -> list[dict[str, Any]]:
    """The newest quarantined records of a selection, without their bytes."""
    where, values = selection.sql()
    return rows(
        settings,
        f"""select topic || '/' || partition || '/' || "offset" as id, timestamp, status, updated_at, reasons,
                   octet_length(value) as bytes
            from {TABLE.name} where {where} order by timestamp desc, id limit {int(limit)}""",
        values,
    )


def by_reason(settings: Settings, selection: Selection) -> list[dict[str, Any]]:
    """Counts of a selection by topic, reason and status; a record with several reasons counts under each."""
    where, values = selection.sql()
    return rows(
        settings,
        f"""select topic, reason, status, count(*) as records, min(timestamp) as first_at, max(timestamp) as last_at,
                   arg_max(topic || '/' || partition || '/' || "offset", timestamp) as example
            from (select *, unnest(reasons) as reason from {TABLE.name} where {where})
            group by topic, reason, status order by records desc, topic, reason, status""",
        values,
    )


def show(settings: Settings, record: Id) -> dict[str, Any]:
    """One quarantined record in full; bytes as text where they are UTF-8, else as ``{"base64": ..., "hex": ...}``.

    Raises:
        QuarantineError: it is not in quarantine.
    """
    where, values = Selection(ids=(record,)).sql()
    found = rows(settings, f"select * from {TABLE.name} where {where}", values)
    if not found:
        raise QuarantineError(f"{show_id(record)} is not in quarantine; `lakehouse trace {show_id(record)}` finds it")
    row = found[0]
    row["key"], row["value"] = decoded(row["key"]), decoded(row["value"])
    row["headers"] = [{"key": h["key"], "value": decoded(h["value"])} for h in row["headers"] or []]
    return {"id": show_id(record), **row}


def decoded(data: bytes | None) -> Any:
    """Bytes as text where they are UTF-8."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode(), "hex": data.hex(" ") if len(data) <= 4096 else None}


# --- mending -------------------------------------------------------------------------------------------------------

Mend = Callable[[bytes], bytes]
"""Makes a value from a broken one; raises :class:`QuarantineError` where it cannot."""


def setting(pointer: str, replacement: Any) -> Mend:
    """A mend that sets the place that a JSON pointer (RFC 6901) names; objects missing on the way are made."""
    if not pointer.startswith("/"):
        raise QuarantineError(f"--set {pointer}: a JSON pointer starts with /, such as /rating")
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]

    def mend(value: bytes) -> bytes:
        try:
            document = json.loads(value)
        except ValueError as error:
            raise QuarantineError(f"not JSON, so {pointer} cannot be set ({error}): use --edit") from None
        place = document
        try:
            for part in way:
                place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
            if isinstance(place, list):
                place[int(last)] = replacement
            else:
                place.update({last: replacement})
            return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except (AttributeError, ValueError, IndexError, UnicodeEncodeError) as error:
            raise QuarantineError(f"{pointer} cannot be set: {error}") from None

    return mend


def editing(command: Sequence[str]) -> Mend:
    """A mend by an executable: the value comes on its stdin, the mended one is its stdout, byte for byte."""

    def mend(value: bytes) -> bytes:
        try:
            done = subprocess.run(command, input=value, capture_output=True, timeout=EDIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise QuarantineError(f"{command[0]} took more than {EDIT_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise QuarantineError(f"{command[0]} does not run: {error.strerror}: name an executable") from None
        if done.returncode:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise QuarantineError(f"{command[0]} ended with {done.returncode}: {last}")
        return done.stdout

    return mend


def mended(topic: str, value: bytes | None, mends: Sequence[Mend], now: datetime) -> bytes | None:
    """The value after all mends, which has to keep the contract then; untouched without a mend.

    Raises:
        QuarantineError: a mend fails, or its result is empty, null or still breaks the contract.
    """
    if not mends:
        return value
    for mend in mends:
        value = mend(value or b"")
    if not value or value.strip() in (b"", b"null"):
        raise QuarantineError("the mended value is empty or null")
    if reasons := broken(topic, value, now):
        raise QuarantineError(f"the mended value still breaks the contract: {'; '.join(reasons)}")
    return value


def broken(topic: str, value: bytes | None, now: datetime) -> list[str]:
    """Why a value breaks its topic's contract as it is today; nothing where it keeps it."""
    return checker(contracts()[topic])(value, int(now.timestamp() * 1e6)).reasons or []


# --- acting --------------------------------------------------------------------------------------------------------


class Sender(Protocol):
    """What is needed of a producer; ``confluent_kafka.Producer`` has it."""

    def produce(self, topic: str, **record: Any) -> None:
        """Queue one record with ``value``, ``key``, ``headers`` and ``on_delivery``."""

    def poll(self, timeout: float) -> int:
        """Serve delivery reports."""

    def flush(self) -> int:
        """Wait until every queued record is acknowledged or has failed."""


class _WithHeaders:
    """Adds ``headers`` to what an :class:`Outbox` sends, which knows of none."""

    def __init__(self, sender: Sender):
        self.sender, self.headers = sender, list[tuple[str, bytes | None]]()
        self.poll, self.flush = sender.poll, sender.flush

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        self.sender.produce(topic, value=value, key=key, headers=self.headers, on_delivery=on_delivery)


def replay(
    settings: Settings,
    selection: Selection,
    mends: Sequence[Mend] = (),
    *,
    again: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    sender: Sender | None = None,
) -> dict[str, Any]:
    """Send selected records to their topic again, mended, and mark them once Kafka has acknowledged them.

    Records already replayed or discarded are passed over unless ``again``. Headers are kept, and one is added that
    names the original; the key is the contract's where the value holds it, else the original one.

    Returns:
        ``selected``, ``sent``, ``marked``, ``passed_over`` (replayed or discarded before) and ``skipped``, a list of
        ``{id, why}``; with ``dry_run`` nothing is sent or written, and ``would_send`` lists ``{id, reasons}``: what
        today's contract still finds wrong.

    Raises:
        QuarantineError: Kafka did not acknowledge a record; those before it are sent and marked.
        TopicError, LakeError: Kafka or the tables do not answer.
    """
    found = _select(settings, selection)
    wanted = [(record, size) for record, status, size in found if again or status == "open"]
    result: dict[str, Any] = {
        "selected": len(found),
        "passed_over": len(found) - len(wanted),
        "sent": 0,
        "marked": 0,
        "skipped": [],
    }
    if dry_run:
        result["would_send"] = []
    elif wanted and sender is None:
        require_topics(settings, {record[0] for record, _ in wanted})
        sender = producer(settings)
    done = 0
    for chunk in _chunks(wanted):
        now = datetime.now(UTC)
        ready = []
        for row in _load(settings, chunk):
            record = (row["topic"], row["partition"], row["offset"])
            try:
                ready.append((record, mended(record[0], row["value"], mends, now), row))
            except QuarantineError as error:
                result["skipped"].append({"id": show_id(record), "why": str(error)})
        if dry_run:
            result["would_send"] += [{"id": show_id(r), "reasons": broken(r[0], v, now)} for r, v, _ in ready]
        elif ready and sender is not None:
            sent, failure = _send(sender, ready)
            result["sent"] += len(sent)
            result["marked"] += mark(settings, sent, "replayed")
            if failure:
                raise QuarantineError(
                    f"{show_id(ready[len(sent)][0])} was not acknowledged by Kafka ({failure}); {result['sent']} "
                    "records before it were, and are marked: mend the cause, then run the same command again"
                )
        done += len(chunk)
        progress(done, len(wanted))
    return result


def discard(settings: Settings, selection: Selection, *, again: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Mark selected records as discarded; they stay where they are, counted as quarantined.

    Only open ones, unless ``again``. Returns ``selected``, ``passed_over`` and ``marked``.
    """
    found = _select(settings, selection)
    wanted = [record for record, status, _ in found if status == "open" or (again and status == "replayed")]
    result: dict[str, Any] = {"selected": len(found), "passed_over": len(found) - len(wanted), "marked": 0}
    if dry_run:
        result["would_discard"] = [show_id(record) for record in wanted]
    else:
        for at in range(0, len(wanted), CHUNK_RECORDS):
            result["marked"] += mark(settings, wanted[at : at + CHUNK_RECORDS], "discarded")
    return result


def _select(settings: Settings, selection: Selection) -> list[tuple[Id, str, int]]:
    where, values = selection.sql()
    found = query(
        settings,
        f"""select topic, partition, "offset", status, coalesce(octet_length(value), 0) from {TABLE.name}
            where {where} order by timestamp, topic, partition, "offset" """,
        values,
    )
    return [((topic, partition, offset), status, size) for topic, partition, offset, status, size in found.rows]


def _chunks(wanted: Iterable[tuple[Id, int]]) -> Iterator[list[Id]]:
    chunk: list[Id] = []
    held = 0
    for record, size in wanted:
        if chunk and (len(chunk) >= CHUNK_RECORDS or held + size > CHUNK_BYTES):
            yield chunk
            chunk, held = [], 0
        chunk.append(record)
        held += size
    if chunk:
        yield chunk


def _load(settings: Settings, records: Sequence[Id]) -> list[dict[str, Any]]:
    return rows(
        settings,
        f"""select topic, partition, "offset", key, value, headers from {TABLE.name}
            where {condition(records)} order by timestamp, topic, partition, "offset" """,
    )


def _send(sender: Sender, ready: Sequence[tuple[Id, bytes | None, dict[str, Any]]]) -> tuple[list[Id], str | None]:
    """Send in order; the records acknowledged before the first that was not, and what became of that one."""
    transport = _WithHeaders(sender)
    outbox = Outbox(transport)
    try:
        for record, value, row in ready:
            key = record_key(value or b"", contracts()[record[0]].key) or row["key"]
            kept = [(header["key"], header["value"]) for header in row["headers"] or []]
            transport.headers = [*kept, (REPLAY_HEADER, show_id(record).encode())]
            outbox.send(record[0], key, value)
        outbox.finish()
    except DeliveryError as error:
        return [record for record, _, _ in ready[: error.number - 1]], error.reason
    return [record for record, _, _ in ready], None


def condition(records: Sequence[Id]) -> str:
    """Records as a condition that DuckDB and delta-rs both understand."""
    offsets: dict[tuple[str, int], list[int]] = {}
    for topic, partition, offset in records:
        offsets.setdefault((topic, partition), []).append(offset)
    return " or ".join(
        f"(topic = '{topic}' and partition = {partition} and \"offset\" in ({', '.join(map(str, sorted(found)))}))"
        for (topic, partition), found in offsets.items()
    )


def mark(settings: Settings, records: Sequence[Id], status: str) -> int:
    """Set the status of records in one commit; the number of rows changed.

    May happen twice: the status is absolute. The stream appends to the table at the same time, and another writer may
    win the version; the commit is then built anew.

    Raises:
        QuarantineError: others won every time.
    """
    if not records:
        return 0
    lake = Lake(settings)
    now = int(datetime.now(UTC).timestamp() * 1e6)
    updates = {"status": f"'{status}'", "updated_at": f"arrow_cast({now}, 'Timestamp(Microsecond, Some(\"UTC\"))')"}
    for attempt in range(_COMMITS):
        try:
            done = lake.table(TABLE.name).update(predicate=condition(records), updates=updates)
            return int(done["num_updated_rows"])
        except CommitFailedError:
            time.sleep(0.05 * (attempt + 1))
    raise QuarantineError(f"{TABLE.name} was written by others {_COMMITS} times in a row; run the same command again")
