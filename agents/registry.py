"""Agents by the name that ``--method_name`` gives them; each is imported when it is asked for.

A new agent is a class in a file of its own, and a line here. Its keys, if it has any beyond the
common ones, are a dataclass that its ``Keys`` names (see :mod:`config.schema`); its presets are a
block of its name in configs.yaml.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tools import UserError, nearest

if TYPE_CHECKING:
    from agents.base import Agent

AGENTS = {
    "diswm": "agents.diswm:DisWM",
    "dreamerv2": "agents.diswm:DreamerV2",
    "random": "agents.random:Random",
    "dv2_finetune": "baselines.dv2_finetune:DV2Finetune",
    "apv": "baselines.apv:APV",
    "sac": "baselines.sac:SAC",
    "rad": "baselines.rad:RAD",
    "curl": "baselines.curl:CURL",
    "ted": "baselines.ted:TED",
    "drqv2": "baselines.drqv2:DrQV2",
    "svea": "baselines.svea:SVEA",
    "tdmpc2": "baselines.tdmpc2:TDMPC2",
    "dreamerv3": "baselines.dreamerv3:DreamerV3",
    "contextwm": "baselines.contextwm:ContextWM",
    "hrssm": "baselines.hrssm:HRSSM",
}


def agent_class(name: str, agents: Mapping[str, str] = AGENTS) -> type[Agent]:
    """The class of that name.

    Raises:
        UserError: there is none; the line names the nearest.
    """
    if name not in agents:
        raise UserError(
            f"--method_name takes {', '.join(agents)}, not '{name}'{nearest(name, agents)}"
        )
    module, _, found = agents[name].partition(":")
    return getattr(importlib.import_module(module), found)


class MethodKeys(Mapping[str, type | None]):
    """The keys of each method's own, for `config.parse`: asking for them imports the method."""

    def __init__(self, agents: Mapping[str, str]):
        self._agents = agents

    def __getitem__(self, name: str) -> type | None:
        if name not in self._agents:
            raise KeyError(name)
        return agent_class(name, self._agents).Keys

    def __contains__(self, name: object) -> bool:
        return name in self._agents

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def __len__(self) -> int:
        return len(self._agents)


METHODS = MethodKeys(AGENTS)
