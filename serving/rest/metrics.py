"""What the platform measures: activity, posts, services, hosts, anomalies, forecasts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from serving import auth, formats, measures
from serving.ask import Condition
from serving.auth import Caller
from serving.problems import documented
from serving.rest.answers import Collection, HostNow, LiveActivity, ServiceNow, SlowPath, TrendingPost, said
from serving.rest.common import ASKED, STEPPED, Asked, answer, collection, described, path, respond
from serving.service import Service

Post = Annotated[str, path("The post.", "p00017")]
Named = Annotated[str, path("The service.", "gateway")]
Host = Annotated[str, path("The host.", "db-1")]


def router(service: Service, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1", tags=["metrics"])
    reader = Annotated[Caller, Depends(auth.caller(keys, "read:metrics"))]

    @made.get("/activity", responses=described("gold.activity_minute"), openapi_extra=STEPPED)
    async def activity(caller: reader, request: Request, wanted: Asked) -> Response:
        """Events and users a minute, by type of event (``gold.activity_minute``)."""
        return await respond(service, request, caller, wanted, wanted.of("gold.activity_minute", caller))

    @made.get("/activity/live", responses=said(LiveActivity) | documented(401, 403, 429, 503))
    async def live(caller: reader) -> Response:
        """Who is active now, and events of the last 60 s by type, as the real-time processor counts them."""
        return answer(await service.reads.site())

    @made.get("/posts/trending", responses=said(Collection[TrendingPost]) | documented(401, 403, 422, 429, 503))
    async def trending(
        caller: reader,
        device: Annotated[
            str | None, Query(max_length=100, description="For a kind of device alone.", examples=["ios"])
        ] = None,
        referrer: Annotated[
            str | None,
            Query(max_length=100, description="For who came from a host alone.", examples=["example.com"]),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Posts.")] = 20,
    ) -> Response:
        """The posts that draw attention now, the most first."""
        part = f"device:{device}" if device else f"referrer:{referrer}" if referrer else None
        return collection(await service.reads.trending(part, limit))

    @made.get("/posts/{post}/engagement", responses=described("gold.post_engagement_daily"), openapi_extra=ASKED)
    async def engagement(post: Post, caller: reader, request: Request, wanted: Asked) -> Response:
        """What a post drew, a day (``gold.post_engagement_daily``)."""
        question = wanted.of("gold.post_engagement_daily", caller, Condition("post_id", "eq", post))
        return await respond(service, request, caller, wanted, question)

    @made.get("/services", responses=said(Collection[ServiceNow]) | documented(401, 403, 404, 429, 503, 504))
    async def services(caller: reader) -> Response:
        """The newest minute of every service of the last day (``gold.service_health_minute``)."""
        found, snapshot = await measures.newest_of_services(service, caller)
        return answer({"data": formats.objects(found), "next": None, "version": snapshot.version})

    @made.get("/services/{name}/health", responses=described("gold.service_health_minute"), openapi_extra=STEPPED)
    async def health(name: Named, caller: reader, request: Request, wanted: Asked) -> Response:
        """Requests, errors and durations of a service, a minute."""
        question = wanted.of("gold.service_health_minute", caller, Condition("service", "eq", name))
        return await respond(service, request, caller, wanted, question)

    @made.get(
        "/services/{name}/paths",
        responses=said(Collection[SlowPath]) | documented(401, 403, 404, 422, 429, 503, 504),
    )
    async def paths(
        name: Named,
        caller: reader,
        minutes: Annotated[int, Query(ge=1, le=1440, description="Up to the newest log, how many minutes.")] = 60,
        limit: Annotated[int, Query(ge=1, le=100, description="Paths.")] = 20,
    ) -> Response:
        """A service's slowest paths in its newest minutes (``silver.service_logs``)."""
        found, snapshot = await measures.slowest_paths(service, caller, [name], minutes, limit)
        rows = formats.objects(found.drop_columns(["service_name"]))
        return answer({"data": rows, "next": None, "version": snapshot.version})

    @made.get("/hosts", responses=said(Collection[HostNow]) | documented(401, 403, 404, 429, 503, 504))
    async def hosts(caller: reader) -> Response:
        """Every host of the last day: its newest processor, memory and disk (``gold.host_utilization_minute``)."""
        found, snapshot = await measures.newest_of_hosts(service, caller)
        return answer({"data": formats.objects(found), "next": None, "version": snapshot.version})

    @made.get("/hosts/{name}/utilization", responses=described("gold.host_utilization_minute"), openapi_extra=STEPPED)
    async def utilization(name: Host, caller: reader, request: Request, wanted: Asked) -> Response:
        """A host's metrics, a minute; ``filter=metric:eq:system.cpu.total.norm.pct`` for one of them."""
        question = wanted.of("gold.host_utilization_minute", caller, Condition("host", "eq", name))
        return await respond(service, request, caller, wanted, question)

    @made.get("/anomalies", responses=described("gold.anomalies"), openapi_extra=ASKED)
    async def anomalies(caller: reader, request: Request, wanted: Asked) -> Response:
        """What was unusual (``gold.anomalies``)."""
        return await respond(service, request, caller, wanted, wanted.of("gold.anomalies", caller))

    @made.get("/forecasts", responses=described("gold.forecasts"), openapi_extra=ASKED)
    async def forecasts(caller: reader, request: Request, wanted: Asked) -> Response:
        """What is expected (``gold.forecasts``)."""
        return await respond(service, request, caller, wanted, wanted.of("gold.forecasts", caller))

    return made
