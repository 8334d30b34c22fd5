"""The watcher: supervisord, with a configuration of our own, spoken to over a Unix socket in ``home``."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict
from xmlrpc.client import ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from lakehouse.settings import Settings
from lakehouse.stack.errors import StackError

MARK = "LAKEHOUSE_SUPERVISED"
"""In the environment of everything we start: ``<home>``. It tells our own processes when their supervisord is gone."""

STOP_S = 30
"""How long a program may take to end before it is killed."""


Autorestart = Literal["true", "false", "unexpected"]


class ProgramState(TypedDict):
    """What supervisord knows of one program. ``restarts``: how often it ended by itself since supervisord started."""

    state: str
    pid: int | None
    rss_mb: float | None
    restarts: int
    exit_status: int | None
    log: str


def folder(settings: Settings) -> Path:
    """Supervisord's own files."""
    return settings.home / "supervisor"


def log_path(settings: Settings, name: str) -> Path:
    """The log of a server or program; rotated at 10 MB, two old ones kept."""
    return settings.home / "logs" / f"{name}.log"


def _socket(settings: Settings) -> Path:
    path = folder(settings) / "socket"
    if len(os.fsencode(path)) < 90:  # the system allows about 104, supervisord adds its pid
        return path
    return Path(tempfile.gettempdir(), f"lakehouse-{os.getuid()}-{hashlib.sha256(bytes(path)).hexdigest()[:16]}")


def render(settings: Settings) -> str:
    """Supervisord's configuration; each program has a file of its own beside it."""
    own = folder(settings)
    return f"""\
[unix_http_server]
file={_socket(settings)}
chmod=0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{_socket(settings)}
[supervisord]
logfile={own / "supervisord.log"}
logfile_maxbytes=10MB
logfile_backups=2
pidfile={own / "supervisord.pid"}
directory={own}
[include]
files=programs/*.conf
"""


def render_program(settings: Settings, name: str, autorestart: Autorestart, start_retries: int, priority: int) -> str:
    """The configuration of one program. Its command is a shell script beside it: no quoting rules but the shell's."""
    own = folder(settings)
    return f"""\
[program:{name}]
command=/bin/sh "{own / "programs" / name}.sh"
directory={own}
autostart=false
autorestart={autorestart}
exitcodes=0,1
startsecs=5
startretries={start_retries}
stopwaitsecs={STOP_S}
stopasgroup=true
killasgroup=true
priority={priority}
redirect_stderr=true
stdout_logfile={log_path(settings, name)}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


def render_script(settings: Settings, command: Sequence[str], env: Mapping[str, str], directory: Path) -> str:
    """The program's script: mark and environment, then the command in the shell's own process."""
    exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in {MARK: str(settings.home), **env}.items())
    return f"#!/bin/sh\n{exports}cd {shlex.quote(str(directory))} || exit 1\nexec {shlex.join(command)}\n"


def _rpc(settings: Settings) -> Any:
    return ServerProxy("http://127.0.0.1", SupervisorTransport(None, None, f"unix://{_socket(settings)}")).supervisor


def _state_name(settings: Settings) -> str | None:
    try:
        return str(_rpc(settings).getState()["statename"])
    except OSError:
        return None


def is_running(settings: Settings) -> bool:
    """Whether our supervisord answers and is not on its way out."""
    return _state_name(settings) == "RUNNING"


def start(settings: Settings) -> None:
    """Start supervisord in the background with no program running; does nothing when it runs already.

    Raises:
        StackError: it does not start.
    """
    if is_running(settings):
        return
    shutdown(settings)
    if set(str(settings.home)) & set('%"'):
        raise StackError(
            f"{settings.home}: supervisord cannot take % or quotes in its paths: set LAKEHOUSE_HOME elsewhere"
        )
    own = folder(settings)
    shutil.rmtree(own / "programs", ignore_errors=True)
    for path in (own / "programs", settings.home / "logs"):
        path.mkdir(parents=True, exist_ok=True)
    own.chmod(0o700)  # the scripts hold the programs' environment, secrets too
    config = own / "supervisord.conf"
    config.write_text(render(settings))
    subprocess.run([sys.executable, "-m", "supervisor.supervisord", "-c", str(config)], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not is_running(settings):
        if time.monotonic() > deadline:
            raise StackError(f"supervisord does not start: run `tail {own / 'supervisord.log'}`")
        time.sleep(0.05)


def put(
    settings: Settings,
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
    directory: Path,
    autorestart: Autorestart,
    start_retries: int,
    priority: int,
) -> None:
    """Define a program, or define it anew, and start it unless it runs as defined already."""
    start(settings)
    programs = folder(settings) / "programs"
    files = {
        programs / f"{name}.sh": render_script(settings, command, env, directory),
        programs / f"{name}.conf": render_program(settings, name, autorestart, start_retries, priority),
    }
    known = states(settings).get(name)
    changed = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if known and not changed and known["state"] in ("STARTING", "RUNNING", "BACKOFF"):
        return
    if known:
        remove(settings, name)
    for path, text in files.items():
        path.write_text(text)
    rpc = _rpc(settings)
    rpc.reloadConfig()
    rpc.addProcessGroup(name)
    rpc.startProcess(name, False)


def remove(settings: Settings, name: str) -> None:
    """Stop a program and forget it; does nothing when there is none of that name."""
    if name not in states(settings):
        return
    rpc = _rpc(settings)
    rpc.stopProcessGroup(name)
    rpc.removeProcessGroup(name)
    for suffix in (".sh", ".conf"):
        (folder(settings) / "programs" / f"{name}{suffix}").unlink(missing_ok=True)


def states(settings: Settings) -> dict[str, ProgramState]:
    """Every program supervisord has; none when it does not run."""
    if not is_running(settings):
        return {}
    ended = deaths(folder(settings) / "supervisord.log")
    return {
        info["name"]: _state(settings, info, ended.get(info["name"], 0)) for info in _rpc(settings).getAllProcessInfo()
    }


def _state(settings: Settings, info: Mapping[str, Any], restarts: int) -> ProgramState:
    rss = None
    if info["pid"]:
        try:
            process = psutil.Process(info["pid"])
            rss = sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 2**20
        except psutil.Error:
            pass
    return {
        "state": info["statename"],
        "pid": info["pid"] or None,
        "rss_mb": None if rss is None else round(rss, 1),
        "restarts": restarts,
        "exit_status": info["exitstatus"] if info["statename"] == "EXITED" else None,
        "log": str(log_path(settings, info["name"])),
    }


def deaths(log: Path) -> dict[str, int]:
    """How often each program ended without being told to, from supervisord's log since its last start."""
    counts: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        if "supervisord started with pid" in line:
            counts.clear()
        elif match := re.search(r" exited: (\S+) ", line):
            counts[match[1]] = counts.get(match[1], 0) + 1
    return counts


def send(settings: Settings, name: str, sig: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to one running program and return the pid it went to.

    Raises:
        StackError: we have no running program of that name.
    """
    state = states(settings).get(name)
    if not state or not state["pid"]:
        raise StackError(f"{name} is not running: see `lakehouse status`")
    _rpc(settings).signalProcess(name, str(sig.value))
    return state["pid"]


def shutdown(settings: Settings) -> None:
    """Stop every program, the latest in order first, then supervisord; what does not end in time is killed."""
    state = _state_name(settings)
    if state:
        process = psutil.Process(int(_rpc(settings).getPID()))
        if state == "RUNNING":
            _rpc(settings).shutdown()
        try:
            process.wait(timeout=10 * STOP_S)  # each program has STOP_S before supervisord kills it
        except psutil.TimeoutExpired:
            process.kill()
    end_orphans(settings)


def end_orphans(settings: Settings) -> None:
    """End what we started and nobody watches any more: only processes that carry our mark and this home."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    orphans = []
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and process.environ().get(MARK) == str(settings.home):
                process.terminate()
                orphans.append(process)
        except psutil.Error:
            continue  # gone, or another user's
    for process in psutil.wait_procs(orphans, timeout=STOP_S)[1]:
        process.kill()
