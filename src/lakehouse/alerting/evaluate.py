"""The rules over one closed minute: how every alert stands after it, and what is to be told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from lakehouse.alerting.facts import DAY, Facts
from lakehouse.alerts import (
    FEEDS,
    Kind,
    Notification,
    Rule,
    Severity,
    Standing,
    matches,
    message,
    notification,
    step,
    value,
)

State = Literal["pending", "firing", "recovered"]
KEPT_US = DAY
"""For how long an alert that has recovered is still shown."""


class Key(NamedTuple):
    """What names an alert."""

    rule: str
    subject: str


@dataclass(frozen=True)
class Alert:
    """How a rule stands for a subject, as of the minute that ends at ``at_us``.

    ``since_us`` and ``fired_us`` are those of :class:`lakehouse.alerts.Standing`, ``begun_us`` the first minute of the
    present or last time that it matched, ``recovered_us`` when it last ended (0: it fires, or never did). ``told``:
    somebody was, this time; not so while it is silenced. ``part`` is what it was evaluated by.
    """

    rule: str
    subject: str
    part: str
    severity: Severity
    since_us: int
    fired_us: int
    begun_us: int
    recovered_us: int
    told: bool
    at_us: int
    value: float | str | bool | None
    text: str

    @property
    def key(self) -> Key:
        """Its name."""
        return Key(self.rule, self.subject)

    @property
    def standing(self) -> Standing | None:
        """What the evaluator knows of it."""
        return Standing(self.since_us, self.fired_us) if self.since_us or self.fired_us else None

    @property
    def state(self) -> State:
        """As people call it."""
        if not self.since_us:
            return "recovered"
        return "firing" if self.since_us <= self.fired_us else "pending"


@dataclass(frozen=True)
class Due:
    """Something to be told, or, if ``silenced``, to be kept without telling anybody."""

    notification: Notification
    silenced: bool


class Outcome(NamedTuple):
    """What a minute changes."""

    changed: list[Alert]
    gone: list[Key]
    due: list[Due]


def minute(
    part: str,
    rules: Iterable[Rule],
    facts: Callable[[Rule], Facts],
    known: Mapping[Key, Alert],
    silenced: Callable[[Rule, str], bool],
    at_us: int,
) -> Outcome:
    """Take rules over a minute.

    A silenced alert is evaluated as any other, but nobody is told. When the silence ends while it still fires it is
    told then; the end of what nobody was told of is told to nobody.

    Args:
        part: what is evaluated, with all of its rules.
        rules: of this part.
        facts: those of a rule's span, of every subject that has some.
        known: the alerts of this part.
        silenced: whether a rule is, for a subject.
        at_us: end of the minute.
    """
    changed: list[Alert] = []
    gone: list[Key] = []
    due: list[Due] = []
    for rule in rules:
        here = facts(rule)
        standing = {key.subject for key in known if key.rule == rule.name}
        for subject in sorted(here.keys() | standing):
            before = known.get(Key(rule.name, subject))
            after, told = _one(part, rule, subject, here.get(subject, {}), before, silenced(rule, subject), at_us)
            due += told
            if after is None and before is not None:
                gone.append(before.key)
            elif after is not None and after != before:
                changed.append(after)
    return Outcome(changed, gone, due)


def _one(
    part: str, rule: Rule, subject: str, facts: Mapping[str, Any], before: Alert | None, silent: bool, at_us: int
) -> tuple[Alert | None, list[Due]]:
    standing, kind = step(rule, before.standing if before else None, facts, at_us)
    firing = standing is not None and standing.firing
    told = bool(before and before.told and before.since_us)
    due: list[Due] = []

    def tell(what: Kind, hushed: bool) -> None:
        made = notification(rule, facts or {_subject(rule): subject}, subject, at_us, what)
        if made:
            due.append(Due(made, hushed))

    if kind == "fired":
        tell("fired", silent)
        told = told or not silent
    elif kind == "recovered":
        tell("recovered", silent or not told)
    elif firing and not told and not silent:  # a silence that has ended
        tell("fired", False)
        told = True
    if matches(rule, facts):
        assert standing is not None
        ended = before.recovered_us if before and not firing else 0
        begun = before.begun_us if before and before.since_us else at_us
        return (
            Alert(
                rule.name, subject, part, rule.severity,
                standing.since_us, standing.fired_us, begun, ended, told, at_us,
                value(facts, rule.when[0].field), message(rule, facts),
            ),
            due,
        )  # fmt: skip
    if before is None:
        return None, due
    ended = at_us if kind == "recovered" else before.recovered_us
    fired_us = standing.fired_us if standing else 0
    if not fired_us and not (ended and at_us - ended < KEPT_US):
        return None, due
    after = replace(before, since_us=0, fired_us=fired_us, recovered_us=ended, told=False)
    return (replace(after, at_us=at_us) if after != before else before), due


def _subject(rule: Rule) -> str:
    return FEEDS[rule.on].subjects[0]
