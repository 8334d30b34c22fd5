"""A question to one table: columns, conditions, order, how many, from where on; checked, and bound into SQL."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import orjson
from pyspark.sql import types as T

from serving import steps
from serving.auth import Caller
from serving.catalog import Readable
from serving.problems import Problem

Operator = Literal["eq", "ne", "gt", "ge", "lt", "le", "in", "contains", "null"]
_SQL = {"eq": "=", "ne": "<>", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
OPERATORS: tuple[str, ...] = (*_SQL, "in", "contains", "null")
MOST_CONDITIONS = 20
MOST_VALUES = 200
"""Values of one ``in``."""
LONGEST_VALUE = 1000
"""Characters of one value."""
VEIL = "~"
"""Before the name of a column in an order: by a secret digest of its values, which tells nothing of them."""
_WHOLE = re.compile(r"-?[0-9]{1,19}").fullmatch
_REAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
).fullmatch


@dataclass(frozen=True)
class Condition:
    """``column operator value``; the value is a tuple for ``in`` and a truth value for ``null``."""

    column: str
    operator: Operator
    value: Any


@dataclass(frozen=True)
class Ask:
    """What is wanted of a table; :func:`ask` makes it of words and checks it.

    ``order`` is (column, descending), the table's key last, so that no two rows are alike in it; nulls come last, NaN
    is more than any number. A column of the key that the caller must not see is there as ``~column``: rows in the order
    of its values would tell which pseudonym is whose. ``after`` holds the values of the order's columns in the row
    before the first wanted one; ``skip`` is how many rows come before it, and what counts where ``after`` is None.
    """

    table: Readable
    select: tuple[str, ...]
    where: tuple[Condition, ...]
    order: tuple[tuple[str, bool], ...]
    limit: int
    after: tuple[Any, ...] | None = None
    version: int | None = None
    skip: int = 0
    step: int | None = None
    """Minutes that rows are folded into; conditions on the key then are of what is folded, others of what it makes."""

    def digest(self) -> str:
        """Names the question whatever its limit, place and version: pages of one question have the same."""
        where = [(c.column, c.operator, c.value) for c in self.where]
        words = [self.table.name, self.select, where, self.order, self.step]
        return hashlib.blake2b(orjson.dumps(words, default=str), digest_size=12).hexdigest()

    def sql(
        self, relation: str, caller: Caller, veil: str = "", count: bool = False, per: str | None = None
    ) -> tuple[str, list[Any]]:
        """SELECT with parameters over a relation, of the caller's rows alone; one row more than the limit is asked for.

        Only names of the table's columns become text. ``veil`` is the secret of what is ordered without being shown.
        With ``per``, a column, there are so many rows of each of its values.
        """
        clauses, bound = [], []
        wanted = dict.fromkeys((*self.select, *(column for column, _ in self.order), *([per] if per else [])))
        veiled = [column.removeprefix(VEIL) for column in wanted if column.startswith(VEIL)] if not count else []
        if veiled:
            if not veil:
                raise ValueError(f"an order by {veiled} needs a secret")
            # Not HMAC, which DuckDB lacks: SHA-256 of secret and value, none of which is ever shown, is as good here.
            made = ", ".join(f'sha256(concat(?, "{column}")) as "{VEIL}{column}"' for column in veiled)
            relation = f"(select *, {made} from {relation})"
            bound += [veil] * len(veiled)
        where = self.where
        if self.step:
            inner = [_clause(condition) for condition in where if condition.column in self.table.table.key]
            where = tuple(condition for condition in where if condition.column not in self.table.table.key)
            if inner:
                relation += " where " + " and ".join(clause for clause, _ in inner)
                bound += [value for _, values in inner for value in values]
            assert self.table.time is not None
            relation = f"({steps.folded(self.table.name, self.table.time, self.table.table.key, relation, self.step)})"
        for condition in where:
            clause, values = _clause(condition)
            clauses.append(clause)
            bound += values
        if caller.user_id is not None and self.table.owner:
            clauses.append(f'"{self.table.owner}" = ?')
            bound.append(caller.user_id)
        if self.after is not None and not count:
            clause, values = _beyond(self.order, self.after)
            clauses.append(clause)
            bound += values
        names = "count(*)" if count else ", ".join(f'"{name}"' for name in wanted)
        text = f"select {names} from {relation}"
        if clauses:
            text += " where " + " and ".join(clauses)
        if count:
            return text, bound
        ordered = ", ".join(f'"{column}" {"desc" if down else "asc"} nulls last' for column, down in self.order)
        if per:
            numbered = f'row_number() over (partition by "{per}" order by {ordered})'
            return f"{text} qualify {numbered} <= {self.limit + 1:d} order by {ordered}", bound
        text += f" order by {ordered} limit {self.limit + 1:d}"
        if self.after is None and self.skip:
            text += f" offset {self.skip:d}"
        return text, bound


def ask(
    table: Readable,
    caller: Caller,
    *,
    filters: Sequence[str] = (),
    conditions: Sequence[tuple[str, str, str | Sequence[str]]] = (),
    where: Sequence[Condition] = (),
    select: str | None = None,
    order: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 100,
    version: int | None = None,
    step: str | None = None,
) -> Ask:
    """A question in the words of a request.

    Args:
        table: what is asked.
        caller: who asks; what is hidden from them cannot be asked by, as an order or a condition would tell it.
        filters: ``column:operator:value`` each.
        conditions: the same in parts: column, operator and value in words; for ``in`` several of them.
        where: conditions that the route itself makes, which are not checked.
        select: columns, separated by commas; all by default.
        order: columns, ``-`` before one for descending; by default the newest first.
        since: the first time, RFC 3339, or a date. Where the table's time is a date, days count that the time between
            ``since`` and ``until`` touches.
        until: the first time that is no longer wanted.
        limit: rows.
        version: of the table.
        step: such as ``5m``, for what is in :data:`serving.steps.FOLDS`.

    Raises:
        Problem: 422 for what the table does not have or a value of another type, 403 for what is hidden or closed.
    """
    table.admit(caller)
    names = table.table.schema.names
    hidden = table.hidden(caller)
    columns = _columns("select", select, table) if select else tuple(names)
    if len(filters) + len(conditions) > MOST_CONDITIONS:
        raise wrong("filter", f"at most {MOST_CONDITIONS} conditions")
    checked = [_condition(text, table) for text in filters] + [_checked(*words, table) for words in conditions]
    wanted: list[tuple[str, bool]] = []
    for word in (order or "").split(",") if order else ():
        (column,) = _columns("order", word.strip().removeprefix("-"), table)
        if not table.comparable(column):
            raise wrong("order", f"{column} cannot be ordered")
        wanted.append((column, word.strip().startswith("-")))
    if len(dict(wanted)) < len(wanted):
        raise wrong("order", "a column is there twice")
    for column in [*(c.column for c in checked), *dict(wanted)]:
        if column in hidden:
            detail = f"{column} is personal: to filter or order by it needs the scope read:pii."
            raise Problem(403, "insufficient-scope", detail, scope="read:pii")
    for name, text, operator in (("from", since, "ge"), ("to", until, "lt")):
        if text is not None:
            if table.time is None:
                raise wrong(name, f"{table.name} has no time")
            checked.append(Condition(table.time, operator, _bound(text, table, name)))  # type: ignore[arg-type]
    if not wanted and table.time:
        wanted = [(table.time, True)]
    key = [(VEIL * (column in hidden) + column, False) for column in table.table.key if column not in dict(wanted)]
    length = None
    if step is not None:
        if table.name not in steps.FOLDS:
            raise wrong("step", f"{table.name} has none: {', '.join(steps.FOLDS)} have")
        try:
            length = steps.minutes(step)
        except ValueError as error:
            raise wrong("step", str(error)) from None
    return Ask(table, columns, (*where, *checked), (*wanted, *key), limit, None, version, step=length)


def of_one(question: Ask, column: str, value: str) -> Ask:
    """The same question for the rows of one value of a column."""
    return replace(question, where=(Condition(column, "eq", value), *question.where))


def following(question: Ask, row: dict[str, Any]) -> Ask:
    """The same question for the rows after this one."""
    return replace(question, after=tuple(row[column] for column, _ in question.order))


def _columns(parameter: str, text: str, table: Readable) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if table.type_of(name) is None:
            raise wrong(
                parameter, f"{table.name} has no column {name[:100]!r}: it has {', '.join(table.table.schema.names)}"
            )
    return found


def _condition(text: str, table: Readable) -> Condition:
    column, _, rest = text.partition(":")
    operator, colon, value = rest.partition(":")
    if not colon or operator not in OPERATORS:
        raise wrong("filter", f"{text[:100]!r} is not column:operator:value with one of {', '.join(OPERATORS)}")
    return _checked(column, operator, value.split(",") if operator == "in" else value, table)


def _checked(column: str, operator: str, value: str | Sequence[str], table: Readable) -> Condition:
    """A condition of words that the table understands."""
    if (column,) != _columns("filter", column, table):
        raise wrong("filter", f"{column[:100]!r} is not a column's name")
    if operator == "null":
        if value not in ("true", "false"):
            raise wrong("filter", f"{column}:null: is followed by true or false")
        return Condition(column, "null", value == "true")
    if not table.comparable(column):
        raise wrong("filter", f"{column} can only be compared with null")
    if operator == "in":
        if len(value) > MOST_VALUES:
            raise wrong("filter", f"at most {MOST_VALUES} values")
        return Condition(column, "in", tuple(_value(one, table, column, "filter") for one in value))
    if operator == "contains" and not isinstance(table.type_of(column), T.StringType):
        raise wrong("filter", f"{column} is no text")
    assert isinstance(value, str)
    return Condition(column, operator, _value(value, table, column, "filter"))  # type: ignore[arg-type]


def _value(text: str, table: Readable, column: str, parameter: str) -> Any:
    """A value of a column's type."""
    kind = table.type_of(column)
    if len(text) > LONGEST_VALUE or "\x00" in text:
        raise wrong(parameter, f"a value of {column} has at most {LONGEST_VALUE} characters, none of them NUL")
    try:
        match kind:
            case T.StringType():
                return text
            case T.LongType() | T.IntegerType():
                number = int(text) if _WHOLE(text) else 2**63
                if not -(2**63) <= number < 2**63:
                    raise ValueError
                return number
            case T.DoubleType():
                real = float(text) if _REAL(text) else math.inf
                if not math.isfinite(real):
                    raise ValueError
                return real
            case T.BooleanType():
                return {"true": True, "false": False}[text]
            case T.DateType():
                return _date(text)
            case _:
                return moment(text)
    except (ValueError, KeyError, OverflowError):
        if isinstance(kind, T.DateType):
            words = "a date"
        elif isinstance(kind, T.TimestampType):
            words = "a time such as 2026-01-31T12:00:00Z"
        else:
            words = f"of type {kind.simpleString()}" if kind else ""
        raise wrong(parameter, f"{text[:100]!r} is not {words} ({column})") from None


def _bound(text: str, table: Readable, parameter: str) -> Any:
    """What ``from`` or ``to`` means in the table's time; of a table by days, the first day it leaves in or out."""
    assert table.time is not None
    if not isinstance(table.type_of(table.time), T.DateType):
        return _value(text, table, table.time, parameter)
    try:
        at = moment(text)
        day = at.date()
        return day + timedelta(1) if parameter == "to" and at.time() != datetime.min.time() else day
    except (ValueError, OverflowError):
        raise wrong(parameter, f"{text[:100]!r} is not a date or a time such as 2026-01-31T12:00:00Z") from None


def _date(text: str) -> date:
    """A date of RFC 3339, which is less than Python takes."""
    if not _DATE(text):
        raise ValueError("no date")
    return date.fromisoformat(text)


def moment(text: str) -> datetime:
    """A time of RFC 3339 with its offset, or a date for its midnight, UTC.

    Raises:
        ValueError: it is none, or has no offset.
        OverflowError: in UTC it lies outside of the years 1 to 9999.
    """
    if len(text) == 10:
        return datetime.combine(_date(text), datetime.min.time(), UTC)
    # In a query string an unescaped + is a blank.
    text = text[:11] + text[11:].replace(" ", "+")
    if not _TIME(text):
        raise ValueError("no time with an offset")
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


def wrong(parameter: str, reason: str) -> Problem:
    """422 for a parameter of the query, by its name."""
    return Problem(
        422, "invalid-request", f"The parameter {parameter} is wrong: {reason}.",
        reasons=[{"pointer": f"/query/{parameter}", "reason": reason}],
    )  # fmt: skip


def _clause(condition: Condition) -> tuple[str, list[Any]]:
    name, value = f'"{condition.column}"', condition.value
    match condition.operator:
        case "null":
            return f"{name} is {'' if value else 'not '}null", []
        case "in":
            return f"{name} in ({', '.join('?' * len(value))})", list(value)
        case "contains":
            return f"contains({name}, ?)", [value]
        case "ne":
            return f"{name} is distinct from ?", [value]
        case operator:
            return f"{name} {_SQL[operator]} ?", [value]


def _beyond(order: Sequence[tuple[str, bool]], after: Sequence[Any]) -> tuple[str, list[Any]]:
    """What holds for the rows after one, where nulls come last: a later value behind the same ones."""
    options: list[str] = []
    bound: list[Any] = []
    for place, ((column, down), value) in enumerate(zip(order, after, strict=True)):
        if value is None:
            continue  # nothing comes after null but other rows with null
        same, values = [], []
        for (earlier, _), known in zip(order[:place], after, strict=False):
            same.append(f'"{earlier}" is not distinct from ?')
            values.append(known)
        options.append(" and ".join([*same, f'("{column}" {"<" if down else ">"} ? or "{column}" is null)']))
        bound += [*values, value]
    return "(" + (" or ".join(f"({option})" for option in options) or "false") + ")", bound
