"""The environments of a run, as its configuration describes them."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from config import Config
from envs import EnvError, EnvSettings, UnknownTask, VectorEnv, make_vector, variation_for
from envs.restarts import used_up
from tools import UserError


def variation_at(config: Config, split: str, steps: int) -> str:
    """The distractions of an episode that begins after so many agent steps of training."""
    total = config.steps // config.action_repeat
    second_half = total > 0 and steps * 2 >= total
    return variation_for(config.task, split, config.color_distractor, second_half)


def make_more_envs(config: Config, n: int, split: str) -> VectorEnv:
    """`make_envs` for settings that have made environments already.

    If it fails, the machine is at fault: it is tried again, as often as environments may be made
    anew.

    Raises:
        EnvError: it failed each time.
    """
    notes: list[dict[str, Any]] = []
    while True:
        try:
            envs = make_envs(config, n, split)
            envs.restarted, envs.notes = len(notes), notes
            return envs
        except UserError as error:
            if len(notes) >= config.env_restarts:
                raise used_up(EnvError(str(error)), config.env_restarts) from error
            notes.append({"env": -1, "reason": str(error), "steps": 0, "dropped": False})


def make_envs(config: Config, n: int, split: str, overlap: bool = False) -> VectorEnv:
    """``n`` environments as the configuration describes them.

    Args:
        config: the run's.
        n: how many.
        split: train or eval.
        overlap: their steps overlap with updates, so that even one has a worker process.

    Raises:
        UserError: a setting does not fit the task, or what it names is not there.
    """
    settings = {field.name: config[field.name] for field in dataclasses.fields(EnvSettings)}
    envs, workers = None, config.async_env
    if workers == "auto" and overlap and (os.cpu_count() or 1) > 1:
        workers = "process"
    try:
        envs = make_vector(
            config.task, n, workers=workers, split=split, timeout=config.env_timeout, **settings
        )
        # The first frame shows what building does not, a camera that is not there for one. No
        # number of the run depends on it: episodes follow from their own seeds.
        envs.reset(seeds=[0] * n)
        envs.restarts = config.env_restarts  # what fails from here on is no wrong setting
        return envs
    except (ValueError, OSError, ImportError, EnvError) as error:
        if envs is not None:
            envs.close()
        if isinstance(error, UnknownTask):
            raise
        # A worker's error ends with its own line; above it stands its traceback.
        reason = str(error).strip().splitlines()[-1]
        if "No module named" in reason:
            reason += ": pip install -r requirements.txt"
        flags = re.sub(rf"(?<![\w-])({'|'.join(settings)})\b", r"--\1", reason)
        raise UserError(f"{config.task} cannot be made: {flags}") from error
