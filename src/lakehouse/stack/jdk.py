"""Java 17 with all its modules: found, else installed, else named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from lakehouse.settings import Settings
from lakehouse.stack.errors import StackError

VERSION = "17"
MODULES = ("jdk.jdi", "jdk.jlink", "jdk.net")
"""What Elasticsearch 8 needs beyond ``java.base``; slim runtimes lack them."""

USUAL_PLACES = ("/usr/lib/jvm/*", "/Library/Java/JavaVirtualMachines/*/Contents/Home", "/opt/homebrew/opt/openjdk@*")

INSTALLERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "apt-get": (("apt-get", "update"), ("apt-get", "install", "-y", "openjdk-17-jdk-headless")),
    "dnf": (("dnf", "install", "-y", "java-17-openjdk-devel"),),
    "brew": (("brew", "install", "openjdk@17"),),
}


@cache
def lacks(executable: Path) -> str | None:
    """What keeps this ``java`` from running the servers, in words; None when nothing does."""
    try:
        done = subprocess.run([executable, "--list-modules"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run ({error})"
    versions = dict(line.split(" ")[0].partition("@")[::2] for line in done.stdout.splitlines())
    version = versions.get("java.base", "unknown")
    if version.partition(".")[0] != VERSION:
        return f"is version {version}, not {VERSION}"
    missing = [module for module in MODULES if module not in versions]
    return f"lacks the modules {', '.join(missing)}" if missing else None


def candidates(environ: Mapping[str, str], places: Sequence[str]) -> Iterator[Path]:
    """Every ``java`` in order of preference: JAVA_HOME, PATH, then the usual places (glob patterns)."""
    if home := environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if found := shutil.which("java", path=environ.get("PATH", "")):
        yield Path(found).resolve()
    for pattern in places:
        yield from sorted(path / "bin" / "java" for path in Path("/").glob(pattern.lstrip("/")))


def find(environ: Mapping[str, str], places: Sequence[str] = USUAL_PLACES) -> tuple[Path | None, list[str]]:
    """The first complete Java 17, and why each ``java`` before it would not do."""
    refused: list[str] = []
    for executable in dict.fromkeys(candidates(environ, places)):
        if not (reason := lacks(executable)):
            return executable, refused
        refused.append(f"{executable} {reason}")
    return None, refused


def java(settings: Settings) -> Path:
    """The ``java`` executable that runs the servers; installs it when it is missing and we may.

    Raises:
        StackError: none is to be had; the message names the command that installs one.
    """
    found, refused = find(os.environ)
    if found:
        return found
    tool = next((name for name in INSTALLERS if shutil.which(name)), None)
    seen = "; ".join(refused) or "none found"
    if not tool:
        raise StackError(
            f"no complete Java {VERSION} ({seen}): install a JDK {VERSION} and set JAVA_HOME to its folder"
        )
    commands = INSTALLERS[tool]
    by_hand = " && ".join(" ".join(c if tool == "brew" else ("sudo", *c)) for c in commands)
    if tool != "brew" and os.geteuid() != 0:
        raise StackError(f"no complete Java {VERSION} ({seen}): run `{by_hand}`")
    for command in commands:
        if subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL).returncode:
            raise StackError(f"no complete Java {VERSION} ({seen}) and `{' '.join(command)}` failed: run `{by_hand}`")
    found, refused = find(os.environ)
    if not found:
        raise StackError(f"no complete Java {VERSION} after `{by_hand}` ({'; '.join(refused)}): set JAVA_HOME")
    return found
