"""A distraction is two places: one file, and its keys in configs.yaml."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distracting_control as dc
from distracting_control import registry

ROOT = Path(__file__).parents[2]

LIGHT = '''"""Dims the lights."""

import dataclasses

from distracting_control.base import AS_TRAIN, Distraction, Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightSettings(Settings):
    light_delta: float = setting(0.0, test=AS_TRAIN)

    def kwargs(self, domain, strength):
        return {"delta": self.light_delta} if self.light_delta else None


class DistractingLight(Distraction):
    name, tag, settings = "light", 4, LightSettings

    def __init__(self, env, delta, random=None):
        super().__init__(env, random)
        self.delta = delta

    def _begin(self):
        self._physics.model.light_diffuse[:] = self._random.uniform(0.0, self.delta)
'''
KEYS = """
  light_delta: 0.0 # largest brightness of the lights; 0 leaves them alone
  test_light_delta: null # [float] light_delta of set 2; default as set 1
"""
DRAWS = """
import config, dmc2gym, envs
frames = []
for words in ([], ["--light_delta", "0.5"], ["--light_delta", "0.5", "--test_light_delta", "0"]):
    parsed = config.parse(["--task", "dmc2gym_cartpole_swingup", *words])
    env = envs.make_env(parsed.task, **envs.EnvSettings.pick(parsed))
    variations = ("train", "test", "original")
    shown = [env.reset(seed=3, options={"variation": name})[0]["image"] for name in variations]
    frames.append([image.tobytes() for image in shown])
    env.close()
for lit in frames[1:]:
    print(*(one != other for one, other in zip(frames[0], lit)))
lit = dmc2gym.make("cartpole", "swingup", light_kwargs={"delta": 0.5})
print(type(lit.dmc_env).__name__)
print("light_delta" in envs.SUITES["dmc2gym"].reads, "light_delta" in envs.SUITES["dmc"].reads)
"""


def test_a_file_and_its_keys_are_a_new_distraction(tmp_path):
    folder = tmp_path / "copy"
    left_out = (".*", "tests", "results", "shared", "checkpoints", "runs", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*left_out))
    (folder / "distracting_control" / "light.py").write_text(LIGHT)
    configs = folder / "configs.yaml"
    before, group, after = configs.read_text().partition("\n  # ## Training\n")
    configs.write_text(before + KEYS + group + after)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "ignore", "-c", DRAWS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = ["True True False", "True False False", "DistractingLight", "True False"]
    assert done.stdout.splitlines() == told


def test_all_distractions_are_found_and_no_simulator_with_them():
    assert list(dc.distractions()) == ["color", "camera", "background"]
    code = "import sys, distracting_control; print('mujoco' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told == "False\n"


@pytest.mark.parametrize(("what", "value"), [("name", "color"), ("tag", 1)])
def test_two_of_a_kind_are_refused(monkeypatch, what, value):
    monkeypatch.setattr(dc.DistractingCamera, what, value)
    with pytest.raises(TypeError, match=f"two distractions share one of their {what}s"):
        registry.distractions.__wrapped__()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(dc.Settings):
    both: int = dc.setting(1)
    followed: int | None = dc.setting(2, test=dc.AS_TRAIN)
    own: str | None = dc.setting("a", test="b")


def test_set_2_has_its_own_settings_or_follows():
    keys = {"both": 1, "followed": 2, "own": "a", "test_followed": None, "test_own": "b"}
    assert Example.defaults() == keys
    assert Example.of({}) == Example(both=1, followed=2, own="a")
    given = {"both": 5, "followed": 6, "own": None, "other": 0}
    assert Example.of(given) == Example(both=5, followed=6, own=None)
    test = Example.of(given, "test_")
    assert test == Example(prefix="test_", both=5, followed=6, own="b")
    test = Example.of({**given, "test_followed": 7, "test_own": None}, "test_")
    assert test == Example(prefix="test_", both=5, followed=7, own=None)


def test_a_misspelt_distraction_is_named():
    with pytest.raises(TypeError, match="'camra_kwargs'; did you mean 'camera_kwargs'"):
        dc.load("walker", "walk", camra_kwargs={})
