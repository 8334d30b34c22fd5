"""Whatever is asked, the API answers as its description says, and never with a fault (Schemathesis)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from serving.openapi import described
from tests.unit.serving.whole import SCOPES, USER, application, filled, served, token

schema = schemathesis.openapi.from_dict(described())
EVERYTHING = token(*SCOPES)
ITS_OWN = token(*SCOPES, user=USER)
NOT_HELD: list[CheckFunction] = [
    positive_data_acceptance,  # the words of filters, columns and cursors mean more than a schema says
    negative_data_rejection,  # in paths and queries all is text, and some routes pass over what they do not know
]
ELSEWHERE = r"^/(graphql|reports)|^/v1/stream"
"""What has such tests of its own, or answers without end."""

LONGEST_HEAD = 60_000
NEEDS = {"/v1/alerts": "mongodb"}
"""What asks a store that is not there in these tests."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(application(filled(tmp_path_factory.mktemp("lake")))) as address:
        yield address


def quickly(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def held(case: schemathesis.Case, url: str, headers: dict[str, str]) -> None:
    as_described(case, case.call(base_url=url, headers=headers, timeout=60), headers)


def as_described(case: schemathesis.Case, response: schemathesis.Response, headers: dict[str, str]) -> None:
    if len(str(response.request.url)) > LONGEST_HEAD:
        assert response.status_code == 400  # the server's, before the API sees it
        return
    if case.path in NEEDS and response.status_code == 503:
        assert response.json()["store"] == NEEDS[case.path]
        return
    case.validate_response(response, excluded_checks=NOT_HELD, headers=headers)


@schema.exclude(path_regex=ELSEWHERE).parametrize()
@quickly(25)
def test_an_answer_is_as_described(case: schemathesis.Case, url: str) -> None:
    held(case, url, EVERYTHING)


@schema.exclude(path_regex=ELSEWHERE).parametrize()
@quickly(5)
def test_an_answer_to_a_users_token_is_as_described(case: schemathesis.Case, url: str) -> None:
    held(case, url, ITS_OWN)


def test_answers_lead_to_others_as_described(url: str) -> None:
    class Walk(schema.exclude(path_regex=ELSEWHERE).as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, object]:
            return {"headers": EVERYTHING, "base_url": url, "timeout": 60}

        def validate_response(self, response: schemathesis.Response, case: schemathesis.Case, **more: object) -> None:
            as_described(case, response, EVERYTHING)

    Walk.run(settings=settings(quickly(30), stateful_step_count=6))


@pytest.mark.long
@schema.exclude(path_regex=ELSEWHERE).parametrize()
@quickly(500)
def test_an_answer_is_as_described_for_long(case: schemathesis.Case, url: str) -> None:
    held(case, url, EVERYTHING)
