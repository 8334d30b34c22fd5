"""Proof that the lake balances at its last cut, over all of history.

The rules are written from the design's meanings, in SQL, and share no code with what they check: nothing here imports
the layers, the contracts or the checks. They hold: the ledger is without gaps and adds up; Kafka = bronze, byte for
byte; bronze = valid + quarantined + duplicates + erased, as sets; silver = the reparse of its bronze rows; gold =
recomputed from silver; every document in the stores = its row. See docs/decisions/0004-audit.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse.audit import kafka as _kafka
from lakehouse.audit import stores as _stores
from lakehouse.audit.gold import gold
from lakehouse.audit.records import records
from lakehouse.audit.run import TOPICS, Run
from lakehouse.settings import Settings
from lakehouse.sources.lake import Cut, Lake, LakeError

__all__ = ["audit", "render"]

_NOTHING = {
    "records": 0,
    "bronze": 0,
    "valid": 0,
    "quarantined": 0,
    "duplicates": 0,
    "expired": 0,
    "erased": 0,
    "past_retention": 0,
}


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _shown(cut: Cut) -> dict[str, Any]:
    ends = {str(partition): end for partition, end in sorted(cut.ends.items())}
    return {"seq": cut.seq, "ends": ends, "committed_at": _rfc3339(cut.committed_at), "versions": cut.versions}


def audit(
    settings: Settings,
    progress: Callable[[str], None] = lambda _: None,
    stores: bool = True,
    kafka: bool = True,
    wait: timedelta = timedelta(seconds=60),
) -> dict[str, Any]:
    """Prove the balance at the newest cut of every topic.

    ``progress`` hears one line per step; ``kafka`` and ``stores`` say whether those are read too; ``wait`` is how long
    the stores may take to catch up with the cut. The result is plain JSON: ``balanced``, ``cut``, ``topics`` (counts),
    ``gold``, ``stores`` and ``problems`` (``from`` and ``to`` are offsets, both included; keys stand in ``detail``).

    Raises:
        LakeError: there is no ledger to read a cut from.
    """
    cuts = Lake(settings).cuts()
    topics = {topic.name: dict(_NOTHING) for topic in TOPICS}
    answers: dict[str, dict[str, Any]] = {}
    documents: dict[str, dict[str, Any]] = {}
    with Run(settings, progress, cuts) as run:
        for topic in TOPICS:
            if topic.name not in cuts:
                answers |= {table: {"rows": 0, "balanced": True} for table in topic.gold}
                continue
            try:
                counts = topics[topic.name] = records(run, topic)
                if kafka:
                    counts["expired"] = _kafka.kafka(run, topic)
                answers |= gold(run, topic)
            except LakeError as error:
                run.problem("tables.readable", str(error), topic=topic.name)
                answers |= {table: {"rows": 0, "balanced": False} for table in topic.gold if table not in answers}
        if stores:
            documents = _stores.stores(run, wait)
        return {
            "balanced": not run.problems,
            "cut": {topic: _shown(cut) for topic, cut in cuts.items()},
            "topics": topics,
            "gold": answers,
            "stores": documents,
            "problems": run.problems,
        }


def _place(problem: dict[str, Any]) -> str:
    where = "/".join(str(problem[part]) for part in ("topic", "partition") if problem[part] is not None)
    if problem["from"] is not None:
        where += f" {problem['from']}" + (f"..{problem['to']}" if problem["to"] != problem["from"] else "")
    return " ".join(part for part in (problem["table"], where) if part)


def render(result: dict[str, Any]) -> str:
    """The result as a short text for a terminal."""
    lines = []
    for name, counts in result["topics"].items():
        seq = result["cut"][name]["seq"] if name in result["cut"] else "none"
        parts = ", ".join(f"{value:,} {part}" for part, value in counts.items() if value or part == "records")
        lines.append(f"{name:<16} cut {seq}: {parts}")
    for kind, counted in (("gold", "rows"), ("stores", "documents")):
        for name, found in result[kind].items():
            lines.append(f"{name:<42} {found[counted]:>10,} {counted}  {'ok' if found['balanced'] else 'DIFFERS'}")
    for problem in result["problems"]:
        lines.append(f"{problem['rule']}: {_place(problem)}: {problem['detail']} ({problem['count']:,})")
    lines.append("balanced" if result["balanced"] else f"NOT balanced: {len(result['problems'])} problems")
    return "\n".join(lines)
