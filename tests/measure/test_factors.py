"""Factors of many pictures: drawn independently, by however many processes, and as they are met."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs import Factor
from measure import Factors, factors, play, sample
from tests.helpers.processes import runs
from tests.helpers.runs import refusal

TASK = "dmc2gym_reacher_easy"
SIZE = {"size": (64, 64), "shadow_size": 16}


@pytest.fixture(scope="module")
def drawn():
    return sample(TASK, 30, seed=3, **SIZE)


def test_frames_follow_from_their_number_and_the_seed_alone(drawn, monkeypatch):
    monkeypatch.setattr(factors, "CHUNK", 7)
    again = sample(TASK, 12, seed=3, **SIZE)
    np.testing.assert_array_equal(again.factors.values, drawn.factors.values[:12])
    np.testing.assert_array_equal(again.images, drawn.images[:12])
    other = sample(TASK, 12, seed=4, **SIZE)
    assert not np.isclose(other.factors.values, again.factors.values).any()
    assert drawn.images.dtype == np.uint8
    assert drawn.images.shape == (30, 64, 64, 3)
    assert len({image.tobytes() for image in drawn.images}) == 30


@pytest.mark.slow
def test_several_processes_draw_the_same(monkeypatch):
    monkeypatch.setattr(factors, "CHUNK", 4)
    grid = "minigrid_MiniGrid-Empty-8x8-v0"  # without MuJoCo processes begin sooner
    one, two = (sample(grid, 12, workers=n, full_view=True) for n in (1, 2))
    np.testing.assert_array_equal(one.factors.values, two.factors.values)
    np.testing.assert_array_equal(one.images, two.images)


DRAWS = """
import os, signal, sys, threading, time
from multiprocessing import active_children
from pathlib import Path
from measure import factors

class Scene:
    factors, close = (), lambda self: None

def draw(scene, seeds):
    Path(sys.argv[1], str(os.getpid())).touch()
    signal.pause()

def end():
    while len(os.listdir(sys.argv[1])) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=end).start()
    factors._gather(draw, Scene, 2 * factors.CHUNK, 0, 2)
"""


def test_no_process_that_draws_outlives_the_one_that_asked(tmp_path):
    (tmp_path / "drawing").mkdir()
    (tmp_path / "draws.py").write_text(DRAWS)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "draws.py"), str(tmp_path / "drawing")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    drawing = os.listdir(tmp_path / "drawing")
    assert len(drawing) == 2
    deadline = time.monotonic() + 60
    while any(map(runs, drawing)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, drawing))


def test_a_policy_meets_factors_that_stay_together():
    met = play(TASK, 12, seed=0, max_delta=0.1, step_std=0.0, **SIZE)
    colors = [k for k, name in enumerate(met.factors.names) if name.endswith(".red")]
    moved = np.ptp(met.factors.values, axis=0)
    assert met.factors.names == sample(TASK, 1, **SIZE).factors.names
    assert (moved[colors] == 0).all()  # of one episode
    assert moved[met.factors.names.index("shoulder")] > 0
    assert "grid.red" in met.factors.constant
    left = met.factors.without(*met.factors.constant)
    assert "shoulder" in left.names
    assert left.constant == []


def test_correlations_know_angles_and_choices():
    rng = np.random.default_rng(0)
    angle = rng.uniform(-np.pi, np.pi, 4000)
    kind = (angle > 0).astype(float)
    kinds = {"a": "angle", "s": "number", "n": "number", "k": "choice"}
    named = tuple(Factor(name, name, kind) for name, kind in kinds.items())
    values = np.column_stack([angle, np.sin(angle + 1.0), rng.normal(size=4000), kind])
    found = Factors(named, values).correlations()
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found, found.T)
    assert found[0, 1] == pytest.approx(np.sin(1.0), abs=0.02)  # with the cosine; the sine has less
    assert found[0, 2] < 0.06
    assert found[0, 3] == pytest.approx(2 * np.sqrt(2) / np.pi, abs=0.02)
    assert (np.diag(found) == 1).all()


def test_groups_keep_their_order():
    named = tuple(Factor(n, g) for n, g in (("a.x", "a"), ("b", "b"), ("a.y", "a")))
    assert Factors(named, np.zeros((1, 3))).groups == {"a": [0, 2], "b": [1]}


def test_a_task_without_factors_and_an_unknown_variation_are_refused():
    grid = "minigrid_MiniGrid-Empty-5x5-v0"
    assert "nothing is told" in refusal(lambda: sample(grid, 3, variation="original"))
    said = refusal(lambda: sample(TASK, 3, variation="tset"))
    assert "no variation 'tset' (did you mean 'test'?)" in said
    with pytest.raises(ValueError, match="at least one frame"):
        sample(TASK, 0)
