"""The camera distraction, against the poses that MuJoCo gives an undistracted twin."""

import numpy as np
import pytest
from dm_control import suite

from distracting_control import DistractingCamera, camera_preset, geometry

VIEWS = [
    ("walker", "walk", 0),  # tracks a centre of mass from the side
    ("cheetah", "run", 1),  # tracks from behind, with some roll of its own
    ("humanoid", "walk", 0),  # from straight behind, at azimuth π
    ("reacher", "easy", 0),  # stands still, straight above
    ("reacher", "easy", 1),  # tracks a body frame
    ("cartpole", "swingup", 0),  # stands still
    ("cartpole", "swingup", 1),  # turns after a body
    ("hopper", "stand", 0),  # tracks the centre of mass of the world
    ("quadruped", "walk", 2),  # from the far side, at azimuth +π/2
    ("point_mass", "easy", 0),  # straight above, kept to the upper quadrant
]


def twins(domain, task, camera_id, kwargs, random=0):
    plain, inner = (suite.load(domain, task, task_kwargs={"random": 5}) for _ in range(2))
    return plain, DistractingCamera(inner, camera_id, random=random, **kwargs)


def view(env, camera_id):
    data = env.physics.data
    return data.cam_xpos[camera_id].copy(), data.cam_xmat[camera_id].reshape(3, 3).copy()


def watched(env, camera_id, mode):
    data, model = env.physics.data, env.physics.model
    if mode in (1, 2):
        body = int(model.cam_bodyid[camera_id])
    else:
        body = int(model.cam_targetbodyid[camera_id]) if mode in (3, 4) else 1
    return (data.xpos if mode in (1, 3) else data.subtree_com)[body].copy()


class Usual:
    """What an undistracted env's camera sees, worked out from the model alone."""

    def __init__(self, env, camera_id):
        self.env, self.camera_id = env, camera_id
        model = env.physics.model
        self.mode = int(model.cam_mode[camera_id])  # fixed, track, trackcom, targetbody(com)
        self.body = int(model.cam_bodyid[camera_id]) if self.mode in (1, 2) else 1
        if self.mode in (3, 4):
            self.body = int(model.cam_targetbodyid[camera_id])
        self.start = self.target()

    def watched(self):
        data = self.env.physics.data
        return (data.xpos if self.mode in (1, 3) else data.subtree_com)[self.body].copy()

    def center(self):
        return self.watched() if self.mode in (1, 2) else np.zeros(3)

    def target(self):
        if self.mode == 0 and hasattr(self, "start"):
            return self.start
        eye, axes = view(self.env, self.camera_id)
        return eye - np.linalg.norm(eye - self.watched()) * axes[:, 2]

    def radius(self):
        return np.linalg.norm(view(self.env, self.camera_id)[0] - self.center())


@pytest.mark.parametrize(("domain", "task", "camera_id"), VIEWS)
def test_camera_stays_in_bounds_moves_and_keeps_looking(domain, task, camera_id):
    kwargs = camera_preset(domain, 0.3, dynamic=True)
    plain, env = twins(domain, task, camera_id, kwargs)
    plain.reset()
    env.reset()
    usual = Usual(plain, camera_id)
    radius = usual.radius()
    rng = np.random.default_rng(0)
    poses = []
    for _ in range(80):
        eye, axes = view(env, camera_id)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(axes) > 0
        np.testing.assert_allclose(-axes[:, 2], geometry.unit(usual.target() - eye), atol=1e-6)
        assert 0.85 - 1e-6 <= np.linalg.norm(eye - usual.center()) / radius <= 1.45 + 1e-6
        assert (env.pose >= env.low).all()
        assert (env.pose <= env.high).all()
        poses.append(env.pose.copy())
        action = rng.uniform(-1, 1, plain.action_spec().shape)
        plain.step(action)
        env.step(action)
    assert (np.std(poses, axis=0) > 1e-4).all()
    angles = (env.high - env.low)[1:]
    assert (angles <= 2 * 0.3 * np.pi / 2 + 1e-9).all()


@pytest.mark.parametrize(("domain", "task", "camera_id"), VIEWS)
def test_no_distraction_is_the_usual_view(domain, task, camera_id):
    plain, env = twins(domain, task, camera_id, camera_preset(domain, 0.0, dynamic=True))
    for step in range(20):
        action = np.full(plain.action_spec().shape, 0.5)
        for e in (plain, env):
            e.step(action) if step else e.reset()
        for expected, got in zip(view(plain, camera_id), view(env, camera_id), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-9)


def test_drift_is_no_faster_than_allowed_even_across_the_pole():
    kwargs = camera_preset("reacher", 0.3, dynamic=True)
    _, env = twins("reacher", "easy", 0, kwargs)
    fastest, crossed = 0.0, False
    for episode in range(8):
        env.seed(episode)
        env.reset()
        limit = 0.4 * 0.3 * 0.75 / 4  # the camera hangs 0.75 m above the origin
        eye, _ = view(env, 0)
        for _ in range(150):
            polar = env.pose[2]
            env.step(np.zeros(2))
            moved, _ = view(env, 0)
            fastest = max(fastest, np.linalg.norm(moved - eye))
            crossed |= polar * env.pose[2] < 0
            eye = moved
    assert crossed
    assert 0.5 * limit < fastest < 1.01 * limit


def test_static_camera_keeps_its_pose_within_an_episode():
    _, env = twins("walker", "walk", 0, camera_preset("walker", 0.2, dynamic=False))
    env.reset()
    pose, offset = env.pose.copy(), view(env, 0)[0] - env.physics.data.subtree_com[1]
    for _ in range(20):
        env.step(np.ones(6))
        np.testing.assert_array_equal(env.pose, pose)
        now = view(env, 0)[0] - env.physics.data.subtree_com[1]
        np.testing.assert_allclose(now, offset, atol=1e-9)
    env.reset()
    assert np.abs(env.pose - pose).min() > 1e-6


def test_upper_quadrant():
    kwargs = camera_preset("walker", 1.0, dynamic=True) | {"zoom_in": 0.5}
    _, env = twins("walker", "walk", 0, kwargs)
    for episode in range(3):
        env.seed(episode)
        env.reset()
        for _ in range(100):
            env.step(np.zeros(6))
            offset = view(env, 0)[0] - env.physics.data.subtree_com[1]
            assert offset[2] >= -1e-9
            assert offset[1] <= 0.1  # the walker's camera is at negative y
    assert camera_preset("reacher", 0.1, dynamic=True)["upper_quadrant"] is False


def test_picture_moves_with_the_camera():
    _, env = twins("walker", "walk", 0, camera_preset("walker", 0.3, dynamic=True))
    env.reset()
    frames = [env.physics.render(32, 32, camera_id=0).astype(int)]
    for _ in range(30):
        env.step(np.zeros(6))
    frames.append(env.physics.render(32, 32, camera_id=0).astype(int))
    env.physics.free()
    assert np.abs(frames[0] - frames[1]).mean() > 2


@pytest.mark.parametrize(
    ("domain", "camera_id", "kwargs", "words"),
    [
        ("walker", 2, {}, "cameras 0 to 1"),
        ("walker", -1, {}, "cameras 0 to 1"),
        ("humanoid", 2, {}, "rides on a moving body"),
        ("walker", 0, {"zoom_in": 1.0}, "zoom_in"),
        ("walker", 0, {"roll_delta": -0.1}, "negative"),
        ("walker", 0, {"max_vel": -0.1}, "negative"),
    ],
)
def test_refusals(domain, camera_id, kwargs, words):
    with pytest.raises(ValueError, match=words):
        DistractingCamera(suite.load(domain, "walk"), camera_id, **kwargs)


def test_spherical_coordinates_are_inverse_to_each_other():
    for point in np.random.default_rng(0).normal(size=(50, 3)):
        spherical = geometry.to_spherical(point)
        np.testing.assert_allclose(geometry.to_cartesian(spherical), point, atol=1e-12)
        for azimuth in (-4.0, 0.0, 3.0):
            near = geometry.nearest_angles(spherical, azimuth, across_pole=True)
            np.testing.assert_allclose(geometry.to_cartesian(near), point, atol=1e-12)
            assert abs(near[1] - azimuth) <= np.pi / 2 + 1e-9
