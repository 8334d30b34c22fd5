"""What a table is: name, columns, key. Every layer declares its tables with this."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema


@dataclass(frozen=True)
class Table:
    """A Delta table, addressed as ``layer.name`` everywhere.

    ``key`` names the columns of which every version holds each combination once; ``order`` those whose minimum and
    maximum are recorded per file, so that readers skip files.
    """

    name: str
    schema: T.StructType
    key: tuple[str, ...]
    order: tuple[str, ...] = field(default=())

    @property
    def arrow(self) -> pa.Schema:
        """The columns as an Arrow schema; timestamps are microseconds, UTC."""
        return to_arrow_schema(self.schema)


def columns(ddl: str) -> T.StructType:
    """Columns from DDL text, ``"a string, b bigint"``, without a Spark session."""
    return T.StructType([_field(part) for part in _split(ddl)])


_SIMPLE: dict[str, T.DataType] = {
    "string": T.StringType(),
    "binary": T.BinaryType(),
    "int": T.IntegerType(),
    "bigint": T.LongType(),
    "double": T.DoubleType(),
    "boolean": T.BooleanType(),
    "date": T.DateType(),
    "timestamp": T.TimestampType(),
}


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _type(text: str) -> T.DataType:
    head, _, inner = text.partition("<")
    if not inner:
        return _SIMPLE[head]
    parts = _split(inner[:-1])
    if head == "array":
        return T.ArrayType(_type(parts[0]))
    if head == "map":
        return T.MapType(_type(parts[0]), _type(parts[1]))
    return T.StructType([_field(part.replace(":", " ", 1)) for part in parts])


def _field(part: str) -> T.StructField:
    name, _, kind = part.partition(" ")
    return T.StructField(name, _type(kind.strip()))
