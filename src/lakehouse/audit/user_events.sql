-- bronze -> record: every record reparsed by the design's meaning of a user event; wrong = '' means valid.
create or replace table parsed as
select partition, "offset", epoch_us(timestamp) as arrival, cast(canonical(value) as json) as j from bronze;

create or replace table record as
with fields as (
    select partition, "offset", arrival, j, f[1] as event_id, f[2] as event_type, f[3] as user_id, f[4] as occurred_at,
        f[5] as session_id, f[6] as post_id, f[7] as text, f[8] as rating, f[9] as page, f[10] as referrer,
        f[11] as duration_ms, f[12] as device, f[13] as properties
    from (select *, json_extract(j, ['$.event_id', '$.event_type', '$.user_id', '$.occurred_at', '$.session_id', '$.post_id',
        '$.text', '$.rating', '$.page', '$.referrer', '$.duration_ms', '$.device', '$.properties']) as f from parsed)
)
select
    partition, "offset", arrival,
    concat_ws('; ',
        case when j is null then 'not JSON' when json_type(j) <> 'OBJECT' then 'not an object' end,
        case when coalesce(blank(text_of(event_id)), true) then 'event_id' end,
        case when coalesce(text_of(event_type) not in (
            'visit', 'view', 'like', 'unlike', 'comment', 'share', 'bookmark', 'follow', 'search', 'post'), true)
            then 'event_type' end,
        case when coalesce(blank(text_of(user_id)), true) then 'user_id' end,
        case when time_wrong(occurred_at, arrival) then 'occurred_at' end,
        case when string_wrong(session_id) then 'session_id' end,
        case when string_wrong(post_id) or (coalesce(blank(text_of(post_id)), true) and text_of(event_type) in (
            'view', 'like', 'unlike', 'comment', 'share', 'bookmark', 'post')) then 'post_id' end,
        case when string_wrong(text) then 'text' end,
        case when kind(rating) <> 'absent' and coalesce(number_of(rating) not between 0.5 and 5, true) then 'rating' end,
        case when string_wrong(page) then 'page' end,
        case when string_wrong(referrer) then 'referrer' end,
        case when kind(duration_ms) <> 'absent' and coalesce(number_of(duration_ms) < 0, true) then 'duration_ms' end,
        case when string_wrong(device) then 'device' end,
        case when object_wrong(properties)
            or len(list_filter(json_type(properties, '$.*'), lambda t: coalesce(t, 'NULL') <> 'VARCHAR')) > 0
            then 'properties' end
    ) as wrong,
    text_of(event_id) as identity,
    text_of(event_id) as event_id,
    text_of(event_type) as event_type,
    text_of(user_id) as user_id,
    rfc3339_us(text_of(occurred_at)) as occurred_at,
    text_of(session_id) as session_id,
    text_of(post_id) as post_id,
    text_of(text) as text,
    number_of(rating) as rating,
    text_of(page) as page,
    text_of(referrer) as referrer,
    number_of(duration_ms) as duration_ms,
    text_of(device) as device,
    case when wrong = '' and kind(properties) = 'object'
        then list_sort(map_entries(cast(properties as map(varchar, varchar)))) end as properties,
    case when wrong = '' then nullif(json_merge_patch(j,
        '{"event_id":null,"event_type":null,"user_id":null,"occurred_at":null,"session_id":null,"post_id":null,"text":null,'
        || '"rating":null,"page":null,"referrer":null,"duration_ms":null,"device":null,"properties":null}'), '{}') end as rescued
from fields;

-- silver -> the same columns
create or replace temp view silver_record as
select partition, "offset", event_id, event_type, user_id, epoch_us(occurred_at) as occurred_at, session_id, post_id, text,
    rating, page, referrer, duration_ms, device,
    case when properties is not null then list_sort(map_entries(properties)) end as properties, _rescued as rescued,
    epoch_us(timestamp) as arrival
from silver;

--? offsets silver.once silver
select partition, "offset", count(*) || ' rows' as detail from silver group by partition, "offset" having count(*) > 1;
