"""``lakehouse plan``: what the code that is here changes against the code that last ran, and what that asks for.

Pure: two fingerprints (``deployed.py``) in, differences out. The verdicts follow from how the parts work: columns are
added by the stream's start, gold is folded from what it was, a store follows changes alone, a record keeps the verdict
that its ledger row counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lakehouse.settings import Settings
from lakehouse.upkeep import deployed

Verdict = Literal["compatible", "migration", "refused"]
Facts = Mapping[str, Any]
INDEX_SLACK_S = 3 * 86400
"""For how much longer than its horizon the stream's index keeps identities (``runtime/fused.py``)."""


@dataclass(frozen=True)
class Difference:
    """One change: what it means for what is written already, and the commands that it asks for, in order.

    ``migration``: stop the stream (`lakehouse down`, `up --servers`), run the commands, start. ``refused``: nothing
    makes old and new fit.
    """

    what: str
    verdict: Verdict
    why: str
    commands: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"commands": list(self.commands)}


class PlanError(Exception):
    """There is nothing to compare with; the message says what to do."""


def plan(settings: Settings) -> list[Difference]:
    """What the code that is here asks for.

    Raises:
        PlanError: the stream has never started on this lake.
    """
    kept = deployed.read(settings)
    if kept is None:
        raise PlanError(
            f"{settings.root} has no record of a start by this code or one like it: nothing to compare with"
        )
    return outstanding(kept, deployed.fingerprint(settings), settings.home)


def outstanding(kept: Facts, new: Facts, home: Path) -> list[Difference]:
    """The differences, and those of earlier starts that are still pending; without what has been done since."""
    old = [Difference(**{**one, "commands": tuple(one["commands"])}) for one in kept["pending"]]
    found = []
    for one in dict.fromkeys([*old, *differences(kept["fingerprint"], new, home)]):
        left = tuple(c for c in one.commands if not deployed.done(kept, new, home, c))
        if one.verdict != "migration" or left:
            found.append(Difference(one.what, one.verdict, one.why, left))
    return found


def differences(old: Facts, new: Facts, home: Path) -> list[Difference]:
    """Every difference of two fingerprints, those that ask for most first."""
    parts: tuple[Callable[[Facts, Facts, Path], Iterator[Difference]], ...] = (
        _topics, _contracts, _tables, _aggregates, _stores, _queries, _realtime, _settings,
    )  # fmt: skip
    found = [one for part in parts for one in part(old, new, home)]
    return sorted(dict.fromkeys(found), key=lambda one: ("refused", "migration", "compatible").index(one.verdict))


def _both(old: Facts, new: Facts) -> Iterator[tuple[str, Any, Any]]:
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def _topics(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    for topic, before, after in _both(old["flows"], new["flows"]):
        if before is None:
            yield Difference(
                f"topic {topic}", "compatible", "it is new: the stream makes topic and tables, and reads it all"
            )
        elif after is None:
            yield Difference(
                f"topic {topic}", "refused",
                "records that arrive in it are no longer read, and the audit finds them missing: stop its producers, "
                "drain it (lakehouse wait) and keep its flow",
            )  # fmt: skip
        else:
            for layer in ("bronze", "silver"):
                if before[layer] != after[layer]:
                    why = f"its history is in {before[layer]}, to which the ledger's versions belong: keep the name"
                    yield Difference(f"{topic}: {layer} is {after[layer]}", "refused", why)
            if before["parsing"] != after["parsing"]:
                yield Difference(
                    f"{topic}: how records become rows", "compatible",
                    f"rows of {after['silver']} stay as they were made; rebuild {after['silver']} makes them anew",
                )  # fmt: skip


# --- contracts -------------------------------------------------------------------------------------------------------


def _contracts(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    for topic, before, after in _both(old["contracts"], new["contracts"]):
        if before is None or after is None:
            continue
        flow = new["flows"].get(topic, {})
        silver, index = flow.get("silver", after["table"]), f"rm -r {home / 'index' / topic}"
        for name, was, now in _both(before["fields"], after["fields"]):
            yield from _field(f"{topic}: field {name}", was, now, silver)
        for name, was, now in _both(before["rules"], after["rules"]):
            what = f"{topic}: rule {name}"
            if "error" in ((was or {}).get("severity"), (now or {}).get("severity")):
                yield _narrower(what, silver) if (now or {}).get("severity") == "error" else _wider(what, topic)
            else:
                yield Difference(what, "compatible", "warnings are counted; those of records so far stay as counted")
        named = ("identity", "samples", "key")
        for name in named[:2]:
            if before[name] != after[name]:
                yield Difference(
                    f"{topic}: {name}", "refused",
                    "records so far are known, in index, tables and stores, by what names them now; a repetition "
                    "of one would count twice: give the new kind of record a topic of its own",
                )  # fmt: skip
        if before["key"] != after["key"]:
            yield Difference(
                f"{topic}: Kafka key",
                "compatible",
                "producers use it from now on; order among partitions is not relied on",
            )
        longer = after["duplicate_horizon"] - before["duplicate_horizon"]
        if longer > INDEX_SLACK_S and new["engine"] == "fused":
            why = "older identities have left the index; it is filled again from silver at the next start"
            yield Difference(f"{topic}: duplicates are recognised for longer", "migration", why, (index,))
        elif longer:
            yield Difference(f"{topic}: duplicate horizon", "compatible", "it holds for records from now on")
        for name in ("retention", "freshness", "version"):
            if before[name] != after[name]:
                why = "nothing that is written depends on it"
                if name == "retention":
                    why = "with stream.expire on, maintenance deletes what is older; what is deleted does not return"
                yield Difference(f"{topic}: {name}", "compatible", why)


def _field(what: str, was: Facts | None, now: Facts | None, silver: str) -> Iterator[Difference]:
    topic = what.partition(":")[0]
    if was is None and now is not None:
        if now["required"]:
            yield Difference(f"{what} is new and required", "compatible", _JUDGED + f"; do not rebuild {silver}")
        else:
            why = f"older records keep it in _rescued; rebuild {silver} takes it from there, which the audit asks for"
            yield Difference(f"{what} is new", "compatible", why)
    elif now is None:
        why = "from now on it is kept in _rescued and counted as drift; older rows keep their column"
        yield Difference(f"{what} is gone", "compatible", why)
    elif was is not None:
        if was["kind"] != now["kind"] or was["column"] != now["column"]:
            why = "the column that is there has another type or name: add a field beside it"
            yield Difference(
                f"{what} was {was['kind']} {was['column']}, is {now['kind']} {now['column']}", "refused", why
            )
            return
        tighter = (
            (now["required"] and not was["required"])
            or _out(was["minimum"], now["minimum"], lambda a, b: b > a)
            or _out(was["maximum"], now["maximum"], lambda a, b: b < a)
            or (now["values"] is not None and (was["values"] is None or set(was["values"]) - set(now["values"])))
        )
        looser = (
            (was["required"] and not now["required"])
            or _out(now["minimum"], was["minimum"], lambda a, b: b > a)
            or _out(now["maximum"], was["maximum"], lambda a, b: b < a)
            or (was["values"] is not None and (now["values"] is None or set(now["values"]) - set(was["values"])))
        )
        if tighter:
            yield _narrower(what, silver)
        if looser:
            yield _wider(what, topic)
        if was["pii"] != now["pii"]:
            yield Difference(
                f"{what}: personal data", "compatible", "who may read it changes with the next start of serve"
            )


_JUDGED = "older records stay as they were judged and counted"


def _narrower(what: str, silver: str) -> Difference:
    why = f"{_JUDGED}; do not rebuild {silver}: it would leave out rows that the ledger counts as valid"
    return Difference(f"{what} is narrower", "compatible", why)


def _wider(what: str, topic: str) -> Difference:
    why = f"{_JUDGED}; lakehouse quarantine replay --topic {topic} --reason ... lets those in that were refused for it"
    return Difference(f"{what} is wider", "compatible", why)


def _out(was: float | None, now: float | None, further: Callable[[float, float], bool]) -> bool:
    """Whether a bound has come, or has moved further in."""
    return now is not None and (was is None or further(was, now))


# --- tables ----------------------------------------------------------------------------------------------------------


def _tables(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    gold = {name for facts in (old, new) for name in facts["aggregates"]}
    for name, was, now in _both(old["tables"], new["tables"]):
        if was is None:
            if name not in gold:
                yield Difference(name, "compatible", "it is new: the stream's start makes it")
            continue
        if now is None:
            yield Difference(name, "compatible", "nobody writes it any more; the table stays as it is")
            continue
        for column, before, after in _both(was["columns"], now["columns"]):
            what = f"{name}.{column}"
            if before is None:
                if name not in gold:  # what an aggregate's asks for is said there
                    yield Difference(what, "compatible", "the stream's start adds the column; it is null in older rows")
            elif after is None:
                yield Difference(what, "compatible", "the column stays, and is null in rows from now on")
            elif before.startswith("struct<") and after.startswith("struct<"):
                why = "the stream's start adds whole columns, no fields of a struct. Add a column beside it"
                yield Difference(f"{what} has other fields", "refused", why)
            else:
                why = f"files hold {before}: no reader takes both types. Add a column of another name"
                yield Difference(f"{what} was {before}, is {after}", "refused", why)
        if was["order"] != now["order"]:
            yield Difference(
                f"{name}: order", "compatible", "files from now on have other bounds; older ones are skipped less"
            )
        if was["key"] != now["key"] and name not in gold:
            why = "older rows are not unique by the new key, and stores know them by the old one: make a new table"
            yield Difference(f"{name}: key", "refused", why)


def _aggregates(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    topics = {name: topic for topic, flow in new["flows"].items() for name in flow["gold"]}
    for name, was, now in _both(old["aggregates"], new["aggregates"]):
        if now is None:
            continue  # its table says so
        index = (f"rm -r {home / 'index' / topics[name]}",) if new["engine"] == "fused" and name in topics else ()
        mirrored = sorted({k.partition(":")[0] for k, table in new["store_keys"].items() if table == name} - {"redis"})
        mirrored = [store for store in mirrored if store in new["stores"]]
        if was is None:
            why = "it is new: made empty, it knows nothing of what is in silver already"
            yield Difference(name, "migration", why, (*(index if now["distinct"] else ()), f"lakehouse rebuild {name}"))
            continue
        if was["source"] != now["source"] or was["keys"] != now["keys"] or was["width_s"] != now["width_s"]:
            commands = (*(index if now["distinct"] else ()), f"lakehouse rebuild {name}")
            commands += tuple(f"lakehouse rebuild --store {store}" for store in mirrored)
            yield Difference(f"{name}: keys", "migration", "older rows are of other keys", commands)
            continue
        changed = [m for m, a, b in _both(was["measures"], now["measures"]) if b is not None]
        if was["where"] != now["where"]:
            changed = list(now["measures"])
        if changed:
            counted = set(changed) & set(now["distinct"])
            why = f"{', '.join(changed)} would go on from what older rows say, or do not say"
            commands = (*(index if counted else ()), f"lakehouse rebuild {name}")
            yield Difference(f"{name}: {', '.join(changed)}", "migration", why, commands)
        for measure in was["measures"].keys() - now["measures"].keys():
            yield Difference(
                f"{name}: {measure} is gone", "compatible", "the column stays, and becomes null in rows that change"
            )


# --- stores ----------------------------------------------------------------------------------------------------------


def _stores(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    for store in new["stores"]:
        if store not in old["stores"]:
            why = "it follows changes of the last time travel alone; the rest is filled from the tables"
            yield Difference(f"store {store} is on", "migration", why, (f"lakehouse rebuild --store {store}",))
    for store in old["stores"]:
        if store not in new["stores"]:
            why = "what it holds stays, and grows old; switched on again it needs rebuild --store"
            yield Difference(f"store {store} is off", "compatible", why)
    for key, was, now in _both(old["store_keys"], new["store_keys"]):
        store = key.partition(":")[0]
        if store not in new["stores"]:
            continue
        if now is None:
            yield Difference(key, "compatible", f"nobody writes it any more; what held {was} stays")
        elif store == "redis":
            yield Difference(key, "compatible", "it is set with the table's next change")
        elif (now.startswith("gold.") and now in new["aggregates"]) or now.startswith("silver."):
            why = f"it lacks what {now} holds already"
            yield Difference(key, "migration", why, (f"lakehouse rebuild --store {store}",))
        else:
            yield Difference(key, "compatible", "its writer fills it with the next run of lakehouse score")
    for index, was, now in _both(old["indices"], new["indices"]):
        if "elasticsearch" not in new["stores"] or was is None or now is None:
            continue
        if index in ("analysis-anomalies", "analysis-forecasts", "lakehouse-progress"):
            command = (
                f"curl -X PUT $ELASTICSEARCH/{index}/_mapping -H 'Content-Type: application/json' -d @mapping.json"
            )
            why = f"the index that is there keeps its mapping; fields that are new can be added by hand: {command}"
            yield Difference(f"index {index}: mapping", "compatible", why)
        else:
            why = "the index that is there keeps its mapping; it is made anew and filled"
            yield Difference(f"index {index}: mapping", "migration", why, ("lakehouse rebuild --store elasticsearch",))


# --- queries with a checkpoint ---------------------------------------------------------------------------------------


def _queries(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    for query, was, now in _both(old["followed"], new["followed"]):
        if query in new["stores"] and query in old["stores"] and was is not None:
            why = f"its checkpoint knows {len(was)} sources, and the query has {len(now or ())}"
            yield Difference(f"query {query}", "migration", why, (f"lakehouse rebuild --store {query}",))
    before, after = old["detector"], new["detector"]
    if before != after and new["detect"]:
        appended = all(
            list(after["state"].get(name, {}).items())[: len(kept)] == list(kept.items())
            for name, kept in before["state"].items()
        )
        if not appended or before["columns"] != after["columns"] or before["measures"] != after["measures"]:
            why = "the state in its checkpoint was pickled from other classes; it learns anew from what comes"
            yield Difference("detector: state", "migration", why, ("lakehouse reset detector",))
        else:
            why = "fields were added to classes that are pickled; an old state lacks those without a plain default"
            yield Difference("detector: state has more", "migration", why, ("lakehouse reset detector",))
    for name, was, now in _both(old["versions"], new["versions"]):
        if _number(now or "0") < _number(was or "0"):
            why = f"checkpoints and tables were written by {was}; only newer versions are sure to read them"
            commands = tuple(f"lakehouse rebuild --store {store}" for store in new["stores"])
            yield Difference(f"{name} {now}", "migration", why, commands)
        else:
            why = "the ingest begins a checkpoint at every start; the followers' are read by newer versions"
            yield Difference(f"{name} {now}", "compatible", why)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


# --- the real-time processor -----------------------------------------------------------------------------------------


def _realtime(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    before, after = old["realtime"], new["realtime"]
    command = ("lakehouse reset realtime",)
    again = "its state is made again from its topics' beginning"
    for name, was, now in _both(before["stages"], after["stages"]):
        what = f"realtime stage {name}"
        if was is None:
            yield Difference(what, "compatible", "it is new, and knows what comes from now on")
        elif now is None:
            yield Difference(what, "compatible", "its topics stay; nobody reads them")
        else:
            for fact in ("topic", "entry", "state"):
                if was[fact] != now[fact]:
                    yield Difference(f"{what}: {fact}", "migration", again, command)
            if was["feeds"] != now["feeds"]:
                yield Difference(f"{what}: feeds", "migration", f"stages behind it lack what was; {again}", command)
    for name, was, now in _both(before["structs"], after["structs"]):
        if was is None or now is None:
            continue
        if now[: len(was)] == was and all(optional for _, _, optional in now[len(was) :]):
            yield Difference(
                f"realtime {name} has more", "compatible", "fields at the end with a default: old state is read"
            )
        else:
            yield Difference(
                f"realtime {name}", "migration", f"kept values can't be read, or mean something else; {again}", command
            )
    if before["parts"] != after["parts"]:
        yield Difference("realtime.parts", "compatible", "parts that are new know what comes from now on")


def _settings(old: Facts, new: Facts, home: Path) -> Iterator[Difference]:
    if old["engine"] != new["engine"]:
        why = "both mean the same by ledger and tables, and may take turns at any restart"
        yield Difference(f"engine {new['engine']}", "compatible", why)
    if old["time_travel_s"] != new["time_travel_s"]:
        why = "what is deleted follows it from now on; a longer one holds for versions that are still there"
        yield Difference("stream.time_travel", "compatible", why)
    if old["detect"] != new["detect"]:
        yield Difference("stream.detect", "compatible", "switched on, the detector goes on from its checkpoint")
