"""gold.forecasts: what series of gold are expected to be, hours ahead."""

from lakehouse.tables import Table, columns

TABLE = Table(
    "gold.forecasts",
    columns(
        "series string, time timestamp, mean double, lo double, hi double, model_version string, made_at timestamp"
    ),
    key=("series", "time"),
    order=("time", "series"),
)
"""The newest forecast of each time; ``lo`` and ``hi`` bound 95 % of what is expected. ``series`` as in
``gold.anomalies``, or ``activity/<event type>``."""
