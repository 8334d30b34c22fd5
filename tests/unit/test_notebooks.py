"""The notebooks as they are committed, without outputs, and what their cells ask with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from lakehouse.notebook import NOTEBOOKS, NotebookError, history, jupyter, sql, table
from lakehouse.query import QueryError
from lakehouse.settings import PROJECT, Settings, settings
from lakehouse.sources.lake import LakeError
from tests.unit.local_lake import local_lake, write

AT = datetime(2026, 1, 1, tzinfo=UTC)
FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_they_are_numbered() -> None:
    assert [path.name[:3] for path in FILES] == [f"{number:02d}-" for number in range(1, len(FILES) + 1)]
    assert len(FILES) >= 6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_committed_without_outputs_and_traces_of_whoever_ran_it(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert [cell.id for cell in book.cells if cell.metadata or not cell.source.strip()] == []
    assert [cell.id for cell in book.cells] == [
        f"{path.name[:2]}-{number:02d}" for number in range(1, len(book.cells) + 1)
    ]
    assert book.cells[0].cell_type == "markdown" and book.cells[0].source.startswith("# ")


def test_stripping_takes_all_that_running_and_editing_leave(tmp_path: Path) -> None:
    path = tmp_path / FILES[0].name
    book = nbformat.read(FILES[0], as_version=4)
    book.metadata["language_info"]["version"] = "3.11.9"
    for number, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"random-{number}", nbformat.NotebookNode(scrolled=True)
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = number, [nbformat.v4.new_output("stream", text="ran")]
    book.cells.append(nbformat.v4.new_code_cell(""))
    nbformat.write(book, path)
    done = subprocess.run([sys.executable, NOTEBOOKS / "strip.py", path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and path.name in done.stdout  # as a hook does that changed something
    assert path.read_bytes() == FILES[0].read_bytes()
    assert subprocess.run([sys.executable, NOTEBOOKS / "strip.py", path], check=False).returncode == 0


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Two versions of a table, in the lake of this process's settings."""
    made = local_lake(tmp_path)
    for name, value in {"HOME": str(made.home), "HDFS__URI": made.hdfs.uri, "HDFS__ROOT": made.hdfs.root}.items():
        monkeypatch.setenv(f"LAKEHOUSE_{name}", value)
    settings.cache_clear()
    for events in (1, 2):
        write(made, "gold.activity_minute", [{"window_start": AT, "event_type": "view", "events": events, "users": 1}])
    yield made
    settings.cache_clear()


@pytest.mark.usefixtures("lake")
def test_a_table_is_a_frame_of_its_newest_or_any_version() -> None:
    frame = table("gold.activity_minute", columns=["window_start", "events"], where="events > 1")
    assert frame.to_dict("records") == [{"window_start": pd.Timestamp(AT), "events": 2}]
    commits = history("gold.activity_minute")
    assert list(commits["version"]) == [1, 0]
    assert [len(table("gold.activity_minute", version)) for version in (None, 1, 0)] == [2, 2, 1]
    for version, at in zip(commits["version"], commits["at"], strict=True):
        assert len(table("gold.activity_minute", at.to_pydatetime())) == version + 1


@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: table("gold.activity_minut"), "did you mean gold.activity_minute?"),
        (lambda: table("gold.activity_minute", columns=["evnts"]), "did you mean events?"),
        (lambda: table("gold.activity_minute", 7), "version 7 is not readable"),
        (lambda: table("gold.activity_minute", AT), "what is known of it begins at"),
        (lambda: table("gold.activity_minute", AT.replace(tzinfo=None)), "a datetime with its offset"),
        (lambda: sql("drop table gold.activity_minute"), "one SELECT at a time"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(ask: Callable[[], object], words: str) -> None:
    with pytest.raises((QueryError, LakeError, NotebookError)) as caught:
        ask()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_importing_loads_neither_spark_nor_frames() -> None:
    code = "import sys, lakehouse.notebook; print({'pyspark', 'pandas', 'duckdb', 'deltalake'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_jupyter_listens_on_loopback_with_a_token_and_kernels_find_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("JAVA_HOME", "/java")
    command, env = jupyter(local_lake(tmp_path), 8899, browser=False)
    assert {"--ServerApp.ip=127.0.0.1", "--ServerApp.port=8899", f"--ServerApp.root_dir={NOTEBOOKS}"} <= {*command}
    assert not any("token" in one or "password" in one for one in command)  # Jupyter then makes a token
    assert env["PYTHONPATH"].split(":") == [str(PROJECT / "src"), str(PROJECT), "/mine"]
    assert env["JAVA_HOME"] == "/java"
