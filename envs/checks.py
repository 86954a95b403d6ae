"""What a configuration must satisfy for its environments; each refusal is a line with the mend."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from distracting_control.procedural import families_of, is_procedural
from envs.registered import module_of
from envs.settings import EnvSettings
from envs.suites import COMMON, Factories, Suite
from envs.tasks import SUITES, factories_of, parse_task
from envs.worlds import WORLDS, worlds_of
from tools import UserError, check_folder, nearest

# Blocks of HRSSM's worlds, beside the suites' own, and whose they are.
VISION = frozenset({"dmc_vision", "realistic_maniskill"})
VISION_METHOD = "hrssm"


def check(config: Mapping[str, Any]) -> None:
    """Checks what a configuration says of environments, and notes what will change nothing.

    Args:
        config: Every key as an item. Its attributes ``blocks`` and ``overrides`` name the blocks
            that it stacks and the keys that were flags.

    Raises:
        UserError: A setting is out of range, or a folder is not there; one line names the flag.
        UnknownTask: There is no such task; one line with the nearest one.
    """
    # Of the blocks of suites the last one is that of the task.
    beside = [block for block in config.blocks if block in SUITES]
    suite = parse_task(config["task"], beside[-1] if beside else "").suite
    _check_module(config)
    if config["color_distractor"] and not SUITES[suite].has_distractors:
        raise UserError(
            f"--color_distractor True: {config['task']} has no distractors: leave it out, or "
            "choose another --task"
        )
    evaluates = config["evaluate"] is not None
    plays = evaluates or not config["beta_vae_pretrain"]
    try:
        settings = EnvSettings.within(config)
        if plays:
            there = factories_of(config["task"], settings)  # do they fit together?
    except ValueError as error:
        raise UserError(as_flags(str(error))) from None
    if plays:
        for world in worlds_of(config["eval_worlds"]):
            if world not in there:
                raise UserError(
                    f"--eval_worlds: {config['task']} has no world '{world}'"
                    f"{nearest(world, there)}; it has {', '.join(there)}"
                )
        for flag in ("background_dataset_path", "test_background_dataset_path", "dmcgb_path"):
            _check_films(config[flag], flag)
        if not evaluates:
            _check_shown(config, SUITES[suite], there)
            _note_unread(config)


def _check_shown(config: Mapping[str, Any], suite: Suite, there: Factories) -> None:
    """Checks that a background that is given is shown at all.

    Raises:
        UserError: it is not.
    """
    path = config["background_dataset_path"]
    if path is not None and not suite.has_distractors:
        raise UserError(
            f"--background_dataset_path {path}: {config['task']} has no distractors: leave it out"
        )
    is_read = "background_dataset_path" in suite.reads
    look = suite.variation_for("train", config["color_distractor"], False)
    if path is not None and is_read and look == "original":
        raise UserError(
            f"--background_dataset_path {path}: {config['task']} shows its distractors with "
            "--color_distractor True alone: give it as well, or leave the path out"
        )
    given = [f for f in ("background_dataset_path", "test_background_dataset_path") if config[f]]
    shows_none = there["train"] is there["original"] is there["test"] and WORLDS[0] not in there
    if given and is_read and shows_none:
        raise UserError(
            f"--{given[0]} {config[given[0]]}: {config['task']} shows no background: leave it out"
        )


def _check_films(given: str | None, flag: str) -> None:
    """Checks that the folder of a flag is there, or the family of computed pictures.

    Raises:
        UserError: it is not.
    """
    if given is None or not is_procedural(given) or flag == "dmcgb_path":
        check_folder(given, flag, "*")
        return
    try:
        families_of(given, None)
    except ValueError as error:
        raise UserError(f"--{flag} {given}: {error}") from None


def _check_module(config: Mapping[str, Any]) -> None:
    """Checks that code is named by whoever starts the run, and by no file.

    Raises:
        UserError: a task that imports a module comes from a run's folder or another file.
    """
    task = config["task"]
    if (module := module_of(task)) and "task" not in config.overrides:
        raise UserError(
            f"the task {task} imports the module {module}, whose code then runs: if you trust it, "
            f"say so with --task {task}"
        )


def as_flags(text: str) -> str:
    """A text in which the names of settings are flags."""
    names = "|".join(EnvSettings.names())
    return re.sub(rf"(?<![\w-])({names})\b", r"--\1", text)


def _note_unread(config: Mapping[str, Any]) -> None:
    """Says which of the given flags and blocks are not for the task's suite."""
    task, (suite, identity) = config["task"], parse_task(config["task"])
    if VISION & set(config.blocks) and config["method_name"] != VISION_METHOD:
        print(f"note: the agent in HRSSM's world is {config['method_name']}", file=sys.stderr)
    others = (set(config.blocks) & set(SUITES)) - {suite}
    theirs = SUITES[suite].block or suite
    stacked = set(config.blocks) - {"defaults"} - VISION
    own = any(block.startswith(theirs) for block in config.blocks)  # such as atari100k
    if stacked and not others and not own:
        print(
            f"note: the settings of {suite}_… tasks are in the block {theirs}, which is not "
            "stacked",
            file=sys.stderr,
        )
    for block in others:
        print(
            f"note: the block {block} is for {block}_… tasks; {task} has the block {theirs}",
            file=sys.stderr,
        )
    reads = SUITES[suite].read_by(identity)
    if suite == "dmc" and len(identity) == 2 and not worlds_of(config["eval_worlds"]):
        reads = COMMON  # there is no world that would
    unread = (set(config.overrides) & set(EnvSettings.names())) - reads
    if unread:
        flags = ", ".join(f"--{name}" for name in sorted(unread))
        print(f"note: {flags} changes nothing in {task}", file=sys.stderr)
