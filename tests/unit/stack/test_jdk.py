from collections.abc import Callable
from pathlib import Path

import pytest

from lakehouse.stack import jdk

FULL = "java.base@17.0.15\njdk.jdi@17.0.15\njdk.jlink@17.0.15\njdk.net@17.0.15\n"
Make = Callable[[str, str], Path]


@pytest.fixture
def java(tmp_path: Path) -> Make:
    def make(name: str, modules: str) -> Path:
        path = tmp_path / name / "bin" / "java"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\ncat <<END\n{modules}END\n")
        path.chmod(0o755)
        return path

    return make


def test_java_home_comes_before_path(java: Make) -> None:
    home, path = java("home", FULL), java("path", FULL)
    environ = {"JAVA_HOME": str(home.parent.parent), "PATH": f"{path.parent}:/bin"}
    assert jdk.find(environ, places=()) == (home, [])


def test_a_slim_java_is_passed_over_for_a_full_one(java: Make, tmp_path: Path) -> None:
    slim, full = java("slim", "java.base@17.0.1\njdk.net@17.0.1\n"), java("jvm/full", FULL)
    found, refused = jdk.find({"PATH": f"{slim.parent}:/bin"}, places=(f"{tmp_path}/jvm/*",))
    assert found == full
    assert refused == [f"{slim} lacks the modules jdk.jdi, jdk.jlink"]


def test_another_version_is_refused_by_its_number(java: Make) -> None:
    newer = java("newer", FULL.replace("17.0.15", "21.0.2"))
    found, refused = jdk.find({"PATH": f"{newer.parent}:/bin"}, places=())
    assert found is None
    assert refused == [f"{newer} is version 21.0.2, not 17"]


def test_a_java_home_without_java_is_said_to_be_so(tmp_path: Path) -> None:
    found, (refused,) = jdk.find({"JAVA_HOME": str(tmp_path)}, places=())
    assert found is None
    assert "does not run" in refused
