-- What holds for the records of every topic. `--? offsets|ranges RULE TABLE` heads a query whose rows are problems.

-- One row per record: what the audit makes of it, where it was found, and the batch that it came in.
create or replace table state as
with once as (
    select partition, "offset", min(arrival) as arrival, any_value(identity) as identity, any_value(wrong) as wrong
    from record group by partition, "offset"
)
select r.*, wrong = '' and x.gone is null as valid, x.gone is not null as erased, s.accepted is not null as accepted, q.held is not null as quarantined,
    case when r."offset" < e.end_offset then e.seq end as seq
from once as r
left join (select distinct partition, "offset", true as accepted from silver) as s using (partition, "offset")
left join (select distinct partition, "offset", true as held from quarantine) as q using (partition, "offset")
left join (select distinct partition, "offset", true as gone from bronze where erased_at is not null) as x using (partition, "offset")
asof left join (select * from ledger where start_offset < end_offset) as e
    on r.partition = e.partition and r."offset" >= e.start_offset;

--? ranges ledger.sequence ops.ledger
select null as partition, null as first, null as last,
    'seq ' || before + 1 || ' to ' || seq - 1 || ' missing' as detail
from (select seq, lag(seq, 1, 0) over (order by seq) as before from (select distinct seq from ledger))
where seq <> before + 1;

--? ranges ledger.once ops.ledger
select partition, null as first, null as last, 'seq ' || seq || ' has ' || count(*) || ' rows' as detail
from ledger group by seq, partition having count(*) > 1;

--? ranges ledger.gap ops.ledger
select partition, least(before, start_offset) as first, greatest(before, start_offset) - 1 as last,
    case when start_offset > before then 'in no batch: seq ' || seq || ' starts at ' || start_offset || ', the one before ends at ' || before
    else 'in two batches: seq ' || seq || ' starts at ' || start_offset || ', the one before ends at ' || before end as detail
from (select *, lag(end_offset) over (partition by partition order by seq) as before from ledger)
where start_offset <> before
union all
select partition, start_offset, end_offset, 'seq ' || seq || ' ends before it starts' from ledger where end_offset < start_offset
union all
select partition, null, null, 'not in the newest batch, so the cut does not cover it'
from ledger where partition not in (select partition from ends) group by partition
union all
select partition, min("offset"), max("offset"), 'in bronze, before the first batch of the partition'
from bronze join (select partition, min(start_offset) as start from ledger group by partition) using (partition)
where "offset" < start group by partition;

--? ranges ledger.counts ops.ledger
with found as (
    select partition, seq, count(*) as records, count(*) filter (accepted) as valid, count(*) filter (quarantined) as quarantined,
        count(*) filter (not accepted and not quarantined and not erased) as duplicates,
        count(*) filter (erased and not quarantined) as erased
    from state where seq is not null group by partition, seq
)
-- Of batches before ``starts`` the records were deleted after their retention: only the sum is held against them.
-- A record that was erased after its batch stays counted as what it was: valid or a duplicate. In quarantine it stays.
select partition, l.start_offset as first, l.end_offset - 1 as last, 'seq ' || l.seq || ': ' || concat_ws(', ',
    case when l.records <> l.valid + l.quarantined + l.duplicates + coalesce(l.erased, 0) then 'records ' || l.records || ' is not '
        || l.valid || ' + ' || l.quarantined || ' + ' || l.duplicates || ' + ' || coalesce(l.erased, 0) end,
    case when l.records <> coalesce(f.records, 0) then 'records ' || l.records || ', in bronze ' || coalesce(f.records, 0) end,
    case when l.valid - coalesce(f.valid, 0) + l.duplicates - coalesce(f.duplicates, 0) <> coalesce(f.erased, 0) - coalesce(l.erased, 0)
        then 'erased ' || coalesce(f.erased, 0) || ', which does not account for what is gone' end,
    case when l.valid <> coalesce(f.valid, 0) then 'valid ' || l.valid || ', in silver ' || coalesce(f.valid, 0) end,
    case when l.quarantined <> coalesce(f.quarantined, 0)
        then 'quarantined ' || l.quarantined || ', in quarantine ' || coalesce(f.quarantined, 0) end,
    case when l.duplicates <> coalesce(f.duplicates, 0)
        then 'duplicates ' || l.duplicates || ', in neither ' || coalesce(f.duplicates, 0) end) as detail
from ledger as l left join found as f using (partition, seq) join starts as gone using (partition)
where l.records <> l.valid + l.quarantined + l.duplicates + coalesce(l.erased, 0) or (l.end_offset > gone.start_offset and (l.records <> coalesce(f.records, 0)
    or l.valid < coalesce(f.valid, 0) or l.quarantined <> coalesce(f.quarantined, 0) or l.duplicates < coalesce(f.duplicates, 0)
    or l.valid - coalesce(f.valid, 0) + l.duplicates - coalesce(f.duplicates, 0) <> coalesce(f.erased, 0) - coalesce(l.erased, 0)));

--? ranges retention.batches ops.ledger
-- What was deleted are whole batches, all of them older by a day than the time up to which gold is sealed.
select partition, l.start_offset as first, l.end_offset - 1 as last, 'seq ' || seq || ' was ' || case
    when l.end_offset > gone.start_offset then 'deleted in part'
    else 'deleted though its newest record was appended at ' || rfc3339(last_at) end as detail
from ledger as l join starts as gone using (partition)
where (l.start_offset < gone.start_offset and l.end_offset > gone.start_offset)
    or (l.records > 0 and l.end_offset <= gone.start_offset and coalesce(epoch_us(last_at) >= getvariable('sealed_us') - 86400000000, true))
union all
select partition, null, null, 'seq ' || seq || ' says ' || coalesce(cast(kept_from as varchar), 'nothing')
    || ' of what was deleted, the one before ' || before
from (select *, lag(kept_from) over (partition by partition order by seq) as before from ledger)
where coalesce(kept_from, 0) < before;

--? offsets retention.past ops.ledger
select partition, "offset", 'in ' || name || ', though it was deleted after its retention' as detail from past;

--? offsets erased.bytes bronze
select partition, "offset", 'erased, but its ' || concat_ws(', ', case when key is not null then 'key' end,
    case when value is not null then 'value' end, case when headers is not null then 'headers' end) || ' is there' as detail
from bronze where erased_at is not null and (key is not null or value is not null or headers is not null);

--? offsets erased.quarantine silver.quarantine
select distinct partition, "offset", case when b.erased_at is null then 'erased here, not in bronze' else 'erased in bronze, not here' end as detail
from quarantine as q join bronze as b using (partition, "offset") where (q.erased_at is null) <> (b.erased_at is null);

--? offsets bronze.once bronze
select partition, "offset", count(*) || ' rows' as detail from bronze group by partition, "offset" having count(*) > 1;

--? offsets bronze.topic bronze
select partition, "offset", 'of topic ' || coalesce(topic, 'null') as detail from bronze where topic is distinct from getvariable('topic');

--? offsets silver.invalid silver
select partition, "offset", case when erased then 'in silver, but erased' else 'in silver, but not valid: ' || wrong end as detail
from state where accepted and not valid;

--? offsets quarantine.valid silver.quarantine
select partition, "offset", 'in quarantine, but valid' as detail from state where quarantined and valid;

--? offsets quarantine.missing silver.quarantine
select partition, "offset", 'not valid, and not in quarantine: ' || wrong as detail from state where not quarantined and not valid and not erased;

--? offsets silver.without_bronze silver
select distinct partition, "offset", 'no such record in bronze' as detail from silver anti join state using (partition, "offset");

--? offsets quarantine.without_bronze silver.quarantine
select distinct partition, "offset", 'no such record in bronze' as detail from quarantine anti join state using (partition, "offset");

--? offsets quarantine.once silver.quarantine
select partition, "offset", count(*) || ' rows' as detail from quarantine group by partition, "offset" having count(*) > 1;

--? offsets quarantine.bytes silver.quarantine
select distinct partition, "offset", concat_ws(', ',
    case when q.key is distinct from b.key then 'key' end,
    case when q.value is distinct from b.value then 'value' end,
    case when q.timestamp is distinct from b.timestamp then 'timestamp' end,
    case when coalesce(q.headers, []) is distinct from coalesce(b.headers, []) then 'headers' end) || ' not as in bronze' as detail
from quarantine as q join bronze as b using (partition, "offset")
where q.key is distinct from b.key or q.value is distinct from b.value or q.timestamp is distinct from b.timestamp
    or coalesce(q.headers, []) is distinct from coalesce(b.headers, []);

--? offsets quarantine.reasons silver.quarantine
select partition, "offset", case when coalesce(status, '') in ('open', 'replayed', 'discarded') then 'no reason'
    else 'status is ' || coalesce(status, 'null') end as detail
from quarantine
where coalesce(len(list_filter(reasons, lambda r: r <> '')), 0) = 0 or coalesce(status, '') not in ('open', 'replayed', 'discarded');

--? offsets duplicates.lost silver
with missing as (select * from state where valid and not accepted and not quarantined),
claimed as (
    select distinct m.partition, m."offset"
    from missing as m join state as a on a.identity = m.identity and a.accepted
    where abs(a.arrival - m.arrival) <= getvariable('horizon_us') and coalesce(a.seq <= m.seq, true)
    union  -- of a record that was deleted after its retention, as only the ledger can tell
    select partition, "offset" from missing
    where arrival - getvariable('horizon_us') < getvariable('sealed_us') - 86400000000
)
select partition, "offset", 'valid, not in silver, and no earlier accepted record of its identity within the horizon' as detail
from missing anti join claimed using (partition, "offset");

--? offsets duplicates.twice silver
select partition, "offset", 'accepted, as ' || other || ' of the same identity' as detail
from (
    select *, lag(arrival) over same as before, lag(partition || '/' || "offset") over same as other
    from state where accepted and identity is not null
    window same as (partition by identity order by arrival, seq, partition, "offset")
)
where arrival - before <= getvariable('horizon_us');
