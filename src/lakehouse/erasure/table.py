"""_internal.erased: whom no record may name again."""

from lakehouse.tables import Table, columns

ERASED = Table(
    "_internal.erased",
    columns("digest string, at timestamp"),
    key=("digest",),
    order=("at",),
)
"""Of each identifier that no record may name again its digest, and when its erasure began."""
