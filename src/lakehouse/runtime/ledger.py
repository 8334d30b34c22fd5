"""ops.ledger: what each batch did, written last; its newest row per topic is the consistent cut for readers."""

from __future__ import annotations

from lakehouse.tables import Table, columns

LEDGER = Table(
    "ops.ledger",
    columns(
        "topic string, seq bigint, partition int, start_offset bigint, end_offset bigint, records bigint, "
        "valid bigint, quarantined bigint, duplicates bigint, first_at timestamp, last_at timestamp, "
        "warnings map<string,bigint>, drift map<string,bigint>, versions map<string,bigint>, engine string, "
        "batch_ms bigint, committed_at timestamp, erased bigint, kept_from bigint, sealed_before timestamp"
    ),
    key=("topic", "seq", "partition"),
    order=("topic", "seq", "committed_at"),
)
"""One row per batch (``seq`` counts a topic's batches from 1) and partition: the half-open offset range, the records
in it and where they went, and the version of every table after the batch. ``first_at``/``last_at`` are Kafka append
times; ``warnings`` and ``drift`` count flagged records by rule and unknown fields by name. ``erased`` records came late
from somebody who was erased; those erased afterwards stay counted as what they were (null: none). Records before offset
``kept_from`` were deleted, as their contract's retention was over (null: none), always whole batches; gold's windows
before ``sealed_before`` stay as they were then."""
MAX_DRIFT = 50
"""Unknown fields that a row counts by name, the most frequent."""

CHANGES = Table(
    "_internal.gold_changes",
    columns("topic string, seq bigint, table string, version bigint, key string, row string"),
    key=("topic", "seq", "table", "key"),
    order=("topic", "seq"),
)
"""Every gold row as a batch left it (``row``: JSON; ``version``: of its table after the batch), append-only: what the
fan-out to stores follows."""
