-- Gold tables recomputed from silver at the cut, by the design's meanings. `--= TABLE` heads a query.
-- `<column>_size`: the magnitude that rounding errors of a column that may cancel are relative to.

--= gold.activity_minute
select time_bucket(interval '1 minute', occurred_at) as window_start, event_type, count(*) as events, count(distinct user_id) as users
from silver group by all

--= gold.post_engagement_daily
select cast(occurred_at at time zone 'UTC' as date) as date, post_id,
    count(*) filter (event_type = 'view') as views,
    count(*) filter (event_type = 'like') - count(*) filter (event_type = 'unlike') as likes,
    count(*) filter (event_type = 'comment') as comments,
    count(*) filter (event_type = 'share') as shares,
    count(*) filter (event_type = 'bookmark') as bookmarks,
    count(distinct user_id) as users
from silver where post_id is not null group by all

--= gold.user_activity_daily
select cast(occurred_at at time zone 'UTC' as date) as date, user_id, count(*) as events, count(distinct session_id) as sessions,
    count(*) filter (event_type = 'post') as posts, min(occurred_at) as first_at, max(occurred_at) as last_at
from silver group by all

--= gold.service_health_minute
select time_bucket(interval '1 minute', time) as window_start, service.name as service, count(*) as requests,
    count(*) filter (http.response.status_code >= 500) as errors,
    count(*) filter (http.response.status_code >= 500) / count(*) as error_rate,
    quantile_cont(event.duration / 1e6, 0.50) as p50_ms,
    quantile_cont(event.duration / 1e6, 0.95) as p95_ms,
    quantile_cont(event.duration / 1e6, 0.99) as p99_ms
from silver where http.response.status_code is not null group by all

--= gold.host_utilization_minute
select time_bucket(interval '1 minute', time) as window_start, host, metric, avg(value) as avg, max(value) as max, count(*) as samples,
    avg(abs(value)) as avg_size
from silver group by all

--= gold.trending_posts
-- All posts that have a score; the fifty highest make the table.
with weighted as (
    select post_id, getvariable('as_of_us') - epoch_us(occurred_at) as age_us,
        case event_type when 'view' then 1 when 'like' then 3 when 'unlike' then -3 when 'comment' then 5
            when 'share' then 5 when 'bookmark' then 4 end as weight
    from silver where post_id is not null
)
select post_id, sum(weight * power(2, -age_us / 9e8)) as score, sum(abs(weight) * power(2, -age_us / 9e8)) as score_size
from weighted where weight is not null and age_us > 0 and age_us <= 3600000000 group by post_id
