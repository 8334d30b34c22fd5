"""The error catalogue: every exception class and every problem of the API, as the code has them, with a remedy each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from docs.made.text import ROOT, code, parsed, prose

REMEDIES = ROOT / "docs/made/remedies.yaml"
SOURCES = ("src/lakehouse", "serving", "models")


@dataclass
class Known:
    """An exception class or a problem: where, what it says, and in which words."""

    name: str
    path: Path
    about: str
    statuses: set[int] = field(default_factory=set)
    messages: dict[str, None] = field(default_factory=dict)


def files() -> list[Path]:
    """Every file of Python that runs in the product."""
    return [path for source in SOURCES for path in sorted((ROOT / source).rglob("*.py"))]


def exceptions() -> dict[str, Known]:
    """Every public exception class by name, with the messages that it is made with."""
    bases: dict[str, tuple[ast.ClassDef, Path]] = {}
    for path in files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, (node, path))

    def raised(name: str, seen: frozenset[str] = frozenset()) -> bool:
        if name in ("Exception", "ValueError", "RuntimeError", "OSError", "LookupError", "KeyError"):
            return True
        if name not in bases or name in seen:
            return False
        parents = (ast.unparse(base) for base in bases[name][0].bases)
        return any(raised(parent, seen | {name}) for parent in parents)

    found = {
        name: Known(name, path, prose(ast.get_docstring(node)))
        for name, (node, path) in sorted(bases.items())
        if not name.startswith("_") and raised(name)
    }
    for call in _calls():
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name in found and call.args and (text := words(call.args[-1 if name == "LimitError" else 0])):
            found[name].messages[text] = None
    return found


def problems() -> dict[str, Known]:
    """Every problem type of the API by name, with its statuses and details."""
    found: dict[str, Known] = {}
    for path in files():
        for call in ast.walk(parsed(path)):
            match call:
                case ast.Call(func=ast.Name(id="Problem") | ast.Attribute(attr="__init__"), args=[status, name, *rest]):
                    type_ = words(name)
                    if not re.fullmatch(r"[a-z{}-]+", type_):
                        continue
                    known = found.setdefault(type_, Known(type_, path, ""))
                    if isinstance(status, ast.Constant) and isinstance(status.value, int):
                        known.statuses.add(status.value)
                    if rest and (text := words(rest[0])):
                        known.messages[text] = None
    return dict(sorted(found.items()))


def _calls() -> Iterator[ast.Call]:
    for path in files():
        yield from (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))


def words(node: ast.expr) -> str:
    """A text as it is in the code; what is filled in stands in braces, by its name where that is short."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words(part) for part in parts)
        case ast.FormattedValue(value=value):
            name = ast.unparse(value).removeprefix("self.").removeprefix("settings.")
            return "{" + (name if name.replace(".", "").replace("_", "").isalnum() and len(name) < 30 else "…") + "}"
        case ast.BinOp(left=left, op=ast.Add(), right=right) if (one := words(left)) and (other := words(right)):
            return one + other
    return ""


def remedies() -> dict[str, dict[str, str]]:
    """``exceptions`` and ``problems``, each name -> what to do."""
    read: dict[str, dict[str, str]] = yaml.safe_load(REMEDIES.read_text(encoding="utf-8"))
    return read


def page() -> str:
    """The catalogue."""
    told = remedies()
    parts = [
        "# Error catalogue\n\nClasses, words and problem types are taken from the code when the docs are built; what "
        "to do is written by hand, and a test holds both to each other. `{…}` is filled in.\n\n"
        "A verb that fails prints one line, `error: …`, on stderr, with exit code 1; `lakehouse --debug VERB` shows "
        "where. Programs that `up` runs say the same in `<home>/logs/<program>.log`. An error that is not named here "
        "is a library's: it begins with its type.\n",
        "## Problems of the API\n\nEvery error of the API is a problem (RFC 9457): `type` is "
        "`urn:lakehouse:problem:<name>`, `detail` says what is wrong here, `request_id` finds the request in the API's "
        "log.\n",
    ]
    for name, known in problems().items():
        statuses = ", ".join(map(str, sorted(known.statuses))) or "any status"
        parts.append(f"### {code(name)}\n\n**{statuses}**: {told['problems'].get(name, '')}\n{_said(known)}")
    parts.append("## Errors of verbs and programs\n")
    for name, known in exceptions().items():
        where = known.path.relative_to(ROOT)
        parts.append(
            f"### {name}\n\n{_sentence(known.about)} {told['exceptions'].get(name, '')}\n\n"
            f"[{code(where)}](../{where})\n{_said(known)}"
        )
    return "\n".join(parts)


def _sentence(about: str) -> str:
    text = about.split("\n\n")[0].replace("\n", " ")
    return text if text.endswith(".") else text + "."


def _said(known: Known) -> str:
    """The words, folded away."""
    if not known.messages:
        return ""
    lines = "\n".join(f"    - {code(' '.join(text.split()))}" for text in known.messages)
    return f'\n??? quote "In its words"\n\n{lines}\n'
