"""Distractions are found by themselves; each has its settings in either set."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import distracting_control as dc
from distracting_control import registry

ROOT = Path(__file__).parents[2]


def test_all_distractions_are_found_and_no_simulator_with_them():
    assert list(dc.distractions()) == ["color", "camera", "background", "palette"]
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
