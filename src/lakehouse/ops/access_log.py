"""ops.access_log: who read personal data of which table or store, when, from where, and how many rows."""

from lakehouse.tables import Table, columns

TABLE = Table(
    "ops.access_log",
    columns(
        "id string, at timestamp, request_id string, subject string, user_id string, method string, route string, "
        "resource string, columns array<string>, rows bigint, filter_digest string, status int, client string"
    ),
    key=("id", "at"),
    order=("at",),
)
"""``subject`` and ``user_id`` are the token's; ``resource`` is a table, or what was read of a store; ``columns`` are
the personal ones that were shown as they are; ``rows`` is null where an answer was a stream; ``filter_digest`` names
the question without telling it. The API writes rows, some time after what they tell of."""
