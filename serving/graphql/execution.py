"""Runs documents: parsed, bounded and validated once for each text, then executed by graphql-core.

Most of an answer are rows whose fields are plain values. They are not resolved one by one: what an operation wants of
such a type is worked out once, and every row is cut to that (:class:`Projecting`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionContext,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    execute,
    get_operation_ast,
    is_enum_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    parse,
    specified_rules,
    validate,
)
from graphql.execution import create_source_event_stream
from graphql.pyutils import Path
from graphql.validation import MaxIntrospectionDepthRule

from serving.graphql.context import Context
from serving.graphql.limits import Cost, Limits, Size, measured, too_many, weights
from serving.problems import Problem

FIELD = "field"
MOST_ERRORS = 10
LONGEST_MESSAGE = 500
KEPT_TOKENS = 50_000
"""Of all documents that are kept parsed; each token takes about a kilobyte."""
_RULES = (*specified_rules, MaxIntrospectionDepthRule)
_OPERATIONS = {
    OperationType.QUERY: "query",
    OperationType.MUTATION: "mutation",
    OperationType.SUBSCRIPTION: "subscription",
}
_log = logging.getLogger(__name__)
Error = dict[str, Any]


class RefusedError(Exception):
    """A request that is not run, and why: the answer has no ``data``.

    ``bounded`` tells what was refused to protect the service from what is merely wrong.
    """

    def __init__(self, errors: list[Error], status: int = 400, bounded: bool = False) -> None:
        super().__init__(errors[0]["message"])
        self.errors, self.status, self.bounded = errors, status, bounded


@dataclass(frozen=True)
class Document:
    """A document that is valid and within the limits."""

    ast: DocumentNode
    fragments: Mapping[str, FragmentDefinitionNode]
    size: Size
    tokens: int


@dataclass(frozen=True)
class Operation:
    """One operation of a document with its variables, within the limits."""

    document: DocumentNode
    name: str | None
    kind: str
    variables: dict[str, Any]
    cost: int


def _problem(problem: Problem, **more: Any) -> Error:
    extensions = {"code": problem.name, "status": problem.status, **problem.members}
    return {"message": problem.detail, **more, "extensions": extensions}


def refused(problem: Problem) -> RefusedError:
    """A request that a limit or a right forbids."""
    return RefusedError([_problem(problem)], problem.status, bounded=True)


def _shown(error: GraphQLError, code: str, request_id: str = "") -> Error:
    """An error as clients see it: of faults nothing but that they are."""
    cause = error.original_error
    if code != FIELD and not isinstance(cause, Problem):
        cause = None  # nothing was run: whatever it is, the request is to blame
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    places: dict[str, Any] = {}
    if error.locations:
        places["locations"] = [{"line": place.line, "column": place.column} for place in error.locations]
    if error.path is not None:
        places["path"] = error.path
    if isinstance(cause, Problem):
        return _problem(cause, **places)
    if cause is None or isinstance(cause, GraphQLError):
        # Names that are close are not told; Strawberry's enums would.
        message = error.message.partition(" Did you mean")[0][:LONGEST_MESSAGE]
        return {
            "message": message,
            **places,
            "extensions": {"code": "invalid" if code == FIELD else code, "status": 400},
        }
    _log.error("request %s failed at %s", request_id, error.path, exc_info=cause)
    fault = Problem(500, "internal", "This is a fault of the API; its log names the request's id.")
    return _problem(fault, **places)


class Engine:
    """Prepares and runs documents of a schema.

    Args:
        schema: made by Strawberry.
        limits: of every request.
        within_s: how long an answer may take.
    """

    def __init__(self, schema: GraphQLSchema, limits: Limits, within_s: float) -> None:
        self.schema, self.limits, self.within_s = schema, limits, within_s
        self._weights = weights(schema)
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._tokens = 0

    # --- before anything is run --------------------------------------------------------------------------------------

    def prepare(
        self, text: str, name: str | None, variables: Mapping[str, Any] | None, introspection: bool
    ) -> Operation:
        """An operation that may be run.

        Raises:
            RefusedError: it is none, or over a limit.
        """
        document = self._document(text)
        if document.size.introspects and not introspection:
            detail = "Questions about the schema need the scope admin here; docs/schema.graphql holds it."
            raise refused(Problem(403, "introspection-off", detail, scope="admin"))
        operation = get_operation_ast(document.ast, name)
        if operation is None:
            many = (
                "has several operations: operationName says which" if name is None else "has no operation of that name"
            )
            raise RefusedError([_plain_error(f"The document {many}.", "no-operation")])
        given = dict(variables or {})
        cost = self._cost(document, operation, given)
        return Operation(document.ast, name, _OPERATIONS[operation.operation], given, cost)

    def _document(self, text: str) -> Document:
        if (known := self._documents.get(text)) is not None:
            self._documents.move_to_end(text)
            return known
        limits = self.limits
        found = len(text.encode("utf-8", "surrogatepass"))
        if found > limits.document_bytes:
            raise refused(too_many("document", "bytes", limits.document_bytes, found))
        try:
            ast = parse(text, max_lexical_tokens=limits.tokens, max_comments=limits.comments)
        except GraphQLError as error:
            if "Document contains more than" in error.message:
                raise refused(too_many("tokens", "tokens", limits.tokens, None)) from None
            if "nested too deeply" in error.message:
                raise refused(too_many("depth", "levels of fields", limits.depth, None)) from None
            raise RefusedError([_shown(error, "syntax")]) from None
        try:
            size = measured(ast, limits)
        except Problem as problem:
            raise refused(problem) from None
        if errors := validate(self.schema, ast, _RULES, max_errors=MOST_ERRORS, hide_suggestions=True):
            raise RefusedError([_shown(error, "invalid") for error in errors])
        fragments = {d.name.value: d for d in ast.definitions if isinstance(d, FragmentDefinitionNode)}
        made = Document(ast, fragments, size, _tokens(ast))
        self._keep(text, made)
        return made

    def _keep(self, text: str, made: Document) -> None:
        self._documents[text] = made
        self._tokens += made.tokens
        while self._tokens > KEPT_TOKENS and len(self._documents) > 1:
            self._tokens -= self._documents.popitem(last=False)[1].tokens

    def _cost(self, document: Document, operation: OperationDefinitionNode, variables: dict[str, Any]) -> int:
        root = self.schema.get_root_type(operation.operation)
        if root is None:
            raise RefusedError([_plain_error("There are no mutations.", "no-operation")])
        try:
            cost = Cost(
                self.schema, self._weights, document.fragments, self.limits, operation, variables
            ).of(operation.selection_set, root)  # fmt: skip
        except Problem as problem:
            raise refused(problem) from None
        if cost > self.limits.cost:
            raise refused(too_many("cost", "values (fields by rows)", self.limits.cost, cost))
        return cost

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(
        self, operation: Operation, context: Context, request_id: str = "", root: Any = None
    ) -> dict[str, Any]:
        """The answer to an operation, an event of a subscription as its root.

        Raises:
            RefusedError: its variables are not what it declares.
            Problem: 504, it took too long.
        """
        try:
            async with asyncio.timeout(self.within_s):
                made = execute(
                    self.schema, operation.document, root, context, operation.variables, operation.name,
                    execution_context_class=Projecting, max_coercion_errors=MOST_ERRORS, hide_suggestions=True,
                )  # fmt: skip
                result: ExecutionResult = await made if isawaitable(made) else made
        except TimeoutError:
            detail = f"The query took more than {self.within_s:.0f} s: ask for less."
            raise Problem(504, "query-timeout", detail) from None
        return _answer(result, request_id)

    async def events(
        self, operation: Operation, context: Callable[[], Context], request_id: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """The answers of a subscription, one an event; each has a context of its own.

        Raises:
            RefusedError: it cannot be subscribed to.
        """
        found = await create_source_event_stream(
            self.schema, operation.document, None, context(), operation.variables, operation.name,
            hide_suggestions=True,
        )  # fmt: skip
        if isinstance(found, ExecutionResult):
            raise RefusedError(_answer(found, request_id)["errors"])
        assert isinstance(found, AsyncIterable)
        async with aclosing(found) as events:  # type: ignore[type-var]
            try:
                async for event in events:
                    yield await self.run(operation, context(), request_id, event)
            except Problem as problem:
                raise refused(problem) from None


def _answer(result: ExecutionResult, request_id: str) -> dict[str, Any]:
    found = result.errors or []
    if result.data is None and found and all(error.path is None for error in found):
        raise RefusedError([_shown(error, "invalid") for error in found])
    errors = [_shown(error, FIELD, request_id) for error in found]
    return {"data": result.data, **({"errors": errors} if errors else {})}


def _plain_error(message: str, code: str) -> Error:
    return {"message": message, "extensions": {"code": code, "status": 400}}


def _tokens(ast: DocumentNode) -> int:
    count, token = 0, ast.loc.start_token if ast.loc else None
    while token:
        count, token = count + 1, token.next
    return count


# --- rows ------------------------------------------------------------------------------------------------------------

Cut = Callable[[Any], Any]


class Projecting(ExecutionContext):
    """Executes as the specification says, but cuts objects whose wanted fields are all plain values in one go.

    Such values are made by this package alone, and leave as they are: the answer's JSON is written by
    :mod:`serving.formats`. One that is not as the schema says (null where there must be none) is left to graphql-core,
    which reports the field.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cuts: dict[tuple[str, int], tuple[list[FieldNode], Cut | None]] = {}

    def complete_list_value(
        self,
        return_type: GraphQLList[GraphQLOutputType],
        field_nodes: list[FieldNode],
        info: GraphQLResolveInfo,
        path: Path,
        result: Any,
    ) -> Any:
        """A list, of which every object is cut alike."""
        kind = _bare(return_type.of_type)
        if isinstance(kind, GraphQLObjectType) and isinstance(result, list):
            cut = self._cut(kind, field_nodes)
            if cut is not None:
                try:
                    return [cut(item) for item in result]
                except _UNFIT:
                    pass
        return super().complete_list_value(return_type, field_nodes, info, path, result)

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_nodes: list[FieldNode],
        info: GraphQLResolveInfo,
        path: Path,
        result: Any,
    ) -> Any:
        """An object, cut if it can be."""
        cut = self._cut(return_type, field_nodes)
        if cut is not None:
            try:
                return cut(result)
            except _UNFIT:
                pass
        return super().complete_object_value(return_type, field_nodes, info, path, result)

    def _cut(self, kind: GraphQLObjectType, nodes: list[FieldNode]) -> Cut | None:
        key = (kind.name, id(nodes))
        if key not in self._cuts:
            self._cuts[key] = nodes, self._made(kind, nodes)  # kept, so that the id stays theirs
        return self._cuts[key][1]

    def _made(self, kind: GraphQLObjectType, nodes: list[FieldNode]) -> Cut | None:
        """How objects of a type are cut to what is wanted of them; None where something of it has to be resolved."""
        parts: list[tuple[str, str, Cut]] = []
        constant: dict[str, Any] = {}
        wanted = self.collect_subfields(kind, nodes)
        for response_name, found in wanted.items():
            name = found[0].name.value
            if name == "__typename":
                constant[response_name] = kind.name
                continue
            field = kind.fields[name]
            definition = field.extensions.get("strawberry-definition")
            if definition is None or not definition.is_basic_field:
                return None
            under = self._value(field.type, found)
            if under is None:
                return None
            parts.append((response_name, definition.python_name, under))
        order = list(wanted)

        def cut(source: Any) -> dict[str, Any]:
            if type(source) is dict:
                made = {said: under(source.get(name)) for said, name, under in parts}
            elif isinstance(source, Exception):
                raise _Unfit
            else:
                made = {said: under(getattr(source, name)) for said, name, under in parts}
            return {said: constant.get(said, made.get(said)) for said in order} if constant else made

        return cut

    def _value(self, kind: Any, nodes: list[FieldNode]) -> Cut | None:
        if is_non_null_type(kind):
            inner = self._value(kind.of_type, nodes)
            return None if inner is None else _there if inner is _same else _not_null(inner)
        if is_list_type(kind):
            each = self._value(kind.of_type, nodes)
            return None if each is None else _list(each)
        if is_enum_type(kind):
            serialize: Cut = kind.serialize
            return _or_null(serialize)
        if is_leaf_type(kind):
            return _same
        if is_object_type(kind):
            cut = self._cut(kind, nodes)
            return None if cut is None else _or_null(cut)
        return None


class _Unfit(Exception):
    """A value is not as the schema says."""


_UNFIT = (_Unfit, AttributeError, TypeError)


def _bare(kind: Any) -> Any:
    return kind.of_type if isinstance(kind, GraphQLNonNull) else kind


def _same(value: Any) -> Any:
    return value


def _there(value: Any) -> Any:
    if value is None:
        raise _Unfit
    return value


def _not_null(inner: Cut) -> Cut:
    def cut(value: Any) -> Any:
        if value is None:
            raise _Unfit
        return inner(value)

    return cut


def _or_null(inner: Cut) -> Cut:
    return lambda value: None if value is None else inner(value)


def _list(each: Cut) -> Cut:
    return lambda values: None if values is None else [each(value) for value in values]
