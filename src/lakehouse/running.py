"""``up``: servers, topics, then the programs that run beside them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import chdir

from lakehouse import schedule, stack
from lakehouse.contracts import contracts
from lakehouse.flows import TABLES
from lakehouse.settings import PROJECT, Settings
from lakehouse.sources.lake import Lake, LakeError
from lakehouse.sources.topics import create_topics

PROGRAMS = ("stream", "schedule")
TABLES_WITHIN = 120.0
"""Seconds that the stream is given to make its tables."""
_PASSED_ON = ("LAKEHOUSE_", "JAVA_HOME")
"""What of this process's environment the programs get; they may outlive the shell that set it."""


class StartError(Exception):
    """A program that was started does not do its work; the message names its log."""


def up(settings: Settings, servers_only: bool = False, fresh: bool = False) -> Settings:
    """Start what does not run yet and return the settings with the servers' addresses, once all tables are there.

    Contracts and timetable are read first. ``fresh`` wipes data and what was derived from them, and wants all stopped.

    Raises:
        ContractError, ScheduleError: a contract or the timetable is wrong; nothing has been started.
        StackError: a server does not start.
        TopicError: a topic cannot be made as the design says.
        StartError: the stream made no tables.
    """
    contracts()
    schedule.read()
    settings = stack.up(settings, fresh=fresh)
    if fresh:
        for derived in ("index", "tmp", "runs.jsonl"):
            path = settings.home / derived
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    create_topics(settings)
    if servers_only:
        return settings
    env = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    env |= {"LAKEHOUSE_HOME": str(settings.home), "LAKEHOUSE_PROFILE": settings.profile}
    with chdir(PROJECT):  # a program is started anew when its folder changes
        for name in PROGRAMS:
            stack.add_program(settings, name, [sys.executable, "-m", "lakehouse.cli", name], env)
    _until_there_are_tables(settings)
    return settings


def _until_there_are_tables(settings: Settings) -> None:
    lake, last = Lake(settings), time.monotonic() + TABLES_WITHIN
    while True:
        try:
            for name in TABLES:
                lake.table(name)
            return
        except LakeError as missing:
            if time.monotonic() > last:
                log = settings.home / "logs" / "stream.log"
                raise StartError(f"{missing}; not within {TABLES_WITHIN:.0f} s: {log} says why") from None
        time.sleep(0.2)
