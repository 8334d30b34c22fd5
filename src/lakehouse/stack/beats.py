"""The real Filebeat and Metricbeat, built once from ``beats/`` where there is a Go toolchain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

from lakehouse.settings import PROJECT, Settings
from lakehouse.stack.errors import StackError
from lakehouse.stack.exclusive import exclusive
from lakehouse.stack.jars import jars_folder

BEATS = ("filebeat", "metricbeat")
SOURCES = PROJECT / "beats"
GO = (1, 25)
"""The toolchain that ``beats/go.mod`` asks for, or a later one."""
BUILD_S = 1800


def beat(settings: Settings, name: str) -> Path | None:
    """The program ``filebeat`` or ``metricbeat``; None when it was not built from the sources as they are."""
    path = _folder(settings) / name
    return path if path.exists() else None


def lacking() -> str | None:
    """What keeps this machine from building them, in words; None when nothing does."""
    if not shutil.which("go"):
        return "there is no Go toolchain"
    said = _go("env", "GOVERSION").stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", said)
    if not found or tuple(map(int, found.groups())) < GO:
        return f"Go is {said or 'of an unknown version'}, older than {'.'.join(map(str, GO))}"
    return None


def build(settings: Settings) -> list[Path]:
    """Build what is not there yet: minutes of both cores the first time, a second when nothing changed.

    Raises:
        StackError: there is no Go toolchain, or a module does not come or compile.
    """
    folder = _folder(settings)
    with exclusive(folder.parent / ".lock"):
        if not folder.exists():
            if reason := lacking():
                raise StackError(
                    f"the Beats cannot be built: {reason}; install Go {'.'.join(map(str, GO))}, or go without: "
                    "`lakehouse ship logs|metrics` sends the same documents"
                )
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            for name in BEATS:
                done = _go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(part / name), f"./{name}")
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                    raise StackError(f"{name} does not build: {last[:300]}; run `make beats` again when that is mended")
            for old in folder.parent.glob("*"):
                if old.is_dir() and old != part:
                    shutil.rmtree(old)
            part.rename(folder)
    return [folder / name for name in BEATS]


def _folder(settings: Settings) -> Path:
    digest = sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and (path.suffix == ".go" or path.name in ("go.mod", "go.sum")):
            digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    return jars_folder(settings).parent / "beats" / digest.hexdigest()[:12]


def _go(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Go, with modules from a proxy alone: fetching one from its repository can hang for minutes."""
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    if proxies := os.environ.get("GOPROXY") or _configured("GOPROXY"):
        env["GOPROXY"] = ",".join(part for part in re.split(r"[,|]", proxies) if part not in ("direct", "")) or proxies
    return subprocess.run(
        ["go", *arguments], cwd=SOURCES, env=env, capture_output=True, text=True, timeout=BUILD_S, check=False
    )


def _configured(name: str) -> str:
    return subprocess.run(["go", "env", name], capture_output=True, text=True, check=False).stdout.strip()
