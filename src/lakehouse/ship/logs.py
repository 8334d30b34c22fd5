"""``lakehouse ship logs``: lines of files to a ``beats`` input, as Filebeat sends them.

A pipeline of the collector's own parts: ``file`` with ``multiline``, the queue on disk, ``lumberjack``. A line is in
the queue in one step with how far its file was read, and is named there: its ``event.id`` is the same however often it
is sent, and no kill loses or doubles it.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import socket
from collections.abc import Sequence
from typing import Any

from lakehouse.collect import inputs, outputs
from lakehouse.collect.codecs import expression
from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.event import Event
from lakehouse.collect.pipeline import Pipeline
from lakehouse.collect.plugins import Filter, Plugin
from lakehouse.collect.queue import Queue, QueueInUse
from lakehouse.settings import Settings

BEGINS = r"^\d{4}-"
"""A record begins with a line that starts with a date; what follows, such as a stack trace, belongs to it."""
ECS_VERSION = "1.12.0"
"""The Elastic Common Schema that the Beats 7.17 write."""
_POLL_S, _DISCOVER_POLLS = 0.25, 4
_SILENCE_S = 1.0
_WINDOW = 2048  # Filebeat's bulk_max_size
_log = logging.getLogger(__name__)


class ShipError(Exception):
    """A shipper that can't run; the message says what to change."""


def shipper(settings: Settings, paths: Sequence[str] = (), begins: str = BEGINS, name: str = "logs") -> Pipeline:
    """The pipeline from files to ``collect.beats``; its queue is opened, nothing else.

    Args:
        settings: where the collector is, and where the queue lies: ``<home>/ship/<name>.queue``.
        paths: patterns of files, or folders, which stand for ``*.log`` and ``*.log.1`` in them; ``collect.logs``
            where there are none.
        begins: a regular expression that finds the first line of a record and no other; where it is empty, each line
            is a record.
        name: of the queue and of how far files were read; every shipper that runs needs its own.

    Raises:
        ShipError: ``begins`` or ``name`` is wrong, or a shipper of this name runs already.
        QueueError: the queue is damaged.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ShipError(f"name {name!r}: give letters, digits, . - and _")
    try:
        expression(begins)
    except ValueError as error:
        raise ShipError(f"{begins!r} can't begin a record: {error}") from None
    home = settings.home / "ship"
    dead = DeadLetters(home / "dead-letters", name)
    found = _patterns(settings, paths)
    joined = {"negate": True, "what": "previous", "multiline_tag": "", "auto_flush_interval": _SILENCE_S}
    source = _plugin(
        "input",
        "file",
        path=found,
        exclude=["*.gz", "*.bz2", "*.xz", "*.zst", "*.zip"],
        start_position="beginning",
        sincedb_path="files",  # a position is the file's: it holds when other patterns find it
        stat_interval=_POLL_S,
        discover_interval=_DISCOVER_POLLS,
        codec=_plugin("codec", "multiline", pattern=begins, **joined) if begins else "plain",
    )
    host, _, port = settings.collect.beats.rpartition(":")
    target = _plugin("output", "lumberjack", hosts=[host.strip("[]")], port=int(port), flush_size=_WINDOW)
    try:
        queue = Queue(home / f"{name}.queue")
    except QueueInUse:
        raise ShipError(
            f"another `lakehouse ship logs` runs with {home / name}.queue: give this one another --name"
        ) from None
    _log.info("following %s, to %s", ", ".join(found), settings.collect.beats)
    return Pipeline(
        inputs={"file": inputs.opened(source)},
        apply=_described(socket.gethostname()),
        route=lambda event: [0],
        outputs={"lumberjack": outputs.opened(target, dead.add)},
        queue=queue,
        dead_letters={"lumberjack": dead},
        report=home / f"{name}.json",
    )


def _plugin(section: str, name: str, **options: Any) -> Plugin:
    return Plugin(section, name, 0, {key: (value, 0) for key, value in options.items()}, "ship logs")


def _patterns(settings: Settings, paths: Sequence[str]) -> list[str]:
    if not paths:
        settings.service_logs.mkdir(parents=True, exist_ok=True)
    absolute = [os.path.abspath(os.path.expanduser(path)) for path in paths or [str(settings.service_logs)]]
    # Rotated files too: one that was renamed while nobody read it is read to its end.
    in_folder = ("*.log", "*.log.[0-9]*")
    return [
        pattern
        for path in absolute
        for pattern in ([f"{glob.escape(path)}/{names}" for names in in_folder] if os.path.isdir(path) else [path])
    ]


def _described(host: str) -> Filter:
    """A filter that adds what Filebeat says of itself, and drops what is empty, as it does."""
    fields = {
        "agent": {"type": "filebeat", "name": host},
        "ecs": {"version": ECS_VERSION},
        "input": {"type": "filestream"},
    }

    def describe(event: Event) -> bool:
        event.update(fields)
        return bool(event["message"])

    return describe
