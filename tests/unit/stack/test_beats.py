"""Building the Beats: when it can be done, and from which sources a binary is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse.settings import Settings
from lakehouse.stack import StackError, beats


def go(folder: Path, body: str) -> None:
    """A toolchain in ``folder``."""
    program = folder / "go"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "go.mod").write_text("module x\n")
    monkeypatch.setattr(beats, "SOURCES", sources)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return Settings(home=tmp_path / "home")


def test_without_go_the_error_names_what_does_without(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StackError, match=r"no Go toolchain; install Go 1\.25, or go without: `lakehouse ship"):
        beats.build(settings)
    assert beats.beat(settings, "filebeat") is None


def test_an_old_go_will_not_do(settings: Settings, tmp_path: Path) -> None:
    go(tmp_path, "echo go1.22.3")
    assert beats.lacking() == "Go is go1.22.3, older than 1.25"


def test_what_was_built_holds_until_the_sources_change(settings: Settings, tmp_path: Path) -> None:
    go(
        tmp_path,
        'case $1 in env) echo go1.26.1;; build) while [ "$1" != -o ]; do shift; done; echo built > "$2";; esac',
    )
    built = beats.build(settings)
    assert [path.read_text() for path in built] == ["built\n", "built\n"]
    assert beats.beat(settings, "metricbeat") == built[1]
    go(tmp_path, "exit 1")
    assert beats.build(settings) == built
    (tmp_path / "sources" / "more.go").write_text("package x\n")
    assert beats.beat(settings, "filebeat") is None


def test_a_failed_build_says_why_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    go(tmp_path, "case $1 in env) echo go1.26.1;; build) echo no such module >&2; exit 1;; esac")
    with pytest.raises(StackError, match="filebeat does not build: no such module; run `make beats` again"):
        beats.build(settings)
    assert beats.beat(settings, "filebeat") is None


def test_modules_come_from_a_proxy_alone(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "https://proxy.example,direct")
    go(tmp_path, 'case $1 in env) echo go1.26.1;; build) echo "from $GOPROXY" >&2; exit 1;; esac')
    with pytest.raises(StackError, match=r"from https://proxy\.example;"):
        beats.build(settings)
