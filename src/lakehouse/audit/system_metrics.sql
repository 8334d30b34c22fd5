-- bronze -> leaf, record: every record reparsed by the design's meaning of a metric record; wrong = '' means valid.
create or replace table parsed as
select partition, "offset", epoch_us(timestamp) as arrival, cast(canonical(value) as json) as j from bronze;

-- Numbers and strings at paths of nested objects, without the ECS base fields.
create or replace table leaf as
with recursive walk as (
    select partition, "offset", e.key as path, e.value as j
    from (select partition, "offset", unnest(map_entries(cast(j as map(varchar, json)))) as e
          from parsed where json_type(j) = 'OBJECT') as members
    where e.key not in ('@timestamp', 'labels', 'message', 'tags')
    union all
    select partition, "offset", path || '.' || e.key, e.value
    from (select partition, "offset", path, unnest(map_entries(cast(j as map(varchar, json)))) as e
          from walk where json_type(j) = 'OBJECT') as members
)
select partition, "offset", path, case when json_type(j) = 'VARCHAR' then j->>'$' end as text,
    case when json_type(j) <> 'VARCHAR' then try_cast(j->>'$' as double) end as number
from walk where json_type(j) in ('VARCHAR', 'DOUBLE', 'BIGINT', 'UBIGINT');

create or replace table record as
with leaves as (
    select partition, "offset",
        count(number) as numbers,
        count(distinct path) filter (number is not null) as number_paths,
        coalesce(list({'key': path, 'value': text} order by path, text) filter (text is not null), []) as strings,
        count(distinct path) filter (text is not null) as string_paths
    from leaf group by partition, "offset"
),
fields as (
    select partition, "offset", arrival, j, f[1] as "@timestamp", f[2] as host, f[3] as "host.name", f[4] as event,
        f[5] as "event.dataset"
    from (select *, json_extract(j, ['$."@timestamp"', '$.host', '$.host.name', '$.event', '$.event.dataset']) as f from parsed)
)
select
    partition, "offset", arrival,
    concat_ws('; ',
        case when j is null then 'not JSON' when json_type(j) <> 'OBJECT' then 'not an object' end,
        case when time_wrong("@timestamp", arrival) then '@timestamp' end,
        case when object_wrong(host) or string_wrong("host.name") then 'host' end,
        case when object_wrong(event) or string_wrong("event.dataset") then 'event' end,
        case when coalesce(numbers, 0) = 0 then 'no sample' end,
        -- two leaves of one name could not both be the one row of their key
        case when numbers <> number_paths or len(strings) <> string_paths then 'a path twice' end
    ) as wrong,
    -- (host.name, @timestamp, event.dataset, sorted strings): the strings hold host.name and event.dataset
    case when wrong = '' then sha256(rfc3339_us(text_of("@timestamp")) || ' ' || cast(to_json(strings) as varchar)) end as identity,
    rfc3339_us(text_of("@timestamp")) as time,
    text_of("host.name") as host,
    coalesce(list_filter(strings, lambda s: s.key <> 'host.name'), []) as dimensions
from fields left join leaves using (partition, "offset");

-- silver -> the same columns, one row per record; its samples are compared one by one
create or replace temp view silver_record as
select partition, "offset", any_value(epoch_us(time)) as time, any_value(host) as host,
    list_sort(map_entries(any_value(dimensions))) as dimensions, any_value(epoch_us(timestamp)) as arrival,
    count(distinct record_id) as record_ids, any_value(record_id) as record_id,
    count(distinct (time, host, dimensions, timestamp)) as shapes
from silver group by partition, "offset";

--? offsets silver.once silver
select distinct partition, "offset", 'metric ' || coalesce(metric, 'null') || ' has ' || count(*) || ' rows' as detail
from silver group by partition, "offset", metric having count(*) > 1;

--? offsets silver.samples silver
select coalesce(l.partition, s.partition) as partition, coalesce(l."offset", s."offset") as "offset", coalesce(l.path, s.metric) || ': ' || coalesce(cast(s.value as varchar), 'none')
    || ', recomputed ' || coalesce(cast(l.number as varchar), 'none') as detail
from (select * from leaf semi join (select partition, "offset" from silver_record) using (partition, "offset")
      where number is not null) as l
full join silver as s on s.partition = l.partition and s."offset" = l."offset" and s.metric = l.path
where s.value is distinct from l.number;

--? offsets silver.record_id silver
with ids as (
    select partition, "offset", record_id, record_ids, shapes, identity from silver_record join record using (partition, "offset")
)
select partition, "offset", 'more than one record_id, time, host or dimensions in one record' as detail
from ids where record_ids <> 1 or shapes <> 1
union all
select partition, "offset", 'record_id ' || record_id || ' names two identities'
from ids semi join (select record_id from ids group by record_id having count(distinct identity) > 1) using (record_id)
union all
select partition, "offset", 'its identity has two record_ids'
from ids semi join (select identity from ids group by identity having count(distinct record_id) > 1) using (identity);
