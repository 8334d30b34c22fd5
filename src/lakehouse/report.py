"""Status, tables and query answers as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from lakehouse.alerting.silences import Silence
    from lakehouse.doctor import Finding
    from lakehouse.upkeep.plan import Difference

SHOWN_ROWS = 200


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 400  # a file or a pipe has no edge to wrap at
    return console


def _table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def _number(value: Any, unit: str = "") -> str:
    if value is None:
        return "?"
    return (f"{value:,.1f}" if isinstance(value, float) else f"{value:,}") + unit


def size(value: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def show_findings(found: Sequence[Finding]) -> None:
    """What ``lakehouse doctor`` found, with what to do about it below."""
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}
    table = _table("", "check", "found")
    for one in found:
        remedy = f"\n-> {escape(one.remedy)}" if one.remedy else ""
        table.add_row(marks[one.level], one.check, escape(one.said) + remedy)
    console = _console()
    console.print(table)
    counts = [sum(one.level == level for one in found) for level in ("problem", "warning")]
    console.print(f"{counts[0]} problems, {counts[1]} warnings")


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A query's answer, its first rows where there are many."""
    from lakehouse.query import text

    numbers = [c for i, c in enumerate(columns) if rows and isinstance(rows[0][i], int | float)]
    table = _table(*columns, numbers=numbers)
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*[escape(text(value)) for value in row])
    console = _console()
    console.print(table)
    if len(rows) > SHOWN_ROWS:
        console.print(f"... {len(rows) - SHOWN_ROWS:,} more rows: --json or --csv prints all")


def show_tables(found: Sequence[dict[str, Any]]) -> None:
    """Every table on a line."""
    table = _table(
        "table", "rows", "size", "files", "version", "newest commit", numbers=("rows", "size", "files", "version")
    )
    for one in found:
        if "error" in one:
            table.add_row(one["table"], "", "", "", "", escape(one["error"]))
        else:
            numbers = [_number(one["rows"]), size(one["bytes"]), _number(one["files"]), _number(one["version"])]
            table.add_row(one["table"], *numbers, one["committed_at"])
    _console().print(table)


def show_plan(found: Sequence[Difference]) -> None:
    """What ``lakehouse plan`` found, with the commands that it asks for below."""
    marks = {"compatible": "[green]compatible[/]", "migration": "[yellow]migration[/]", "refused": "[red]refused[/]"}
    table = _table("", "what", "why")
    for one in found:
        commands = "".join(f"\n-> {escape(command)}" for command in one.commands)
        table.add_row(marks[one.verdict], escape(one.what), escape(one.why) + commands)
    console = _console()
    console.print(table) if found else console.print("this code declares what the code declared that last ran")


def show_maintenance(found: dict[str, Any]) -> None:
    """What ``lakehouse maintain`` did, or would do."""
    table = _table("table", "files", "size", "days compacted", "files deleted", "log deleted", "left alone")
    for name, one in found["tables"].items():
        files, sizes = one.get("files", []), one.get("bytes", [])
        table.add_row(
            name,
            " -> ".join(f"{count:,}" for count in dict.fromkeys(files)),
            " -> ".join(size(count) for count in dict.fromkeys(sizes)),
            str(len(one.get("compacted", {})) or ""),
            str(one.get("deleted_files", "")),
            str(one.get("deleted_log", "")),
            escape("; ".join(one.get("skipped", []))),
        )
    console = _console()
    console.print(table)
    for hold in found.get("held", []):
        console.print(f"kept for {escape(hold['who'])}: {hold['table']} from version {hold['version']} on")
    for topic, past in (found.get("retention") or {}).items():
        if past["records"]:
            what = "were deleted" if past["deleted"] else "would be deleted"
            console.print(
                f"{topic}: {past['records']:,} records are older than the contract's {past['retention_days']} days and "
                f"{what}{'' if past['expires'] else ' if stream.expire were on'}"
            )
    for collection, count in (found.get("mongodb") or {}).items():
        console.print(f"mongodb {escape(collection)}: {count:,} documents past their time")
    if found.get("logs-live") is not None:
        console.print(f"logs-live: {found['logs-live']:,} documents expired")


def show_status(found: dict[str, Any]) -> None:
    """The status, a section a part."""
    console = _console()
    for part in ("servers", "programs"):
        entries = found[part]
        if "error" in entries:
            console.print(f"[bold]{part}[/]: {escape(entries['error'])}\n")
            continue
        if not entries:
            console.print(f"[bold]{part}[/]: none run: `lakehouse up` starts them\n")
            continue
        table = _table(part, "state", "memory", "restarts", "address / log", numbers=("memory", "restarts"))
        for name, state in entries.items():
            ready = state["state"] if state.get("ready", True) else f"{state['state']}, does not answer"
            if state.get("exit_status") is not None:
                ready += f" with {state['exit_status']}"
            memory = f"{state['rss_mb']:,.0f} MB" if state["rss_mb"] else ""
            table.add_row(name, ready, memory, str(state["restarts"]), state.get("address") or state["log"])
        console.print(table)
        console.print()
    if found.get("off"):
        console.print(f"off: {', '.join(found['off'])}")
    if found["api"]["url"]:
        console.print(f"API at {found['api']['url']}")
    if collector := found["collect"]:
        events, queue = collector["events"], collector["queue"]
        where = ", ".join(f"{name} {address}" for name, address in collector["listens"].items())
        console.print(f"collector listens on {where}")
        refused = f"{events['dead']:,} refused (collect/dead-letters in the home says why)" if events["dead"] else ""
        away = [f"{name} is away" for name, output in collector["outputs"].items() if output["away"]]
        told = [f"{events['in']:,} events came", f"{queue['events']:,} wait for an output", refused, *away]
        console.print(f"  {', '.join(word for word in told if word)} (as of {collector['at']})")
    for name, process in found["realtime"].items():
        if name == "error":
            console.print(f"real-time processor: {escape(process)}")
            continue
        waiting = sum(task["waiting"] for task in process["tasks"].values())
        counts = {
            what: sum(task.get(what, 0) for task in process["tasks"].values())
            for what in ("records", "quarantined", "duplicates", "late", "told")
        }
        counted = ", ".join(f"{number:,} {what}" for what, number in counts.items())
        console.print(f"real-time processor {name}: {counted}; {waiting:,} wait")
    if sent := found.get("lineage"):
        trouble = f"; not taken since {sent['failing_since']}: {escape(sent['error'])}" if sent["error"] else ""
        console.print(
            f"lineage: {sent['sent']:,} events sent, {sent['refused']:,} refused (as of {sent['at']}){trouble}"
        )
    console.print()
    table = _table(
        "topic",
        "lag",
        "oldest",
        "last cut",
        "age",
        "batch p50",
        "p95",
        "",
        numbers=("lag", "oldest", "age", "batch p50", "p95"),
    )
    for name, topic in found["topics"].items():
        batches = topic.get("batches") or {}
        table.add_row(
            name,
            _number(topic["lag_records"]),
            _number(topic["lag_seconds"], " s"),
            topic["last_cut_at"] or "none yet",
            _number(topic["cut_age_seconds"], " s") if topic["cut_age_seconds"] is not None else "",
            _number(batches.get("p50_ms"), " ms") if batches else "",
            _number(batches.get("p95_ms"), " ms") if batches else "",
            escape(topic.get("error", "")),
        )
    console.print(table)
    console.print()
    table = _table("store", "behind", "")
    for name, store in found["stores"].items():
        what = store.get("error") or "; ".join(store.get("behind", []))
        table.add_row(name, _number(store["behind_seconds"], " s") if store["reachable"] else "away", escape(what))
    console.print(table)
    console.print()
    tables = found["tables"]
    if "error" in tables:
        console.print(f"[bold]tables[/]: {escape(tables['error'])}")
    else:
        show_tables([{"table": name, **facts} for name, facts in tables.items()])
    if found["runs"]:
        console.print()
        table = _table("scheduled", "last run", "outcome", "seconds", "", numbers=("seconds",))
        for name, run in found["runs"].items():
            words = "" if run["outcome"] == "ok" else escape((run["output"].splitlines() or [""])[-1][:200])
            table.add_row(name, run["started_at"], run["outcome"], _number(run["seconds"]), words)
        console.print(table)


def show_alerts(found: Sequence[dict[str, Any]]) -> None:
    """Every alert on a line, what to do about it below the table."""
    console = _console()
    if not found:
        console.print("no alert is pending or fires, none has recovered within a day")
        return
    table = _table("state", "severity", "rule", "subject", "since", "silenced", "")
    colours = {"critical": "red", "warning": "yellow", "info": "cyan"}
    for row in found:
        colour = colours[row["severity"]] if row["state"] == "firing" else "dim"
        silenced = f"until {row['silenced_until'][:16]}Z" if row["silenced"] else ""
        ended = f" until {row['recovered_at']}" if row["recovered_at"] else ""
        table.add_row(
            f"[{colour}]{row['state']}[/]", row["severity"], escape(row["rule"]), escape(row["subject"]),
            f"{row['since']}{ended}", silenced, escape(row["text"].partition("\n")[0]),
        )  # fmt: skip
    console.print(table)
    runbooks = {row["rule"]: row["text"].partition("\n")[2] for row in found if row["state"] == "firing"}
    for rule, runbook in runbooks.items():
        if runbook:
            console.print(f"\n[bold]{escape(rule)}[/]: {escape(runbook)}")


def show_silences(found: Sequence[Silence]) -> None:
    """Every silence on a line."""
    table = _table("id", "rule", "subject", "from", "until", "who", "why", "ended by")
    for one in found:
        times = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (one.made_at, one.until)]
        words = (one.rule, one.subject or "all", *times, one.who, one.why, one.ended_by or "")
        table.add_row(one.id, *[escape(word) for word in words])
    _console().print(table) if found else _console().print("nothing is silenced")


def show_erasure(receipt: dict[str, Any]) -> None:
    """What an erasure, or a search, found and did."""
    console = _console()
    for part, unit in (("rows", "rows"), ("documents", "documents")):
        for name, count in receipt.get(part, {}).items():
            console.print(f"{name:<42} {count:>10,} {unit} erased")
    if "kafka" in receipt:
        console.print(
            f"kafka: {len(receipt['kafka']['deleted_before'])} partitions begin anew; states are compacted by "
            f"{receipt['kafka']['compacted_by']}"
        )
        console.print(f"real-time processor: {receipt['realtime']}")
        console.print(f"receipt: {receipt['id']}")
    for place, count in receipt["left"].items():
        console.print(f"{place:<42} {count:>10,} still name them")
    if not receipt["left"]:
        console.print("nothing names them")


def show_lineage(found: Sequence[dict[str, Any]]) -> None:
    """Every node of the graph, and what it is made from at one remove."""
    table = _table("node", "stage", "made from", "by")
    for node in found:
        table.add_row(node["id"], node["stage"], ", ".join(node["sources"]), node["job"])
    _console().print(table)


def show_lineage_of(found: dict[str, Any], columns: bool) -> None:
    """One node: its way up and down, and its columns where they are wanted."""
    console = _console()
    console.print(f"[bold]{escape(found['id'])}[/], by {found['job']}")
    for way, words in (("upstream", "made from"), ("downstream", "goes into")):
        console.print(f"{words}: {', '.join(found[way]) or 'nothing'}", soft_wrap=True)
    if not columns:
        return
    if not any(column["sources"] for column in found["columns"]):
        console.print("what its columns are made from is not declared")
        return
    table = _table("column", "type", "made from")
    for column in found["columns"]:
        sources = (f"{one['id']}.{one['column']} ({one['how'].lower()})" for one in column["sources"])
        table.add_row(column["name"], column["type"], "\n".join(sources))
    console.print(table)
    decided = dict.fromkeys(f"{one['id']}.{one['column']} ({one['how'].lower()})" for one in found["decided_by"])
    if decided:
        console.print(f"which rows there are: {', '.join(decided)}", soft_wrap=True)
