"""Where events come from: one file an input, named as in Logstash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lakehouse.collect import plugins
from lakehouse.collect.inputs.beats import Beats, BeatsOptions
from lakehouse.collect.inputs.file import File, FileOptions
from lakehouse.collect.inputs.http import Http, HttpOptions
from lakehouse.collect.inputs.stdin import Stdin, StdinOptions
from lakehouse.collect.inputs.tcp import Tcp, TcpOptions
from lakehouse.collect.inputs.udp import Udp, UdpOptions
from lakehouse.collect.options import InputOptions
from lakehouse.collect.plugins import Input, Plugin

INPUTS: dict[str, tuple[type[InputOptions], Callable[[Any, Plugin], Input]]] = {
    "beats": (BeatsOptions, Beats),
    "file": (FileOptions, File),
    "http": (HttpOptions, Http),
    "stdin": (StdinOptions, Stdin),
    "tcp": (TcpOptions, Tcp),
    "udp": (UdpOptions, Udp),
}


def opened(plugin: Plugin) -> Input:
    """The input that a pipeline file describes; nothing is opened before it runs.

    Raises:
        ConfigError: there is no such input, or an option is wrong.
    """
    return plugins.opened(plugin, INPUTS)
