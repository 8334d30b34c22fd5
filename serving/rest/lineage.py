"""``/v1/lineage``: what is made from what, with the newest batch of each."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from lakehouse.flows import FLOWS, STORES
from lakehouse.lineage import Node, described, graph, whole
from serving import auth
from serving.auth import Caller
from serving.problems import Problem, documented
from serving.rest.answers import Lineage, LineageOf, said
from serving.rest.common import answer, path
from serving.status import Status

Name = Annotated[
    str, path("`layer.name` of a table, or `kafka:`, `mlflow:` or a store before a name.", "gold.activity_minute")
]
HIDDEN = "_internal."
"""Helper tables: no reader needs them."""


def router(state: Status, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1/lineage", tags=["tables"])
    reader = Annotated[Caller, Depends(auth.caller(keys, "read:tables"))]
    graph()  # SQL is parsed for it, which no request should wait for

    @made.get("", responses=said(Lineage) | documented(401, 403, 429))
    async def lineage(caller: reader) -> Response:
        """Topics, tables, models and keys of stores, and which is made from which."""
        return answer(all_of(await state.now()))

    @made.get("/{name}", responses=said(LineageOf) | documented(401, 403, 404, 422, 429))
    async def lineage_of(name: Name, caller: reader) -> Response:
        """What one of them is made from and goes into, and each of its columns with what it is made from."""
        return answer(one(name, await state.now()))

    return made


def all_of(now: dict[str, Any]) -> dict[str, Any]:
    """The graph, with what ``serving.status`` knows now."""
    found = graph()
    nodes = [described(node) | _now(node, now) for node in found.nodes.values() if _shown(node.id)]
    return {"nodes": nodes, "edges": [{"source": a, "target": b} for a, b in found.edges if _shown(a) and _shown(b)]}


def one(name: str, now: dict[str, Any]) -> dict[str, Any]:
    """A node.

    Raises:
        Problem: 404.
    """
    node = graph().nodes.get(name)
    if node is None or not _shown(name):
        raise Problem(404, "no-such-node", f"Lineage has no {name[:100]!r}: GET /v1/lineage lists all.")
    found = whole(node)
    found |= {way: [id_ for id_ in found[way] if _shown(id_)] for way in ("sources", "upstream", "downstream")}
    return found | _now(node, now)


def _shown(name: str) -> bool:
    return not name.startswith(HIDDEN)


def _now(node: Node, now: dict[str, Any]) -> dict[str, Any]:
    """The newest that is known of a node: the version of a table, the batch of a topic, what a store lacks."""
    found: dict[str, Any] = {"version": None, "batch": None, "behind": None, "at": None}
    if node.kind == "topic" and node.name in now["topics"]:
        topic = now["topics"][node.name]
        found |= {"batch": topic["seq"], "at": topic["last_cut_at"]}
    elif node.kind == "table":
        table = next((one for one in now["tables"] if one["name"] == node.id), None)
        found |= {"version": table["version"], "at": table["at"]} if table else {}
    elif node.id in _TOPICS:
        behind = now["stores"].get(node.system, {}).get("behind_batches") or {}
        found["behind"] = behind.get(_TOPICS[node.id])
    return found


_TOPICS = {
    f"{key.store}:{key.name}": flow.topic
    for flow in FLOWS
    for key in STORES
    if key.table in (flow.silver.name, *(table.name for table in flow.gold_tables))
}
"""The topic whose batches a store's key follows."""
