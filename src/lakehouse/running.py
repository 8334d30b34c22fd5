"""``up``: servers, topics, then the programs that run beside them."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import yaml

from lakehouse import alerts, components, schedule, stack
from lakehouse.contracts import contracts
from lakehouse.flows import TABLES
from lakehouse.openlineage import configured as lineage_wanted
from lakehouse.settings import PROJECT, Settings
from lakehouse.sinks import logs_live
from lakehouse.sources.lake import Lake, LakeError
from lakehouse.sources.topics import create_topics
from lakehouse.stack import ports

READY_WITHIN, READY_WITHIN_ON_A_CLUSTER = 120.0, 300.0
"""Seconds that the programs are given to start, and the stream to make its tables."""
_PASSED_ON = ("LAKEHOUSE_", "JAVA_HOME", "OPENLINEAGE_")
"""What of this process's environment the programs get; they may outlive the shell that set it."""
_DERIVED = (
    *("index", "tmp", "runs.jsonl", "collect", "collect.json", "service-logs", "ship", "filebeat", "metricbeat"),
    *("published", "mlflow", "lineage.json"),
)
"""What of the home is made from the data, and goes with them."""
_PORTS = {
    "serve": ("api.port",),
    "mlflow": ("mlflow.port",),
    "collect": ("collect.beats", "collect.tcp_port", "collect.http_port", "collect.syslog_port"),
}
"""By program, the settings that name where it listens."""


class StartError(Exception):
    """A program that was started does not do its work; the message names its log."""


class Program(NamedTuple):
    """A command, and what it needs of the environment."""

    command: list[str]
    env: dict[str, str]


def up(settings: Settings, servers_only: bool = False, fresh: bool = False) -> Settings:
    """Start what does not run yet; the settings with all addresses, once the tables are there and the API listens.

    Contracts, rules and timetable are read first. ``fresh`` wipes data and what was derived from them; all must be
    stopped.

    Raises:
        ContractError, AlertsError, ScheduleError: a contract, rule or the timetable is wrong; nothing has been started.
        StackError: a server does not start.
        TopicError: a topic cannot be made as the design says.
        StartError: a program does not start, or the stream made no tables.
    """
    contracts()
    alerts.read()
    schedule.read()
    settings = stack.up(settings, fresh=fresh)
    if fresh:
        for derived in _DERIVED:
            path = settings.home / derived
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    create_topics(settings)
    if components.on(settings, "elasticsearch"):
        logs_live.prepare(settings)
    if servers_only:
        return settings
    settings = placed(settings)
    for folder in (settings.service_logs, settings.home / "mlflow"):
        folder.mkdir(parents=True, exist_ok=True)
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    passed |= {"LAKEHOUSE_HOME": str(settings.home), "LAKEHOUSE_PROFILE": settings.profile}
    with chdir(PROJECT):  # a program is started anew when its folder changes
        wanted = programs(settings)
        for name in stack.program_states(settings).keys() - wanted:
            stack.remove_program(settings, name)
        for name, program in wanted.items():
            stack.add_program(settings, name, program.command, passed | program.env)
    _until_ready(settings, wanted)
    return settings


def programs(settings: Settings) -> dict[str, Program]:
    """What runs beside the servers, by name, the stream first; without what is off."""
    own = [sys.executable, "-m", "lakehouse.cli"]
    found = {name: Program([*own, name], {}) for name in ("stream", "schedule", "collect", "serve")}
    # 220 MB of memory with these, 270 without; it works for less than a second a minute.
    small = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    found["alerts"] = Program([*own, "alerts", "--watch"], small)
    found["realtime"] = Program([*own, "realtime", "--name", "realtime-1"], {})
    if lineage_wanted():
        found["lineage"] = Program([*own, "lineage", "--watch"], small)
    if settings.mlflow.uri is None:
        found["mlflow"] = _mlflow(settings)
    if settings.servers == "local":
        found |= _shippers(settings, own)
    return {name: program for name, program in found.items() if components.runs(settings, name)}


def _mlflow(settings: Settings) -> Program:
    """The tracking server, with its records and artefacts in the home."""
    folder = settings.home / "mlflow"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", settings.mlflow.host, "--port", str(settings.mlflow.port)),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    # Its seven job workers are for MLflow's own evaluations, which nothing here asks for.
    return Program(command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"})


def _shippers(settings: Settings, own: list[str]) -> dict[str, Program]:
    """Logs and metrics of this machine: by the real Beats where they are built, else by ours."""
    env = {
        "LOGS": str(settings.service_logs),
        "COLLECT_BEATS": settings.collect.beats,
        "KAFKA": settings.kafka.bootstrap_servers,
    }
    found: dict[str, Program] = {}
    for beat, what in (("filebeat", "logs"), ("metricbeat", "metrics")):
        binary = stack.beat(settings, beat)
        # Both name lines in their own way: the one that began with the files of a home goes on with them.
        if what == "logs" and (settings.home / "ship" / "logs.queue").exists():
            binary = None
        if binary:
            found[beat] = Program(beat_command(settings, binary), env)
        else:
            found[f"ship-{what}"] = Program([*own, "ship", what], {})
    return found


def beat_command(settings: Settings, binary: Path, *arguments: str) -> list[str]:
    """A Beat with its configuration of ``conf/beats`` and its state in the home; in the foreground unless told more."""
    home = settings.home / binary.name
    return [
        str(binary),
        *(arguments or ("run", "-e")),
        *("-c", str(PROJECT / "conf" / "beats" / f"{binary.name}.yml"), "--strict.perms=false"),
        *("--path.home", str(home), "--path.data", str(home / "data"), "--path.logs", str(home / "logs")),
    ]


def placed(settings: Settings) -> Settings:
    """The settings with ports that are free, or that the programs have already; written to ``home/programs.yaml``."""
    states = stack.program_states(settings)
    asked = {name: _port(settings, name) for listed in _PORTS.values() for name in listed}
    pinned = [name for name in asked if "LAKEHOUSE_" + name.upper().replace(".", "__") in os.environ]
    kept = {
        name: asked[name]
        for program, listed in _PORTS.items()
        if program in states and states[program]["state"] in ("STARTING", "RUNNING", "BACKOFF")
        for name in listed
    }
    chosen = ports.choose(asked, pinned, kept)
    beats = f"{settings.collect.beats.rpartition(':')[0]}:{chosen['collect.beats']}"
    overlay: dict[str, dict[str, int | str]] = {
        "api": {"port": chosen["api.port"]},
        "mlflow": {"port": chosen["mlflow.port"]},
        "collect": {
            "beats": beats,
            **{name: chosen[f"collect.{name}"] for name in ("tcp_port", "http_port", "syslog_port")},
        },
    }
    settings.home.mkdir(parents=True, exist_ok=True)
    text = "# Where the programs listen; written by `up`.\n" + yaml.safe_dump(overlay)
    (settings.home / "programs.yaml").write_text(text)
    return settings.model_copy(
        update={part: getattr(settings, part).model_copy(update=values) for part, values in overlay.items()}
    )


def _port(settings: Settings, name: str) -> int:
    part, _, key = name.partition(".")
    return int(str(getattr(getattr(settings, part), key)).rpartition(":")[2])


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False


def _until_ready(settings: Settings, names: Iterable[str]) -> None:
    patience = READY_WITHIN if settings.spark.master.startswith("local") else READY_WITHIN_ON_A_CLUSTER
    last = time.monotonic() + patience
    lake = Lake(settings)
    while True:
        states = stack.program_states(settings)
        waiting = {name: states[name]["state"] for name in names if states[name]["state"] != "RUNNING"}
        given_up = [name for name, state in waiting.items() if state == "FATAL"]
        if not waiting:
            try:
                for table in TABLES:
                    lake.table(table)
                if "serve" not in states or _listens(settings.api.host, settings.api.port):
                    return
                waiting["serve"] = "it does not listen yet"
            except LakeError as missing:
                waiting["stream"] = str(missing)
        if given_up or time.monotonic() > last:
            name = (given_up or [*waiting])[0]
            log = settings.home / "logs" / f"{name}.log"
            raise StartError(f"{name} does not start ({waiting[name]}): {log} says why")
        time.sleep(0.2)
