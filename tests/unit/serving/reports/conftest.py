"""A week of a small service, written once for all tests, and the report of its last day."""

from __future__ import annotations

import pytest

from lakehouse.settings import Settings
from serving.report import data
from serving.report.facts import Report
from tests.unit.serving.reports import week


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return week.week(tmp_path_factory.mktemp("week"))


@pytest.fixture(scope="session")
def report(lake: Settings) -> Report:
    return data.report(lake, week.DATE, week.NOW, week.telling)
