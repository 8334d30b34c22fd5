"""``up``: servers, topics, then the programs that run beside them."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import chdir

from lakehouse import schedule, stack
from lakehouse.contracts import contracts
from lakehouse.settings import PROJECT, Settings
from lakehouse.sources.topics import create_topics

PROGRAMS = ("stream", "schedule")
_PASSED_ON = ("LAKEHOUSE_", "JAVA_HOME")
"""What of this process's environment the programs get; they may outlive the shell that set it."""


def up(settings: Settings, servers_only: bool = False, fresh: bool = False) -> Settings:
    """Start what does not run yet and return the settings with the servers' addresses.

    Contracts and timetable are read first. ``fresh`` wipes data and what was derived from them, and wants all stopped.

    Raises:
        ContractError, ScheduleError: a contract or the timetable is wrong; nothing has been started.
        StackError: a server does not start.
        TopicError: a topic cannot be made as the design says.
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
    return settings
