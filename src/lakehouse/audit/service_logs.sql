-- bronze -> record: every record reparsed by the design's meaning of a service log; wrong = '' means valid.
create or replace table parsed as
select partition, "offset", epoch_us(timestamp) as arrival, cast(canonical(value) as json) as j from bronze;

create or replace table record as
with fields as (
    select partition, "offset", arrival, j,
        f[1] as "@timestamp", f[2] as "message", f[3] as "log", f[4] as "log.level", f[5] as "service",
        f[6] as "service.name", f[7] as "host", f[8] as "host.name", f[9] as "trace", f[10] as "trace.id",
        f[11] as "http", f[12] as "http.response", f[13] as "http.response.status_code", f[14] as "event",
        f[15] as "event.id", f[16] as "event.duration", f[17] as "event.dataset", f[18] as "url",
        f[19] as "url.path", f[20] as "error", f[21] as "error.message", f[22] as "error.type",
        f[23] as "error.code", f[24] as "error.id", f[25] as "error.stack_trace"
    from (select *, json_extract(j, [
        '$."@timestamp"', '$.message', '$.log', '$.log.level', '$.service', '$.service.name', '$.host',
        '$.host.name', '$.trace', '$.trace.id', '$.http', '$.http.response', '$.http.response.status_code',
        '$.event', '$.event.id', '$.event.duration', '$.event.dataset', '$.url', '$.url.path', '$.error',
        '$.error.message', '$.error.type', '$.error.code', '$.error.id', '$.error.stack_trace']) as f from parsed)
),
judged as (
    select *, concat_ws('; ',
        case when j is null then 'not JSON' when json_type(j) <> 'OBJECT' then 'not an object' end,
        case when time_wrong("@timestamp", arrival) then '@timestamp' end,
        case when string_wrong(message) then 'message' end,
        case when object_wrong(log) or string_wrong("log.level") then 'log' end,
        case when object_wrong(service) or string_wrong("service.name") then 'service' end,
        case when object_wrong(host) or string_wrong("host.name") then 'host' end,
        case when object_wrong(trace) or string_wrong("trace.id") then 'trace' end,
        case when object_wrong(http) or object_wrong("http.response") or integer_wrong("http.response.status_code")
            then 'http' end,
        case when object_wrong(event) or string_wrong("event.id") or string_wrong("event.dataset")
            or integer_wrong("event.duration") then 'event' end,
        case when object_wrong(url) or string_wrong("url.path") then 'url' end,
        case when object_wrong(error) or string_wrong("error.message") or string_wrong("error.type")
            or string_wrong("error.code") or string_wrong("error.id") or string_wrong("error.stack_trace") then 'error' end
    ) as wrong
    from fields
),
-- What is left when the known fields are taken away: a merge patch (RFC 7396) with nulls removes them and leaves an
-- object, perhaps empty, for every known object; the two that follow remove the empty ones, innermost first.
without_known as (
    select *, case when wrong = '' then json_merge_patch(j,
        '{"@timestamp":null,"message":null,"log":{"level":null},"service":{"name":null},"host":{"name":null},'
        || '"trace":{"id":null},"http":{"response":{"status_code":null}},'
        || '"event":{"id":null,"duration":null,"dataset":null},"url":{"path":null},'
        || '"error":{"message":null,"type":null,"code":null,"id":null,"stack_trace":null}}') end as u1
    from judged
),
without_response as (
    select *, case when json_extract(u1, '$.http.response') = '{}' then json_merge_patch(u1, '{"http":{"response":null}}')
        else u1 end as u2
    from without_known
),
unknown as (
    select *, json_merge_patch(u2, concat('{',
        '"log":', if(json_extract(u2, '$.log') = '{}', 'null', '{}'),
        ',"service":', if(json_extract(u2, '$.service') = '{}', 'null', '{}'),
        ',"host":', if(json_extract(u2, '$.host') = '{}', 'null', '{}'),
        ',"trace":', if(json_extract(u2, '$.trace') = '{}', 'null', '{}'),
        ',"http":', if(json_extract(u2, '$.http') = '{}', 'null', '{}'),
        ',"event":', if(json_extract(u2, '$.event') = '{}', 'null', '{}'),
        ',"url":', if(json_extract(u2, '$.url') = '{}', 'null', '{}'),
        ',"error":', if(json_extract(u2, '$.error') = '{}', 'null', '{}'), '}')) as u3
    from without_response
)
select
    partition, "offset", arrival, wrong,
    case when not blank(text_of("event.id")) then text_of("event.id") end as identity,
    coalesce(identity, 'service-logs/' || partition || '/' || "offset") as event_id,
    rfc3339_us(text_of("@timestamp")) as time,
    text_of(message) as message,
    text_of("log.level") as "log.level",
    text_of("service.name") as "service.name",
    text_of("host.name") as "host.name",
    text_of("trace.id") as "trace.id",
    integer_of("http.response.status_code") as "http.response.status_code",
    text_of("event.id") as "event.id",
    integer_of("event.duration") as "event.duration",
    text_of("event.dataset") as "event.dataset",
    text_of("url.path") as "url.path",
    text_of("error.message") as "error.message",
    text_of("error.type") as "error.type",
    text_of("error.code") as "error.code",
    text_of("error.id") as "error.id",
    text_of("error.stack_trace") as "error.stack_trace",
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
