"""What each alert is by its file, for the runbook that says what to do about it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from docs.made.text import ROOT, code, table


def rules() -> dict[str, dict[str, Any]]:
    """The rules of ``conf/alerts.yaml``, by name."""
    read = yaml.safe_load((ROOT / "conf/alerts.yaml").read_text())["rules"]
    # YAML 1.1 reads the key `on` as true.
    return {rule["name"]: {"on" if key is True else key: value for key, value in rule.items()} for rule in read}


def prometheus() -> dict[str, dict[str, Any]]:
    """The alerts of ``conf/prometheus/rules.yml``, by name."""
    groups = yaml.safe_load((ROOT / "conf/prometheus/rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def headings(markdown: str) -> list[str]:
    """The names that have a runbook: headings of the third level."""
    return re.findall(r"^### (.+?)\s*$", markdown, re.M)


def with_facts(markdown: str) -> str:
    """The runbooks, each with its rule below its heading, and an index at the top."""
    own, other = rules(), prometheus()

    def told(match: re.Match[str]) -> str:
        name = match[1]
        rule = own.get(name) or other.get(name)
        return match[0] + "\n\n" + (_rule(rule) if name in own else _alert(rule)) if rule else match[0]

    return re.sub(r"^### (.+?)\s*$", told, markdown, flags=re.M)


def _rule(rule: dict[str, Any]) -> str:
    conditions = " and ".join(_condition(name, wanted) for name, wanted in rule["when"].items())
    over = f", over {code(rule['over'])}" if "over" in rule else ""
    lasting = f", for {code(rule['for'])}" if "for" in rule else ""
    rows = [
        ("when", f"{rule['on']}: {conditions}{over}{lasting}"),
        ("severity", rule.get("severity", "info")),
        ("told", code(rule["text"])),
    ]
    return table(("rule", code(rule["name"])), rows)


def _condition(name: str, wanted: Any) -> str:
    if not isinstance(wanted, dict):
        return f"{code(name)} is {code(wanted)}"
    return " and ".join(f"{code(name)} {how.replace('_', ' ')} {code(_value(value))}" for how, value in wanted.items())


def _value(value: Any) -> Any:
    return value["field"] if isinstance(value, dict) else value


def _alert(rule: dict[str, Any]) -> str:
    rows = [
        ("when", code(" ".join(rule["expr"].split()))),
        ("for", code(rule.get("for", "0s"))),
        ("severity", rule["labels"]["severity"]),
    ]
    return table(("alert", code(rule["alert"])), rows)
