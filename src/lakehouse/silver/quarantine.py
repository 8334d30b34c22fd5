"""silver.quarantine: every record that broke its contract, whole, with all reasons."""

from lakehouse.tables import Table, columns

TABLE = Table(
    "silver.quarantine",
    columns(
        "topic string, partition int, offset bigint, timestamp timestamp, key binary, value binary, "
        "headers array<struct<key:string,value:binary>>, reasons array<string>, status string, updated_at timestamp, "
        "erased_at timestamp"
    ),
    key=("topic", "partition", "offset"),
    order=("topic", "partition", "offset", "timestamp"),
)
"""``status``: open, replayed or discarded; ``updated_at``: when it last changed; ``erased_at``: as of bronze."""
