"""Take outputs, counts and metadata out of notebooks, and number the cells: what is committed is what was written.

``python notebooks/strip.py [FILE]...``, by default all beside it; exit code 1 where one was changed. A hook of
``.pre-commit-config.yaml`` runs it.
"""

import sys
from pathlib import Path

import nbformat

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stripped(path: Path) -> str:
    """The text of a notebook as it is committed."""
    book = nbformat.read(path, as_version=4)
    cells = [cell for cell in book.cells if cell.source.strip()]
    for number, cell in enumerate(cells, 1):
        cell.id, cell.metadata = f"{path.name[:2]}-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    return str(nbformat.writes(made, indent=1)).rstrip("\n") + "\n"


if __name__ == "__main__":
    changed = 0
    for path in [Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb")):
        text = stripped(path)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"stripped {path}")
            changed = 1
    sys.exit(changed)
