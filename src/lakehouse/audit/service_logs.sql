-- bronze -> record: every record reparsed by the design's meaning of a service log; wrong = '' means valid.
create or replace table record as
with parsed as (
    select partition, "offset", epoch_us(timestamp) as arrival, cast(canonical(value) as json) as j from bronze
),
judged as (
    select *, concat_ws('; ',
        case when j is null then 'not JSON' when json_type(j) <> 'OBJECT' then 'not an object' end,
        case when time_wrong(j, '$."@timestamp"', arrival) then '@timestamp' end,
        case when string_wrong(j, '$.message') then 'message' end,
        case when object_wrong(j, '$.log') or string_wrong(j, '$.log.level') then 'log' end,
        case when object_wrong(j, '$.service') or string_wrong(j, '$.service.name') then 'service' end,
        case when object_wrong(j, '$.host') or string_wrong(j, '$.host.name') then 'host' end,
        case when object_wrong(j, '$.trace') or string_wrong(j, '$.trace.id') then 'trace' end,
        case when object_wrong(j, '$.http') or object_wrong(j, '$.http.response')
            or integer_wrong(j, '$.http.response.status_code') then 'http' end,
        case when object_wrong(j, '$.event') or string_wrong(j, '$.event.id') or string_wrong(j, '$.event.dataset')
            or integer_wrong(j, '$.event.duration') then 'event' end,
        case when object_wrong(j, '$.url') or string_wrong(j, '$.url.path') then 'url' end,
        case when object_wrong(j, '$.error') or string_wrong(j, '$.error.message') or string_wrong(j, '$.error.type')
            or string_wrong(j, '$.error.code') or string_wrong(j, '$.error.id') or string_wrong(j, '$.error.stack_trace')
            then 'error' end
    ) as wrong
    from parsed
),
-- What is left when the known fields are taken away: a merge patch (RFC 7396) with nulls removes them and leaves an
-- object, perhaps empty, for every known object; the two that follow remove the empty ones, innermost first.
unknown as (
    select *, case when wrong = '' then json_merge_patch(j,
        '{"@timestamp":null,"message":null,"log":{"level":null},"service":{"name":null},"host":{"name":null},'
        || '"trace":{"id":null},"http":{"response":{"status_code":null}},'
        || '"event":{"id":null,"duration":null,"dataset":null},"url":{"path":null},'
        || '"error":{"message":null,"type":null,"code":null,"id":null,"stack_trace":null}}') end as u1,
        json_merge_patch(u1, '{"http":{"response":' || if(json_extract(u1, '$.http.response') = '{}', 'null', '{}') || '}}') as u2,
        json_merge_patch(u2, '{' || list_aggregate(list_transform(
            ['log', 'service', 'host', 'trace', 'http', 'event', 'url', 'error'],
            lambda o: '"' || o || '":' || if(json_extract(u2, '$.' || o) = '{}', 'null', '{}')), 'string_agg', ',') || '}') as u3
    from judged
)
select
    partition, "offset", arrival, wrong,
    case when not blank(j->>'$.event.id') then j->>'$.event.id' end as identity,
    coalesce(identity, 'service-logs/' || partition || '/' || "offset") as event_id,
    rfc3339_us(j->>'$."@timestamp"') as time,
    j->>'$.message' as message,
    j->>'$.log.level' as "log.level",
    j->>'$.service.name' as "service.name",
    j->>'$.host.name' as "host.name",
    j->>'$.trace.id' as "trace.id",
    integer_at(j, '$.http.response.status_code') as "http.response.status_code",
    j->>'$.event.id' as "event.id",
    integer_at(j, '$.event.duration') as "event.duration",
    j->>'$.event.dataset' as "event.dataset",
    j->>'$.url.path' as "url.path",
    j->>'$.error.message' as "error.message",
    j->>'$.error.type' as "error.type",
    j->>'$.error.code' as "error.code",
    j->>'$.error.id' as "error.id",
    j->>'$.error.stack_trace' as "error.stack_trace",
    case when wrong = '' then nullif(u3, '{}') end as rescued
from unknown;

-- silver -> the same columns
create or replace temp view silver_record as
select partition, "offset", event_id, epoch_us(time) as time, message, log.level as "log.level", service.name as "service.name",
    host.name as "host.name", trace.id as "trace.id", http.response.status_code as "http.response.status_code",
    event.id as "event.id", event.duration as "event.duration", event.dataset as "event.dataset", url.path as "url.path",
    error.message as "error.message", error.type as "error.type", error.code as "error.code", error.id as "error.id",
    error.stack_trace as "error.stack_trace", _rescued as rescued, epoch_us(timestamp) as arrival
from silver;

--? offsets silver.once silver
select partition, "offset", count(*) || ' rows' as detail from silver group by partition, "offset" having count(*) > 1;
