-- bronze -> record: every record reparsed by the design's meaning of a user event; wrong = '' means valid.
create or replace table record as
with parsed as (
    select partition, "offset", epoch_us(timestamp) as arrival, cast(canonical(value) as json) as j from bronze
)
select
    partition, "offset", arrival,
    concat_ws('; ',
        case when j is null then 'not JSON' when json_type(j) <> 'OBJECT' then 'not an object' end,
        case when kind(j, '$.event_id') <> 'string' or blank(j->>'$.event_id') then 'event_id' end,
        case when kind(j, '$.event_type') <> 'string' or (j->>'$.event_type') not in (
            'visit', 'view', 'like', 'unlike', 'comment', 'share', 'bookmark', 'follow', 'search', 'post') then 'event_type' end,
        case when kind(j, '$.user_id') <> 'string' or blank(j->>'$.user_id') then 'user_id' end,
        case when time_wrong(j, '$.occurred_at', arrival) then 'occurred_at' end,
        case when string_wrong(j, '$.session_id') then 'session_id' end,
        case when string_wrong(j, '$.post_id') or (
            kind(j, '$.event_type') = 'string' and coalesce(blank(j->>'$.post_id'), true) and (j->>'$.event_type') in (
                'view', 'like', 'unlike', 'comment', 'share', 'bookmark', 'post')) then 'post_id' end,
        case when string_wrong(j, '$.text') then 'text' end,
        case when kind(j, '$.rating') <> 'absent' and coalesce(number_at(j, '$.rating') not between 0.5 and 5, true)
            then 'rating' end,
        case when string_wrong(j, '$.page') then 'page' end,
        case when string_wrong(j, '$.referrer') then 'referrer' end,
        case when kind(j, '$.duration_ms') <> 'absent' and coalesce(number_at(j, '$.duration_ms') < 0, true)
            then 'duration_ms' end,
        case when string_wrong(j, '$.device') then 'device' end,
        case when object_wrong(j, '$.properties')
            or len(list_filter(json_type(j, '$.properties.*'), lambda t: coalesce(t, 'NULL') <> 'VARCHAR')) > 0
            then 'properties' end
    ) as wrong,
    case when kind(j, '$.event_id') = 'string' then j->>'$.event_id' end as identity,
    j->>'$.event_id' as event_id,
    j->>'$.event_type' as event_type,
    j->>'$.user_id' as user_id,
    rfc3339_us(j->>'$.occurred_at') as occurred_at,
    j->>'$.session_id' as session_id,
    j->>'$.post_id' as post_id,
    j->>'$.text' as text,
    number_at(j, '$.rating') as rating,
    j->>'$.page' as page,
    j->>'$.referrer' as referrer,
    number_at(j, '$.duration_ms') as duration_ms,
    j->>'$.device' as device,
    case when kind(j, '$.properties') = 'object' and wrong = ''
        then list_sort(map_entries(cast(json_extract(j, '$.properties') as map(varchar, varchar)))) end as properties,
    case when wrong = '' then nullif(json_merge_patch(j,
        '{"event_id":null,"event_type":null,"user_id":null,"occurred_at":null,"session_id":null,"post_id":null,"text":null,'
        || '"rating":null,"page":null,"referrer":null,"duration_ms":null,"device":null,"properties":null}'), '{}') end as rescued
from parsed;

-- silver -> the same columns
create or replace temp view silver_record as
select partition, "offset", event_id, event_type, user_id, epoch_us(occurred_at) as occurred_at, session_id, post_id, text,
    rating, page, referrer, duration_ms, device,
    case when properties is not null then list_sort(map_entries(properties)) end as properties, _rescued as rescued,
    epoch_us(timestamp) as arrival
from silver;

--? offsets silver.once silver
select partition, "offset", count(*) || ' rows' as detail from silver group by partition, "offset" having count(*) > 1;
