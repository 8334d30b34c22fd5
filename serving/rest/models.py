"""``/v1/models`` and ``/v1/predictions``: which versions answer, and their answers."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response

from serving import auth, formats
from serving.ask import Condition, ask
from serving.auth import Caller
from serving.catalog import find
from serving.predictions import Minutes, Predictions, Series, Taste
from serving.problems import documented
from serving.rest import answers
from serving.rest.answers import Collection, Decision, Model, said
from serving.rest.common import answer, collection
from serving.service import Service


def router(service: Service, predictions: Predictions, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1", tags=["models"], responses=documented(401, 403, 422, 429, 503))
    asker = Annotated[Caller, Depends(auth.caller(keys, "predict"))]

    @made.get("/models", responses=said(Collection[Model]))
    async def models(caller: asker) -> Response:
        """The models and the version of each that answers; null before the first."""
        return collection(await service.thread(predictions.models))

    @made.get("/models/{name}/decisions", responses=said(Collection[Decision]) | documented(404, 504))
    async def decisions(
        name: Annotated[Literal["recommender", "anomaly", "trend"], Path(description="The model.")],
        caller: asker,
        limit: Annotated[int, Query(ge=1, le=1000, description="Decisions.")] = 100,
    ) -> Response:
        """Who let which version answer, when and why, and what was refused (``ops.promotions``), the newest first."""
        question = ask(find("ops.promotions"), caller, where=[Condition("model", "eq", name)], limit=limit)
        page = await service.page(caller, question)
        return collection(formats.objects(page.rows))

    @made.post("/predictions/recommender", responses=said(answers.Tastes) | documented(400))
    async def recommender(taste: Taste, caller: asker) -> Response:
        """Posts for somebody with this history; what is popular before the first version."""
        found = await service.thread(lambda: predictions.recommend(taste))
        if found is None:
            popular = await service.reads.trending(None, min(taste.n, 100))
            items = [{"post_id": row["post_id"], "score": row["score"]} for row in popular]
            return answer({"model_version": None, "at": None, "source": "popularity", "items": items})
        return answer({**found, "source": "champion"})

    @made.post("/predictions/anomaly", responses=said(answers.Unusual) | documented(400))
    async def anomaly(minutes: Minutes, caller: asker) -> Response:
        """How unusual each minute is, from 0 to 1; an alarm from 0.5 on."""
        return answer(await service.thread(lambda: predictions.anomaly(minutes)))

    @made.post("/predictions/trend", responses=said(answers.Outlook) | documented(400))
    async def trend(series: Series, caller: asker) -> Response:
        """What comes next, with an interval."""
        return answer(await service.thread(lambda: predictions.trend(series)))

    return made
