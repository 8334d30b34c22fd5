"""What ``up`` runs beside the servers, and on which ports."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import get_args

import pytest

from lakehouse import components, doctor, running, schedule, stack
from lakehouse.settings import Component, Settings, SettingsError, load

OURS = {"stream", "schedule", "alerts", "collect", "serve", "realtime", "mlflow"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.delenv("LAKEHOUSE_JARS", raising=False)  # the Beats are looked for beside them
    return load()


def built(settings: Settings) -> None:
    for name in ("filebeat", "metricbeat"):
        path = stack.beats._folder(settings) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_without_the_beats_our_own_shippers_run(settings: Settings) -> None:
    assert running.programs(settings).keys() == OURS | {"ship-logs", "ship-metrics"}


def test_the_real_beats_run_where_they_are_built(settings: Settings) -> None:
    built(settings)
    programs = running.programs(settings)
    assert programs.keys() == OURS | {"filebeat", "metricbeat"}
    assert programs["filebeat"].env["COLLECT_BEATS"] == settings.collect.beats
    assert programs["filebeat"].env["LOGS"] == str(settings.home / "service-logs")


def test_a_home_whose_files_our_shipper_began_stays_with_it(settings: Settings) -> None:
    built(settings)
    (settings.home / "ship").mkdir(parents=True)
    (settings.home / "ship" / "logs.queue").touch()
    assert running.programs(settings).keys() == OURS | {"ship-logs", "metricbeat"}


def test_beside_servers_of_others_nothing_is_shipped(settings: Settings) -> None:
    assert running.programs(settings.model_copy(update={"servers": "existing"})).keys() == OURS


@pytest.mark.parametrize(
    ("off", "without"),
    [
        ("collect", {"collect", "ship-logs"}), ("ship", {"ship-logs", "ship-metrics"}), ("realtime", {"realtime"}),
        ("alerts", {"alerts"}), ("schedule", {"schedule"}), ("models", {"mlflow"}), ("serve", {"serve"}),
        ("mongodb", {"alerts"}), ("redis", {"realtime"}), ("elasticsearch", set()),
    ],
)  # fmt: skip
def test_what_is_off_is_not_run_nor_what_needs_it(settings: Settings, off: Component, without: set[str]) -> None:
    left = Settings(home=settings.home, off=(off,))
    assert running.programs(left).keys() == running.programs(Settings(home=settings.home)).keys() - without
    assert off not in left.stream.stores and off not in stack.status(left)
    assert not [finding for finding in doctor.servers(left) if off in finding.said]


def test_all_that_may_be_off_leaves_the_stream(settings: Settings) -> None:
    left = Settings(home=settings.home, off=get_args(Component))
    assert running.programs(left).keys() == {"stream"} and left.stream.stores == ()
    assert stack.status(left).keys() == {"kafka", "namenode", "datanode"}


def test_without_models_their_jobs_are_left_out(settings: Settings) -> None:
    left = Settings(home=settings.home, off=("models",))
    due = {name for name, job in schedule.read().items() if components.due(left, job.run[0])}
    assert {"audit", "maintain", "report"} == due


def test_a_component_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_OFF", '["kafka"]')
    with pytest.raises(SettingsError, match="setting off"):
        load()


def test_a_taken_port_is_left_and_the_new_one_is_found_by_all(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = settings.model_copy(update={"api": settings.api.model_copy(update={"port": port})})
        placed = running.placed(wanted)
    assert placed.api.port != port
    assert load().api.port == placed.api.port and load().collect == placed.collect
