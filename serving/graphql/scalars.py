"""Scalars that GraphQL lacks. Values leave as they are: the answer's JSON is written by :mod:`serving.formats`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, NewType

import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

from serving.ask import moment

Long = NewType("Long", int)
DateTime = NewType("DateTime", str)
Date = NewType("Date", str)
JSON = NewType("JSON", object)
LONGEST = 40
"""Characters of a time."""


def _as_is(value: Any) -> Any:
    return value


def _long(value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        whole, value = True, int(value)
    if not whole or not -(2**63) <= value < 2**63:
        raise GraphQLError("Long is a whole number of 64 bits.")
    return int(value)


def _text(words: str, check: Callable[[str], object]) -> Callable[[Any], str]:
    """A scalar that is text of a form; the text itself is handed on, as columns read it by their type."""

    def parse(value: Any) -> str:
        try:
            if not isinstance(value, str) or len(value) > LONGEST:
                raise ValueError
            check(value)
        except (ValueError, OverflowError):
            raise GraphQLError(words) from None
        return value

    return parse


SCALARS: Mapping[object, ScalarDefinition] = {
    Long: strawberry.scalar(name="Long", description="A whole number of 64 bits.", serialize=_as_is, parse_value=_long),
    DateTime: strawberry.scalar(
        name="DateTime",
        description="RFC 3339 with offset, answered in UTC; a date is taken for its midnight, UTC.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=_as_is,
        parse_value=_text("DateTime is a time such as 2026-01-31T12:00:00Z, or a date.", moment),
    ),
    Date: strawberry.scalar(
        name="Date",
        description="A date of RFC 3339, UTC.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=_as_is,
        parse_value=_text("Date is a date such as 2026-01-31.", date.fromisoformat),
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
        serialize=_as_is,
        parse_value=_as_is,
    ),
}
"""What each of them is called, and how it is read."""
