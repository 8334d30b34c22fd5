"""The notebooks as they are committed: without outputs, made for any Python 3 kernel, and written like the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lakehouse.notebook import NOTEBOOKS

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
