"""docs/watching.md has every number that the project's own methods log of an update."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.registry import AGENTS, agent_class
from tests.agents.test_conformance import SPACES, build, rows

PAGE = Path(__file__).parents[2] / "docs" / "watching.md"


@pytest.mark.parametrize("method", sorted(AGENTS))
def test_every_number_of_an_update_is_explained(tiny, method):
    kind = min(agent_class(method).kinds)
    agent, page = build(tiny, method, kind), PAGE.read_text()
    numbers = agent.learn(rows(agent, spaces=SPACES[kind]), 0).metrics
    assert [name for name in numbers if f"`{name}`" not in page] == []
