"""The timetable: verbs of ``lakehouse`` run at their times, each run on record, none able to stop the others."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lakehouse import components
from lakehouse.settings import PROJECT, Settings

TIMETABLE = PROJECT / "conf" / "schedule.yaml"
COMMAND = (sys.executable, "-m", "lakehouse.cli")
KEPT_RUNS = 1000
LAST_WORDS = 400
PROBLEMS_FOUND = 3
log = logging.getLogger("lakehouse.schedule")

Outcome = Literal["ok", "problems", "failed", "timed out"]


class ScheduleError(Exception):
    """The timetable is missing or malformed; one line that names the place."""


class Job(BaseModel):
    """One entry of the timetable: a verb with its arguments, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: tuple[str, ...] = Field(min_length=1)
    cron: str | None = None
    every: timedelta | None = None
    timeout: timedelta = timedelta(minutes=10)
    run_late: timedelta = timedelta(minutes=5)
    retries: int = Field(2, ge=0, le=10)
    pause: timedelta = timedelta(seconds=30)

    @model_validator(mode="after")
    def _one_time(self) -> Job:
        if (self.cron is None) == (self.every is None):
            raise ValueError("needs either cron or every")
        self.trigger()
        return self

    def trigger(self) -> Any:
        """When it runs, as APScheduler has it; UTC."""
        from apscheduler.triggers.cron import CronTrigger
        from apscheduler.triggers.interval import IntervalTrigger

        if self.cron is not None:
            return CronTrigger.from_crontab(self.cron, timezone=UTC)
        assert self.every is not None
        if self.every < timedelta(seconds=1):
            raise ValueError("every is at least one second")
        return IntervalTrigger(seconds=self.every.total_seconds(), timezone=UTC)


class _Timetable(BaseModel):
    model_config = ConfigDict(extra="forbid")

    jobs: dict[str, Job] = {}


def read(path: Path = TIMETABLE) -> dict[str, Job]:
    """The timetable, by name.

    Raises:
        ScheduleError: the file is missing or says something that cannot be carried out.
    """
    try:
        return _Timetable.model_validate(yaml.safe_load(path.read_text()) or {}).jobs
    except OSError as error:
        raise ScheduleError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ScheduleError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ScheduleError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


# --- the record of runs --------------------------------------------------------------------------------------------


class Runs:
    """``home/runs.jsonl``: one JSON line an attempt, the newest last; bounded."""

    def __init__(self, path: Path, kept: int = KEPT_RUNS):
        self.path, self.kept = path, kept
        self._lock = threading.Lock()

    def add(self, run: dict[str, Any]) -> None:
        """Append one; twice the number to keep are cut back to it."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(run, ensure_ascii=False) + "\n")
            lines = self.path.read_text().splitlines(keepends=True)
            if len(lines) > 2 * self.kept:
                draft = self.path.with_name(self.path.name + ".partial")
                draft.write_text("".join(lines[-self.kept :]))
                os.replace(draft, self.path)

    def all(self) -> Iterator[dict[str, Any]]:
        """Every run that is kept, the newest last; a line cut short by a crash is passed over."""
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                with suppress(ValueError):
                    yield json.loads(line)

    def latest(self) -> dict[str, dict[str, Any]]:
        """The newest run of every job."""
        return {run["name"]: run for run in self.all()}


def runs(settings: Settings) -> Runs:
    """The record of this home."""
    return Runs(settings.home / "runs.jsonl")


# --- running -------------------------------------------------------------------------------------------------------


class Runner:
    """Runs jobs as processes of their own; ``stop`` ends those at work and lets no other begin."""

    def __init__(self, record: Runs, command: Sequence[str] = COMMAND):
        self.record, self.command = record, tuple(command)
        self.stopping = threading.Event()
        self._children: set[subprocess.Popen[str]] = set()

    def run(self, name: str, job: Job) -> Outcome:
        """Run a job until it does not fail or its retries are used up; what became of it."""
        pause = job.pause.total_seconds()
        outcome: Outcome = "failed"
        for attempt in range(job.retries + 1):
            outcome = self._attempt(name, job, attempt + 1)
            if outcome in ("ok", "problems"):
                break
            if attempt < job.retries and self.stopping.wait(pause):
                break
            pause *= 2
        return outcome

    def _attempt(self, name: str, job: Job, number: int) -> Outcome:
        started, began = datetime.now(UTC), time.monotonic()
        outcome: Outcome
        code: int | None = None
        try:
            child = subprocess.Popen(
                [*self.command, *job.run],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            outcome, output = "failed", str(error)
        else:
            self._children.add(child)
            if self.stopping.is_set():
                child.terminate()
            try:
                output, _ = child.communicate(timeout=job.timeout.total_seconds())
                code = child.returncode
                outcome = "ok" if code == 0 else "problems" if code == PROBLEMS_FOUND else "failed"
            except subprocess.TimeoutExpired:
                child.kill()
                output, _ = child.communicate()
                outcome = "timed out"
            finally:
                self._children.discard(child)
        run: dict[str, Any] = {
            "name": name,
            "command": ["lakehouse", *job.run],
            "started_at": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "seconds": round(time.monotonic() - began, 3),
            "attempt": number,
            "outcome": outcome,
            "exit_code": code,
            "output": output.strip()[-LAST_WORDS:],
        }
        self.record.add(run)
        level = logging.INFO if outcome == "ok" else logging.WARNING
        log.log(
            level, "%s, attempt %d: %s after %.1f s: %s", name, number, outcome, run["seconds"], run["output"][-200:]
        )
        return outcome

    def stop(self) -> None:
        """End what runs and start nothing any more."""
        self.stopping.set()
        for child in list(self._children):
            child.terminate()


def run(settings: Settings, path: Path = TIMETABLE) -> None:
    """Keep the timetable until SIGTERM or SIGINT.

    Raises:
        ScheduleError: the timetable is wrong.
    """
    from apscheduler.schedulers.background import BackgroundScheduler

    jobs = read(path)
    runner = Runner(runs(settings))
    scheduler = BackgroundScheduler(timezone=UTC)
    for name, job in jobs.items():
        if not components.due(settings, job.run[0]):
            log.info("%s is left out: models are off", name)
            continue
        scheduler.add_job(
            runner.run,
            job.trigger(),
            args=(name, job),
            id=name,
            name=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=max(1, int(job.run_late.total_seconds())),
        )
    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped  # a plain name: the handler may come while the main thread holds any lock
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    scheduler.start()
    for planned in scheduler.get_jobs():
        log.info("%s runs next at %s", planned.name, planned.next_run_time)
    while not stopped:
        time.sleep(0.5)
    runner.stop()
    scheduler.shutdown(wait=True)
