"""``up``, ``down`` and ``status`` of the local servers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urlsplit

import yaml
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lakehouse.settings import REMEMBERED, Settings
from lakehouse.stack import jars, ports, probes, supervisor
from lakehouse.stack.errors import StackError
from lakehouse.stack.exclusive import exclusive
from lakehouse.stack.servers import Place, Server, local_servers

ENDED = ("FATAL", "STOPPED")
"""States that a server does not leave by itself; one that just died is EXITED for a moment."""

READY_S, READY_S_EACH = 120, 25
"""How long the servers may take to be ready, in all and for each: 10 s here, more on a busy machine."""


class ServerStatus(TypedDict):
    """One server as it is now. ``ready``: it answered its probe."""

    state: str
    pid: int | None
    rss_mb: float | None
    address: str
    ready: bool
    restarts: int
    log: str


def up(settings: Settings, fresh: bool = False, only: Iterable[str] | None = None, progress: bool = True) -> Settings:
    """Start the local servers that do not run, wait until each does real work, return settings with their addresses.

    Data are kept, unless ``fresh``, which wipes those of the servers asked for and wants them stopped. The addresses
    also go to ``home/ports.yaml``, which ``settings.load`` reads. With ``servers: existing`` nothing is started: the
    addresses in the settings are asked.

    Raises:
        StackError: a server does not become ready, or an existing one does not answer.
    """
    if settings.servers == "existing":
        check_existing(settings)
        return settings
    wanted = _wanted(settings, only)
    with _alone(settings):
        strange = _strange(settings)
        if strange and not fresh:
            raise StackError(
                f"{settings.home} holds the data of {', '.join(strange)}, which profile {settings.profile} does not "
                "run: start with the profile they were made by, give LAKEHOUSE_HOME another folder, or add --fresh"
            )
        states = supervisor.states(settings)
        running = {name for name, state in states.items() if state["state"] not in ENDED}
        if fresh:
            if busy := sorted(running & {server.name for server in wanted}):
                raise StackError(f"{', '.join(busy)} still running, data not wiped: run `lakehouse down` first")
            for name in [*(server.name for server in wanted), *strange]:
                shutil.rmtree(settings.home / "data" / name, ignore_errors=True)
        starting = [server for server in wanted if server.name not in running]
        if starting:
            if not jars.are_there(settings):
                jars.fetch(settings, progress)
            supervisor.start(settings)
            chosen = _choose_ports(settings, running, progress)
            (settings.home / REMEMBERED).write_text(settings.profile + "\n")
            with ThreadPoolExecutor(len(starting)) as pool:
                for done in [pool.submit(_prepare, settings, server, chosen) for server in starting]:
                    done.result()
            for server in starting:
                _launch(settings, server, chosen)
        _wait(settings, wanted, progress)
        return _addressed(settings)


def down(settings: Settings) -> None:
    """Stop all programs, then the servers, and the supervisor; what we did not start is left alone."""
    with _alone(settings):
        supervisor.shutdown(settings)


def status(settings: Settings) -> dict[str, ServerStatus]:
    """Every server's state but of those that are off, also when all is down.

    Existing servers have the state EXISTING and no process.
    """
    if settings.servers == "existing":
        return {
            server.name: ServerStatus(
                state="EXISTING",
                pid=None,
                rss_mb=None,
                address=server.where,
                ready=error is None,
                restarts=0,
                log="",
            )
            for server, error in _ask(_existing(settings))
        }
    states = supervisor.states(settings)
    chosen = {**_default_ports(settings), **ports.remembered(_ports_file(settings))}
    every = local_servers(settings)
    with ThreadPoolExecutor(len(every)) as pool:
        ready = list(pool.map(lambda s: s.name in states and _trouble(lambda: s.probe(chosen)) is None, every))
    result: dict[str, ServerStatus] = {}
    for server, answers in zip(every, ready, strict=True):
        state = states.get(server.name)
        result[server.name] = {
            "state": state["state"] if state else "STOPPED",
            "pid": state["pid"] if state else None,
            "rss_mb": state["rss_mb"] if state else None,
            "address": server.address.format(chosen[_first(server)]),
            "ready": answers,
            "restarts": state["restarts"] if state else 0,
            "log": str(supervisor.log_path(settings, server.name)),
        }
    return result


def add_program(
    settings: Settings,
    name: str,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    autorestart: supervisor.Autorestart = "unexpected",
    start_retries: int = 5,
) -> None:
    """Run a further program under the same supervisor, from the current folder, with ``env`` added to the environment.

    Does nothing when it runs as asked already; otherwise starts it, anew if its definition changed. One that ends
    within five seconds is tried again ``start_retries`` times with growing pauses, then given up (state FATAL); one
    that ran longer is started again as ``autorestart`` says: ``unexpected`` unless it exits with 0 or 1 (it was
    asked to end, or gave up by itself).
    """
    with _alone(settings):
        supervisor.put(settings, name, command, env or {}, Path.cwd(), autorestart, start_retries, priority=100)


def remove_program(settings: Settings, name: str) -> None:
    """Stop a further program and forget it; does nothing when there is none of that name."""
    with _alone(settings):
        supervisor.remove(settings, name)


def program_states(settings: Settings) -> dict[str, supervisor.ProgramState]:
    """The further programs, servers left out."""
    names = {server.name for server in local_servers(settings)}
    return {name: state for name, state in supervisor.states(settings).items() if name not in names}


def kill_server(settings: Settings, name: str, sig: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to one of our servers or programs, for tests of crashes; returns the pid it went to."""
    return supervisor.send(settings, name, sig)


def port(settings: Settings, name: str) -> int:
    """Where a local server has one of its ports: as it was chosen at the last start, else the usual one."""
    return {**_default_ports(settings), **ports.remembered(_ports_file(settings))}[name]


def check_existing(settings: Settings) -> None:
    """Ask every address in the settings.

    Raises:
        StackError: naming the first setting whose address does not answer.
    """
    for existing, error in _ask(_existing(settings)):
        if error:
            raise StackError(
                f"{existing.setting} ({existing.where}) does not answer: {error}; mend conf/{settings.profile}.yaml "
                f"or set {_variable(existing.setting)}"
            )


class _Existing(NamedTuple):
    """A server that others run."""

    name: str
    setting: str
    address: str
    probe: Callable[[str], None]

    @property
    def where(self) -> str:
        """The address without a password."""
        return self.address.rpartition("@")[2]


def _existing(settings: Settings) -> list[_Existing]:
    names: dict[str, tuple[str, Callable[[str], None]]] = {
        "kafka": ("kafka.bootstrap_servers", probes.kafka),
        "hdfs": ("hdfs.uri", probes.hdfs),
        "elasticsearch": ("elasticsearch.url", probes.elasticsearch),
        "mongodb": ("mongo.uri", probes.mongodb),
        "redis": ("redis.url", probes.redis),
    }
    return [
        _Existing(name, setting, _value(settings, setting), probe)
        for name, (setting, probe) in names.items()
        if name not in settings.off
    ]


def _ask(servers: list[_Existing]) -> Iterator[tuple[_Existing, str | None]]:
    with ThreadPoolExecutor(len(servers)) as pool:
        yield from zip(servers, pool.map(lambda s: _trouble(lambda: s.probe(s.address)), servers), strict=True)


def _alone(settings: Settings) -> AbstractContextManager[None]:
    return exclusive(settings.home / "supervisor.lock")


def _wanted(settings: Settings, only: Iterable[str] | None) -> list[Server]:
    every = local_servers(settings)
    known = [server.name for server in every]
    names = set(known) if only is None else set(only)
    if unknown := names - set(known):
        raise StackError(f"no server named {sorted(unknown)[0]}: there are {', '.join(known)}")
    for kind in (("namenode", "datanode"), ("kafka",), ("spark",)):  # none is of use, or may be wiped, without the rest
        kin = {name for name in known if name.startswith(kind)}
        names |= kin if names & kin else set()
    return [server for server in every if server.name in names]


def _strange(settings: Settings) -> list[str]:
    """Whose data this home holds that its profile does not run: of a cluster, or of a single server."""
    data = settings.home / "data"
    there = {path.name for path in data.iterdir()} if data.exists() else set()
    return sorted(there - {server.name for server in local_servers(settings)})


def _ports_file(settings: Settings) -> Path:
    return supervisor.folder(settings) / "ports.json"


def _variable(setting: str) -> str:
    return "LAKEHOUSE_" + setting.upper().replace(".", "__")


def _value(settings: Settings, setting: str) -> str:
    part, _, name = setting.partition(".")
    value = getattr(getattr(settings, part), name)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _named(settings: Settings) -> dict[str, list[Server]]:
    """Setting -> the servers whose addresses it names; of several servers it is a list, in their order."""
    found: dict[str, list[Server]] = {}
    for server in local_servers(settings):
        if server.setting:
            found.setdefault(server.setting, []).append(server)
    return found


def _first(server: Server) -> str:
    return next(iter(server.ports))


def _default_ports(settings: Settings) -> dict[str, int]:
    """The ports the settings name, and the usual ones of what no setting names."""
    found: dict[str, int] = {}
    for server in local_servers(settings):
        found.update(server.ports)
    for setting, named in _named(settings).items():
        value = _value(settings, setting)
        addresses = value.split(",") if len(named) > 1 else [value]
        if len(addresses) != len(named):
            raise StackError(
                f"{setting} names {len(addresses)} addresses for {len(named)} servers: mend it in "
                f"conf/{settings.profile}.yaml or {_variable(setting)}"
            )
        for server, address in zip(named, addresses, strict=True):
            parts = urlsplit(address if "//" in address else f"//{address}")
            if parts.hostname not in (ports.HOST, "localhost"):
                raise StackError(
                    f"{setting} names {parts.hostname}, but local servers live on {ports.HOST}: set "
                    f"LAKEHOUSE_SERVERS=existing, or mend it in conf/{settings.profile}.yaml"
                )
            found[_first(server)] = parts.port or server.ports[_first(server)]
    return found


def _choose_ports(settings: Settings, running: Iterable[str], progress: bool) -> dict[str, int]:
    """Choose, remember and publish the ports; those of running servers stay. What moved is said."""
    old, every = ports.remembered(_ports_file(settings)), local_servers(settings)
    default = _default_ports(settings)
    pinned = {_first(s) for s in every if s.setting and _variable(s.setting) in os.environ}
    preferred = {name: port for name, port in {**default, **old}.items() if name in default}
    preferred |= {name: default[name] for name in pinned}
    kept = {port: old[port] for server in every if server.name in running for port in server.ports}
    chosen = ports.choose(preferred, pinned, kept)
    for name, port in chosen.items():
        if progress and port != preferred[name]:
            Console(stderr=True).print(f"port {preferred[name]} is taken by another program: {name} is on {port}")
    ports.remember(_ports_file(settings), chosen)
    overlay: dict[str, dict[str, str]] = {}
    for setting, named in _named(settings).items():
        part, _, name = setting.partition(".")
        overlay[part] = {name: ",".join(server.address.format(chosen[_first(server)]) for server in named)}
    text = "# Where the local servers are; written by `up`.\n" + yaml.safe_dump(overlay)
    (settings.home / "ports.yaml").write_text(text)
    return chosen


def _addressed(settings: Settings) -> Settings:
    overlay: dict[str, dict[str, Any]] = yaml.safe_load((settings.home / "ports.yaml").read_text())
    parts = {}
    for name, values in overlay.items():
        part = getattr(settings, name)
        parts[name] = type(part).model_validate({**part.model_dump(), **values})
    return settings.model_copy(update=parts)


def _place(settings: Settings, server: Server, chosen: Mapping[str, int]) -> Place:
    return Place(settings, settings.home / "conf" / server.name, settings.home / "data" / server.name, chosen)


def _prepare(settings: Settings, server: Server, chosen: Mapping[str, int]) -> None:
    """Write the server's configuration, and format its storage once."""
    place = _place(settings, server, chosen)
    (place.data / "tmp").mkdir(parents=True, exist_ok=True)
    for name, text in server.files(place).items():
        (place.conf / name).parent.mkdir(parents=True, exist_ok=True)
        (place.conf / name).write_text(text)
    formatted = place.data / "formatted"
    if server.format and not formatted.exists():
        log = supervisor.log_path(settings, f"{server.name}-format")
        with log.open("w") as file:
            done = subprocess.run(server.format(place), stdout=file, stderr=subprocess.STDOUT, cwd=place.data)
        if done.returncode:
            raise StackError(
                f"{server.name} could not format its storage in {place.data}: run `tail {log}`; if it holds nothing of "
                f"worth, `python -m lakehouse.stack up --fresh --only {server.name}`"
            )
        formatted.touch()


def _launch(settings: Settings, server: Server, chosen: Mapping[str, int]) -> None:
    place = _place(settings, server, chosen)
    order = 10 + [one.name for one in local_servers(settings)].index(server.name)
    command = ["nice", "-n", str(server.nice), *server.command(place)]
    supervisor.put(settings, server.name, command, server.env(place), place.data, "true", 5, priority=order)


def _trouble(probe: Callable[[], None]) -> str | None:
    try:
        probe()
    except Exception as error:  # every client has errors of its own; any of them means: not yet
        return _one_line(error)
    return None


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _wait(settings: Settings, wanted: Iterable[Server], progress: bool) -> None:
    chosen = ports.remembered(_ports_file(settings))
    waiting = {server.name: server for server in wanted}
    patience = max(READY_S, READY_S_EACH * len(waiting))
    deadline = time.monotonic() + patience
    columns = (
        TextColumn("servers"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with (
        Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
        ThreadPoolExecutor(len(waiting)) as pool,
    ):
        total = len(waiting)
        task = bar.add_task("", total=total)
        while True:
            troubles = dict(
                zip(waiting, pool.map(lambda s: _trouble(lambda: s.probe(chosen)), list(waiting.values())), strict=True)
            )
            waiting = {name: server for name, server in waiting.items() if troubles[name]}
            bar.update(task, completed=total - len(waiting), description=" ".join(waiting))
            if not waiting:
                return
            states = supervisor.states(settings)
            for name in waiting:
                log = f"run `tail -n 50 {supervisor.log_path(settings, name)}`"
                if name not in states or states[name]["state"] in ENDED:
                    raise StackError(f"{name} does not start ({troubles[name]}): {log}")
                if time.monotonic() > deadline:
                    raise StackError(f"{name} is not ready after {patience} s ({troubles[name]}): {log}")
            time.sleep(0.2)
