"""gold.text_insights_daily: keywords, sentiments and groups of errors in the texts of each day.

What the rows of each source and kind mean is said in ``models/text/insights.py``, which makes them.
"""

from lakehouse.tables import Table, columns

TABLE = Table(
    "gold.text_insights_daily",
    columns("date date, source string, kind string, term string, score double, count bigint"),
    key=("date", "source", "kind", "term"),
    order=("date",),
)
