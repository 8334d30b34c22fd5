"""``/v1/status``: how the pipeline is."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from serving import auth
from serving.auth import Caller
from serving.problems import documented
from serving.rest.answers import Pipeline, said
from serving.rest.common import answer
from serving.status import Status


def router(state: Status, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1", tags=["platform"])

    @made.get("/status", responses=said(Pipeline) | documented(401, 403, 429))
    async def status(caller: Annotated[Caller, Depends(auth.caller(keys, "read:metrics"))]) -> Response:
        """Lag and cuts of topics, versions of tables, batches that stores lack, and the newest batches."""
        return answer(await state.now())

    return made
