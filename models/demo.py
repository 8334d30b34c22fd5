"""What ``lakehouse demo`` shows of the models: all three trained, judged, promoted, and what they say."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from lakehouse.query import query
from lakehouse.settings import Settings
from models.kinds import KINDS
from models.lifecycle import promote, train
from models.registry import Registry
from models.scoring import score

WHY = "demo"


def models(settings: Settings, spark: Any, step: Callable[[str], None]) -> str:
    """Train, promote and score all three; the report, as text."""
    lines, began, training = [], time.monotonic(), 0.0
    for model in KINDS:
        step(f"training {model}")
        started = time.monotonic()
        version, measured = train(settings, model, spark)
        training += time.monotonic() - started
        step(f"judging {model}")
        decision = promote(settings, model, spark, "demo", WHY)
        worth = f"{measured.metric} {measured.value:.3f} on held-out time"
        lines.append(f"  {model:<12} version {version}: {worth}, {decision.action}")
        lines += [f"    {reason}" for reason in decision.reasons]
        if Registry(settings).answering(model) is not None:
            step(f"scoring by {model}")
            score(settings, model, spark)
    took = time.monotonic() - began
    seconds = f"trained in {training:.0f} s, with judging and scoring {took:.0f} s"
    return "\n".join([f"Models: {seconds} (MLflow: {settings.tracking_uri})", *lines])


def findings(settings: Settings) -> str:
    """What the champions found: forecasts, anomalies, and which of the simulation's incidents are among them."""
    out = ["", "Expected in an hour, by the trend's champion"]
    rows = query(
        settings,
        "select series, min_by(mean, time) as mean, min_by(lo, time) as lo, min_by(hi, time) as hi, min(time) as time "
        "from gold.forecasts where time >= made_at + interval 1 hour and series like 'activity/%' group by series "
        "order by series limit 5",
    ).rows
    out += [
        f"  {series:<20} {mean:8.1f} ({lo:.1f} to {hi:.1f}) events in five minutes" for series, mean, lo, hi, _ in rows
    ]
    anomalies = query(settings, "select series, time, value, expected from gold.anomalies order by time").rows
    truth = orjson.loads((settings.home / "simulation-truth.json").read_bytes())["incidents"]
    found = [pair for pair in (_first(incident, anomalies) for incident in truth) if pair]
    out += ["", f"Anomalies: {len(anomalies)} minutes; {len(found)} of the simulation's incidents are among them"]
    for incident, (series, at, value, expected) in found[:3]:
        where = incident.get("service") or incident.get("host")
        out.append(
            f"  {incident['kind']} at {where} from {incident['start'][:16]}Z: {series} {value:.3g} at "
            f"{at:%H:%M}, expected {expected:.3g}"
        )
    return "\n".join(out)


def _first(incident: dict[str, Any], anomalies: list[tuple[Any, ...]]) -> tuple[dict[str, Any], Any] | None:
    """The incident with the first anomaly of its service or host within it; None for a peak of load, which is none."""
    if incident["kind"] == "load_peak":
        return None
    start, end = (datetime.fromisoformat(incident[name]).astimezone(UTC) for name in ("start", "end"))
    where = f"service/{incident['service']}/" if incident.get("service") else f"host/{incident['host']}/"
    for row in anomalies:
        if row[0].startswith(where) and start.replace(second=0, microsecond=0) <= row[1] <= end:
            return incident, row
    return None
