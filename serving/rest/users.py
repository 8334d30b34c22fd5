"""``/v1/users/{id}``: a user's activity, recommendations and notifications. A user's token reaches its own alone."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from serving import auth, formats
from serving.ask import Condition, ask
from serving.auth import Caller
from serving.catalog import find
from serving.problems import Problem, documented
from serving.recommend import Recommendations
from serving.rest.answers import Collection, Notification, Recommended, UserActivity, said
from serving.rest.common import answer, collection, path
from serving.service import Service

User = Annotated[str, path("The user's id.", "u00036")]


def router(service: Service, recommend: Recommendations, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1/users/{user}", tags=["users"], responses=documented(401, 403, 404, 422, 429, 503))
    reader = Annotated[Caller, Depends(auth.caller(keys, "read:users"))]

    @made.get("/activity", responses=said(UserActivity) | documented(504))
    async def activity(
        user: User,
        caller: reader,
        days: Annotated[int, Query(ge=1, le=366, description="Days on which the user did something.")] = 30,
    ) -> Response:
        """A user's newest days (``gold.user_activity_daily``), what they do now, and their profile."""
        service.about(caller, user)
        table = find("gold.user_activity_daily")
        columns = ",".join(name for name in table.table.schema.names if name not in table.personal)
        question = ask(table, caller, where=[Condition("user_id", "eq", user)], select=columns, limit=days)
        page = await service.page(caller, question, recorded=False)
        live = (await service.reads.live_users([user])).get(user)
        profile = (await service.reads.profiles([user])).get(user)
        if page.rows.num_rows == 0 and live is None and profile is None:
            raise Problem(404, "no-such-user", "There is no such user for this token.")
        service.record(caller, "user activity", ("user_id",), 1, None)
        found = {"user_id": user, "days": formats.objects(page.rows), "live": live, "profile": profile}
        return answer({**found, "version": page.snapshot.version})

    @made.get("/recommendations", responses=said(Recommended))
    async def recommendations(
        user: User, caller: reader, limit: Annotated[int, Query(ge=1, le=100, description="Posts.")] = 20
    ) -> Response:
        """What a user should see next, by the champion; what is popular where nothing is known of them."""
        service.about(caller, user)
        found = await recommend.of_user(user, limit)
        service.record(caller, "recommendations", ("user_id",), 1, None)
        return answer(found)

    @made.get("/notifications", responses=said(Collection[Notification]))
    async def notifications(
        user: User,
        caller: reader,
        limit: Annotated[int, Query(ge=1, le=200, description="Notifications.")] = 50,
        cursor: Annotated[str | None, Query(max_length=4096, description="`next` of the page before.")] = None,
    ) -> Response:
        """What a user was told, the newest first. Texts are null without ``read:pii``, but for one's own."""
        service.about(caller, user)
        about = f"notifications {user}"
        after = service.cursors.open(caller, about, cursor)[0] if cursor else None
        found = await service.reads.notifications(user, (after[0], after[1]) if after else None, limit + 1)
        following = None
        if len(found) > limit:
            found = found[:limit]
            following = service.cursors.seal(caller, about, [found[-1]["at"], found[-1]["id"]], None)
        service.record(caller, "notifications", ("user_id", "text"), len(found), None)
        return collection([service.told(row, caller) for row in found], following)

    return made
