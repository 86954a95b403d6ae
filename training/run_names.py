"""What runs are called: in their folder's path, in the legend of a figure, at W&B."""

from __future__ import annotations

import os
import re
from pathlib import Path

from config import Config
from data import hub, sources
from tools import UserError, expand_path

PRETRAIN = "pretrain"  # in the place of a method's name
EPISODES = ("train_eps", "eval_eps")  # folders in a run's, named alike in all of them
LONGEST = 50  # characters, of up to four bytes each: a file system takes 255

_NAME = re.compile(rf"\w[\w.+=-]{{0,{LONGEST - 1}}}")


def path_of(config: Config) -> tuple[str, str, str]:
    """A run's folder below ``--logdir``: subject, method, seed.

    The subject is the task. Of a pretraining, which plays none, it is ``--dataset_name``; else
    ``--task`` if that is a flag; else the name of what it learns from.

    Raises:
        UserError: ``--label`` or ``--dataset_name`` cannot be part of a path.
    """
    method = variant(PRETRAIN if config.beta_vae_pretrain else config.method_name, config.label)
    for flag in ("label", "dataset_name"):
        given = config[flag]
        if given and not _NAME.fullmatch(given):
            raise UserError(
                f"--{flag} '{given[:LONGEST]}' is to name a folder: give up to {LONGEST} letters, "
                "digits, '.', '_', '+', '=' or '-', the first a letter or a digit"
            )
    return _subject(config), method, f"seed_{config.seed}"


def variant(method: str, label: str) -> str:
    """A method with the label of its run, if that has one."""
    return f"{method}-{label}" if label else method


def is_pretraining(name: str) -> bool:
    """Whether the folder of this name, with or without a label, holds pretrainings."""
    return name == PRETRAIN or name.startswith(f"{PRETRAIN}-")


def task_name(task: str) -> str:
    """A task's name as that of a folder: Gymnasium's may have slashes, and colons."""
    return re.sub(r"[/:]+", "_", task)


def _subject(config: Config) -> str:
    if not config.beta_vae_pretrain:
        if config.dataset_name:
            raise UserError(
                "--dataset_name is for a pretraining: --task names the run of an agent, and "
                "--label tells variants of it apart"
            )
        return task_name(config.task)
    if config.dataset_name:
        return config.dataset_name
    if "task" in config.overrides:
        return task_name(config.task)
    if not config.pretrain_datasets_path:
        return _name_of(config.offline_traindir)
    given = sources.names(config.pretrain_datasets_path, "pretrain_datasets_path")
    return "+".join(_name_of(name.removeprefix(hub.PREFIX)) for name in given)[:LONGEST]


def _name_of(dataset: str) -> str:
    """The last folder's name or the file's without its endings; of a run's episodes, the task's."""
    path = Path(os.path.abspath(expand_path(dataset, "pretrain_datasets_path")))
    name = path.name
    if name in EPISODES and len(path.parts) > 4 and (path.parent / "config.yaml").is_file():
        name = path.parents[2].name
    elif not path.is_dir():
        name = name.partition(".")[0] or name
    return re.sub(r"[^\w.+=-]+", "_", name)[:LONGEST].strip("._+=-") or "videos"
