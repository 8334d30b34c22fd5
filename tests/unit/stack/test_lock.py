import pytest

from lakehouse.stack import lock
from lakehouse.stack.errors import StackError
from lakehouse.stack.lock import Jar

SHA = "0123456789abcdef" * 4


def test_coordinates_with_and_without_classifier_name_the_files_as_maven_does() -> None:
    jars = lock.parse(f"# comment\n[kafka]\na.b:c:1.0 {SHA}\na.b:c:linux-x86_64:1.0 {SHA}\n")["kafka"]
    assert [jar.filename for jar in jars] == ["c-1.0.jar", "c-1.0-linux-x86_64.jar"]


def test_what_is_rendered_parses_to_the_same() -> None:
    sections = {"a": [Jar("g", "x", "1", "", SHA), Jar("g", "y", "2", "native", SHA)], "b": []}
    assert lock.parse(lock.render(sections)) == sections


@pytest.mark.parametrize(
    "text",
    [
        f"a:b:1 {SHA}",  # before any section
        "[s]\na:b:1 0123",  # not a SHA-256
        f"[s]\na:1 {SHA}",
        f"[s]\na:b:1 {SHA} extra",
        f"[s]\na:b:1 {SHA}\nother:b:1 {SHA}",  # would share a file name
    ],
)
def test_a_malformed_line_is_refused_with_its_number(text: str) -> None:
    with pytest.raises(StackError, match=rf"jars.lock:{len(text.splitlines())}: "):
        lock.parse(text)


def test_the_committed_lock_has_every_section_and_no_address() -> None:
    assert set(lock.read()) == set(lock.WANTED)
    assert "//" not in lock.LOCK.read_text()


def test_each_wanted_jar_is_locked_at_its_version() -> None:
    for name, wanted in lock.WANTED.items():
        assert {entry.split(" ")[0] for entry in wanted} <= {jar.coordinates for jar in lock.read()[name]}
