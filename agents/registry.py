"""The methods that ``--method_name`` knows, each imported when it is asked for."""

from __future__ import annotations

import importlib

from agents.base import Agent
from tools import UserError, nearest

AGENTS = {
    "diswm": "agents.diswm:DisWM",
    "dreamerv2": "agents.diswm:DreamerV2",
    "random": "agents.random:Random",
}


def agent_class(name: str) -> type[Agent]:
    """The agent of that name.

    Raises:
        UserError: there is none; the line gives the nearest.
    """
    if name not in AGENTS:
        raise UserError(
            f"--method_name takes {', '.join(AGENTS)}, not '{name}'{nearest(name, AGENTS)}"
        )
    module, attribute = AGENTS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
