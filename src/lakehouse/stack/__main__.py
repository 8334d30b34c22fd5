"""``python -m lakehouse.stack up|down|status|fetch|java``, and ``lock`` for maintainers."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from lakehouse import stack
from lakehouse.settings import SettingsError, load
from lakehouse.stack import lock as jars_lock

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def up(fresh: bool = False, only: Annotated[list[str] | None, typer.Option()] = None) -> None:
    """Start the local servers and wait until they are ready."""
    stack.up(load(), fresh=fresh, only=only)


@app.command()
def down() -> None:
    """Stop all that was started here."""
    stack.down(load())


@app.command()
def status() -> None:
    """Print every server's state as JSON."""
    print(json.dumps(stack.status(load()), indent=1))


@app.command()
def fetch() -> None:
    """Get the locked jars and build the launchers."""
    stack.fetch(load())


@app.command()
def java() -> None:
    """Print the Java in use; install it when it is missing."""
    print(stack.java(load()))


@app.command()
def lock() -> None:
    """Resolve all jars anew and write the lock file (needed only when a version changes)."""
    jars_lock.make(stack.java(load()))


if __name__ == "__main__":
    try:
        app()
    except (stack.StackError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
