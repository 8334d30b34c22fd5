import sys
from pathlib import Path

import pytest

from lakehouse.bench.figures import BenchError
from lakehouse.bench.streams import Mark, Rate, measured, rate

SAYS = "import sys, time; warm, all = sys.argv[1:]; "


def test_what_came_before_the_first_mark_does_not_count() -> None:
    marks = [Mark(100, at=50.0, cpu=30.0), Mark(1100, at=52.0, cpu=34.0)]
    assert rate(marks) == Rate(records_per_s=500.0, records_per_cpu_s=250.0)


def test_too_few_records_to_measure_with_are_refused() -> None:
    with pytest.raises(BenchError, match="measure with more"):
        rate([Mark(1000, at=50.0, cpu=30.0)])


def test_a_process_is_measured_between_a_tenth_and_all(tmp_path: Path) -> None:
    work = "print('processed', warm, 0, flush=True)\nwhile time.process_time() < 0.4: 0\nprint('processed', all, 10**9)"
    found = measured("x", [sys.executable, "-c", SAYS + work], 1000, tmp_path)
    assert found.records_per_s == 900.0
    assert 0 < found.records_per_cpu_s < 900 / 0.2


def test_a_process_that_ends_early_is_an_error_with_its_last_word(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="x has ended: no broker; it had processed fewer than 100 of 1,000 records"):
        measured("x", [sys.executable, "-c", "import sys; sys.exit('no broker')"], 1000, tmp_path)


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="x took longer than 0 s; it had processed 100 of 1,000 records"):
        measured("x", [sys.executable, "-c", SAYS + "print('processed', warm, 0, flush=True); time.sleep(60)"],
                 1000, tmp_path, within_s=0.4)  # fmt: skip
