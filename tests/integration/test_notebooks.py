"""Every notebook runs to its end against real servers, with data and with empty tables, and shows what it says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from nbclient import NotebookClient

from lakehouse.flows import TABLES
from lakehouse.notebook import NOTEBOOKS, jupyter
from lakehouse.query import query
from lakehouse.runtime.ledger import LEDGER
from lakehouse.settings import Settings
from lakehouse.simulate import simulate
from lakehouse.sources.topics import create_topics
from tests.integration.lake import StreamProcess, environment, settled, until

pytestmark = pytest.mark.integration
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
SAID = ("gold.anomalies", "gold.forecasts", "gold.text_insights_daily")
"""What models say."""


@pytest.fixture(scope="module")
def lived(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The session's lake with half a day of a simulated service, in two cuts at least; nothing runs any more."""
    create_topics(stack)
    truth = tmp_path_factory.mktemp("truth") / "truth.json"
    with StreamProcess(stack):
        until(lambda: DeltaTable.is_deltatable(stack.table_uri(LEDGER.name)), 120)
        simulate(stack, 11, 300, 1, 0.5, truth, history_records=12_000)
        settled(stack)
        simulate(stack, 12, 300, 1, 0, truth)
        settled(stack)
    for name in SAID:  # by tests of models, on the same servers
        DeltaTable(stack.table_uri(name)).delete()
    return stack


@pytest.fixture(scope="module")
def kernels(lived: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Where kernels run, and their environment: that of `lakehouse notebook`; MLflow is a file there."""
    folder = tmp_path_factory.mktemp("kernel")
    given = jupyter(lived, 8888, browser=False)[1]
    own = {name: given[name] for name in ("PYTHONPATH", "JAVA_HOME")}
    return folder, environment(lived, LAKEHOUSE_MLFLOW__URI=f"sqlite:///{folder}/mlflow.db", **own)


def run(number: int, kernels: tuple[Path, dict[str, str]]) -> tuple[str, int]:
    """All that a notebook prints and shows as text, and how many plots it draws; an error of a cell is the test's."""
    (path,) = NOTEBOOKS.glob(f"{number:02d}-*.ipynb")
    folder, env = kernels
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=env)
    outputs: list[Any] = [output for cell in book.cells for output in cell.get("outputs", [])]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    assert number == 4 or warned == []  # MLflow tells there what it registers
    data = [output.data for output in outputs if "data" in output]
    texts = [output.text for output in outputs if "text" in output] + [one.get("text/plain", "") for one in data]
    return "\n".join(texts), sum("image/png" in one for one in data)


@pytest.fixture
def said(lived: Settings) -> Iterator[None]:
    """Some rows of each kind that models write, taken away again."""
    feed, views = "service/feed/p95_ms", "activity/view"
    rows: dict[str, list[dict[str, Any]]] = {
        "gold.anomalies": [
            {"series": feed, "time": NOW - timedelta(hours=1, minutes=minute), "value": 90.0, "expected": 40.0,
             "score": 0.7, "model_version": "1"} for minute in range(5)
        ],
        "gold.forecasts": [
            {"series": views, "time": NOW + timedelta(minutes=5 * step), "mean": 100.0, "lo": 80.0 - step,
             "hi": 120.0 + step, "model_version": "1", "made_at": NOW} for step in range(1, 13)
        ],
        "gold.text_insights_daily": [
            {"date": (NOW - timedelta(days=days)).date(), "source": source, "kind": kind, "term": term, "score": 0.5,
             "count": 7 + days}
            for days in (0, 1) for source, kind, term in (
                ("posts", "keyword", "sourdough"), ("comments", "sentiment", "positive"),
                ("comments:en", "sentiment", "positive"), ("errors", "error_cluster", "upstream did not answer"),
            )
        ],
    }  # fmt: skip
    for name, some in rows.items():
        write_deltalake(lived.table_uri(name), pa.Table.from_pylist(some, schema=TABLES[name].arrow), mode="append")
    yield
    for name in rows:
        DeltaTable(lived.table_uri(name)).delete()


@pytest.mark.timeout(600)
def test_first_look_asks_two_engines_and_draws_gold(kernels: tuple[Path, dict[str, str]]) -> None:
    text, plots = run(1, kernels)
    assert plots == 4 and "the same 10 rows of version" in text


@pytest.mark.timeout(600)
@pytest.mark.long
def test_one_sql_answers_from_three_stores(kernels: tuple[Path, dict[str, str]]) -> None:
    text, plots = run(2, kernels)
    assert plots == 1 and "mongodb.user_profiles" in text and "elasticsearch" in text.lower()


@pytest.mark.timeout(300)
def test_an_event_is_followed_and_the_ledger_adds_up(lived: Settings, kernels: tuple[Path, dict[str, str]]) -> None:
    text, plots = run(3, kernels)
    topic, partition, offset = query(
        lived,
        'select topic, partition, "offset" from silver.user_events order by timestamp desc, "offset" desc limit 1',
    ).rows[0]
    assert f"{topic}/{partition}/{offset}: valid" in text
    assert ": quarantined" in text and ": duplicate" in text and "before its batch" in text
    assert plots == 3


@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_model_is_trained_and_its_runs_are_compared(kernels: tuple[Path, dict[str, str]]) -> None:
    text, plots = run(4, kernels)
    assert plots == 2 and "version 1: ndcg@10" in text and "challenger" in text and "Nothing was decided yet" in text


@pytest.mark.timeout(300)
def test_where_no_model_has_said_anything_sentences_say_so(
    lived: Settings, kernels: tuple[Path, dict[str, str]]
) -> None:
    assert [query(lived, f"select count(*) from {name}").rows[0][0] for name in SAID] == [0, 0, 0]
    text, plots = run(5, kernels)
    assert plots == 0 and "No anomaly is on record" in text and "There is no forecast" in text
    text, plots = run(6, kernels)
    assert plots == 0 and "No day's texts have been read yet" in text


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("said")
def test_what_models_say_is_drawn(kernels: tuple[Path, dict[str, str]]) -> None:
    assert run(5, kernels)[1] == 2
    text, plots = run(6, kernels)
    assert plots == 3 and "upstream did not answer" in text
