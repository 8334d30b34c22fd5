"""The local servers: fetch, build, start, watch, stop."""

from lakehouse.stack.beats import beat, build
from lakehouse.stack.control import (
    ServerStatus,
    add_program,
    down,
    kill_server,
    port,
    program_states,
    remove_program,
    status,
    up,
)
from lakehouse.stack.errors import StackError
from lakehouse.stack.jars import compile_java, fetch, fetch_section, jar_paths
from lakehouse.stack.jdk import java
from lakehouse.stack.supervisor import ProgramState

__all__ = [
    "ProgramState",
    "ServerStatus",
    "StackError",
    "add_program",
    "beat",
    "build",
    "compile_java",
    "down",
    "fetch",
    "fetch_section",
    "jar_paths",
    "java",
    "kill_server",
    "port",
    "program_states",
    "remove_program",
    "status",
    "up",
]
