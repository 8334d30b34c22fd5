"""Gold at the cut held against a recomputation from silver at the same cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lakehouse.audit.run import Run, Topic, sections


@dataclass(frozen=True)
class Gold:
    """A gold table's columns: the key, those that are exact, those that agree to 1e-9 relative."""

    key: tuple[str, ...]
    exact: tuple[str, ...]
    near: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, keys first."""
        return (*self.key, *self.exact, *self.near)


TABLES = {
    "gold.activity_minute": Gold(("window_start", "event_type"), ("events", "users")),
    "gold.post_engagement_daily": Gold(
        ("date", "post_id"), ("views", "likes", "comments", "shares", "bookmarks", "users")
    ),
    "gold.user_activity_daily": Gold(("date", "user_id"), ("events", "sessions", "posts", "first_at", "last_at")),
    "gold.service_health_minute": Gold(
        ("window_start", "service"), ("requests", "errors"), ("error_rate", "p50_ms", "p95_ms", "p99_ms")
    ),
    "gold.host_utilization_minute": Gold(("window_start", "host", "metric"), ("max", "samples"), ("avg",)),
    "gold.trending_posts": Gold(("as_of", "rank"), ("post_id",), ("score",)),
}
_TRENDING = """
with e as (select * from recomputed),
t as (select row_number() over (order by score desc, post_id) as rank, * from e qualify rank <= 50),
g as (
    select *, count(*) over (partition by rank) as ranks, count(*) over (partition by post_id) as posts,
        lag(score) over (order by rank) = score and lag(post_id) over (order by rank) > post_id as tie_wrong
    from gold
)
select 'rank ' || coalesce(g.rank, t.rank) || ': ' || case
    when g.rank is null then 'missing, post ' || t.post_id || ' expected'
    when t.rank is null then 'not expected, there are fewer posts'
    when g.ranks > 1 then 'in more than one row'
    when g.posts > 1 then 'post ' || g.post_id || ' has more than one rank'
    when epoch_us(g.as_of) <> getvariable('as_of_us') then 'as_of ' || rfc3339(g.as_of) || ', recomputed '
        || rfc3339(make_timestamptz(getvariable('as_of_us')))
    when e.post_id is null then 'post ' || coalesce(g.post_id, 'null') || ' has no score in silver'
    when not near(g.score, e.score, e.score_size) then 'score ' || g.score || ', recomputed ' || e.score
    when g.tie_wrong then 'ties are not in the order of post_id'
    else 'post ' || g.post_id || ' with score ' || g.score || ', recomputed ' || t.post_id || ' with ' || t.score
    end as detail
from t full join g on g.rank = t.rank left join e on e.post_id = g.post_id
where g.rank is null or t.rank is null or e.post_id is null or g.ranks > 1 or g.posts > 1 or g.tie_wrong
    or epoch_us(g.as_of) <> getvariable('as_of_us')
    or not near(g.score, e.score, e.score_size) or not near(g.score, t.score, greatest(t.score_size, e.score_size))
"""


def key_text(table: str, alias: str) -> str:
    """SQL for a row's key as people read it: its values joined by ``:``, times in RFC 3339."""
    parts = [
        f"rfc3339({alias}.{name})" if name in ("window_start", "as_of") else f"cast({alias}.{name} as varchar)"
        for name in TABLES[table].key
    ]
    return "concat_ws(':', " + ", ".join(f"coalesce({part}, 'null')" for part in parts) + ")"


def _differences(table: str, sizes: list[str]) -> str:
    """SQL for the keys whose rows differ between ``recomputed`` and ``gold``, in both directions."""
    gold = TABLES[table]
    differs = {name: f"g.{name} is distinct from e.{name}" for name in gold.exact}
    for name in gold.near:
        size = f"e.{name}_size" if f"{name}_size" in sizes else "null"
        differs[name] = f"not near(g.{name}, e.{name}, {size})"
    listed = ", ".join(
        f"case when {sql} then '{name} ' || coalesce(cast(g.{name} as varchar), 'null') || ', recomputed ' "
        f"|| coalesce(cast(e.{name} as varchar), 'null') end"
        for name, sql in differs.items()
    )
    on = " and ".join(f"g.{name} is not distinct from e.{name}" for name in gold.key)
    return f"""select case when g.there is null then {key_text(table, "e")} || ': missing'
            when e.there is null then {key_text(table, "g")} || ': not in silver'
            else {key_text(table, "g")} || ': ' || concat_ws('; ', {listed}) end as detail
        from (select *, true as there from gold) as g full join (select *, true as there from recomputed) as e on {on}
        where g.there is null or e.there is null or {" or ".join(differs.values())}"""


def gold(run: Run, topic: Topic) -> dict[str, dict[str, Any]]:
    """Recompute every gold table of a topic whose silver is open: {table: {"rows", "balanced"}}.

    Raises:
        LakeError: a table is not readable at the cut's version.
    """
    queries = dict(sections("gold", "--="))
    found: dict[str, dict[str, Any]] = {}
    for table in topic.gold:
        run.progress(f"{table}: recomputing")
        before, shape = len(run.problems), TABLES[table]
        run.view("gold", table, run.version(table, topic.name))
        if unknown := set(run.columns("gold")) ^ set(shape.columns):
            run.problem(
                "gold.columns", f"not the columns of the design: {sorted(unknown)}", table=table, topic=topic.name
            )
        else:
            run.rows("set variable as_of_us = (select max(epoch_us(timestamp)) // 60000000 * 60000000 from silver)")
            run.rows(f"create or replace temp table recomputed as {queries[table]}")
            sealed = run.one("select getvariable('sealed_us')")
            if sealed is not None and not _unsealed(run, table, sealed):
                found[table] = {"rows": run.one("select count(*) from gold"), "balanced": True}
                continue
            keys = ", ".join(shape.key)
            run.keys(
                "gold.once",
                table,
                topic.name,
                f"select {key_text(table, 'g')} || ': ' || count(*) || ' rows' as detail from gold as g "
                f"group by {keys} having count(*) > 1",
            )
            trending = table == "gold.trending_posts"
            sizes = run.columns("recomputed")
            run.keys("gold.values", table, topic.name, _TRENDING if trending else _differences(table, sizes))
        count = run.one("select count(*) from gold_data")
        found[table] = {"rows": count, "balanced": len(run.problems) == before}
    return found


def _unsealed(run: Run, table: str, sealed: int) -> bool:
    """Leave what lies before ``sealed`` (microseconds) out of ``gold`` and ``recomputed``; False if that is all.

    Records of those windows were deleted after their retention, so silver no longer tells what they should say.
    """
    if table == "gold.trending_posts":  # of the hour before silver's newest record
        return bool(run.one(f"select coalesce(getvariable('as_of_us') - 3600000000 >= {sealed}, false)"))
    after = f"epoch_us(cast({TABLES[table].key[0]} as timestamptz)) >= {sealed}"
    run.rows(f"create or replace temp table recomputed as select * from recomputed where {after}")
    run.rows(f"create or replace temp view gold as select * from gold_data where {after}")
    return True
