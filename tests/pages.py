"""Pages of Markdown as tests read them: their blocks of code, and the commands of `lakehouse` in them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lakehouse.settings import PROJECT

DOCS = PROJECT / "docs"
_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<marker>.+?) -->\s*\n\s*)?```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A block of code: where, in which language, what a comment before it says of it, and what it is to print."""

    page: Path
    line: int
    language: str
    marker: str
    body: str
    shown: str = ""

    @property
    def exit_code(self) -> int:
        """What it is to end with: ``<!-- exit 3 -->``."""
        return int(self.marker.removeprefix("exit ")) if self.marker.startswith("exit ") else 0


def pages() -> list[Path]:
    """Every page that is written by hand."""
    return [PROJECT / "README.md", PROJECT / "README.ko.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """A page's blocks; a block of text right after one of bash is what that prints."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    ended = 0
    for match in _BLOCK.finditer(text):
        body = "\n".join(line.removeprefix(match["indent"]) for line in match["body"].splitlines())
        before = found[-1] if found else None
        if (
            match["language"] == "text"
            and before
            and before.language == "bash"
            and not text[ended : match.start()].strip()
        ):
            found[-1] = Block(before.page, before.line, before.language, before.marker, before.body, body)
        else:
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match["language"], match["marker"] or "", body))
        ended = match.end()
    return found


# --- commands ------------------------------------------------------------------------------------------------------


def commands(shell: str) -> Iterator[list[str]]:
    """The arguments of every `lakehouse` in lines of a shell, also of those within ``$(...)`` and quotes."""
    shell = re.sub(r"<<'(\w+)'.*?^\1$", "", shell, flags=re.M | re.S).replace("\\\n", " ")
    # A comment ends with its line, whose end is read with it: so each line ends twice.
    lexer = shlex.shlex(shell.replace("\n", "\n\n"), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[str] | None = None
    first = True  # the place of a command: what follows an assignment is one, too
    for token in lexer:
        if "$(" in token:
            for inner in re.findall(r"\$\((lakehouse [^()]*)\)", token):
                yield from commands(inner)
        if set(token) <= set("();<>|&\n"):
            if found is not None:
                yield found
            found, first = None, not set(token) & set("<>")
        elif found is not None:
            found.append(token)
        elif first and token.rpartition("/")[2] == "lakehouse":
            found = []
        else:
            first = first and re.match(r"\w+=", token) is not None
    if found is not None:
        yield found


def named(prose: str) -> Iterator[str]:
    """Commands that stand in a text between backticks."""
    for match in re.finditer(r"`(?:\.venv/bin/)?lakehouse ([a-z][^`]*)`", " ".join(prose.split())):
        yield from (one.removeprefix("lakehouse ") for one in re.split(r"\s*(?:;|&&)\s*", match[1]))


# --- running -------------------------------------------------------------------------------------------------------


class Shell:
    """One bash in which blocks are run in turn, as a reader would type them."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.bash = subprocess.Popen(
            ["bash"], cwd=folder, env=dict(env), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, block: Block) -> tuple[int, str]:
        """Run a block: the exit code of the first command that failed, 0 where none did, and what was printed."""
        script, printed = self.folder / ".block.sh", self.folder / ".printed"
        script.write_text(block.body + "\n")
        printed.touch()
        assert self.bash.stdin and self.bash.stdout
        self.bash.stdin.write(
            f"failed=0; trap 'code=$?; [ $failed = 0 ] && failed=$code' ERR; "
            f". {shlex.quote(str(script))} >{shlex.quote(str(printed))} 2>&1 </dev/null; "
            "trap - ERR; echo done $failed\n"
        )
        self.bash.stdin.flush()
        answer = self.bash.stdout.readline().split()
        return int(answer[1]) if answer[:1] == ["done"] else -1, printed.read_text(errors="replace")

    def end(self) -> None:
        """End the shell."""
        self.bash.kill()
        self.bash.wait()


def missing(shown: str, printed: str) -> list[str]:
    """The lines of a page's output that were not printed, in order; ``…`` is anything, a space any number of them."""
    at, left = 0, []
    for line in filter(str.strip, shown.splitlines()):
        parts = [r"\s+".join(map(re.escape, part.split())) for part in re.split("…", line.strip())]
        pattern = r"[^\n]*?".join(rf"\s*{part}\s*" if part else "" for part in parts)
        match = re.compile(pattern).search(printed, at)
        if match is None:
            left.append(line)
        else:
            at = match.end()
    return left


def reader(home: Path, jars: Path, folder: Path, python: str) -> dict[str, str]:
    """The environment of somebody who reads along: a home of their own, `lakehouse` and `python` on the path."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "lakehouse").write_text(f'#!/bin/sh\nexec {shlex.quote(python)} -m lakehouse.cli "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    path = f"{PROJECT / 'src'}:{PROJECT}"
    own = {"LAKEHOUSE_HOME": str(home), "LAKEHOUSE_JARS": str(jars), "PYTHONPATH": path}
    return kept | own | {"PATH": f"{programs}:{kept['PATH']}"}
