"""``/v1/tables``: every table that may be read, its columns, and its rows."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from serving import auth
from serving.auth import Caller
from serving.catalog import Readable, catalog, find
from serving.problems import Problem, documented
from serving.reads import age_s
from serving.rest.answers import Collection, Table, TableNow, said
from serving.rest.common import ASKED, Asked, answer, collection, described, path, respond
from serving.service import Service, now

Name = Annotated[str, path("`layer.name` of the table.", "gold.activity_minute")]


def router(service: Service, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1/tables", tags=["tables"])
    reader = Annotated[Caller, Depends(auth.caller(keys, "read:tables"))]

    @made.get("", responses=said(Collection[Table]) | documented(401, 403, 429))
    async def tables(caller: reader) -> Response:
        """The tables that this token may read."""
        found = []
        for table in catalog().values():
            try:
                table.admit(caller)
            except Problem:
                continue
            found.append(_described(table, caller))
        return collection(found)

    @made.get("/{name}", responses=said(TableNow) | documented(401, 403, 404, 422, 429, 503))
    async def table(name: Name, caller: reader) -> Response:
        """A table: its columns, its key, and how it is now."""
        readable = find(name)
        snapshot = await service.snapshot(readable, caller)
        state = {"version": snapshot.version, "rows": snapshot.rows, "bytes": snapshot.bytes, "at": snapshot.at}
        return answer(_described(readable, caller) | state | {"age_s": age_s(snapshot.at, now())})

    @made.get("/{name}/rows", responses=described(*catalog()), openapi_extra=ASKED)
    async def rows(name: Name, caller: reader, request: Request, wanted: Asked) -> Response:
        """Rows of a table, the newest first."""
        return await respond(service, request, caller, wanted, wanted.of(name, caller))

    return made


def _described(table: Readable, caller: Caller) -> dict[str, Any]:
    hidden = table.hidden(caller)
    columns = [
        {
            "name": f.name,
            "type": f.dataType.simpleString(),
            "personal": f.name in table.personal,
            "masked": f.name in hidden,
        }
        for f in table.table.schema
    ]
    return {"name": table.name, "key": table.table.key, "time": table.time, "columns": columns}
