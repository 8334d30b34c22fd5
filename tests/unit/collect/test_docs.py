"""`docs/collect.md` names exactly the plugins and options that there are."""

from __future__ import annotations

import importlib
import re

from lakehouse.collect.codecs import CODECS
from lakehouse.collect.filters import FILTERS
from lakehouse.collect.inputs import INPUTS
from lakehouse.collect.options import CodecOptions, FilterOptions, InputOptions, Options, OutputOptions
from lakehouse.collect.outputs import OUTPUTS
from lakehouse.settings import PROJECT


def names(model: type[Options], common: type[Options]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items() if name not in common.model_fields}


def filter_options(name: str) -> type[Options]:
    module = vars(importlib.import_module(f"lakehouse.collect.filters.{name}"))
    return next(value for key, value in module.items() if key.lower() == f"{name}options")


def test_the_table_of_plugins_is_complete() -> None:
    there = (
        {("input", name): names(model, InputOptions) for name, (model, _) in INPUTS.items()}
        | {("codec", name): names(entry[0], CodecOptions) for name, entry in CODECS.items()}
        | {("filter", name): names(filter_options(name), FilterOptions) for name in FILTERS}
        | {("output", name): names(model, OutputOptions) for name, (model, _) in OUTPUTS.items()}
    )
    rows = re.findall(
        r"^\| (input|codec|filter|output) \| `(\w+)` \| (.*) \|$", (PROJECT / "docs/collect.md").read_text(), re.M
    )
    assert {(kind, name): set(re.findall(r"`(\w+)`", options)) for kind, name, options in rows} == there
