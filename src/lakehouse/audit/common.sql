-- Macros that every rule set uses. Times are microseconds since 1970 UTC.

create or replace macro blank(s) as not regexp_matches(s, '[^\s\p{Z}\x0b\x1c-\x1f\x{85}]');

-- What a JSON value is; null and nothing are the same.
create or replace macro kind(x) as case coalesce(json_type(x), 'NULL')
    when 'VARCHAR' then 'string' when 'OBJECT' then 'object' when 'NULL' then 'absent'
    when 'DOUBLE' then 'number' when 'BIGINT' then 'number' when 'UBIGINT' then 'number'
    else 'other' end;

create or replace macro text_of(x) as case when kind(x) = 'string' then json_extract_string(x, '$') end;

create or replace macro number_of(x) as case when kind(x) = 'number' then try_cast(cast(x as varchar) as double) end;

-- A 64-bit integer, also when written 500.0.
create or replace macro integer_of(x) as case when kind(x) = 'number' then
    case when json_type(x) <> 'DOUBLE' then try_cast(cast(x as varchar) as bigint)
        when number_of(x) = trunc(number_of(x)) and number_of(x) >= -9223372036854775808.0::double
            and number_of(x) < 9223372036854775808.0::double then try_cast(number_of(x) as bigint) end end;

create or replace macro string_wrong(x) as kind(x) not in ('string', 'absent');
create or replace macro object_wrong(x) as kind(x) not in ('object', 'absent');
create or replace macro integer_wrong(x) as kind(x) <> 'absent' and integer_of(x) is null;

-- RFC 3339 with offset; digits after the sixth are cut, second 60 is the one after :59.
create or replace macro rfc3339_us(s) as case
    when regexp_full_match(s, '[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?'
                              || '([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])')
    then epoch_us(try_cast(s[1:10] || ' ' || s[12:17] || case s[18:19] when '60' then '59' else s[18:19] end as timestamp))
        + case s[18:19] when '60' then 1000000 else 0 end
        + cast(rpad(regexp_extract(s, '\.([0-9]{1,6})', 1), 6, '0') as bigint)
        - case when right(s, 1) in ('Z', 'z') then 0
            else case left(right(s, 6), 1) when '-' then -60000000 else 60000000 end
                * (60 * cast(right(s, 5)[1:2] as bigint) + cast(right(s, 2) as bigint)) end
    end;

create or replace macro time_wrong(x, arrival) as
    coalesce(rfc3339_us(text_of(x)) not between 0 and arrival + 86400000000, true);

create or replace macro near(a, b, magnitude) as (a is null and b is null)
    or coalesce(a = b or abs(a - b) <= 1e-9 * greatest(abs(a), abs(b)) or abs(a - b) <= 1e-12 * magnitude, false);

-- RFC 3339, UTC, Z, a fraction only where there is one.
create or replace macro rfc3339(t) as strftime(t at time zone 'UTC', '%Y-%m-%dT%H:%M:%S')
    || case when epoch_us(t) % 1000000 = 0 then '' else '.' || rtrim(lpad(cast(epoch_us(t) % 1000000 as varchar), 6, '0'), '0') end
    || 'Z';

create or replace macro time_text_wrong(s, t) as
    rfc3339_us(s) is distinct from epoch_us(t) or (s is not null and right(s, 1) <> 'Z');

-- Document ids in Elasticsearch are at most 512 bytes.
create or replace macro document_id(s) as case when strlen(s) > 512 then sha256(s) else s end;
