"""Alert rules: one schema (``conf/alerts.yaml``), one evaluator, whatever feeds it facts.

Nothing here knows a clock or a store: facts, standings and times come in, decisions and notifications go out, the same
for the same input. Times ``at_us`` are microseconds since 1970 UTC; that of a state rule is the end of a closed minute.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time, timedelta
from numbers import Real
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

import yaml

from lakehouse.contracts import Field, contracts
from lakehouse.settings import PROJECT

ALERTS = PROJECT / "conf" / "alerts.yaml"
MINUTE = timedelta(minutes=1)
TEXT_KEPT = 2000
"""Characters of a notification's text; ids in events have no bound."""

Severity = Literal["info", "warning", "critical"]
Kind = Literal["fired", "recovered"]
Operator = Literal["is", "not", "in", "above", "below", "at_least", "at_most"]
Type = Literal["text", "number", "truth value"]
_SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_ORDER = ("above", "below", "at_least", "at_most")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


class AlertsError(Exception):
    """The rules are missing or wrong; one line that names file and rule."""


@dataclass(frozen=True)
class FieldOf:
    """The value of another field of the same facts."""

    field: str


@dataclass(frozen=True)
class Condition:
    """One comparison; ``operand`` is a text, a number, a truth value, a :class:`FieldOf` or, of ``in``, a tuple."""

    field: str
    operator: Operator
    operand: Any


@dataclass(frozen=True)
class Recipient:
    """Who is told: a fixed ``user_id``, or the one that ``field`` holds; exactly one of the two is set."""

    user_id: str | None = None
    field: str | None = None

    def of(self, facts: Mapping[str, Any]) -> str | None:
        """The user's id; None where the field holds none."""
        found = self.user_id if self.field is None else value(facts, self.field)
        return found if isinstance(found, str) and found.strip() else None


@dataclass(frozen=True)
class Rule:
    """One rule. ``held`` is the file's ``for``; ``over`` and ``held`` are zero for rules on events."""

    name: str
    on: str
    when: tuple[Condition, ...]
    over: timedelta
    held: timedelta
    to: Recipient
    text: str
    severity: Severity
    again_after: timedelta
    recovered: bool
    runbook: str = ""
    """What to do about it: told after the text."""

    @property
    def fields(self) -> frozenset[str]:
        """Every field that the rule names, in conditions, recipient or text."""
        named = {condition.field for condition in self.when} | {field for _, field, _ in _pieces(self.text) if field}
        named |= {condition.operand.field for condition in self.when if isinstance(condition.operand, FieldOf)}
        return frozenset(named | ({self.to.field} if self.to.field else set()))


@dataclass(frozen=True)
class Limits:
    """At most ``per_user`` notifications a user in a span of ``every``, over all rules."""

    per_user: int
    every: timedelta


@dataclass(frozen=True)
class QuietHours:
    """From ``start`` until before ``end``, local times of ``zone``, all but ``exempt`` severities rest."""

    start: time
    end: time
    zone: ZoneInfo
    exempt: frozenset[Severity]


@dataclass(frozen=True)
class Alerts:
    """The whole file; ``routes`` maps a route's name to the severities that it takes."""

    rules: tuple[Rule, ...]
    limits: Limits
    quiet_hours: QuietHours | None
    routes: Mapping[str, frozenset[Severity]]


class Standing(NamedTuple):
    """What is known of a state rule and a subject between minutes, in microseconds since 1970 UTC.

    ``since_us`` is the minute since which it has matched (0: it does not), ``fired_us`` the last one at which it fired
    (0: none, or none that still matters).
    """

    since_us: int
    fired_us: int

    @property
    def firing(self) -> bool:
        """Whether it matches and this was told, so that its end would be a recovery."""
        return 0 < self.since_us <= self.fired_us


@dataclass(frozen=True)
class Notification:
    """One message to one user. ``id`` is the same whenever the same facts are evaluated again."""

    id: str
    user_id: str
    rule: str
    severity: Severity
    kind: Kind
    subject: str
    at: str
    text: str

    def document(self) -> dict[str, Any]:
        """The JSON object that topic ``notifications`` and MongoDB hold."""
        return asdict(self)


# --- feeds ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    """What a feed's facts are: fields with their types (None: any), and whether any dotted name is a number, too.

    ``subjects`` are the fields that say what the facts are about, the first that has a value. ``tables``: the facts are
    made of tables by ``lakehouse alerts``, not of records by the stream or the real-time processor.
    """

    fields: Mapping[str, Type | None]
    subjects: tuple[str, ...]
    metrics: bool = False
    tables: bool = False


def _of_tables(texts: str, numbers: str) -> Feed:
    """A feed of ``lakehouse alerts``; its first text is the subject."""
    fields: dict[str, Type | None] = {**dict.fromkeys(texts.split(), "text")}
    fields |= dict.fromkeys(numbers.split(), "number")
    return Feed(fields, (texts.split()[0],), tables=True)


_LOGS: dict[str, Type | None] = {"minute": None, "logs": "number", "error_logs": "number"}
FEEDS: Mapping[str, Feed] = {
    "event": Feed({"post_author": "text"}, ("post_id", "user_id")),  # and the contract's fields
    "post": Feed(
        {
            "post_id": "text",
            "post_author": "text",
            "minute": None,
            "interactions": "number",
            "interactions_hour": "number",
            "burst": "number",
        },
        ("post_id",),
    ),
    "service": Feed(
        {"service": "text", "requests": "number", "errors": "number", "error_rate": "number", **_LOGS}, ("service",)
    ),
    "host": Feed({"host": "text", **_LOGS}, ("host",), metrics=True),
    "anomaly": Feed(
        {
            **dict.fromkeys(("series", "kind", "name", "measure"), "text"),
            **dict.fromkeys(("value", "expected", "score"), "number"),
        },
        ("series",),
    ),
    "freshness": _of_tables("subject kind", "age_seconds lag_records lag_seconds objective_seconds"),
    "volume": _of_tables("topic", "records usual ratio days"),
    "quality": _of_tables(
        "topic",
        "records quarantined quarantined_share duplicates duplicate_share warnings warning_share unknown_fields",
    ),
    "health": _of_tables("service", "requests errors error_rate p50_ms p95_ms p99_ms usual_p95_ms slowdown"),
    "anomalies": _of_tables("subject kind name", "count series score"),
    "drift": _of_tables("model version feature", "psi age_seconds"),
}
"""What may feed a rule; what facts of tables mean is said where they are made, in ``alerting/facts.py``."""
LONGEST = timedelta(days=1)
"""The longest span of a rule over tables: they are read every minute."""


def _type_of_field(feed: str, name: str) -> Type | None:
    """The type of a feed's field, None for any; LookupError where the feed has no such field."""
    known = FEEDS[feed]
    if name in known.fields:
        return known.fields[name]
    if known.metrics and re.fullmatch(r"[^.\s]+(\.[^.\s]+)+", name):
        return "number"
    field = _event_fields().get(name.partition(".")[0]) if feed == "event" else None
    if field is None or (field.kind == "map") != ("." in name):
        raise LookupError(name)
    return "number" if field.kind in ("number", "integer") else "text"


def _event_fields() -> dict[str, Field]:
    return {field.name: field for field in contracts()["user-events"].fields}


# --- evaluation ----------------------------------------------------------------------------------------------------


def value(facts: Mapping[str, Any], name: str) -> Any:
    """A field by its dotted name, which may be one key or a path through objects; None where there is none."""
    if name in facts:
        return facts[name]
    first, _, rest = name.partition(".")
    inner = facts.get(first) if rest else None
    return value(inner, rest) if isinstance(inner, Mapping) else None


def _type(found: Any) -> Type | None:
    """What a value can be compared with; None for null, lists, objects and numbers that are not finite."""
    if isinstance(found, bool):
        return "truth value"
    if isinstance(found, str):
        return "text"
    if isinstance(found, Real) and (isinstance(found, int) or math.isfinite(found)):
        return "number"
    return None


def _holds(condition: Condition, facts: Mapping[str, Any]) -> bool:
    found, operand = value(facts, condition.field), condition.operand
    if isinstance(operand, FieldOf):
        operand = value(facts, operand.field)
    kind = _type(found)
    if kind is None:
        return False
    if condition.operator == "in":
        return any(kind == _type(item) and found == item for item in operand)
    if kind != _type(operand) or (condition.operator in _ORDER and kind != "number"):
        return False
    match condition.operator:
        case "is":
            return bool(found == operand)
        case "not":
            return bool(found != operand)
        case "above":
            return bool(found > operand)
        case "below":
            return bool(found < operand)
        case "at_least":
            return bool(found >= operand)
        case "at_most":
            return bool(found <= operand)


def matches(rule: Rule, facts: Mapping[str, Any]) -> bool:
    """Whether every condition holds; values of a type that a condition does not compare never match, nor raise."""
    return all(_holds(condition, facts) for condition in rule.when)


def step(
    rule: Rule, state: Standing | None, facts: Mapping[str, Any], at_us: int
) -> tuple[Standing | None, Kind | None]:
    """Take a state rule over one closed minute of a subject: what is known then, and what is to be told.

    To be called for every minute in order, with empty facts where the subject has none; None is "does not match and
    nothing to remember". As in Prometheus a rule fires at the first minute at which it has matched without a gap for
    ``held`` since the first that matched, and recovers at the first that does not match. It is told again no sooner
    than ``again_after`` after it was told last: while it still matches, and also when it recovered and came back
    meanwhile, for which the last time outlives the recovery. With ``again_after`` zero it is told once each time it
    begins to match, and nothing outlives a recovery.

    Args:
        rule: one that is not on events.
        state: what the call for the minute before returned.
        facts: of the span ``rule.over`` that ends at ``at_us``.
        at_us: end of the minute, above 0.
    """
    now = state or Standing(0, 0)
    held, again = _micros(rule.held), _micros(rule.again_after)
    rested = not now.fired_us or at_us - now.fired_us >= again
    if not matches(rule, facts):
        return (None if rested else Standing(0, now.fired_us)), "recovered" if now.firing else None
    since = now.since_us or at_us
    if at_us - since >= held and rested and (again or not now.firing):
        return Standing(since, at_us), "fired"
    return Standing(since, now.fired_us), None


def about(rule: Rule, facts: Mapping[str, Any]) -> str | None:
    """What facts are about: the post, or else the user, of an event; the subject of the other feeds.

    With the rule and the recipient this is what ``again_after`` goes by where a rule on events has one.
    """
    found = (value(facts, field) for field in FEEDS[rule.on].subjects)
    return next((name for name in found if isinstance(name, str) and name.strip()), None)


def notification(
    rule: Rule, facts: Mapping[str, Any], subject: str, at_us: int, kind: Kind = "fired"
) -> Notification | None:
    """The message, or None where nobody is to be told: no recipient, or a recovery that the rule keeps to itself.

    Args:
        rule: the rule that fired or recovered.
        facts: what it did so on. A recovery needs only the recipient's field, where the recipient is one.
        subject: the event's id for rules on events, else the post, service or host.
        at_us: the event's time, or the end of the minute; the id of a rule on events does not depend on it.
        kind: what happened.
    """
    user_id = rule.to.of(facts)
    if user_id is None or (kind == "recovered" and not rule.recovered):
        return None
    moment = None if rule.on == "event" else at_us
    named = json.dumps([rule.name, user_id, subject, kind, moment]).encode()
    text = message(rule, facts) if kind == "fired" else f"{subject}: no longer: {rule.name}"
    return Notification(
        id=hashlib.blake2b(named, digest_size=16).hexdigest(),
        user_id=user_id,
        rule=rule.name,
        severity=rule.severity,
        kind=kind,
        subject=subject,
        at=(_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z"),
        text=text[:TEXT_KEPT],
    )


def message(rule: Rule, facts: Mapping[str, Any]) -> str:
    """What a rule says of facts, and below it what to do."""
    return "\n".join(filter(None, (_render(rule.text, facts), rule.runbook)))


def quiet(quiet_hours: QuietHours | None, severity: Severity, at_us: int) -> bool:
    """Whether a message of this severity rests at this time."""
    if quiet_hours is None or severity in quiet_hours.exempt:
        return False
    local = (_EPOCH + timedelta(microseconds=at_us)).astimezone(quiet_hours.zone).time()
    if quiet_hours.start < quiet_hours.end:
        return quiet_hours.start <= local < quiet_hours.end
    return local >= quiet_hours.start or local < quiet_hours.end


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _pieces(text: str) -> list[tuple[str, str | None, str]]:
    """(words, field after them or None, its format) of a template; ValueError where braces do not match."""
    pieces = []
    for words, field, form, conversion in Formatter().parse(text):
        if conversion or "{" in (form or ""):
            raise ValueError("a field is written {name} or {name:format}")
        pieces.append((words, field, form or ""))
    return pieces


def _render(text: str, facts: Mapping[str, Any]) -> str:
    def shown(field: str, form: str) -> str:
        found = value(facts, field)
        if _type(found) is None:
            return "?"
        try:
            return format(found, form) if form else str(round(found, 4) if isinstance(found, float) else found)
        except (ValueError, OverflowError):  # of another type than the format is for, or of endless digits
            return found if isinstance(found, str) else "?"

    return "".join(words + (shown(field, form) if field is not None else "") for words, field, form in _pieces(text))


# --- reading -------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML in which ``on``, ``off``, ``yes``, ``no`` and 22:00 are words, and a key said twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_WORDS = ("bool", "int", "timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in _WORDS]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def read(path: Path = ALERTS) -> Alerts:
    """The rules of a file.

    Raises:
        AlertsError: the file is missing or says something that cannot be carried out.
    """
    try:
        with path.open(encoding="utf-8") as file:
            document = yaml.load(file, _Loader)  # a SafeLoader
    except OSError as error:
        raise AlertsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a number of too many digits
        raise AlertsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return _alerts({} if document is None else document)
    except ValueError as error:
        raise AlertsError(f"{path}: {' '.join(str(error).split())}") from None


def _alerts(document: Any) -> Alerts:
    top = _mapping(document, "the file", {"rules", "limits", "quiet_hours", "routes"})
    entries = top.get("rules") or []
    if not isinstance(entries, list):
        raise ValueError("rules: is a list, each entry beginning with `- name:`")
    rules = tuple(_rule(entry, number) for number, entry in enumerate(entries, 1))
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"rule {twice!r}: is there twice: rename one")
    limits = _mapping(top.get("limits", {}), "limits", {"per_user", "every"})
    per_user = limits.get("per_user", 20)
    if _type(per_user) != "number" or not isinstance(per_user, int) or per_user < 1:
        raise ValueError("limits: per_user is a whole number of 1 or more")
    every = _duration(limits.get("every", "PT1H"), "limits: every")
    if not every:
        raise ValueError("limits: every is longer than nothing, such as PT1H")
    routes = {}
    for name, route in _mapping(top.get("routes") or {}, "routes").items():
        taken = _mapping(route, f"routes: {name}", {"severities"})  # an address here would be a secret in a file
        routes[str(name)] = _severities(taken.get("severities", list(_SEVERITIES)), f"routes: {name}: severities")
    hours = top.get("quiet_hours")
    return Alerts(rules, Limits(per_user, every), None if hours is None else _quiet_hours(hours), routes)


_RULE = ("name", "on", "when", "over", "for", "to", "text", "runbook", "severity", "again_after", "recovered")
_STATE_ONLY = ("over", "for", "recovered")


def _rule(entry: Any, number: int) -> Rule:
    where = f"rule {number}"
    if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"].strip():
        where = f"rule {entry['name']!r}"
    said = _mapping(entry, where, set(_RULE))
    for key in ("name", "on", "when", "to", "text"):
        if key not in said:
            raise ValueError(f"{where}: needs {key}")
    on, of_event = said["on"], said["on"] in ("event", "anomaly")
    if not isinstance(on, str) or on not in FEEDS:
        raise ValueError(f"{where}: on is one of {', '.join(FEEDS)}, not {on!r}")
    if of_event and (wrong := [key for key in _STATE_ONLY if key in said]):
        raise ValueError(
            f"{where}: {wrong[0]} is not for rules on events and anomalies, which know no minutes: remove it"
        )
    severity = said.get("severity", "info")
    if severity not in _SEVERITIES:
        raise ValueError(f"{where}: severity is one of {', '.join(_SEVERITIES)}, not {severity!r}")
    recovered = said.get("recovered", severity != "info" and not of_event)
    if not isinstance(recovered, bool):
        raise ValueError(f"{where}: recovered is true or false, not {recovered!r}")
    over = timedelta(0) if of_event else _duration(said.get("over", "PT1M"), f"{where}: over")
    if not of_event and (not over or over % MINUTE):
        raise ValueError(f"{where}: over is one or more whole minutes, such as PT5M")
    if FEEDS[on].tables and over > LONGEST:
        raise ValueError(f"{where}: over is a day at most for rules on {on}, whose tables are read every minute")
    rule = Rule(
        name=_name(said["name"], f"{where}: name"),
        on=on,
        when=_when(said["when"], on, f"{where}: when"),
        over=over,
        held=_duration(said.get("for", "PT0M"), f"{where}: for"),
        to=_recipient(said["to"], on, f"{where}: to"),
        text=_words(said["text"], f"{where}: text"),
        severity=severity,
        again_after=_duration(said.get("again_after", "PT0M" if of_event else "PT1H"), f"{where}: again_after"),
        recovered=recovered,
        runbook=_words(said["runbook"], f"{where}: runbook").strip() if "runbook" in said else "",
    )
    try:
        pieces = _pieces(rule.text)
    except ValueError as error:
        raise ValueError(f"{where}: text: {error}") from None
    for _, field, form in pieces:
        if field is not None:
            _check_format(form, _known(field, on, f"{where}: text"), f"{where}: text: {{{field}:{form}}}")
    return rule


def _check_format(form: str, kind: Type | None, where: str) -> None:
    for example in ("x",) if kind == "text" else (1, 1.5) if kind == "number" else (1, 1.5, "x"):
        try:
            format(example, form)
            return
        except ValueError:
            continue
    raise ValueError(f"{where} is no format for a {kind or 'value'}")


def _when(said: Any, on: str, where: str) -> tuple[Condition, ...]:
    conditions = []
    for field, wanted in _mapping(said, where).items():
        place = f"{where}: {field}"
        kind = _known(field, on, where)
        several = isinstance(wanted, dict) and set(wanted) != {"field"}
        tests: dict[Any, Any] = wanted if several else {"is": wanted}
        if not tests or not set(tests) <= {*get_args(Operator)}:
            allowed = ", ".join(name for name in get_args(Operator) if name != "is")
            raise ValueError(f"{place}: is a value, {{field: name}} or one or more of {allowed}, not {wanted!r}")
        conditions += [
            Condition(field, test, _operand(test, operand, kind, on, place)) for test, operand in tests.items()
        ]
    if not conditions:
        raise ValueError(f"{where}: needs at least one condition, such as {{event_type: follow}}")
    return tuple(conditions)


def _operand(test: Operator, said: Any, kind: Type | None, on: str, where: str) -> Any:
    if test in _ORDER and kind not in (None, "number"):
        raise ValueError(f"{where}: {test} compares numbers, and the field is a {kind}")
    wanted: Type | None = "number" if test in _ORDER else kind
    if test == "in":
        if not isinstance(said, list) or not said:
            raise ValueError(f"{where}: in is a list of values, such as [like, share]")
        return tuple(_operand("is", item, kind, on, where) for item in said)
    if isinstance(said, dict):
        if set(said) != {"field"}:
            raise ValueError(f"{where}: {test} is a value or {{field: name}}, not {said!r}")
        if (other := _known(said["field"], on, where)) and wanted and other != wanted:
            raise ValueError(f"{where}: {said['field']} is a {other}, to be compared with a {wanted}")
        return FieldOf(said["field"])
    found = _type(said)
    if found is None or (wanted and found != wanted):
        raise ValueError(f"{where}: {test} needs a {wanted or 'value'}, not {said!r}")
    field = _event_fields().get(where.rpartition(": ")[2]) if on == "event" else None
    if field and field.values and said not in field.values:
        raise ValueError(f"{where}: {said!r} is not one of {', '.join(sorted(field.values))}")
    return said


def _recipient(said: Any, on: str, where: str) -> Recipient:
    if not isinstance(said, dict):
        return Recipient(user_id=_words(said, where))
    if set(said) != {"field"}:
        raise ValueError(f"{where}: is a user's id or {{field: name}}, not {said!r}")
    if _known(said["field"], on, where) == "number":
        raise ValueError(f"{where}: {said['field']} is a number, not a user's id")
    return Recipient(field=said["field"])


def _known(field: Any, on: str, where: str) -> Type | None:
    try:
        return _type_of_field(on, field if isinstance(field, str) else "")
    except LookupError:
        known = [*(name for name, f in _event_fields().items() if f.kind != "map")] if on == "event" else []
        more = ["properties.<name>"] if on == "event" else ["a metric's dotted name"] if FEEDS[on].metrics else []
        fields = ", ".join([*known, *FEEDS[on].fields, *more])
        raise ValueError(f"{where}: {on} has no field {field!r}; it has {fields}") from None


def _quiet_hours(said: Any) -> QuietHours:
    hours = _mapping(said, "quiet_hours", {"from", "to", "zone", "except"})
    if not {"from", "to"} <= set(hours):
        raise ValueError("quiet_hours: needs from and to, such as 22:00 and 07:00")
    start, end = (_time(hours[key], f"quiet_hours: {key}") for key in ("from", "to"))
    if start == end:
        raise ValueError("quiet_hours: from and to are the same: remove quiet_hours for none")
    name = hours.get("zone", "UTC")
    try:
        zone = ZoneInfo(_words(name, "quiet_hours: zone"))
    except (ValueError, OSError, LookupError):  # LookupError: no such zone
        raise ValueError(f"quiet_hours: zone {name!r} is not a time zone, such as Asia/Seoul") from None
    return QuietHours(start, end, zone, _severities(hours.get("except", []), "quiet_hours: except"))


def _time(said: Any, where: str) -> time:
    if not isinstance(said, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", said):
        raise ValueError(f"{where} is a time of day such as 22:00, not {said!r}")
    return time.fromisoformat(said)


def _severities(said: Any, where: str) -> frozenset[Severity]:
    if not isinstance(said, list) or not all(severity in _SEVERITIES for severity in said):
        raise ValueError(f"{where} is a list of {', '.join(_SEVERITIES)}, not {said!r}")
    return frozenset(said)


def _duration(said: Any, where: str) -> timedelta:
    found = _DURATION.fullmatch(said) if isinstance(said, str) else None
    if not found or not any(found.groups()):
        raise ValueError(f"{where} is a duration such as PT5M or PT1H, not {said!r}")
    try:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except (OverflowError, ValueError):  # ValueError: more digits than Python reads
        raise ValueError(f"{where} is too long a duration") from None


def _name(said: Any, where: str) -> str:
    name = _words(said, where)
    if "|" in name:  # parts it from the subject in keys
        raise ValueError(f"{where} may not hold a |, as {name!r} does")
    return name


def _words(said: Any, where: str) -> str:
    if not isinstance(said, str) or not said.strip():
        raise ValueError(f"{where} is a text, not {said!r}")
    return said


def _mapping(said: Any, where: str, keys: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise ValueError(f"{where}: is a mapping of names to values, not {said!r}")
    if keys is not None and (unknown := [key for key in said if key not in keys]):
        raise ValueError(f"{where}: {unknown[0]!r} is not known; there is {', '.join(sorted(keys))}")
    return said
