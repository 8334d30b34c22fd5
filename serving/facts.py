"""What ``/metrics`` says of the platform: facts as the API has them, made into metrics by Prometheus' conventions.

Units are seconds and bytes, counters end with ``_total``, and a moment is a timestamp, not an age, where we know it.
What is not known is left out: a zero would be a claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, get_args

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.live.hub import KINDS, Why

SILENT_S = 60.0
"""After so long without a word a real-time process is no more."""
QUANTILES = (0.5, 0.95, 1.0)


def gauge(name: str, help: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
    """A gauge, of the values that are known."""
    return _filled(GaugeMetricFamily(f"lakehouse_{name}", help, labels=labels), values)


def counter(
    name: str, help: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float | None]]
) -> Metric:
    """A counter; ``_total`` is added to its name."""
    return _filled(CounterMetricFamily(f"lakehouse_{name}", help, labels=labels), values)


def _filled(family: Any, values: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
    for labels, value in values:
        if value is not None:
            family.add_metric(list(labels), float(value))
    made: Metric = family
    return made


# --- pipeline ------------------------------------------------------------------------------------------------------


def pipeline(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Of ``serving.status.Status.now()``."""
    topics: Mapping[str, Any] = status["topics"]

    def of_topics(fact: str) -> list[tuple[Sequence[str], float | None]]:
        return [([topic], facts.get(fact)) for topic, facts in topics.items()]

    yield gauge("topic_lag_records", "Records in Kafka that are not in gold yet.", ["topic"], of_topics("lag_records"))
    yield gauge("topic_lag_seconds", "Age of the oldest of them.", ["topic"], of_topics("lag_seconds"))
    yield gauge("topic_cut_age_seconds", "Time since the newest cut of the ledger.", ["topic"], of_topics("cut_age_s"))
    yield counter("pipeline_batches", "Batches in the ledger.", ["topic"], of_topics("seq"))
    yield gauge("pipeline_asked_timestamp_seconds", "When these were asked for.", [], [([], _moment(status["at"]))])
    totals = status["totals"]
    yield counter(
        "pipeline_records", "Records in the ledger: the sum of all outcomes.", ["topic"],
        [([row["topic"]], row["records"]) for row in totals],
    )  # fmt: skip
    yield counter(
        "pipeline_outcomes", "Records in the ledger, by where each ended.", ["topic", "outcome"],
        [([row["topic"], what], row[what]) for row in totals for what in ("valid", "quarantined", "duplicates")],
    )  # fmt: skip
    batches: dict[str, list[float]] = defaultdict(list)
    for row in status["batches"]:
        if row["batch_ms"] is not None:
            batches[row["topic"]].append(row["batch_ms"] / 1000)
    yield gauge(
        "pipeline_batch_seconds", "How long the newest batches took, up to 60 of each topic.", ["topic", "quantile"],
        [
            ([topic, f"{q:g}"], float(value))
            for topic, found in batches.items()
            for q, value in zip(QUANTILES, np.quantile(found, QUANTILES), strict=True)
        ],
    )  # fmt: skip
    stores: Mapping[str, Any] = status["stores"]
    yield gauge(
        "store_behind_batches", "Batches in gold that a store lacks.", ["store", "topic"],
        [
            ([store, topic], behind)
            for store, facts in stores.items()
            for topic, behind in facts.get("behind_batches", {}).items()
        ],
    )  # fmt: skip
    yield gauge(
        "store_up", "Whether a store answers.", ["store"], [([name], f["reachable"]) for name, f in stores.items()]
    )


def servers(up: Mapping[str, bool]) -> Iterator[Metric]:
    """Whether ``kafka`` and ``hdfs``, which everything begins with, take connections."""
    for name, answers in up.items():
        yield gauge(f"{name}_up", f"Whether {name} takes connections.", [], [([], answers)])


def stream(said: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Of ``lakehouse.runtime.restarts.said()``."""
    if said is not None:
        at = datetime.fromisoformat(said["started_at"]).timestamp()
        yield gauge("stream_started_timestamp_seconds", "When the stream's queries were started.", [], [([], at)])
        yield counter("stream_restarts", "Starts of its queries after a failure.", [], [([], said["restarts"])])


def programs(states: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Of ``lakehouse.stack.program_states()``: what ``up`` runs on this machine."""
    yield gauge(
        "program_up", "Whether a program runs.", ["program"],
        [([name], state["state"] == "RUNNING") for name, state in states.items()],
    )  # fmt: skip
    yield counter(
        "program_restarts", "Ends of a program that nobody asked for.", ["program"],
        [([name], state["restarts"]) for name, state in states.items()],
    )  # fmt: skip
    yield gauge(
        "program_resident_memory_bytes", "Memory of a program and its children.", ["program"],
        [([name], s["rss_mb"] and s["rss_mb"] * 2**20) for name, s in states.items()],
    )  # fmt: skip


# --- real time -----------------------------------------------------------------------------------------------------


def processors(said: Mapping[str, Mapping[str, Any]], now_s: float) -> Iterator[Metric]:
    """Of the words of the real-time processes in Redis, by name."""
    here = {name: words for name, words in said.items() if words["at"] > now_s - SILENT_S}
    tasks = [(name, task, facts) for name, words in here.items() for task, facts in words["tasks"].items()]
    yield gauge(
        "realtime_last_word_timestamp_seconds", "When a real-time process last said how it is.", ["processor"],
        [([name], words["at"]) for name, words in here.items()],
    )  # fmt: skip
    yield gauge(
        "realtime_waiting_records", "Records that wait for a task.", ["processor", "task"],
        [([name, task], facts["waiting"]) for name, task, facts in tasks],
    )  # fmt: skip
    yield gauge(
        "realtime_partitions", "Partitions that a process has of a task.", ["processor", "task"],
        [([name, task], len(facts["partitions"])) for name, task, facts in tasks],
    )  # fmt: skip
    yield counter(
        "realtime_events", "What became of what tasks took, since their process has them.",
        ["processor", "task", "outcome"],
        [
            ([name, task, what], number)
            for name, task, facts in tasks
            for what, number in facts.items()
            if what not in ("waiting", "partitions")
        ],
    )  # fmt: skip


# --- models --------------------------------------------------------------------------------------------------------


def models(found: Iterable[Mapping[str, Any]], decisions: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Of the models as ``/v1/models`` lists them, and rows (model, action, decisions, at) of ``ops.promotions``."""
    known = [model for model in found if model["version"] is not None]
    yield gauge(
        "model_info", "The version of a model that answers.", ["model", "version"],
        [([model["name"], str(model["version"])], 1) for model in known],
    )  # fmt: skip
    yield gauge(
        "model_published_timestamp_seconds", "Since when it answers.", ["model"],
        [([model["name"]], _moment(model["published_at"])) for model in known],
    )  # fmt: skip
    made = list(decisions)
    yield counter(
        "model_decisions", "Decisions about versions of a model.", ["model", "action"],
        [([row["model"], row["action"]], row["decisions"]) for row in made],
    )  # fmt: skip
    yield gauge(
        "model_last_decision_timestamp_seconds", "When the newest of them was made.", ["model", "action"],
        [([row["model"], row["action"]], _moment(row["at"])) for row in made],
    )  # fmt: skip


def _moment(at: datetime | str | None) -> float | None:
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return None if at is None else at.timestamp()


# --- the API -------------------------------------------------------------------------------------------------------


class Version(Protocol):
    """A version of a table that is served."""

    @property
    def name(self) -> str:
        """``layer.name``."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def at(self) -> datetime:
        """When it was committed."""


def tables(held: Iterable[Version]) -> Iterator[Metric]:
    """The tables that the API answers from now."""
    found = list(held)
    yield gauge(
        "api_table_version", "The version of a table that is served.", ["table"],
        [([one.name], one.version) for one in found],
    )  # fmt: skip
    yield gauge(
        "api_table_committed_timestamp_seconds", "When that version was committed.", ["table"],
        [([one.name], one.at.timestamp()) for one in found],
    )  # fmt: skip


def cache(hits: int, misses: int) -> Iterator[Metric]:
    """The cache of answers."""
    yield counter(
        "api_cache_requests", "Questions to the cache of answers.", ["result"], [(["hit"], hits), (["miss"], misses)]
    )


def streams(open_now: int, counts: Mapping[str, int]) -> Iterator[Metric]:
    """Of ``serving.live.hub.Hub``."""
    yield gauge("api_streams", "Streams that are open.", [], [([], open_now)])
    yield counter("api_streams_opened", "Streams that began.", [], [([], counts.get("opened", 0))])
    yield counter("api_streams_refused", "Streams above the limits.", [], [([], counts.get("refused", 0))])
    yield counter("api_stream_gaps", "Streams that could not be resumed.", [], [([], counts.get("gap", 0))])
    for kind, label, name, help, known in (
        ("end", "reason", "api_streams_ended", "Streams that ended, by why.", ("left", *get_args(Why))),
        ("event", "event", "api_stream_events", "Events that were sent.", (*KINDS, "store")),
    ):
        yield counter(name, help, [label], [([what], counts.get(f"{kind}:{what}", 0)) for what in known])


def access_log(waiting_bytes: int) -> Iterator[Metric]:
    """The spool of the access log."""
    yield gauge(
        "api_access_log_waiting_bytes", "Entries of the access log that are not in its table yet.", [],
        [([], waiting_bytes)],
    )  # fmt: skip
