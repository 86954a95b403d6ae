"""Evaluating the agent of a run, beside the run: whole episodes, their table, video and numbers.

python dreamer.py --evaluate runs/dmc2gym_walker_walk/diswm/seed_0 --eval_colors test
python dreamer.py --evaluate runs/… --eval_worlds color_hard video_hard

The run may have ended or may go on. Its folder is only read, but for ``evaluations/``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from accel.runtime import Runtime, find_device
from agents.base import Agent, Spaces
from agents.registry import METHODS, agent_class
from config import Config, distractor_settings, load_saved
from envs import (
    EnvError,
    EnvSettings,
    check_backgrounds,
    choose_renderer,
    factories_of,
    look_of,
    worlds_of,
)
from tools import UserError, expand_path, nearest, print_safe
from training.evaluation_report import ROWS, Played, table, worlds_table, write
from training.evaluator import Evaluation, Evaluator, own_variation
from training.factory import make_envs, spaces_of
from training.run_folder import CHECKPOINT, CONFIG, check_writable
from training.saved_run import load_state, open_run

FOLDER = "evaluations"


def check(config: Config) -> None:
    """Checks that nothing of an evaluation is asked for without one.

    Raises:
        UserError: it is.
    """
    if config.eval_colors is not None:
        raise UserError("--eval_colors goes with --evaluate, and the folder of a run")


def with_method(argv: Sequence[str]) -> list[str]:
    """A command line under which the keys of the method of the run that it evaluates are known."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("evaluate", "method_name"):
        parser.add_argument(f"--{flag}", nargs="?")
    words, _ = parser.parse_known_args([*argv])
    if words.evaluate is None or words.method_name is not None:
        return [*argv]
    try:
        method = load_saved(expand_path(words.evaluate, "evaluate") / CONFIG, METHODS).method_name
    except UserError:
        return [*argv]  # what is wrong is told where the run is opened
    return [*argv, "--method_name", method]


def configure(given: Config) -> Config:
    """The configuration of the run that ``--evaluate`` names, under the flags that were given.

    Raises:
        UserError: there is no such run, it has no agent, or a flag does not go with ``--evaluate``
            or its agent.
    """
    _, saved = open_run("evaluate", given.evaluate)
    named = {"method_name"} if given.method_name == saved.method_name else set()
    if foreign := sorted(given.overrides - given.marked("evaluate") - named):
        raise UserError(
            f"--{foreign[0]} does not go with --evaluate, which takes the run as it is: give "
            "--eval_colors, --eval_episodes, --eval_envs, --seed, --device or a setting of the "
            "environment"
        )
    if set(given.blocks) != {"defaults"}:
        print("note: --configs is not read: the run's own configuration holds", file=sys.stderr)
    if (
        "distractors" in given.overrides and given.distractors != "auto"
    ):  # in place of all that the run has in that way
        saved = saved.replace(**{name: given[name] for name in distractor_settings()})
    config = saved.override({name: given[name] for name in given.overrides - named})
    if config.task != saved.task:
        raise UserError(f"--task does not go with --evaluate, unless it is its own: {saved.task}")
    if config.size != saved.size:
        asked, own = (" ".join(map(str, c.size)) for c in (config, saved))
        raise UserError(f"--size {asked}: the run's agent sees images of {own}: leave out --size")
    if "device" not in given.overrides:
        config = config.replace(device=_device_here(config.device))
    # Of the updates and the replay, which are not here: whatever this machine lacks for them.
    graphs = "auto" if config.cuda_graphs == "True" else config.cuda_graphs
    return config.replace(compile="False", replay_device="auto", cuda_graphs=graphs)


def _device_here(device: str) -> str:
    """The run's device, or the CPU where this machine lacks it."""
    try:
        find_device(device)
    except UserError:
        print_safe(f"note: the run's device {device} is not here: evaluating on the cpu")
        return "cpu"
    return device


def evaluate(config: Config, runtime: Runtime) -> None:
    """Plays the episodes, writes what they came to beside the run, and prints it.

    With ``--eval_worlds`` they are played there, too, each world written before the next one is
    played; a table of all comes last.

    Args:
        config: what :func:`configure` gave.
        runtime: where and how the agent computes.

    Raises:
        UserError: the checkpoint cannot be used, or the folder not be written to.
    """
    folder = expand_path(config.evaluate, "evaluate")
    mend = f"copy its {CONFIG} and {CHECKPOINT} to a folder of yours and give that"
    check_writable(folder / FOLDER, "--evaluate", mend)
    looks: list[Played] = []
    with contextlib.closing(play(config, runtime)) as played:
        for one in played:
            text = "\n".join([table(one), *map(str, write(one, folder / FOLDER))])
            with tqdm.external_write_mode():  # above the bar
                print_safe("\n" * bool(looks) + text, sys.stdout)
            looks.append(one)
    if len(looks) > 1:
        print_safe("\n" + worlds_table(looks), sys.stdout)


def play(config: Config, runtime: Runtime) -> Generator[Played, None, None]:
    """Plays ``--eval_episodes`` episodes with the run's agent, and again in ``--eval_worlds``.

    As many of them as the run's own evaluation plays are the same ones, and so are the colours
    unless ``--eval_colors`` says otherwise: an evaluation of the run's last checkpoint with its
    own settings gives what the run logged, if it was written at an evaluation, as the last one of
    a finished run is.

    Yields:
        What was played in one look, before the next one is.

    Raises:
        UserError: the checkpoint is damaged or of another shape, or there are no such colours.
    """
    path = expand_path(config.evaluate, "evaluate") / CHECKPOINT
    saved = load_saved(path.parent / CONFIG, METHODS)
    state = load_state("evaluate", path.parent)
    steps = state["collector"]["steps"]
    longest = -(-config.time_limit // config.action_repeat)
    rounds = -(-config.eval_episodes // min(config.eval_envs, config.eval_episodes)) * longest
    variation = config.eval_colors or own_variation(config, saved, steps)
    _check_variations(config, [variation, *worlds_of(config.eval_worlds)])
    variation = look_of(config.task, variation, config)
    looks = dict.fromkeys([variation, *worlds_of(config.eval_worlds)])
    choose_renderer(config.task, config.device)
    make = functools.partial(make_envs, variation=variation)
    with tqdm(total=rounds * len(looks), disable=None) as bar:
        evaluator = Evaluator(config, runtime, bar.update, of_run=saved, make_envs=make)
        with contextlib.closing(evaluator):
            agent = _load_agent(config, runtime, spaces_of(evaluator.envs), state["learner"], path)
            if not state["updates"]:
                print("note: this agent has made no update yet", file=sys.stderr)
            for look in looks:
                start = time.monotonic()
                evaluation = _play(evaluator, agent, steps, look)
                at = (state["frames"], steps, state["updates"], state["finished"])
                yield Played(config, *at, evaluation, time.monotonic() - start)


def _play(evaluator: Evaluator, agent: Agent, steps: int, variation: str) -> Evaluation:
    """The episodes, less those whose environment broke.

    Raises:
        UserError: none could be played.
    """
    policy = functools.partial(agent.act, mode="eval")
    try:
        return evaluator.play(policy, steps, variation, images=ROWS)
    except EnvError as error:
        raise UserError(f"--evaluate: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for note in evaluator.take_notes():
            what = "its episode is left out" if note["dropped"] else "it was started anew"
            print(f"warning: {note['reason']}; {what}", file=sys.stderr)


def _check_variations(config: Config, variations: Sequence[str]) -> None:
    """Checks ``--eval_colors``, the first one, and the files of all; `envs.check` has the rest."""
    variation, settings = variations[0], EnvSettings.within(config)
    names = factories_of(config.task, settings)
    if variation not in names:
        raise UserError(
            f"--eval_colors takes {', '.join(names)} for {config.task}, not '{variation}'"
            + nearest(variation, names)
        )
    check_backgrounds(config.task, variations, settings)


def _load_agent(
    config: Config, runtime: Runtime, spaces: Spaces, state: Mapping[str, Any], path: Path
) -> Agent:
    """The run's agent; it acts and learns no more, so it needs no first stage."""
    agent = agent_class(config.method_name)(config, runtime, spaces)
    try:
        agent.load_state(state)
    except ValueError as error:
        sizing = config.overrides & config.marked("predictor")
        given = " or ".join(f"--{flag}" for flag in sorted(sizing))
        mend = f"leave out {given}" if given else "evaluate with the code that made the run"
        raise UserError(f"{path}: {error}: {mend}") from None
    return agent
