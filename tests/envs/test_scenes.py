"""Scenes: their factors, that these are drawn independently, and that pictures show them."""

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs import make_scene
from envs.mujoco_parts import euler_angles
from envs.parts import Told

SIZE = {"size": (64, 64), "shadow_size": 16}
COLORS = ("red", "green", "blue")
PAINTED = ("grid", "self", "effector", "decoration", "target")


def colors_of(*names):
    return [f"{name}.{channel}" for name in names for channel in COLORS]


@pytest.fixture(scope="module")
def scenes():
    """Makes a task's scene, each once."""
    made = {}

    def make(task, **settings):
        key = task, tuple(settings.items())
        if key not in made:
            made[key] = make_scene(task, **SIZE, **settings)
        return made[key]

    yield make
    for scene in made.values():
        scene.close()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "dmc2gym_reacher_easy",
            ["shoulder", "wrist", "target.x", "target.y", *colors_of(*PAINTED)],
        ),
        ("dmc2gym_finger_spin", ["proximal", "distal", "hinge", *colors_of(*PAINTED[:4])]),
        (
            "dmc2gym_cartpole_swingup",
            ["slider", "hinge_1", *colors_of("grid", "self", "decoration")],
        ),
        ("dmc_pendulum_swingup", ["hinge"]),
        ("gymnasium_Reacher-v5", ["joint0", "joint1", "target_x", "target_y"]),
    ],
)
def test_a_task_tells_its_joints_targets_and_the_colours_in_view(scenes, task, expected):
    assert [factor.name for factor in scenes(task).factors] == expected


def test_a_world_tells_its_background_and_its_camera(scenes):
    found = {f.name: f for f in scenes("dmc_walker_walk_distracting_cs").factors}
    assert found["background"].kind == "choice"
    assert found["background_hue"].kind == found["rooty"].kind == "angle"
    assert {"camera.radius", "camera.azimuth", "camera.polar", "camera.roll"} <= found.keys()
    assert found["grid.red"].group == found["grid.blue"].group == "grid"
    # One frame tells neither motion nor the number of the frame.
    assert not found.keys() & {"background_speed", "background_angle", "background_frame"}
    assert "rootx" not in found


def test_factors_are_independent_and_lie_in_their_ranges(scenes):
    scene = scenes("dmc2gym_reacher_easy")
    rows = []
    for seed in range(300):
        scene.draw(seed)
        rows.append(scene.values())
    values = np.array(rows)
    names = [factor.name for factor in scene.factors]
    shoulder, wrist = values[:, :2].T
    assert np.ptp(shoulder) > 0.95 * 2 * np.pi
    assert np.abs(shoulder).max() <= np.pi
    assert np.abs(wrist).max() <= np.deg2rad(160) + 1e-6
    green = values[:, names.index("self.green")]
    assert 0.1 - 1e-9 <= green.min() < green.max() <= 0.5 + 1e-9  # 0.3 ± 0.2 of set 1
    apart = np.corrcoef(values.T)[np.triu_indices(len(names), 1)]
    assert np.abs(apart).max() < 0.25  # chance: 4.3 standard deviations of 1/√300


def test_a_drawing_follows_from_its_seed(scenes):
    scene = scenes("dmc_walker_walk_distracting_cs")
    scene.draw(5)
    values, image = scene.values(), scene.image().copy()
    scene.draw(6)
    assert not np.array_equal(scene.values(), values)
    scene.draw(5)
    np.testing.assert_array_equal(scene.values(), values)
    np.testing.assert_array_equal(scene.image(), image)


def test_a_picture_shows_the_pose_that_is_told(scenes):
    scene = scenes("dmc2gym_reacher_easy")
    scene.draw(1)
    env = scene.env.unwrapped
    data, image = env.dmc_env.physics.data, scene.image().copy()
    assert scene.values()[:2] == pytest.approx(data.qpos[:2])
    data.qpos[0] += 1.0
    assert scene.values()[0] == pytest.approx(data.qpos[0])
    env.dmc_env.physics.forward()
    assert (scene.image() != image).any(axis=-1).sum() > 20


def test_a_camera_that_is_moved_stays_so_after_joints_are_drawn(scenes):
    scene = scenes("dmc_walker_walk_distracting_cs")
    scene.draw(2)
    inner = scene.env.unwrapped.dmc_env
    drawn = inner.physics.data.cam_xpos[0].copy()
    inner.physics.forward()  # MuJoCo puts the camera back to where the model has it
    assert np.linalg.norm(inner.physics.data.cam_xpos[0] - drawn) > 0.1


@pytest.mark.parametrize(("task", "height"), [("dmc_walker_walk", 0), ("dmc_humanoid_walk", 2)])
def test_bodies_lie_on_the_ground(scenes, task, height):
    scene = scenes(task)
    physics = scene.env.unwrapped.dmc_env.physics
    planes = physics.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE

    def depth():
        contact = physics.data.contact
        return -contact.dist[planes[contact.geom].any(axis=1)].min(initial=0.0)

    for seed in range(5):
        scene.draw(seed)
        assert depth() < 1e-6
        physics.data.qpos[height] -= 1e-3
        physics.forward()
        assert depth() == pytest.approx(1e-3, rel=0.01)


def test_a_policy_is_played(scenes):
    scene = scenes("dmc2gym_reacher_easy", time_limit=12)
    scene.begin(0)
    first = scene.values()
    assert [scene.step() for _ in range(6)] == [False] * 5 + [True]
    last = scene.values()
    assert last[0] != first[0]
    np.testing.assert_array_equal(last[2:4], first[2:4])  # the target stays
    scene.begin(0)
    np.testing.assert_array_equal(scene.values(), first)


def test_pushers_parts_and_the_agent_of_a_grid_are_told(scenes):
    names = [factor.name for factor in scenes("gymnasium_Pusher-v5").factors]
    assert names[7:] == ["obj_slidey", "obj_slidex", *colors_of("table", "arm")]
    grid = scenes("minigrid_MiniGrid-Empty-8x8-v0", full_view=True)
    assert [f.name for f in grid.factors][-3:] == ["agent.x", "agent.y", "agent.direction"]
    grid.draw(3)
    agent = grid.env.unwrapped
    assert grid.values()[-3:].tolist() == [*agent.agent_pos, agent.agent_dir]


@pytest.mark.slow
def test_drawerworld_tells_its_hand_and_its_drawer(scenes):
    scene = scenes("metaworld_drawer-open-v2")
    names = [factor.name for factor in scene.factors]
    assert names[:4] == ["hand.x", "hand.y", "hand.z", "goal_slidey"]
    assert "drawer.x" in names[4:]
    rows = []
    for seed in range(8):
        scene.draw(seed)
        rows.append(scene.values())
    assert (np.ptp(rows, axis=0)[:3] > (0.2, 0.1, 0.05)).all()


def test_grey_pictures_have_one_channel():
    scene = make_scene("dmc_pendulum_swingup", grayscale=True, **SIZE)
    scene.draw(0)
    assert scene.image().shape == (64, 64, 1)
    scene.close()


def test_euler_angles_are_scipys():
    for turn in Rotation.random(20, random_state=0):
        expected = turn.as_euler("ZYX")
        quaternion = np.roll(turn.as_quat(), 1)  # scipy's w is the last
        np.testing.assert_allclose(euler_angles(quaternion), expected, atol=1e-9)


def test_hues_are_angles_and_tints_are_groups():
    part = Told({"factors": {"hue_turn": 0.25, "tint_red": 0.5, "tint_green": 0.4}})
    assert [f.group for f in part.factors] == ["hue_turn", "tint", "tint"]
    assert part.values() == pytest.approx([np.pi / 2, 0.5, 0.4])
    assert Told({}).factors == []
