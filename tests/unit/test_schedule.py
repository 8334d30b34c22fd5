from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.schedule import TIMETABLE, Job, Runner, Runs, ScheduleError, read

PYTHON = (sys.executable, "-c")
AT_ONCE = timedelta(0)


def runner(folder: Path) -> Runner:
    return Runner(Runs(folder / "runs.jsonl"), PYTHON)


def attempts(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def job(code: str, **fields: object) -> Job:
    return Job.model_validate({"run": [code], "every": timedelta(hours=1), "pause": AT_ONCE, **fields})


def test_the_shipped_timetable_can_be_kept() -> None:
    assert all(entry.trigger() for entry in read(TIMETABLE).values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobs: {a: {run: [audit]}}", "jobs.a: .*either cron or every"),
        ("jobs: {a: {run: [audit], cron: nonsense}}", "jobs.a"),
        ("jobs: {a: {run: [audit], every: PT1H, colour: red}}", "jobs.a.colour"),
        ("jobs: {a: {run: [], every: PT1H}}", "jobs.a.run"),
        ("jobs: [", "not valid YAML"),
    ],
)
def test_a_wrong_timetable_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=words):
        read(path)


def test_a_missing_timetable_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="No such file"):
        read(tmp_path / "schedule.yaml")


def test_a_run_is_recorded_with_its_last_words(tmp_path: Path) -> None:
    assert runner(tmp_path).run("a", job("print('done')")) == "ok"
    [run] = attempts(tmp_path)
    assert (run["name"], run["outcome"], run["exit_code"], run["output"]) == ("a", "ok", 0, "done")


def test_a_failing_job_is_tried_again_and_never_raises(tmp_path: Path) -> None:
    assert runner(tmp_path).run("a", job("raise SystemExit(1)", retries=2)) == "failed"
    assert [run["attempt"] for run in attempts(tmp_path)] == [1, 2, 3]


def test_a_check_that_found_problems_is_told_and_not_repeated(tmp_path: Path) -> None:
    assert runner(tmp_path).run("a", job("raise SystemExit(3)", retries=2)) == "problems"
    assert len(attempts(tmp_path)) == 1


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    endless = job("import time; time.sleep(60)", timeout=timedelta(milliseconds=300), retries=0)
    assert runner(tmp_path).run("a", endless) == "timed out"


def test_a_command_that_is_not_there_is_a_failure_like_others(tmp_path: Path) -> None:
    assert Runner(Runs(tmp_path / "runs.jsonl"), (str(tmp_path / "nothing"),)).run("a", job("x", retries=0)) == "failed"


def test_a_stopped_runner_does_not_wait_for_the_next_attempt(tmp_path: Path) -> None:
    stopped = runner(tmp_path)
    stopped.stop()
    assert stopped.run("a", job("raise SystemExit(1)", retries=5, pause=timedelta(hours=1))) == "failed"
    assert len(attempts(tmp_path)) == 1


def test_the_record_is_bounded_and_survives_a_torn_line(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.jsonl", kept=3)
    for number in range(20):
        runs.add({"name": "a", "number": number})
    assert len(runs.path.read_text().splitlines()) <= 6
    with runs.path.open("a") as file:
        file.write('{"name": "a", "num')
    assert runs.latest()["a"]["number"] == 19
