"""A task: one partition of one input, folded in order into state and into entries for the stages behind.

What a task decides depends on the records of its input alone, never on a clock, on other tasks or on where a batch was
cut. So after a crash the last committed state and the same records make the same entries again, which the receivers
know by their offsets: everything counts once, without a transaction on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from zlib import crc32

import msgspec
import orjson

from lakehouse.alerts import Alerts, Rule, Standing, about, notification, step
from lakehouse.erasure.identifiers import Erased
from lakehouse.realtime.messages import Batch, Event, Told, Touch
from lakehouse.realtime.state import MINUTE, Change, Seen, Store
from lakehouse.settings import Realtime

POSITION = "@"
CHUNK = 2000
"""Entries after which a task passes on what it has made, so that one batch stays far below a record's largest size."""
Command = tuple[Any, ...]
"""A Redis command with its arguments, texts and numbers."""


class Record(Protocol):
    """What a task needs of a Kafka message; ``confluent_kafka.Message`` has it."""

    def value(self) -> bytes | None:
        """The record's value."""

    def offset(self) -> int:
        """Its offset."""

    def timestamp(self) -> tuple[int, int]:
        """(kind, milliseconds since 1970 UTC)."""


@dataclass
class Context:
    """What all tasks of a process share: settings, rules, the partitions of every input, and who was erased."""

    settings: Realtime
    alerts: Alerts
    partitions: dict[str, int]
    erased: Erased = field(default_factory=lambda: Erased(b"-", ()))

    def does(self, part: str) -> bool:
        """Whether a part of the processor is on."""
        return part in self.settings.parts

    def rules(self, feed: str) -> list[Rule]:
        """The rules that a feed has; none where notifications are off."""
        return [rule for rule in self.alerts.rules if rule.on == feed] if self.does("notifications") else []


class Position(msgspec.Struct, array_like=True, gc=False):
    """How much of a source a stage has taken: the last offset, and the source's time."""

    offset: int = -1
    watermark: int = 0


class Kept(msgspec.Struct, array_like=True):
    """A task's own place: the next offset of its input, its time, its counts, and its sources' places."""

    next: int
    watermark: int
    counts: dict[str, int]
    sources: dict[str, Position]


class Outbox:
    """Entries on their way: :meth:`put` while a record is folded, :meth:`send` hands whole batches over.

    Args:
        produce: ``(topic, partition, value)`` puts a record on Kafka.
        topics: the input topic of each stage.
        partitions: the number of its partitions.
    """

    def __init__(
        self,
        produce: Callable[[str, int, bytes], None],
        topics: dict[str, str],
        partitions: dict[str, int],
    ) -> None:
        self._produce, self._topics, self._partitions = produce, topics, partitions
        self._waiting: dict[tuple[str, int], list[Any]] = {}
        self._told: dict[tuple[str, str, int], int] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self.count = 0

    def put(self, stage: str, key: str, entry: Any) -> None:
        """Add an entry for the task of a stage that has this key."""
        # CRC-32, not Kafka's murmur2: nobody else writes these topics, and it costs a tenth.
        place = (stage, crc32(key.encode()) % self._partitions[stage])
        self._waiting.setdefault(place, []).append(entry)
        self.count += 1

    def send(self, source: str, watermark: int, stages: Sequence[str] = ()) -> None:
        """Hand over what waits; ``stages``: whose every task is to hear the time, if it is news."""
        for stage in stages:
            for partition in range(self._partitions.get(stage, 0)):
                if self._told.get((source, stage, partition), 0) < watermark:
                    self._waiting.setdefault((stage, partition), [])
        for (stage, partition), entries in self._waiting.items():
            self._told[source, stage, partition] = watermark
            value = self._encode(Batch(source, watermark, entries))
            self._produce(self._topics[stage], partition, value)
        self._waiting.clear()
        self.count = 0


class Task:
    """What routes and stages have in common."""

    name: ClassVar[str]
    topic: ClassVar[str]
    """The topic it reads."""
    feeds: ClassVar[tuple[str, ...]] = ()
    """The stages it makes entries for."""

    def __init__(self, context: Context, partition: int) -> None:
        self.context, self.partition = context, partition
        self.source = f"{self.name}/{partition}"
        self.next = 0
        self.watermark = 0
        self.counts: dict[str, int] = {}
        self.sources: dict[str, Position] = {}
        self.parts: tuple[Store[Any] | Seen, ...] = ()
        self._moved = False

    def process(self, records: Sequence[Record], out: Outbox) -> None:
        """Fold records in order."""
        raise NotImplementedError

    def count(self, what: str, number: int = 1) -> None:
        """Count something that status shows."""
        self.counts[what] = self.counts.get(what, 0) + number

    def heartbeat(self, out: Outbox) -> None:
        """Tell all tasks behind how far time has come."""
        if self.watermark:
            out.send(self.source, self.watermark, self.feeds)

    def changes(self) -> Iterator[Change]:
        """What changed since the last call, for the changelog."""
        for part in self.parts:
            yield from part.changes()
        if self._moved:
            kept = Kept(self.next, self.watermark, self.counts, self.sources)
            yield POSITION, msgspec.msgpack.encode(kept)
            self._moved = False

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one record of the changelog, in order."""
        if key == POSITION:
            if value is not None:
                kept = msgspec.msgpack.decode(value, type=Kept)
                self.next, self.watermark = kept.next, kept.watermark
                self.counts, self.sources = kept.counts, kept.sources
            return
        for part in self.parts:
            if key.startswith(part.prefix):
                if value is None:
                    part.unload(key if isinstance(part, Seen) else key[len(part.prefix) :])
                else:
                    part.load(key if isinstance(part, Seen) else key[len(part.prefix) :], value)
                return

    def restored(self) -> None:
        """Make what is derived from the state, once all of it is there."""

    def cool(self) -> None:
        """Let go of objects that were not used lately."""
        for part in self.parts:
            if isinstance(part, Store):
                part.cool()

    def forget(self, erased: Erased) -> None:
        """Take those who were erased out of the state."""
        for part in self.parts:
            if isinstance(part, Store):
                for key in [key for key, _ in part.items() if erased.in_text(key)]:
                    part.delete(key)

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """What Redis is to hold of what changed since the last call; ``tick``: and of what changes with time."""
        return []

    def all_effects(self) -> None:
        """Count everything as changed: Redis has lost it, or has missed some of it."""

    def tick_effects(self) -> None:
        """Count as changed what is shown with ticks alone: that Redis is as far as this task does not say it has it."""


Entry = TypeVar("Entry")


class Stage(Task, Generic[Entry]):
    """A task that reads what others made for it."""

    entry: ClassVar[type]

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self._decode = msgspec.msgpack.Decoder(Batch[self.entry]).decode  # type: ignore[name-defined]
        self._expected = [
            f"{task}/{number}" for task, number_of in self.fed_by().items() for number in range(number_of)
        ]
        self.lateness = context.settings.lateness // timedelta(microseconds=1)
        self.minutes: set[int] = set()
        """The minutes that something counted in, as far back as ``reach`` minutes before the newest closed one."""
        self.reach = 1
        self.now_us = 0
        """When the entries at hand were put on the topic."""

    def fed_by(self) -> dict[str, int]:
        """The tasks that make entries for this stage, and their partitions."""
        return {}

    def process(self, records: Sequence[Record], out: Outbox) -> None:
        """Fold batches in order; entries already taken, which a restarted source makes again, are passed over."""
        for record in records:
            self.next = offset = record.offset() + 1
            self.now_us = record.timestamp()[1] * 1000
            gone = self.context.erased
            batch: Batch[Entry] = self._decode(record.value() or b"")
            place = self.sources.get(batch.source)
            if place is None:
                place = self.sources[batch.source] = Position()
            if batch.entries:
                taken = place.offset
                for entry in batch.entries:
                    if entry.at > taken and not (gone and any(name in gone for name in entry.names())):  # type: ignore[attr-defined]
                        self.fold(entry, out, offset)
                place.offset = max(taken, batch.entries[-1].at)  # type: ignore[attr-defined]
            if batch.watermark > place.watermark:
                place.watermark = batch.watermark
                self._advance(out, offset)
            if out.count > CHUNK:
                out.send(self.source, self.watermark)
        self._moved = True
        out.send(self.source, self.watermark)

    def _advance(self, out: Outbox, offset: int) -> None:
        sources = self.sources
        times = [sources[name].watermark if name in sources else 0 for name in self._expected]
        time = min(times, default=0)
        if time <= self.watermark:
            return
        before, self.watermark = self.watermark, time
        last = (time - self.lateness) // MINUTE
        minute = (before - self.lateness) // MINUTE if before else min(self.minutes, default=last)
        while minute < last:
            if not self.standing() and not any(minute - self.reach < m <= minute for m in self.minutes):
                # Nothing is open here: a gap in time is not walked through.
                minute = min((m for m in self.minutes if m > minute), default=last)
                continue
            self.close(minute, out, offset)
            minute += 1
        self.minutes = {m for m in self.minutes if m > last - self.reach}

    def on_time(self, time: int, late: bool) -> bool:
        """Whether an entry still counts in windows and sessions."""
        return not late and time >= self.watermark - self.lateness

    def fold(self, entry: Entry, out: Outbox, offset: int) -> None:
        """Take one entry; what it leads to carries ``offset``."""
        raise NotImplementedError

    def standing(self) -> bool:
        """Whether some rule is known to stand, so that even a minute without entries has to be closed."""
        return False

    def close(self, minute: int, out: Outbox, offset: int) -> None:
        """Close a minute (since 1970): no more will count in it."""


class Watch:
    """Rules on closed minutes, and how each stands for each subject.

    Args:
        context: the rules.
        feed: which of them.
    """

    def __init__(self, context: Context, feed: str) -> None:
        self.rules = context.rules(feed)
        self.standings = Store("standing:", Standing)
        self._standing: dict[str, set[str]] = {rule.name: set() for rule in self.rules}
        self.reach = max((rule.over // timedelta(minutes=1) for rule in self.rules), default=1)
        """Minutes that the longest rule looks back, its own included."""

    def any(self) -> bool:
        """Whether any subject stands."""
        return any(self._standing.values())

    def restored(self) -> None:
        """Know again which subjects stand."""
        for key, _ in self.standings.items():
            name, _, subject = key.partition("|")
            if name in self._standing:
                self._standing[name].add(subject)

    def minute(
        self, end_us: int, facts: Callable[[Rule], dict[str, dict[str, Any]]], out: Outbox, offset: int,
        recipient: Callable[[str], dict[str, Any]] = lambda subject: {},
    ) -> None:  # fmt: skip
        """Take all rules over a minute that ends at ``end_us``.

        Args:
            end_us: when it ends.
            facts: of a rule: the facts of every subject that has some, by subject.
            out: takes what is to be told.
            offset: the offset that this happens at.
            recipient: facts about a subject that has none in this minute, for whom to tell of a recovery.
        """
        for rule in self.rules:
            known = facts(rule)
            standing = self._standing[rule.name]
            for subject in sorted(known.keys() | standing):
                key = f"{rule.name}|{subject}"
                here = known.get(subject, {})
                now, what = step(rule, self.standings.get(key), here, end_us)
                if now is None:
                    if subject in standing:
                        standing.discard(subject)
                        self.standings.delete(key)
                else:
                    standing.add(subject)
                    self.standings.put(key, now)
                if what:
                    due = notification(rule, here or recipient(subject), subject, end_us, what)
                    if due:
                        told = Told(offset, end_us, subject, 0, due.document())
                        out.put("inbox", due.user_id, told)


class Watched(Stage[Entry]):
    """A stage that drops repeats and takes rules over the minutes of its subjects, as services and hosts are.

    Args:
        context: settings and rules.
        partition: of its topic.
        subject: the feed's name, which is also that of the fact that names a subject.
        kind: the type of a subject's state; it has ``minutes``, by number since 1970.
    """

    def __init__(self, context: Context, partition: int, subject: str, kind: type[Any]) -> None:
        super().__init__(context, partition)
        self._subject = subject
        self.seen = Seen(context.settings.duplicate_horizon // timedelta(microseconds=1))
        self.subjects: Store[Any] = Store(f"{subject}:", kind)
        self.watch = Watch(context, subject)
        self.parts = (self.seen, self.subjects, self.watch.standings)
        self.reach = self.watch.reach
        self._changed: dict[str, None] = {}
        self._ttl = int(context.settings.live_ttl.total_seconds())

    def repeated(self, identity: str | None, appended: int) -> bool:
        """Whether an entry is a repeat, which is counted; one without an identity never is."""
        if identity is None or self.seen.first(identity, appended):
            return False
        self.count("duplicates")
        return True

    def facts(self, there: list[Any]) -> dict[str, Any]:
        """What rules are told of a subject's minutes."""
        raise NotImplementedError

    def shown(self, state: Any) -> dict[str, Any] | None:
        """The JSON of ``live:<subject>:<name>``; None where there is nothing to show."""
        raise NotImplementedError

    def standing(self) -> bool:
        """Whether some subject is in trouble."""
        return self.watch.any()

    def close(self, minute: int, out: Outbox, offset: int) -> None:
        """Take the rules over a minute, and forget what none looks back to."""
        if self.watch.rules:
            about = self._subject
            end = (minute + 1) * MINUTE
            self.watch.minute(end, lambda rule: self._facts(rule, minute), out, offset, lambda name: {about: name})
        for name, state in list(self.subjects.items()):
            kept = {m: counts for m, counts in state.minutes.items() if m > minute - self.reach}
            if len(kept) < len(state.minutes):
                state.minutes = kept
                self.subjects.put(name, state)

    def _facts(self, rule: Rule, minute: int) -> dict[str, dict[str, Any]]:
        span = range(minute - rule.over // timedelta(minutes=1) + 1, minute + 1)
        found = {}
        for name, state in self.subjects.items():
            there = [state.minutes[m] for m in span if m in state.minutes]
            if there:
                found[name] = {self._subject: name, "minute": minute * MINUTE, **self.facts(there)}
        return found

    def restored(self) -> None:
        """Know again which minutes are open."""
        self.watch.restored()
        self.minutes = {minute for _, state in self.subjects.items() for minute in state.minutes}

    def all_effects(self) -> None:
        """Show every subject again."""
        self._changed |= {name: None for name, _ in self.subjects.items()}

    tick_effects = all_effects

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """With a tick each subject that changed."""
        if not tick:
            return []
        commands: list[Command] = []
        for name in self._changed:
            state = self.subjects.get(name)
            words = self.shown(state) if state else None
            if words is not None:
                commands.append(("SET", f"live:{self._subject}:{name}", orjson.dumps(words).decode(), "EX", self._ttl))
        self._changed.clear()
        return commands


def tell(rule: Rule, facts: dict[str, Any], entry: Event | Touch, out: Outbox, offset: int) -> None:
    """Pass on what a rule on events says of one that it matches."""
    time = min(entry.time, entry.appended)  # a clock that runs ahead must not use up tomorrow's limit
    due = notification(rule, facts, entry.id, time)
    if due:
        span = rule.again_after // timedelta(microseconds=1)
        out.put("inbox", due.user_id, Told(offset, time, about(rule, facts) or entry.id, span, due.document()))
