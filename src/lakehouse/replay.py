"""A file's lines become Kafka records, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import orjson

from lakehouse.contracts import contracts
from lakehouse.settings import Settings
from lakehouse.sources.topics import DeliveryError, Outbox, Transport, producer, require_topics


class ReplayError(Exception):
    """The file could not be read, or a line was not acknowledged; one line that names it and how to go on."""


def record_key(line: bytes, path: tuple[str, ...]) -> bytes | None:
    """The Kafka key of a record: the string at ``path`` of its JSON, or None where there is no such string."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value.encode() if isinstance(value, str) else None


def replay(
    settings: Settings,
    topic: str,
    file: Path,
    rate: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    transport: Transport | None = None,
) -> dict[str, int]:
    r"""Send each line of a file as one record, and return when the broker has acknowledged all of them.

    Lines end at ``\n`` and nothing else; every other byte, ``\r`` and broken UTF-8 included, is kept. An empty line is
    a record with an empty value; a last line without ``\n`` counts, an empty file sends nothing. The key is the
    contract's where the line parses and holds it, else null; a topic without a contract gets null keys. The file is
    read as it is sent, so its size is bounded by the disk, a line's by 16 MB.

    Args:
        settings: the broker.
        topic: where to, an existing topic.
        file: what to send.
        rate: records per second; None sends as fast as the broker takes them.
        progress: called with (bytes read, bytes in the file) now and then and at the end.
        transport: sends the records instead of a new Kafka producer.

    Returns:
        ``{"sent": n, "acknowledged": n}``.

    Raises:
        ReplayError: the file cannot be read, or names the first line that was not acknowledged. All lines before it
            are in Kafka; lines after it may be, and those that carry an identity count as duplicates when sent again.
        TopicError: Kafka does not answer or has no such topic.
    """
    if rate is not None and rate <= 0:
        raise ReplayError(f"rate is {rate:g} records/s: give a number above 0, or none for full speed")
    contract = contracts().get(topic)
    try:
        total = file.stat().st_size
        lines = file.open("rb")
    except OSError as error:
        raise ReplayError(f"{file}: {error.strerror}: name a file that can be read") from None
    with lines:
        if transport is None:
            require_topics(settings, [topic])
            transport = producer(settings)
        outbox = Outbox(transport)
        done, started = 0, time.monotonic()
        try:
            for line in lines:
                if rate:
                    outbox.wait_until(started + outbox.sent / rate)
                value = line[:-1] if line.endswith(b"\n") else line
                outbox.send(topic, record_key(value, contract.key) if contract else None, value)
                done += len(line)
                if not outbox.sent & 1023:
                    progress(done, total)
            acknowledged = outbox.finish()
        except DeliveryError as error:
            raise ReplayError(
                f"{file}: line {error.number} was not acknowledged by Kafka ({error.reason}); all before it are in "
                f"topic {topic}: mend the cause (`lakehouse doctor`), then replay `tail -n +{error.number}` of the file"
            ) from None
    progress(done, total)
    return {"sent": outbox.sent, "acknowledged": acknowledged}
