"""``lakehouse``: the one command, and the one place that wires everything together.

Heavy imports stand inside the verbs, so that each starts as quickly as it can. Exit codes: 0 ok, 1 failed, 2 usage,
3 a check found problems.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from lakehouse.alerting.silences import Silence, Silences
    from lakehouse.quality.quarantine import Selection
    from lakehouse.settings import Settings

PROBLEMS_FOUND = 3
_TIMES = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]


class Verbs(TyperGroup):
    """Turns an error that a verb raises into one line on stderr and exit code 1, unless ``--debug`` wants its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError, KeyboardInterrupt):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            _tell(error)
            raise typer.Exit(1) from None


def _tell(error: Exception) -> None:
    from lakehouse import logs

    if logs.in_json():
        import logging

        logging.getLogger("lakehouse").critical("%s", one_line(error), extra=logs.of(error))
    else:
        typer.echo(f"error: {one_line(error)}", err=True)


def one_line(error: Exception) -> str:
    """An error as one line: our own ones say what to do, of others the type is told too."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if type(error).__module__.partition(".")[0] in ("lakehouse", "serving", "models"):
        return text
    return f"{type(error).__name__}: {text[:500]} (`lakehouse --debug ...` shows where)"


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Events, logs and metrics from Kafka to audited Delta tables, MongoDB, Redis and Elasticsearch.",
)
quarantine = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Records that broke their contract.")
app.add_typer(quarantine, name="quarantine")
alerts = typer.Typer(rich_markup_mode=None, help="Alert rules over tables and the platform: evaluate, show, silence.")
app.add_typer(alerts, name="alerts")
ship = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Send what Filebeat and Metricbeat would.")
app.add_typer(ship, name="ship")
schema = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Descriptions of the API, for clients.")
app.add_typer(schema, name="schema")

Who = Annotated[str | None, typer.Option(help="Who decides; on record [the user of this shell].")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """The entry point of ``lakehouse``."""
    if sys.argv[1:2] in (["sql"], ["alerts"]):
        _import_arrow_alone()
    app()


def _import_arrow_alone() -> None:
    """Import Arrow's datasets without pandas, which Arrow loads (0.4 s) just to see whether it is installed.

    ``to_pandas`` does not work afterwards, so this is for a process that needs rows alone.
    """

    class Hidden:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "pandas":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Hidden)
    try:
        import pyarrow.dataset  # noqa: F401
    finally:
        sys.meta_path.remove(Hidden)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", envvar="LAKEHOUSE_DEBUG")] = False) -> None:
    pass


def _settings() -> Settings:
    from lakehouse.settings import load

    return load()


def _print_json(value: Any) -> None:
    from lakehouse.query import dumps

    typer.echo(dumps(value, indent=sys.stdout.isatty()).decode())


@contextmanager
def _bar(what: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal; called with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} / {task.total:,} " + unit))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=1)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def _steps(what: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr, where that is a terminal, that names the step at work."""
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda step: status.update(step)


# --- running it ----------------------------------------------------------------------------------------------------


@app.command()
def setup() -> None:
    """Get what is missing on this machine: Java 17 and the pinned jars."""
    from lakehouse import stack

    settings = _settings()
    typer.echo(f"Java: {stack.java(settings)}")
    stack.fetch(settings)
    typer.echo("jars: all there")


@app.command()
def up(
    servers: Annotated[bool, typer.Option("--servers", help="Only the servers and their topics.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from nothing: wipe all data first.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Three brokers, three DataNodes, a Spark master with two workers.")
    ] = False,
) -> None:
    """Start servers, topics, the stream and the timetable; what runs already is left as it is."""
    from lakehouse.running import up
    from lakehouse.settings import CLUSTER, load

    up(load(profile=CLUSTER) if cluster else _settings(), servers_only=servers, fresh=fresh)


@app.command()
def down() -> None:
    """Stop all that `up` started; data are kept."""
    from lakehouse import stack

    with _steps("stopping"):
        stack.down(_settings())


@app.command()
def status(as_json: Json = False) -> None:
    """Servers, programs, lag up to gold, batch times, tables and stores."""
    from lakehouse.inspect import status
    from lakehouse.report import show_status

    found = status(_settings())
    _print_json(found) if as_json else show_status(found)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look for what is wrong here, or will be, and say what to do about it; exit code 3 where something is wrong."""
    from lakehouse.doctor import examine
    from lakehouse.report import show_findings

    _from_checkout()
    from serving.keys import examined

    found = examine(_settings(), {"secrets": examined})
    _print_json([asdict(finding) for finding in found]) if as_json else show_findings(found)
    if any(finding.level == "problem" for finding in found):
        raise typer.Exit(3)


@app.command()
def wait(
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
) -> None:
    """Wait until every record that is in Kafka now is in gold and in the stores."""
    from lakehouse.inspect import wait

    with _steps("waiting for gold and the stores"):
        missing = wait(_settings(), timeout)
    for line in missing:
        typer.echo(f"error: after {timeout:g} s {line}", err=True)
    if missing:
        raise typer.Exit(1)


@app.command()
def stream(
    until_drained: Annotated[
        bool, typer.Option("--until-drained", help="End once all that is in Kafka now is in the tables.")
    ] = False,
) -> None:
    """Run the stream here until stopped: Kafka to tables and stores (`up` runs it in the background)."""
    settings = _settings()
    _log_to_stderr(settings)
    _java_home(settings)
    from lakehouse.runtime.supervise import run

    code = run(settings, until_drained)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of Spark's and delta-rs's clients crash an orderly interpreter exit


@app.command()
def realtime(
    name: Annotated[
        str | None,
        typer.Option(help="Kept over restarts: the partitions then wait for it [a new one]."),
    ] = None,
) -> None:
    """Run the real-time processor here until stopped: live activity, trending, recommendations, notifications.

    Start more processes to share the work. `up` runs one in the background.
    """
    import signal
    import threading

    from lakehouse.realtime.processor import Processor

    settings = _settings()
    _log_to_stderr(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Processor(settings, name).run(stop)


@app.command()
def schedule() -> None:
    """Run the timetable of conf/schedule.yaml here until stopped (`up` runs it in the background)."""
    from lakehouse.schedule import run

    settings = _settings()
    _log_to_stderr(settings)
    run(settings)


def _in_another_process(*verb: str) -> None:
    """Run a verb that needs a Spark session of its own; what it says goes to stderr.

    Raises:
        RuntimeError: it failed; the message is the command that does it.
    """
    import subprocess

    if subprocess.run([sys.executable, "-m", "lakehouse.cli", *verb], stdout=sys.stderr).returncode:
        raise RuntimeError(f"`lakehouse {shlex.join(verb)}` failed: run it again")


@app.command()
def erase(
    user: Annotated[list[str] | None, typer.Option("--user", help="Whom to erase; may be given again.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Users to erase, one a line.")] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Only look where they are named.")] = False,
    verify: Annotated[Path | None, typer.Option("--verify", help="Only check a receipt's signature.")] = None,
    as_json: Json = False,
) -> None:
    """Erase users everywhere and for good, beside the running platform; exit code 3 where they are named still."""
    from lakehouse.erasure import run
    from lakehouse.report import show_erasure

    settings = _settings()
    if verify is not None:
        if not run.verify(settings, verify):
            typer.echo(f"error: {verify}: not a receipt of this platform, or changed since", err=True)
            raise typer.Exit(PROBLEMS_FOUND)
        typer.echo(f"{verify}: in order")
        return
    users = [*(user or ()), *(file.read_text().splitlines() if file else ())]
    with _steps("erasing") as step:
        if scan:
            left = run.scan(settings, users, step=step)
            _print_json(left) if as_json else show_erasure({"left": left})
        else:
            _java_home(settings)
            receipt = run.erase(settings, users, step)
            left = receipt["left"]
            for day in receipt["insights_of"]:
                step(f"reading the texts of {day} again")
                _in_another_process("insights", "--date", day)
            _print_json(receipt) if as_json else show_erasure(receipt)
    if left:
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Compact days that are over, delete what no promised version and no reader needs, expire what is kept for a time.

    It works beside the running stream (`up`'s timetable does it every hour); exit code 1 where a part failed.
    """
    settings = _settings()
    _java_home(settings)
    from lakehouse.report import show_maintenance
    from lakehouse.upkeep.maintain import maintain, step_back

    step_back()
    with _steps("maintaining") as step:
        found = maintain(settings, dry_run, lambda part: step(f"maintaining {part}"))
    _print_json(found) if as_json else show_maintenance(found)
    for line in found["problems"]:
        typer.echo(f"error: {line}", err=True)
    if found["problems"]:
        raise typer.Exit(1)


Where = Annotated[str, typer.Option("--to", metavar="DIR|URI", help="Where backups are kept.")]
From = Annotated[str, typer.Option("--from", metavar="DIR|URI", help="Where backups are kept.")]
OneTable = Annotated[str | None, typer.Argument(help="A table, such as gold.activity_minute.")]
AllTables = Annotated[bool, typer.Option("--all", help="All tables.")]


def _one_or_all(table: str | None, everything: bool) -> None:
    if (table is None) != everything:
        raise typer.BadParameter("name a table, or say --all")


@app.command()
def backup(to: Where, table: OneTable = None, everything: AllTables = False, as_json: Json = False) -> None:
    """Copy a table or all, as of the last cut, with the ledger; files that are there already are not copied again."""
    _one_or_all(table, everything)
    from lakehouse.upkeep.backup import backup

    with _bar("copying", "bytes") as progress:
        found = backup(_settings(), to, table, progress)
    _print_json(found) if as_json else _print_facts(found)


@app.command()
def restore(
    source: From,
    table: OneTable = None,
    everything: AllTables = False,
    at: Annotated[str | None, typer.Option(help="The backup of this time [the newest].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup in place: all tables, or one that is at the last cut's version. The stream must not run."""
    _one_or_all(table, everything)
    from lakehouse.upkeep.backup import restore

    with _bar("restoring", "bytes") as progress:
        found = restore(_settings(), source, table, at, force, progress)
    _print_json(found) if as_json else _print_facts(found)


@app.command()
def plan(as_json: Json = False) -> None:
    """Before a deploy: what this code changes against the code that last ran here, and the commands that this asks for.

    Run it with the new code, before the stream is started; exit code 3 where something must be done first.
    """
    from lakehouse.report import show_plan
    from lakehouse.upkeep.plan import plan

    found = plan(_settings())
    _print_json([one.document() for one in found]) if as_json else show_plan(found)
    if any(one.verdict != "compatible" for one in found):
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def reset(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="realtime or detector.")], as_json: Json = False
) -> None:
    """Let the real-time processor or the detector begin again without what it has kept, as `plan` asks for."""
    settings = _settings()
    from lakehouse.upkeep.reset import reset

    found = reset(settings, what)
    _print_json(found) if as_json else _print_facts(found)


@app.command()
def beats() -> None:
    """Build the real Filebeat and Metricbeat, once, with the Go toolchain of this machine."""
    from lakehouse import stack

    with _steps("building Filebeat and Metricbeat: minutes the first time"):
        built = stack.build(_settings())
    for path in built:
        typer.echo(path)


@app.command()
def collect(
    pipeline: Annotated[Path | None, typer.Argument(help="A pipeline file [conf/logstash/service-logs.conf].")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the file, and start nothing.")] = False,
) -> None:
    """Run a Logstash pipeline here until stopped: logs from shippers, sockets and files to Kafka and Elasticsearch."""
    import asyncio
    import logging

    from lakehouse.collect import collector

    settings = _settings()
    path = pipeline or settings.collect.pipeline
    if check:
        collector.check(settings, path)
        typer.echo(f"{path}: in order")
        return
    _log_to_stderr(settings)
    logging.getLogger("elastic_transport").setLevel(logging.ERROR)  # the pipeline tells of an outage once
    asyncio.run(collector.collector(settings, path).run())


@ship.command("logs")
def ship_logs(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Patterns, in quotes, or folders of *.log [home/service-logs]."),
    ] = None,
    begins: Annotated[
        str, typer.Option(metavar="REGEX", help="Finds the first line of a record; '' makes each line one.")
    ] = r"^\d{4}-",
    name: Annotated[str, typer.Option(help="Of its queue and positions; each that runs needs its own.")] = "logs",
) -> None:
    """Follow log files until stopped: lines to the collector's beats input (setting collect.beats)."""
    import asyncio

    from lakehouse.ship.logs import shipper

    settings = _settings()
    _log_to_stderr(settings)
    asyncio.run(shipper(settings, paths or (), begins, name).run())


@ship.command("metrics")
def ship_metrics(
    period: Annotated[str, typer.Option(help="Between samples, such as 10s or 1m.")] = "10s",
) -> None:
    """Sample this machine until stopped: processor, memory, network, disks to the topic system-metrics."""
    import logging

    from lakehouse.ship.metrics import run

    every = _duration("--period", period)
    settings = _settings()
    _log_to_stderr(settings)
    logging.getLogger("lakehouse.kafka").setLevel(logging.CRITICAL)  # the shipper tells of an outage once
    run(settings, every)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [api.host: loopback].")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one [api.port: 8000].")] = None,
) -> None:
    """Serve the HTTP API here until stopped."""
    settings = _settings()
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    _log_to_stderr(settings)
    _from_checkout()
    from serving.app import serve

    serve(settings.model_copy(update={"api": settings.api.model_copy(update=given)}))


@app.command()
def notebook(
    port: Annotated[int, typer.Option(help="Port; the next free one where it is taken.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
) -> None:
    """Open JupyterLab in notebooks/, on loopback, until Ctrl-C; kernels have the platform: lakehouse.notebook."""
    from lakehouse.notebook import jupyter

    command, env = jupyter(_settings(), port, browser)
    os.execve(command[0], command, env)


@app.command()
def token(
    scope: Annotated[
        list[str] | None, typer.Option(help="What it allows, such as write:events; may be given again.")
    ] = None,
    subject: Annotated[str, typer.Option(help="Whom it names.")] = "operator",
    ttl: Annotated[str, typer.Option(help="For how long it is valid, such as 30m, 12h or 90d.")] = "12h",
    user: Annotated[str | None, typer.Option(help="Makes it this user's: it sees their rows alone.")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new local key, which signs from now on.")] = False,
    retire: Annotated[
        str | None, typer.Option(help="Take a local key away: what it signed is no longer valid.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List the keys, the one that signs first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """Print a bearer token for the HTTP API, or look after the keys that tokens are signed with."""
    valid_for = _duration("--ttl", ttl)
    if (bool(scope), rotate, retire is not None, keys).count(True) != 1:
        raise typer.BadParameter("give one of --scope, --rotate, --retire and --keys")
    _from_checkout()
    from serving import auth
    from serving import keys as signing

    settings, now = _settings(), datetime.now(UTC)
    if rotate:
        typer.echo(signing.rotate(settings, now))
    elif retire is not None:
        signing.retire(settings, retire)
    elif keys:
        _print_keys(signing.keys(settings), now, as_json)
    else:
        if unknown := sorted({*(scope or ())} - {*auth.SCOPES}):
            raise typer.BadParameter(f"--scope {unknown[0]}: there are {', '.join(auth.SCOPES)}")
        typer.echo(auth.issue(signing.keys(settings), subject, scope or [], valid_for, user))


def _print_keys(keys: Any, now: datetime, as_json: bool) -> None:
    found = [
        {
            "kid": kid,
            "signs": place == 0,
            "made_at": made.isoformat().replace("+00:00", "Z") if (made := keys.made.get(kid)) else None,
            "age_s": round((now - made).total_seconds()) if made else None,
        }
        for place, kid in enumerate(keys.secrets)
    ]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for key in found:
        age = "age unknown" if key["age_s"] is None else f"{key['age_s'] // 86400} days old"
        typer.echo(f"{key['kid']}  {age}{'  signs' if key['signs'] else ''}")


_Write = Annotated[bool, typer.Option("--write", help="Write it to docs/, where the tests compare it.")]


@schema.command("graphql")
def schema_graphql(write: _Write = False) -> None:
    """Print what GraphQL answers, in its schema language."""
    _schema("graphql", write)


@schema.command("openapi")
def schema_openapi(write: _Write = False) -> None:
    """Print what REST answers, as OpenAPI 3.1."""
    _schema("openapi", write)


def _schema(name: str, write: bool) -> None:
    _from_checkout()
    from serving import schema_files

    typer.echo(f"wrote {schema_files.write(name)}" if write else schema_files.text(name), nl=write)


@app.command()
def dashboard() -> None:
    """Print the address of the dashboard with a token that may see all of it but personal data, for twelve hours."""
    _from_checkout()
    from serving.auth import issue, keys

    settings = _settings()
    scopes = ["read:metrics", "read:tables", "read:users", "read:logs", "predict"]
    token = issue(keys(settings), "dashboard", scopes, timedelta(hours=12))
    # After the #: browsers send that part to nobody.
    typer.echo(f"http://{settings.api.host}:{settings.api.port}/#token={token}")


def _duration(option: str, text: str) -> timedelta:
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or not 0 < int(text[:-1]) < 1_000_000:
        raise typer.BadParameter(f"{option} {text}: give a number and s, m, h or d, such as 12h")
    return timedelta(**{unit: int(text[:-1])})


def _from_checkout() -> None:
    """Make what stands beside ``src`` importable: the wheel, which executors get, holds ``lakehouse`` alone."""
    from lakehouse.settings import PROJECT

    sys.path.insert(0, str(PROJECT))


def _log_to_stderr(settings: Settings) -> None:
    from lakehouse import logs

    logs.configure(settings.log_format)


def _java_home(settings: Settings) -> None:
    from lakehouse import stack

    os.environ.setdefault("JAVA_HOME", str(stack.java(settings).resolve().parents[1]))


# --- sources -------------------------------------------------------------------------------------------------------


@app.command()
def simulate(
    seed: Annotated[int, typer.Option(help="The same seed and arguments give the same service.")] = 1,
    rate: Annotated[float, typer.Option(help="Live records per second, all topics together.")] = 1000.0,
    duration: Annotated[float, typer.Option(help="Seconds of live records.")] = 60.0,
    history: Annotated[float, typer.Option(help="Days of history sent first, at full speed.")] = 0.0,
    history_records: Annotated[int, typer.Option(help="Size of the history.")] = 200_000,
    duplicates: Annotated[float, typer.Option(help="Share of records that repeat one.")] = 0.01,
    late: Annotated[float, typer.Option(help="Share of records that are a minute to a day late.")] = 0.01,
    broken: Annotated[float, typer.Option(help="Share of records that no contract accepts.")] = 0.005,
    truth: Annotated[
        Path | None, typer.Option(help="Where to write what is true [home/simulation-truth.json].")
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write live logs as text to DIR/<service>.log, instead of to Kafka."),
    ] = None,
) -> None:
    """Send a believable service's events, logs and metrics, and write down the truth about them."""
    from lakehouse.simulate import simulate

    settings = _settings()
    with _bar("simulating", "records") as progress:
        found = simulate(
            settings,
            seed,
            rate,
            duration,
            history,
            truth or settings.home / "simulation-truth.json",
            duplicates,
            late,
            broken,
            progress,
            history_records=history_records,
            logs=logs,
        )
    _print_json(found)


@app.command()
def replay(
    topic: str,
    file: Path,
    rate: Annotated[float | None, typer.Option(help="Records per second [as fast as possible].")] = None,
) -> None:
    """Send each line of a file as one record; prints {sent, acknowledged}."""
    from lakehouse.replay import replay

    with _bar(f"replaying {file.name}", "bytes") as progress:
        found = replay(_settings(), topic, file, rate, progress)
    _print_json(found)


# --- looking -------------------------------------------------------------------------------------------------------


@app.command()
def sql(
    query: str,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    engine: Annotated[Literal["duckdb", "spark"], typer.Option(help="Who answers.")] = "duckdb",
) -> None:
    """Answer one SELECT over bronze.*, silver.*, gold.* and ops.*."""
    from lakehouse import query as queries

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    settings = _settings()
    if engine == "spark":
        _java_home(settings)
    answer = (queries.query_spark if engine == "spark" else queries.query)(settings, query)
    if as_json:
        typer.echo(queries.to_json(answer).decode())
    elif as_csv:
        queries.write_csv(answer, sys.stdout)
    else:
        from lakehouse.report import show_rows

        show_rows(answer.columns, answer.rows)


@app.command()
def tables(as_json: Json = False) -> None:
    """Every table: rows, size, files, version, freshness."""
    from lakehouse.inspect import tables
    from lakehouse.report import show_tables

    found = tables(_settings())
    _print_json(found) if as_json else show_tables(found)


@app.command()
def audit(as_json: Json = False) -> None:
    """Prove that every record is accounted for at the last cut; exit code 3 where it is not."""
    from lakehouse.audit import audit, render

    with _steps("auditing") as step:
        found = audit(_settings(), step)
    _print_json(found) if as_json else typer.echo(render(found))
    if not found["balanced"]:
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def drift(
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", help="Write the contracts there as they would be.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fields that records have and contracts do not: how often, since when, of what type; and proposed contracts."""
    from lakehouse.report import show_rows
    from lakehouse.upkeep import drift as drifting

    found = drifting.drift(_settings())
    proposals = drifting.proposals(found)
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        for path, _, whole in proposals.values():
            (write / path.name).write_text(drifting.text(whole))
    if as_json:
        patches = {topic: patch for topic, (_, patch, _) in proposals.items()}
        _print_json({"drift": [one.document() for one in found], "proposed": patches})
        return
    if not found:
        typer.echo("nothing has drifted")
        return
    rows = [list(one.document().values()) for one in found]
    show_rows(list(found[0].document()), rows)
    for path, patch, _ in proposals.values():
        typer.echo(f"\n# proposed for {path.name}; `lakehouse plan` then says what it asks for\n{drifting.text(patch)}")


@app.command()
def trace(record: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Where a record went; ID is an event_id, event.id, metric record id or topic/partition/offset."""
    from lakehouse.trace import render, trace

    found = trace(_settings(), record)
    _print_json(found) if as_json else typer.echo(render(found))


@app.command()
def lineage(
    of: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A table, topic, model or key of a store [all].")
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Each column with what it is made from.")] = False,
    emit: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="Send the OpenLineage events of the last 30m, 2h or 7d once more; print them where no backend is set.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Send them of what is new until stopped (`up` does where a backend is set).")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a table is made from and goes into; OpenLineage events of every batch."""
    if watch or emit:
        _emit_lineage(None if watch else _duration("--emit", emit or ""))
        return
    from lakehouse.lineage import graph, whole
    from lakehouse.report import show_lineage, show_lineage_of

    if of is None:
        every = [whole(node) for node in graph().nodes.values()]
        _print_json(every) if as_json else show_lineage(every)
        return
    found = whole(graph().find(of))
    _print_json(found) if as_json else show_lineage_of(found, columns)


def _emit_lineage(span: timedelta | None) -> None:
    """The events of a span, sent or printed; None: of what is new, until stopped."""
    import signal
    import threading

    from lakehouse import openlineage

    settings = _settings()
    if span is None:
        if not openlineage.configured():
            raise typer.BadParameter(
                "no backend is set: OPENLINEAGE_URL or openlineage.yml names one", None, None, "--watch"
            )
        _log_to_stderr(settings)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        openlineage.watch(settings, stop)
        return
    now = datetime.now(UTC)
    events = openlineage.told(settings, now - span, now)
    if not openlineage.configured():
        for event in events:
            typer.echo(openlineage.as_json(event))
        return
    sending, sent = openlineage.client(), 0
    for event in events:
        sending.emit(event)
        sent += 1
    sending.close()
    typer.echo(f"{sent:,} events sent")


@app.command()
def live(user: Annotated[str | None, typer.Argument(help="One user's activity instead.")] = None) -> None:
    """What the real-time processor shows now, as JSON: the site and trending posts, or all of one user."""
    from lakehouse.realtime import look

    _print_json(look.site(_settings()) if user is None else look.user(_settings(), user))


# --- alerts --------------------------------------------------------------------------------------------------------


@alerts.callback(invoke_without_command=True)
def _alerts(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Evaluate every minute until stopped (`up` runs it in the background).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate the rules over tables for every minute that is due, and show how all alerts stand.

    Exit code 3 where something critical fires that is not silenced; 1 where a part could not be evaluated.
    """
    if context.invoked_subcommand is not None:
        return
    if watch:
        _watch_alerts()
        return
    from lakehouse.alerting import now, run
    from lakehouse.alerting.database import database
    from lakehouse.alerts import read
    from lakehouse.report import show_alerts

    settings = _settings()
    with _steps("evaluating"):
        problems = run.once(settings)
    found = now.alerts_now(database(settings), read())
    _print_json(found) if as_json else show_alerts(found)
    for line in problems:
        typer.echo(f"error: {line}", err=True)
    if now.critical(found):
        raise typer.Exit(PROBLEMS_FOUND)
    if problems:
        raise typer.Exit(1)


def _watch_alerts() -> None:
    import signal
    import threading

    from lakehouse.alerting import run

    settings = _settings()
    _log_to_stderr(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run.watch(settings, stop)
    except run.Stuck as error:
        typer.echo(f"error: {error}", err=True)
        sys.stderr.flush()
        os._exit(run.STUCK_CODE)  # no waiting for what does not answer; the supervisor begins it anew


@alerts.command()
def silence(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Its name in conf/alerts.yaml.")],
    why: Annotated[str, typer.Option(help="Why; on record.")],
    lasting: Annotated[str, typer.Option("--for", help="For how long, such as 30m, 2h or 7d.")] = "2h",
    subject: Annotated[str | None, typer.Option(help="Only this one, such as a service; else all.")] = None,
    who: Who = None,
    as_json: Json = False,
) -> None:
    """Tell nobody of a rule for a time: it is evaluated all the same, and what still fires then is told then."""
    from lakehouse.alerting import silences
    from lakehouse.alerts import read

    made = silences.new(read(), rule, subject, _duration("--for", lasting), who or _user(), why, datetime.now(UTC))
    _silences().add(made)
    _print_silences([made], as_json)


@alerts.command("silences")
def list_silences(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: Json = False,
) -> None:
    """The silences that hold: until when, who made them, and why."""
    _print_silences(_silences().all(None if everything else datetime.now(UTC)), as_json)


@alerts.command()
def unsilence(
    what: Annotated[str, typer.Argument(metavar="ID|RULE", help="One silence, or all of a rule.")],
    subject: Annotated[str | None, typer.Option(help="Of a rule's silences, this subject's.")] = None,
    who: Who = None,
    as_json: Json = False,
) -> None:
    """End silences before their time."""
    from lakehouse.alerting import silences

    kept, now = _silences(), datetime.now(UTC)
    ended = silences.chosen(kept.all(now), what, subject)
    for one in ended:
        kept.end(one, who or _user(), now)
    if as_json:
        _print_json([one.document() for one in kept.all() if one.id in {silence.id for silence in ended}])
    else:
        typer.echo(f"{len(ended)} ended")


def _silences() -> Silences:
    from lakehouse.alerting.database import database
    from lakehouse.alerting.silences import Silences

    return Silences(database(_settings()))


def _print_silences(found: list[Silence], as_json: bool) -> None:
    from lakehouse.report import show_silences

    _print_json([one.document() for one in found]) if as_json else show_silences(found)


@app.command()
def report(
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day, UTC; today is told until now [yesterday].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there, as PDF if it ends so [keep it on the lake].")
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="As PDF; what is kept has one wherever there is a Chromium.")
    ] = False,
    lang: Annotated[Literal["en", "ko"], typer.Option(help="Of FILE; what is kept is in all languages.")] = "en",
    as_json: Json = False,
) -> None:
    """Make the report of a day: what happened, how services, hosts, models and data were, what is expected."""
    settings = _settings()
    _from_checkout()
    from serving.report.made import Reports, one, write, yesterday

    reports = Reports(settings)
    day = date.date() if date else yesterday()
    if day > reports.now().date():
        raise typer.BadParameter(f"--date {day} is yet to come")
    if day.year < 1970:
        raise typer.BadParameter(f"--date {day}: nothing is older than 1970-01-01")
    with _steps(f"making the report of {day}"):
        if out is None:
            found: dict[str, Any] = write(reports, day, must_print=pdf)
        else:
            out.write_bytes(one(reports, day, lang, "pdf" if pdf or out.suffix == ".pdf" else "html"))
            found = {"date": day.isoformat(), "kept": [str(out)]}
    if as_json:
        _print_json(found)
        return
    for where in found["kept"]:
        typer.echo(where)
    if "note" in found:
        typer.echo(found["note"], err=True)


# --- mending -------------------------------------------------------------------------------------------------------

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="topic/partition/offset")]
Reason = Annotated[str | None, typer.Option(help="A part of a reason.")]
Topic = Annotated[str | None, typer.Option(help="Records of this topic.")]
Since = Annotated[datetime | None, typer.Option("--from", formats=_TIMES, help="Arrived at or after (UTC).")]
Until = Annotated[datetime | None, typer.Option("--to", formats=_TIMES, help="Arrived before (UTC).")]
Status = Annotated[Literal["open", "replayed", "discarded"] | None, typer.Option(help="Records in this state.")]
IdOption = Annotated[list[str] | None, typer.Option("--id", help="topic/partition/offset; may be given again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")]
Again = Annotated[bool, typer.Option("--again", help="Also those that were dealt with before.")]
All = Annotated[bool, typer.Option("--all", help="Every open record, where nothing else selects.")]


def _selection(
    ids: list[str] | None,
    reason: str | None,
    topic: str | None,
    since: datetime | None,
    until: datetime | None,
    status: Literal["open", "replayed", "discarded"] | None,
) -> Selection:
    from lakehouse.quality.quarantine import Selection, parse_id

    return Selection(
        tuple(parse_id(one) for one in ids or ()),
        reason,
        topic,
        since.replace(tzinfo=UTC) if since else None,
        until.replace(tzinfo=UTC) if until else None,
        status,
    )


@quarantine.command("ls")
def quarantine_ls(
    ids: IdOption = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.")] = 50,
    summary: Annotated[bool, typer.Option("--by-reason", help="Counts by topic, reason and status.")] = False,
    as_json: Json = False,
) -> None:
    """List quarantined records."""
    from lakehouse.quality.quarantine import by_reason, ls
    from lakehouse.report import show_rows

    selection = _selection(ids, reason, topic, since, until, status)
    found = by_reason(_settings(), selection) if summary else ls(_settings(), selection, limit)
    if as_json:
        _print_json(found)
    elif found:
        show_rows(list(found[0]), [list(row.values()) for row in found])
    else:
        typer.echo("nothing in quarantine matches")


@quarantine.command("show")
def quarantine_show(record: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show one record: bytes, reasons, headers."""
    from lakehouse.quality.quarantine import parse_id, show
    from lakehouse.query import text

    found = show(_settings(), parse_id(record))
    if as_json:
        _print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name:<11} {text(value)}")


@quarantine.command("replay")
def quarantine_replay(
    ids: Ids = None,
    id_option: IdOption = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="POINTER=JSON", help="Set a field, as in /rating=4.5.")
    ] = None,
    edit: Annotated[
        str | None, typer.Option(help="A command that reads the value on stdin and prints the mended one.")
    ] = None,
    everything: All = False,
    again: Again = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send quarantined records to their topic again, mended; each lands once however often it is replayed."""
    from lakehouse.quality.quarantine import editing, replay, setting

    mends = []
    for one in sets or ():
        pointer, _, value = one.partition("=")
        try:
            mends.append(setting(pointer, json.loads(value)))
        except ValueError:
            raise typer.BadParameter(
                f"--set {one}: give POINTER=JSON, such as /rating=4.5 or '/page=\"/feed\"'"
            ) from None
    if edit:
        mends.append(editing(shlex.split(edit)))
    selection = _selection([*(ids or ()), *(id_option or ())], reason, topic, since, until, status)
    _select_something(selection, everything)
    with _bar("replaying", "records") as progress:
        found = replay(_settings(), selection, mends, again=again, dry_run=dry_run, progress=progress)
    _acted(found, as_json)


@quarantine.command("discard")
def quarantine_discard(
    ids: Ids = None,
    id_option: IdOption = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    everything: All = False,
    again: Again = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Mark quarantined records as discarded; they stay, and stay counted."""
    from lakehouse.quality.quarantine import discard

    selection = _selection([*(ids or ()), *(id_option or ())], reason, topic, since, until, status)
    _select_something(selection, everything)
    _acted(discard(_settings(), selection, again=again, dry_run=dry_run), as_json)


def _select_something(selection: Selection, everything: bool) -> None:
    if not everything and selection == type(selection)():
        raise typer.BadParameter("name records, by id, --reason, --topic, --from, --to or --status, or say --all")


def _acted(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(found)
    else:
        from lakehouse.query import text

        for name, value in found.items():
            if not isinstance(value, list):
                typer.echo(f"{name.replace('_', ' '):<12} {value:,}")
        for name in ("would_send", "would_discard"):
            for one in found.get(name, []):
                typer.echo(f"{name.replace('_', ' '):<12} {text(one)}")
    for one in found.get("skipped", []):
        typer.echo(f"skipped {one['id']}: {one['why']}", err=True)
    if found.get("skipped"):
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def rebuild(
    table: Annotated[str | None, typer.Argument(help="A table, such as gold.activity_minute.")] = None,
    store: Annotated[str | None, typer.Option(help="Or a store: mongodb, redis or elasticsearch.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=_TIMES, help="Only gold's windows, or records that arrived, from then on (UTC)."
        ),
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=_TIMES, help="And only those before (UTC).")] = None,
    as_json: Json = False,
) -> None:
    """Fill a table or a store again from what lies before it; recorded winners are kept, and the stream gives way."""
    if (table is None) == (store is None):
        raise typer.BadParameter("name a table, or a store with --store")
    settings = _settings()
    _java_home(settings)
    from lakehouse.runtime.rebuild import rebuild

    span = None
    if since or until:
        low, high = since or datetime(1970, 1, 1), until or datetime(9999, 1, 1)
        span = (low.replace(tzinfo=UTC), high.replace(tzinfo=UTC))
    with _steps(f"rebuilding {table or store}"):
        found = rebuild(settings, table, store, span)
    from lakehouse.upkeep import deployed

    if span is None:
        deployed.settle(settings, f"lakehouse rebuild {table or f'--store {store}'}")
    _print_json(found) if as_json else _print_facts(found)


def _print_facts(found: dict[str, Any]) -> None:
    from lakehouse.query import text

    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' '):<20} {text(value)}")


# --- models --------------------------------------------------------------------------------------------------------

Model = Annotated[str, typer.Argument(metavar="MODEL", help="recommender, anomaly or trend.")]
Why = Annotated[str, typer.Option(help="Why; on record.")]


@contextmanager
def _models(app_name: str) -> Iterator[tuple[Settings, Any]]:
    """Settings and a Spark session for a verb of models; threads of clients do not outlive it."""
    settings = _settings()
    _java_home(settings)
    _from_checkout()
    from lakehouse.session import spark_session

    spark = spark_session(settings, app_name)
    try:
        yield settings, spark
    finally:
        spark.stop()


@app.command()
def train(
    model: Model,
    promote: Annotated[
        bool, typer.Option("--promote", help="Then let the gate decide, and score if it lets it.")
    ] = False,
    if_outdated: Annotated[
        bool, typer.Option("--if-outdated", help="Only if the champion is old, or its inputs have drifted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model on the tables as they are now; the new version is MLflow's @challenger."""
    with _steps(f"training {model}"), _models(f"train-{model}") as (settings, spark):
        from models import lifecycle
        from models.scoring import score

        why = lifecycle.outdated(settings, model, spark) if if_outdated else ["asked for"]
        if not why:
            typer.echo(f"{model}: the champion is well, nothing is trained")
            return
        version, measured = lifecycle.train(settings, model, spark)
        found = {"model": model, "version": version, **measured.json()}
        if promote:
            decision = lifecycle.promote(settings, model, spark, _user(), "; ".join(why), version)
            found |= {"action": decision.action, "reasons": list(decision.reasons)}
            if not decision.reasons:
                found |= score(settings, model, spark)
    _print_json(found) if as_json else _print_facts(found)
    if found.get("reasons"):
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def promote(
    model: Model,
    version: Annotated[str | None, typer.Option(help="The version [@challenger].")] = None,
    who: Who = None,
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Let a version answer, if the gate lets it; exit code 3 where it is refused. Decisions are in ops.promotions."""
    with _steps(f"judging {model}"), _models(f"promote-{model}") as (settings, spark):
        from models.lifecycle import promote

        decision = promote(settings, model, spark, who or _user(), why, version)
    _print_decision(decision, as_json)
    if decision.reasons:
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def compare(
    model: Model,
    version: Annotated[str | None, typer.Option(help="The version beside the champion [@challenger].")] = None,
    as_json: Json = False,
) -> None:
    """Let champion and challenger answer the same held-out cases: how good each is, and how far they agree."""
    with _steps(f"comparing versions of {model}"), _models(f"compare-{model}") as (settings, spark):
        from models.shadow import compare

        found = compare(settings, model, spark, version)
    if as_json:
        _print_json(found)
        return
    from lakehouse.report import show_rows

    one, other = found["champion"], found["challenger"]
    rows = [(name, one[name], other.get(name)) for name in one if name != "slices"]
    slices = [(name, each["value"], other["slices"].get(name, {}).get("value")) for name, each in one["slices"].items()]
    show_rows(("figure", "champion", "challenger"), rows + slices)
    _print_facts(found["agreement"])


@app.command()
def hindsight(model: Model, as_json: Json = False) -> None:
    """Judge what champions said then by what has happened since, day by day, as far as tables remember."""
    _from_checkout()
    from models.hindsight import hindsight

    needed = _models("hindsight-trend") if model == "trend" else nullcontext((_settings(), None))
    with _steps(f"looking back at {model}"), needed as (settings, spark):
        found = hindsight(settings, model, spark)
    if as_json:
        _print_json(found)
    elif days := found["days"]:
        from lakehouse.report import show_rows

        show_rows([*days[0]], [[*day.values()] for day in days])
    else:
        typer.echo(f"{model}: nothing was said, as far back as is remembered, that has come to be since")


@app.command()
def card(
    model: Model,
    version: Annotated[str | None, typer.Option(help="The version [@champion, else @challenger].")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there [print it].")] = None,
) -> None:
    """Print a version's card, as Markdown: what it is, learnt from, is worth, who let it answer, how to go back."""
    _from_checkout()
    from models.card import card

    text = card(_settings(), model, version)
    typer.echo(text, nl=False) if out is None else out.write_text(text, encoding="utf-8")


@app.command()
def rollback(model: Model, who: Who = None, why: Why = "", as_json: Json = False) -> None:
    """Let the version answer again that did before the one that does."""
    _from_checkout()
    from models.lifecycle import rollback

    _print_decision(rollback(_settings(), model, who or _user(), why), as_json)


@app.command()
def score(model: Model, as_json: Json = False) -> None:
    """Write what a champion says now: gold.recommendations, gold.anomalies or gold.forecasts, and their store."""
    with _steps(f"scoring by {model}"), _models(f"score-{model}") as (settings, spark):
        from models.scoring import score

        found = score(settings, model, spark)
    _print_json(found) if as_json else _print_facts(found)


@app.command()
def insights(
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day, UTC; written anew [yesterday].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fill gold.text_insights_daily for a day: keywords, the mood of comments, groups of errors, by Spark NLP."""
    settings = _settings()
    _java_home(settings)
    _from_checkout()
    from models.text.daily import text_session, write

    day = date.date() if date else (datetime.now(UTC) - timedelta(days=1)).date()
    with _steps(f"reading the texts of {day}"):
        spark = text_session(settings)
        found = write(spark, settings, day)
        spark.stop()
    _print_json(found) if as_json else _print_facts(found)


@app.command()
def evaluate(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="recommender, anomaly, logs or trend.")],
    data: Annotated[Path, typer.Option(help="A published data set as it is distributed: file or folder.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write every prediction there, as CSV.")] = None,
    split: Annotated[Path | None, typer.Option(help="Of recommender: the test part, laid out as the data.")] = None,
) -> None:
    """Run the product's own models over a published benchmark, and print its published metrics as JSON."""
    _from_checkout()
    from models.benchmarks import evaluate

    with _steps(f"evaluating {what}"):
        found = evaluate(what, data, out, split)
    _print_json(found)


def _user() -> str:
    import getpass

    return getpass.getuser()


def _print_decision(decision: Any, as_json: bool) -> None:
    found = {**decision.__dict__, "reasons": list(decision.reasons)}
    if as_json:
        _print_json(found)
        return
    typer.echo(f"{decision.model} {decision.version}: {decision.action}")
    for reason in decision.reasons:
        typer.echo(f"  {reason}")


# --- trying it -----------------------------------------------------------------------------------------------------


@app.command()
def demo(
    profile: Annotated[Literal["local", "ci"], typer.Option(help="How much: ci is the short one.")] = "local",
    seed: Annotated[int, typer.Option(help="Of the simulated service.")] = 1,
) -> None:
    """Bring everything up, stream a simulated service through it, and show what came out; exit code 3 as in audit."""
    from lakehouse.demo import SIZES, demo

    if not demo(_settings(), SIZES[profile], seed, _bar, _DemoOthers()):
        raise typer.Exit(PROBLEMS_FOUND)


class _DemoOthers:
    """The demo's models, for which it has a Spark session of its own, and the API."""

    def train(self, settings: Settings) -> str:
        """Train, judge, promote and ask all of them; the report."""
        with _steps("training") as step, _models("demo") as (settings, spark):
            from models.demo import models

            return models(settings, spark, step)

    def findings(self, settings: Settings) -> str:
        """What they found."""
        from models.demo import findings

        return findings(settings)

    def asked(self, settings: Settings) -> str:
        """What the API answers."""
        from serving.demo import asked

        return asked(settings)


@app.command()
def bench(name: str, as_json: Json = False) -> None:
    """Measure on this machine: `ingest` (drain, freshness, against MERGE), `history` (1 to 10 million events),
    `collect` (parsing, the path from a log file to Kafka and Elasticsearch, what shippers need), `realtime`, `serve`
    (the API) or `maintain` (freshness beside maintenance)."""
    settings = _settings()
    _java_home(settings)
    from lakehouse.bench import bench

    found = bench(settings, name)
    if as_json:
        _print_json(found)
        return
    machine = found["machine"]
    typer.echo(
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"commit {found['commit']}"
    )
    for figure in found["figures"]:
        bound = "" if figure["bound"] is None else f"bound {figure['bound']:,g}: {'met' if figure['met'] else 'missed'}"
        typer.echo(f"{figure['name']:<62} {figure['value']:>10,.2f} {figure['unit']:<10} {bound}".rstrip())


if __name__ == "__main__":
    main()
