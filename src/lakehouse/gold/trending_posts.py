"""gold.trending_posts: the posts that draw most attention now.

A post's score is the sum over its interactions of the last hour of weight(event type) x 2^-(age / 15 min), the
exponential decay of Cormode et al., "Forward Decay" (ICDE 2009). The table holds one snapshot: ``as_of`` is the
floored minute of the newest Kafka append time in silver.user_events; events at or after it do not count yet.
"""

from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.tables import Table, columns

WINDOW = timedelta(hours=1)
HALF_LIFE = timedelta(minutes=15)
TOP = 50
WEIGHTS = {"view": 1, "like": 3, "unlike": -3, "comment": 5, "share": 5, "bookmark": 4}
TABLE = Table(
    "gold.trending_posts", columns("as_of timestamp, rank int, post_id string, score double"), key=("as_of", "rank")
)
SOURCE_COLUMNS = ("post_id", "event_type", "occurred_at", "timestamp")


def weight_sql() -> str:
    """The weight of a row's event type, null where it has none."""
    return "case event_type " + " ".join(f"when '{kind}' then {weight}" for kind, weight in WEIGHTS.items()) + " end"


def sql(source: str, as_of: str, engine: str) -> str:
    """The snapshot from a relation of silver.user_events rows at ``as_of`` (an SQL timestamp expression)."""
    seconds = "unix_micros({0}) / 1e6" if engine == "spark" else "epoch_us({0}) / 1e6"
    at, then = seconds.format("as_of"), seconds.format("occurred_at")
    hour, half = int(WINDOW.total_seconds()), HALF_LIFE.total_seconds()
    return f"""
        select as_of, cast(row_number() over (order by score desc, post_id) as int) as rank, post_id, score
        from (select post_id, as_of, sum({weight_sql()} * power(2.0, ({then} - {at}) / {half})) as score
              from (select post_id, event_type, occurred_at, {as_of} as as_of from {source}) as dated
              where post_id is not null and {weight_sql()} is not null and occurred_at < as_of
                and {then} >= {at} - {hour}
              group by post_id, as_of) as scored
        order by score desc, post_id limit {TOP}"""


def trending_posts(user_events: DataFrame) -> DataFrame:
    """silver.user_events -> (as_of, rank, post_id, score), ranks from 1, ties by post_id."""
    as_of = "(select date_trunc('minute', max(timestamp)) from {user_events})"
    return user_events.sparkSession.sql(sql("{user_events}", as_of, "spark"), user_events=user_events)
