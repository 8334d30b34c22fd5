"""gold.anomalies: points of a series, and log templates, that are unlike what was before."""

from lakehouse.tables import Table, columns

TABLE = Table(
    "gold.anomalies",
    columns("series string, time timestamp, value double, expected double, score double, model_version string"),
    key=("series", "time"),
    order=("time", "series"),
)
"""``series`` is ``service/<name>/<measure>``, ``host/<name>/<metric>`` or ``logs/<service>/<template>``, ``time`` the
minute that begins then (UTC), ``expected`` what the detector held likely, ``score`` in [0, 1]; a row stands for every
minute whose score reached the detector's threshold."""
