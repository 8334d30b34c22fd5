"""A topic's records: ledger, bronze, silver and quarantine held against each other and against the bytes."""

from __future__ import annotations

from lakehouse.audit.run import Run, Topic

_OWN_RULES = {"record_ids", "record_id", "shapes", "partition", "offset"}
"""Columns of silver_record that a rule of their own looks at."""
_KNOWN = {
    "user-events": "event_id event_type user_id occurred_at session_id post_id text rating page referrer "
    "duration_ms device properties _rescued topic partition offset timestamp",
    "service-logs": "time event_id message log service host trace http event url error _rescued topic "
    "partition offset timestamp",
    "system-metrics": "time host metric value dimensions record_id topic partition offset timestamp",
}


def records(run: Run, topic: Topic) -> dict[str, int]:
    """Hold a topic's tables at the cut against a reparse of bronze; its counts.

    Problems go to ``run``; the temporary tables ``state`` (a row per record) and ``record`` stay for what follows.

    Raises:
        LakeError: a table is not readable at the cut's version.
    """
    run.open(topic)
    run.progress(f"{topic.name}: reading and judging every record again")
    if unknown := set(run.columns("silver")) ^ set(_KNOWN[topic.name].split()):
        run.problem(
            "silver.columns",
            f"not the columns that the audit knows: {sorted(unknown)}",
            table=topic.silver,
            topic=topic.name,
        )
    run.checks(topic.rules, topic)
    run.progress(f"{topic.name}: balancing")
    run.checks("records", topic)
    names = [name for name in run.columns("silver_record") if name not in _OWN_RULES]
    differs = {name: f's."{name}" is distinct from r."{name}"' for name in names}
    if "rescued" in differs:
        differs["rescued"] = (
            "case when s.rescued is not distinct from r.rescued then false "
            "else canonical_text(s.rescued) is distinct from canonical_text(r.rescued) end"
        )
    listed = ", ".join(f"case when {sql} then '{name}' end" for name, sql in differs.items())
    run.offsets(
        "silver.values",
        topic.silver,
        topic.name,
        f"""select partition, "offset", concat_ws(', ', {listed}) || ' not as in bronze' as detail
        from silver_record as s join record as r using (partition, "offset")
        where r.wrong = '' and ({" or ".join(differs.values())})""",
    )
    [(bronze, valid, quarantined, duplicates, erased)] = run.rows(
        "select count(*), count(*) filter (accepted), count(*) filter (quarantined and not erased), "
        "count(*) filter (valid and not accepted and not quarantined), count(*) filter (erased) from state"
    )
    return {
        "records": int(run.one("select coalesce(sum(records), 0) from ledger")),
        "bronze": bronze,
        "valid": valid,
        "quarantined": quarantined,
        "duplicates": duplicates,
        "expired": 0,
        "erased": erased,
        "past_retention": int(
            run.one(
                "select coalesce(sum(records), 0) from ledger join starts using (partition) "
                "where ledger.end_offset <= starts.start_offset"
            )
        ),
    }
