"""Text analysis with Spark NLP: sentiments of comments never seen, keywords and groups of errors that were planted."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lakehouse.gold.text_insights_daily import TABLE
from lakehouse.settings import PROJECT


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, seed = tmp_path_factory.mktemp("text"), secrets.randbelow(2**32)
    jars = os.environ.get("LAKEHOUSE_JARS", str(PROJECT / ".lakehouse" / "jars"))
    print(f"seed {seed}")
    command = [sys.executable, "-m", "tests.streaming.text_trial", str(folder), jars, str(seed)]
    path = os.pathsep.join([str(PROJECT / "src"), str(PROJECT)])
    done = subprocess.run(command, cwd=PROJECT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(Path(folder, "found.json").read_text())
    return document


@pytest.mark.parametrize("language", ["en", "ko"])
def test_four_of_five_sentiments_are_told_in_comments_never_seen(found: dict[str, Any], language: str) -> None:
    assert found["evaluation"]["accuracy"][language] >= 0.8, found["evaluation"]


def test_phrases_that_all_texts_share_are_the_first_keywords(found: dict[str, Any]) -> None:
    ranked = sorted(found["keywords"], key=lambda row: -row[2])
    counts = {term: count for _, term, _, count in ranked[:2]}
    assert set(counts) == {"harbour bridge", "제주 바다"}
    assert sum(counts.values()) == 80


def test_errors_that_differ_in_numbers_names_or_a_word_are_one_group(found: dict[str, Any]) -> None:
    assert {term: count for term, _, count in found["errors"]} == {
        "connection <*> refused by upstream <*>": 9,
        "could not parse <*> in the header of the request": 4,
        "disk full": 1,
    }
    assert all(0.5 <= score <= 1 for _, score, _ in found["errors"])


def test_the_days_rows_are_those_of_the_table_with_each_key_once(found: dict[str, Any]) -> None:
    rows = found["insights"]
    assert {len(row) for row in rows} == {len(TABLE.schema.names)}
    assert len({tuple(row[:4]) for row in rows}) == len(rows)
    assert {row[0] for row in rows} == {"2024-05-10"}
    assert {(row[1], row[2]) for row in rows} >= {
        ("searches", "keyword"),
        ("errors", "keyword"),
        ("errors", "error_cluster"),
    }
    assert sum(row[5] for row in rows if row[2] == "error_cluster") == 15


def test_sentiments_count_the_days_comments_in_all_and_by_language(found: dict[str, Any]) -> None:
    counts = {(source, term): count for _, source, kind, term, _, count in found["insights"] if kind == "sentiment"}
    assert counts == {
        ("comments", "positive"): 2,
        ("comments", "negative"): 1,
        ("comments:en", "positive"): 1,
        ("comments:en", "negative"): 1,
        ("comments:ko", "positive"): 1,
    }


def test_a_configured_pipeline_tells_the_sentiments_instead(found: dict[str, Any]) -> None:
    assert sorted((row[1], row[3], row[5]) for row in found["configured"]) == [
        ("comments", "positive", 1),
        ("comments:en", "positive", 1),
    ]
