"""Bounds of documents, counted before anything is run: through fragments, each of which is looked at once.

What a document may be is counted on its text and syntax tree (:func:`measured`); what it may cost, once it is valid, on
the schema and its variables (:func:`cost`): a field weighs 1, one that asks a store or the lake more, and what is under
a list counts as often as the list can be long, as ``first`` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    NamedTypeNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_list_type,
)
from graphql.pyutils import Undefined

from serving.problems import Problem

COUNTED = 10**12
"""Counts stop here, so that those of a bomb stay small numbers."""
NESTED = 64
"""Selections in selections, fragments among them; the parser itself fails at about twice as many."""
INTROSPECTION = ("__schema", "__type")
_SIZES = {
    ("__Schema", "types"): 100,
    ("__Schema", "directives"): 10,
    ("__Type", "fields"): 8,
    ("__Type", "inputFields"): 8,
    ("__Type", "enumValues"): 10,
    ("__Type", "interfaces"): 1,
    ("__Type", "possibleTypes"): 1,
    ("__Field", "args"): 3,
    ("__Directive", "args"): 2,
}
"""How long the lists of introspection are, about."""


@dataclass(frozen=True)
class Limits:
    """What one request may be at most; every number is of an operation with its fragments written out."""

    body_bytes: int = 256 * 1024
    """The body, variables included."""
    document_bytes: int = 32 * 1024
    tokens: int = 1_000
    comments: int = 200
    depth: int = 10
    fields: int = 300
    aliases: int = 30
    directives: int = 30
    repeats: int = 20
    """Fields that are there already in the same selection; validation compares each two of them."""
    spreads: int = 100
    """Of fragments; validation compares each two of them, too."""
    definitions: int = 50
    cost: int = 20_000
    introspection_cost: int = 200_000
    """Of the parts about the schema itself; the usual question of tools costs three quarters of it."""
    first: int = 1_000


class LimitError(Problem):
    """400: a document is more than is taken."""

    def __init__(self, name: str, most: int, found: int | None, detail: str) -> None:
        super().__init__(400, f"limit-{name}", detail, limit=most, found=found)


def too_many(name: str, what: str, most: int, found: int | None) -> LimitError:
    """The error for a count that is over its limit."""
    said = "" if found is None else f", and this has {'more than ' if found >= COUNTED else ''}{found:,}"
    return LimitError(
        name, most, found, f"A document has at most {most:,} {what}{said}, counted through fragments: ask for less."
    )


# --- what a document is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """Counts of a selection set with its fragments written out; ``names`` are its own fields by response name."""

    depth: int
    fields: int
    aliases: int
    directives: int
    repeats: int
    spreads: int
    names: Counter[str]
    introspects: bool


def measured(document: DocumentNode, limits: Limits) -> Size:
    """The size of a document, which need not be valid: the greatest depth, and the sums of all operations.

    Raises:
        Problem: 400, with the limit that it is over, or the fragment that contains itself.
    """
    if len(document.definitions) > limits.definitions:
        found = len(document.definitions)
        raise too_many("definitions", "operations and fragments", limits.definitions, found)
    measure = _Measure(document)
    operations = []
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            size = measure.fragment(definition.name.value, 0)  # whether it is used or not
            about_schema = definition.type_condition.name.value.startswith("__")
            _bound(replace(size, depth=0) if about_schema else size, limits)
        elif isinstance(definition, OperationDefinitionNode):
            variables = sum(len(variable.directives) for variable in definition.variable_definitions)
            found = len(definition.directives) + variables
            operations.append(measure.selected(definition.selection_set, 0, found))
            _bound(operations[-1], limits)
    whole = replace(
        _sum(operations, max((size.depth for size in operations), default=0)),
        repeats=min(sum(size.repeats for size in operations), COUNTED),  # two operations do not repeat each other
    )
    _bound(whole, limits)
    return whole


_COUNTS = (
    ("depth", "levels of fields"),
    ("fields", "fields"),
    ("aliases", "aliases"),
    ("directives", "directives"),
    ("repeats", "fields that are there twice"),
    ("spreads", "spreads of fragments"),
)


def _bound(size: Size, limits: Limits) -> None:
    for name, what in _COUNTS:
        most, found = getattr(limits, name), getattr(size, name)
        if found > most:
            raise too_many(name, what, most, found)


class _Measure:
    def __init__(self, document: DocumentNode) -> None:
        # Of two with one name the latter counts twice; validation refuses them.
        self._fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
        self._known: dict[str, Size] = {}
        self._within: set[str] = set()

    def fragment(self, name: str, nested: int) -> Size:
        """The size of a fragment, reckoned once; of one that is not there, nothing."""
        if name in self._within:
            detail = f"The fragment {name[:100]} contains itself: fragments must not be circular."
            raise Problem(400, "circular-fragment", detail)
        if name not in self._known:
            if (definition := self._fragments.get(name)) is None:
                return _plain(0)
            self._within.add(name)
            self._known[name] = self.selected(definition.selection_set, nested + 1, len(definition.directives))
            self._within.remove(name)
        return self._known[name]

    def selected(self, selections: SelectionSetNode | None, nested: int, directives: int = 0) -> Size:
        """The size of a selection set."""
        if nested > NESTED:
            raise too_many("depth", "levels of selections", NESTED, None)
        parts = [_plain(directives)]
        depth = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                under = self.selected(node.selection_set, nested + 1, len(node.directives))
                about_schema = node.name.value in INTROSPECTION
                depth = max(depth, 1 if about_schema else 1 + under.depth)
                name = node.alias.value if node.alias else node.name.value
                parts.append(
                    Size(
                        0, under.fields + 1, under.aliases + bool(node.alias), under.directives, under.repeats,
                        under.spreads, Counter([name]), under.introspects or about_schema,
                    )
                )  # fmt: skip
            elif isinstance(node, FragmentSpreadNode):
                spread = self.fragment(node.name.value, nested)
                depth = max(depth, spread.depth)
                parts += [spread, _plain(len(node.directives), spreads=1)]
            elif isinstance(node, InlineFragmentNode):
                inline = self.selected(node.selection_set, nested + 1, len(node.directives))
                depth = max(depth, inline.depth)
                parts.append(inline)
        return _sum(parts, depth)


def _plain(directives: int, spreads: int = 0) -> Size:
    return Size(0, 0, 0, directives, 0, spreads, Counter(), False)


def _sum(parts: list[Size], depth: int) -> Size:
    names: Counter[str] = Counter()
    repeats = 0
    for part in parts:
        # What is twice in a part was counted there.
        repeats += part.repeats + sum(1 for name in part.names if name in names)
        for name, count in part.names.items():
            names[name] = min(names[name] + count, COUNTED)

    def total(name: str) -> int:
        count: int = sum(getattr(part, name) for part in parts)
        return min(count, COUNTED)

    return Size(
        depth, total("fields"), total("aliases"), total("directives"), min(repeats, COUNTED), total("spreads"), names,
        any(part.introspects for part in parts),
    )  # fmt: skip


# --- what it costs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weight:
    """What a field costs: itself, and what is under it as many times as it can have rows.

    ``sized`` names the argument that says how many, ``size`` is how many where it does not; ``leaf`` is the
    least that each of them counts.
    """

    weight: int = 1
    sized: str | None = None
    size: int = 1
    most: int | None = None
    leaf: int = 0


def weights(schema: GraphQLSchema) -> dict[tuple[str, str], Weight]:
    """What each field of a schema costs, as its definition's metadata say.

    Raises:
        TypeError: a list does not say how long it can be.
    """
    found: dict[tuple[str, str], Weight] = {}
    for kind in schema.type_map.values():
        if not isinstance(kind, GraphQLObjectType):
            continue
        for name, field in kind.fields.items():
            size = _SIZES.get((kind.name, name), 1)
            definition = field.extensions.get("strawberry-definition")
            metadata = getattr(definition, "metadata", {})
            found[kind.name, name] = Weight(**{"size": size, **metadata})
            bounded = metadata or kind.name.startswith("__") or kind.name.endswith(("Connection", "Recommended"))
            composite = isinstance(get_named_type(field.type), GraphQLObjectType)
            kept = field.type.of_type if hasattr(field.type, "of_type") else field.type
            if composite and not bounded and (is_list_type(field.type) or is_list_type(kept)):
                raise TypeError(f"{kind.name}.{name} is a list: say its size")
    return found


class Cost:
    """What an operation costs by its variables; the document is valid.

    Raises:
        Problem: 400, a ``first`` out of bounds.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        weights: Mapping[tuple[str, str], Weight],
        fragments: Mapping[str, FragmentDefinitionNode],
        limits: Limits,
        operation: OperationDefinitionNode,
        variables: Mapping[str, Any],
    ) -> None:
        self._schema, self._weights, self._fragments, self._limits = schema, weights, fragments, limits
        self._known: dict[str, int] = {}
        self._variables = {
            definition.variable.name.value: variables.get(
                definition.variable.name.value, _literal(definition.default_value, {})
            )
            for definition in operation.variable_definitions
        }

    def of(self, selections: SelectionSetNode | None, kind: Any) -> int:
        """The cost of a selection set on a type."""
        total = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                total += self._field(node, kind)
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name not in self._known:
                    fragment = self._fragments[name]
                    self._known[name] = self.of(fragment.selection_set, self._type(fragment.type_condition, kind))
                total += self._known[name]
            elif isinstance(node, InlineFragmentNode):
                total += self.of(node.selection_set, self._type(node.type_condition, kind))
            total = min(total, COUNTED)
        return total

    def _type(self, condition: NamedTypeNode | None, kind: Any) -> Any:
        return self._schema.type_map[condition.name.value] if condition else kind

    def _field(self, node: FieldNode, kind: Any) -> int:
        name = node.name.value
        if name in INTROSPECTION:
            under = self._schema.type_map["__Schema" if name == "__schema" else "__Type"]
            cost = self.of(node.selection_set, under)
            if cost > self._limits.introspection_cost:
                most = self._limits.introspection_cost
                raise LimitError("introspection", most, cost, f"Questions about the schema cost at most {most:,}.")
            return 0
        if name == "__typename":
            return 1
        weight = self._weights[kind.name, name]
        times = self._times(node, weight)
        under = get_named_type(kind.fields[name].type)
        each = self.of(node.selection_set, under) if node.selection_set else 0
        return min(weight.weight + times * max(each, weight.leaf), COUNTED)

    def _times(self, node: FieldNode, weight: Weight) -> int:
        if weight.sized is None:
            return weight.size
        given = next((a.value for a in node.arguments if a.name.value == weight.sized), None)
        value = _literal(given, self._variables)
        if weight.sized == "ids":
            found = len(value) if isinstance(value, list) else 1
            if found > weight.size:
                raise too_many("ids", f"ids of {node.name.value}", weight.size, found)
            return found
        if value is None or value is Undefined:
            return weight.size
        most = min(weight.most or self._limits.first, self._limits.first)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return most  # another type: coercion says so
        if not 1 <= value <= most:
            raise LimitError("first", most, None, f"{node.name.value}: first is from 1 to {most}.")
        return int(value)


def _literal(node: Any, variables: Mapping[str, Any]) -> Any:
    """What is known of a value without its type: numbers, variables, and how many there are in a list."""
    if isinstance(node, VariableNode):
        return variables.get(node.name.value)
    if isinstance(node, IntValueNode):
        # Digits are bounded by the document; of so many no number is made.
        return int(node.value) if len(node.value) < 20 else COUNTED
    if isinstance(node, ListValueNode):
        return list(node.values)
    return None if node is None else Undefined
