"""The drawers with the published goals and successes."""

import numpy as np
import pytest

from tests.envs.test_drawerworld import CLOSE, OPEN, policy_of, reset, step, world

# The scripted policies ask for more than an action may be.
pytestmark = pytest.mark.filterwarnings("ignore:Constant")


@pytest.mark.parametrize(
    ("task", "start", "way", "reached"), [(OPEN, 0.0, 0.15, 0.08), (CLOSE, 0.2, 0.2, 0.06)]
)
def test_the_published_geometry(make, task, start, way, reached):
    """The handle's way and the success are the published drawer's; the rail is long enough."""
    env, policy = make(task, time_limit=200, drawer_geometry="published"), policy_of(task)
    chest = reset(env, 6)
    sawyer = world(env).sawyer
    data, rail = sawyer.data, sawyer.data.joint("goal_slidey")
    handle_in_drawer = np.array([0, -0.16, 0.05 if task == CLOSE else 0.0])
    closed = chest[1] - 0.01 - 0.16
    goal_y = closed - (0.15 if task == OPEN else 0.0)
    assert rail.qpos[0] == -start
    assert sawyer.model.site("goal").pos[:2] == pytest.approx([chest[0], goal_y], abs=1e-6)
    successes = []
    for _ in range(60):
        _, _, _, _, info = step(env, policy(world(env).state))
        handle = data.body("drawer_link").xpos + handle_in_drawer
        d = abs(handle[1] - goal_y)
        assert info["distance"] == pytest.approx(d, rel=0, abs=1e-12)
        if not successes:
            assert d == pytest.approx(way, abs=2e-3)
        successes.append(info["success"])
    assert set(successes) == {0.0, 1.0}
    # The reward where the fingers hold the handle.
    fingers = [data.site(name).xpos for name in ("rightEndEffector", "leftEndEffector")]
    seen = world(env).state.copy()
    seen[4:7] = (fingers[0] + fingers[1]) / 2
    d = abs(seen[5] - goal_y)
    expected = 1000 * (0.2 - d) + 1000 * (np.exp(-d * d / 0.01) + np.exp(-d * d / 0.001))
    assert expected > 0
    assert sawyer.evaluate_state(seen, np.zeros(4))[0] == pytest.approx(expected, abs=1e-6)
    goal = 0.15 if task == OPEN else 0.0
    for away, succeeds in ((reached + 0.001, False), (reached - 0.001, True)):
        qpos = data.qpos.copy()
        qpos[9] = -abs(goal - away)
        sawyer.set_state(qpos, np.zeros_like(data.qvel))
        _, told = sawyer.evaluate_state(sawyer._get_obs(), np.zeros(4))
        assert told["success"] == succeeds
