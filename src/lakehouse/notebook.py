"""The platform in a notebook: ``from lakehouse.notebook import spark, table, sql, history, settings``.

``table`` and ``sql`` answer with pandas frames by delta-rs and DuckDB, in milliseconds and without Java; ``spark`` is
for what one machine's memory does not hold, and for the stores. It is started by the one who imports it, and nothing
else here is: importing this module costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.settings import PROJECT, Settings

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession

    settings: Settings
    """The settings of this process, with the addresses that `lakehouse up` found free."""
    spark: SparkSession
    """The session: ``spark.sql`` knows ``gold.<table>``, ``mongodb.<collection>`` and ``elasticsearch.<index>``."""

__all__ = ["history", "jupyter", "settings", "spark", "sql", "table"]

NOTEBOOKS = PROJECT / "notebooks"
MOST = 2_000_000
"""Rows that :func:`table` brings into memory."""
STYLE = "lakehouse.notebook"
"""The look of plots: ``matplotlib.pyplot.style.use("lakehouse.notebook")`` (``notebook.mplstyle``)."""

if str(PROJECT) not in sys.path:
    sys.path.append(str(PROJECT))  # ``models`` stands beside ``src``


class NotebookError(Exception):
    """What was asked for cannot be had in a notebook; the message says what can."""


def __getattr__(name: str) -> Any:
    """``settings`` and ``spark``, made when they are first asked for."""
    if name == "settings":
        from lakehouse.settings import settings

        return settings()
    if name == "spark":
        globals()["spark"] = found = _session()
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _session() -> SparkSession:
    """The session of ``session.py``, whose ``sql`` and ``table`` learn a name when it is first used.

    What Java prints goes to ``<home>/logs/notebook.log``, not into the notebook.

    Raises:
        NotebookError: it does not start.
    """
    from lakehouse import stack
    from lakehouse.session import spark_session
    from lakehouse.settings import settings

    known = settings()
    os.environ.setdefault("JAVA_HOME", str(stack.java(known).resolve().parents[1]))
    log = known.home / "logs" / "notebook.log"
    with _stderr_to(log):
        try:
            found = spark_session(known, "notebook")
        except Exception as error:
            raise NotebookError(f"Spark does not start ({str(error).splitlines()[0]}): {log} says why") from None
    _learning(found, known)
    return found


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Let what is started inside write its errors to a file, for as long as it lives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _learning(session: SparkSession, settings: Settings) -> None:
    """All names at once would take longer than the session's start: each costs a look at a table's log, or a store."""
    from lakehouse.query import named
    from lakehouse.sources.analysis import register

    plain_sql, plain_table = session.sql, session.table
    learning = False

    def learn(text: str) -> None:
        nonlocal learning
        if not learning:  # to learn a name takes SQL, too
            learning = True
            try:
                register(session, settings, [name for name in named(text) if not session.catalog.tableExists(name)])
            finally:
                learning = False

    def sql(sqlQuery: str, *args: Any, **more: Any) -> DataFrame:
        learn(sqlQuery)
        return plain_sql(sqlQuery, *args, **more)

    def table(tableName: str) -> DataFrame:
        learn(tableName)
        return plain_table(tableName)

    session.sql, session.table = sql, table  # type: ignore[method-assign]


def sql(
    query: str, parameters: Sequence[Any] = (), versions: Mapping[str, int | datetime] | None = None
) -> pd.DataFrame:
    """Answer one SELECT over ``bronze.*``, ``silver.*``, ``gold.*`` and ``ops.*``, in DuckDB's dialect.

    Args:
        query: the SELECT; ``?`` stands for a parameter.
        parameters: their values.
        versions: table -> the version to read, or the time (with an offset) as of which; the newest where not named.

    Raises:
        QueryError: it is not one SELECT, or names something that is not there.
        LakeError: a table, or its version, cannot be read.
    """
    from lakehouse import query as queries
    from lakehouse.settings import settings

    known = settings()
    numbers = {name: _version(known, name, version) for name, version in (versions or {}).items()}
    with queries.executed(known, query, parameters, numbers) as found:
        return found.df()


def table(
    name: str,
    version: int | datetime | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> pd.DataFrame:
    """A table as a pandas frame; times are UTC.

    Args:
        name: such as ``gold.activity_minute``.
        version: the version to read, or the time (with an offset) as of which; the newest if not given.
        columns: the columns that are wanted; files hold them apart, so fewer cost less.
        where: an SQL condition, such as ``"window_start >= now() - interval 1 hour"``; files that cannot hold such
            rows are not read.

    Raises:
        NotebookError: there are more rows than a frame should have (:data:`MOST`).
        QueryError: there is no such table or column.
        LakeError: the table, or its version, cannot be read.
    """
    chosen = ", ".join(f'"{column}"' for column in columns) if columns else "*"
    condition = f" where {where}" if where else ""
    found = sql(
        f"select {chosen} from {name}{condition} limit {MOST + 1}",
        versions=None if version is None else {name: version},
    )
    if len(found) > MOST:
        raise NotebookError(
            f"{name} has over {MOST:,} rows{' of these' if where else ''}: name a condition with where=, "
            "aggregate by sql(...), or use spark"
        )
    return found


def history(name: str) -> pd.DataFrame:
    """The versions of a table that its log still tells of, the newest first: (version, at, operation).

    ``settings.stream.time_travel`` says for how long a version can surely be read.

    Raises:
        LakeError: there is no such table.
    """
    import pandas as pd

    from lakehouse.settings import settings
    from lakehouse.sources.lake import Lake

    commits = Lake(settings()).table(name).history()
    return pd.DataFrame(
        {
            "version": [commit["version"] for commit in commits],
            "at": pd.to_datetime([commit["timestamp"] for commit in commits], unit="ms", utc=True),
            "operation": [commit.get("operation") for commit in commits],
        }
    )


def _version(settings: Settings, name: str, version: int | datetime) -> int:
    """The number of a version, or of the newest one that was there at a time."""
    if not isinstance(version, date):
        return int(version)
    if not isinstance(version, datetime) or version.tzinfo is None:
        raise NotebookError(f"{name} as of {version}: give a number, or a datetime with its offset")
    from lakehouse.sources.lake import Lake, LakeError

    # By the times that commits tell, as `history` shows them: delta-rs goes by those of their files, which are later.
    wanted = (version - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
    times = {commit["version"]: commit["timestamp"] for commit in Lake(settings).table(name).history()}
    there = [number for number, at in times.items() if at <= wanted]
    if not there:
        begins = datetime.fromtimestamp(min(times.values(), default=0) / 1000, UTC)
        raise LakeError(f"{name} as of {version}: what is known of it begins at {begins:%Y-%m-%d %H:%M:%S} UTC")
    return int(max(there))


def jupyter(settings: Settings, port: int, browser: bool) -> tuple[list[str], dict[str, str]]:
    """The command and environment of `lakehouse notebook`: JupyterLab on loopback, with its token, in ``notebooks/``.

    Kernels find ``lakehouse``, ``models`` and Java wherever the platform was started; a port that is taken is passed
    over for the next free one.
    """
    from lakehouse import stack

    known = [str(PROJECT / "src"), str(PROJECT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(known)),
        "JAVA_HOME": os.environ.get("JAVA_HOME") or str(stack.java(settings).resolve().parents[1]),
        "LAKEHOUSE_HOME": str(settings.home),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={NOTEBOOKS}", "--ServerApp.ip=127.0.0.1"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=50", f"--ServerApp.open_browser={browser}"),
        "--ServerApp.answer_yes=True",  # one Ctrl-C ends it; outputs are saved already
        # It asks the internet for nothing.
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        *("--LabApp.news_url=", "--LabApp.extension_manager=readonly"),
    ]
    if os.name == "posix" and os.geteuid() == 0:
        command.append("--ServerApp.allow_root=True")  # in a container
    return command, env
