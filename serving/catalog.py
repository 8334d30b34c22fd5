"""What may be read: of every table the columns that are personal, whose rows they are, and what bounds its time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
from pyspark.sql import types as T

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, TABLES
from lakehouse.tables import Table
from serving.auth import Caller
from serving.problems import Problem

PII = "read:pii"
IDENTIFIERS = frozenset({"user_id", "session_id"})
"""Personal columns that name somebody: a reader without ``read:pii`` gets pseudonyms, and nothing of the others."""
FREE_TEXT = frozenset({"_rescued", "properties", "error"})
"""Columns that may hold anything a sender wrote, beside those that a contract tags."""
CLOSED_LAYERS = ("bronze",)
CLOSED_TABLES = ("silver.quarantine",)
ADMIN_TABLES = ("ops.access_log",)
_ORDERED = (T.StringType, T.LongType, T.IntegerType, T.DoubleType, T.BooleanType, T.DateType, T.TimestampType)


@dataclass(frozen=True)
class Readable:
    """A table as readers see it.

    ``time`` is the column that ``from`` and ``to`` bound, ``owner`` the one whose value is the user that a row is of,
    ``personal`` the columns that need ``read:pii``; ``closed`` tables need it as a whole, ``admin`` ones that scope.
    """

    table: Table
    time: str | None
    owner: str | None
    personal: frozenset[str]
    closed: bool
    admin: bool

    @property
    def name(self) -> str:
        """``layer.name``."""
        return self.table.name

    def type_of(self, column: str) -> T.DataType | None:
        """A column's type; None where there is no such column."""
        return next((field.dataType for field in self.table.schema if field.name == column), None)

    def comparable(self, column: str) -> bool:
        """Whether a column's values can be compared and ordered."""
        return isinstance(self.type_of(column), _ORDERED)

    def hidden(self, caller: Caller) -> frozenset[str]:
        """The columns that a caller must not see as they are; a user's own rows hide nothing that names the user."""
        if PII in caller.scopes:
            return frozenset()
        return self.personal - ({self.owner} if caller.user_id is not None and self.owner else set())

    def admit(self, caller: Caller) -> None:
        """Let a caller who has a route's scope at the table.

        Raises:
            Problem: 403, as it needs another scope, or holds rows of users without saying whose.
        """
        for needed, asked in ((PII, self.closed), ("admin", self.admin)):
            if asked and needed not in caller.scopes:
                raise Problem(403, "insufficient-scope", f"{self.name} needs the scope {needed}.", scope=needed)
        if caller.user_id is not None and self.owner is None and (self.closed or self.admin or self.personal):
            raise Problem(403, "not-yours", f"{self.name} holds other people's data: a user's token cannot read it.")


@cache
def catalog() -> Mapping[str, Readable]:
    """Every table that can be read, by name; those of ``_internal`` cannot."""
    tagged = {
        table.name: contracts()[flow.topic].pii_columns()
        for flow in FLOWS
        for table in (flow.silver, *flow.gold_tables)
    }
    return {
        name: _readable(table, tagged.get(name, frozenset()))
        for name, table in sorted(TABLES.items())
        if not name.startswith("_internal.")
    }


def _readable(table: Table, tagged: frozenset[str]) -> Readable:
    layer = table.name.partition(".")[0]
    names = table.schema.names
    closed = layer in CLOSED_LAYERS or table.name in CLOSED_TABLES
    personal = {name for name in names if name in tagged | IDENTIFIERS | FREE_TEXT}
    times = [*table.order, *names]
    kinds = {field.name: field.dataType for field in table.schema}
    return Readable(
        table,
        time=next((name for name in times if isinstance(kinds[name], T.TimestampType | T.DateType)), None),
        owner="user_id" if "user_id" in names and not closed else None,
        personal=frozenset(personal),
        closed=closed,
        admin=table.name in ADMIN_TABLES,
    )


def find(name: str) -> Readable:
    """A table by its name.

    Raises:
        Problem: 404.
    """
    found = catalog().get(name)
    if found is None:
        raise Problem(404, "no-such-table", f"There is no table {name[:100]!r}: GET /v1/tables lists them.")
    return found


class Masks:
    """What readers without ``read:pii`` see in place of personal values.

    An identifier becomes a pseudonym, the same wherever the secret is the same (HMAC-SHA256, 64 bits of it), so that
    rows can still be counted and joined; anything else becomes null.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.veil = hashlib.blake2b(secret, person=b"order", digest_size=32).hexdigest()
        """What rows are ordered by, with a hidden value; see :meth:`serving.ask.Ask.sql`."""

    def pseudonym(self, value: str) -> str:
        """What stands for an identifier."""
        return "~" + hmac.new(self._secret, value.encode(), hashlib.sha256).hexdigest()[:16]

    def apply(self, rows: pa.Table, hidden: frozenset[str]) -> pa.Table:
        """Rows whose hidden columns are masked."""
        for place, name in enumerate(rows.column_names):
            if name in hidden:
                rows = rows.set_column(place, name, self._masked(name, rows.column(name)))
        return rows

    def _masked(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if name not in IDENTIFIERS:
            return pa.nulls(len(values), values.type)
        coded = values.combine_chunks().dictionary_encode()
        known = [None if value is None else self.pseudonym(value) for value in coded.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(coded.indices, pa.array(known, pa.string())).cast(pa.string())
