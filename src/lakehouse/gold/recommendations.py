"""gold.recommendations: what the recommender's champion recommends to every active user, made by a batch job."""

from lakehouse.tables import Table, columns

TABLE = Table(
    "gold.recommendations",
    columns("user_id string, rank int, post_id string, score double, model_version string, at timestamp"),
    key=("user_id", "rank"),
    order=("user_id",),
)
"""One snapshot: ranks from 1; ``score`` is comparable within a version only; ``at`` is when it was made."""
