"""Whose OpenGL context is current: envs of several packages draw in one process."""

import os

import gymnasium
import numpy as np
import pytest

import dmc2gym
from distracting_control.rendering import RenderingError
from dmc2gym import contexts


def walker():
    return dmc2gym.make("walker", "walk", render_mode="rgb_array", shadow_size=64)


def pendulum():
    """An env of Gymnasium's, which never asks whether its context is still current."""
    env = gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array", width=64, height=64)
    env.unwrapped.model.vis.quality.shadowsize = 64
    return env


def test_envs_of_two_packages_draw_as_if_they_were_alone():
    ours, theirs, other = walker(), pendulum(), walker()
    for env in (ours, theirs, other):
        env.reset(seed=0)
    alone, beside = ours.render(), theirs.render()  # each is the newest one when it draws
    for env, frame in ((ours, alone), (theirs, beside), (other, alone), (theirs, beside)):
        np.testing.assert_array_equal(env.render(), frame)
    ours.close()
    np.testing.assert_array_equal(theirs.render(), beside)
    np.testing.assert_array_equal(other.render(), alone)
    theirs.close()
    np.testing.assert_array_equal(other.render(), alone)
    other.close()


def test_a_process_that_was_forked_from_one_that_has_drawn_says_what_to_do(monkeypatch):
    env = walker()
    env.reset(seed=0)
    frame = env.render()
    monkeypatch.setattr(contexts, "_drawing", os.getpid() + 1)
    with pytest.raises(RenderingError, match=r"spawn it instead.*'context': 'spawn'"):
        env.render()
    monkeypatch.undo()
    np.testing.assert_array_equal(env.render(), frame)
    env.close()


def test_an_env_that_was_never_drawn_does_not_keep_a_fork_from_drawing(monkeypatch):
    monkeypatch.setattr(contexts, "_drawing", None)
    env = walker()
    env.reset(seed=0)
    env.close()
    assert contexts._drawing is None


def test_drawing_without_any_opengl_says_what_to_install(monkeypatch):
    env = walker()
    env.reset(seed=0)
    monkeypatch.setattr(contexts._render, "BACKEND", None)

    def nothing():
        raise RenderingError("no OpenGL library loads")

    monkeypatch.setattr(contexts, "choose_backend", nothing)
    with pytest.raises(RenderingError, match="no OpenGL library loads"):
        env.render()
    env.close()
