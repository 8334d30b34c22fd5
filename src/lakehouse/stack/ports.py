"""Which ports the local servers have: the usual ones, else free ones near them, the same at every start."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from lakehouse.stack.errors import StackError

HOST = "127.0.0.1"


def is_taken(port: int) -> bool:
    """Whether some process listens there, on this address or on all of them, by TCP or UDP."""
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            return True
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as listener:
            if kind == socket.SOCK_STREAM:  # past connections of our own do not count
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError:
                return True
    return False


def choose(
    preferred: Mapping[str, int], pinned: Iterable[str] = (), kept: Mapping[str, int] | None = None
) -> dict[str, int]:
    """A port for each name: ``kept`` as they are, the preferred one when free, else the next free one 1000 above it.

    Raises:
        StackError: a ``pinned`` port, which the environment demands, is taken.
    """
    chosen = dict(kept or {})
    for name, port in preferred.items():
        if name in chosen:
            continue
        near = [port] if name in pinned else [port, *range(port + 1000, port + 2000)]
        free = (p for p in near if p not in chosen.values() and not is_taken(p))
        chosen[name] = next(free, 0)
        if not chosen[name]:
            raise StackError(f"port {port} of {name} is taken by another program: free it, or unset what demands it")
    return chosen


def remembered(path: Path) -> dict[str, int]:
    """The ports of the last start; none before the first."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def remember(path: Path, chosen: Mapping[str, int]) -> None:
    """Keep the ports for the next start; a crash leaves the old file or the new one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(chosen, indent=1))
    os.replace(part, path)
