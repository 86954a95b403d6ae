"""Run folders, read for figures: configuration, log, and what lies below a parent folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from envs import has_switch
from fileio import yaml_files
from logger import read_metrics
from tools import UserError
from training.run_names import is_pretraining, variant

# What a figure needs to know of a run's configuration.
KEYS = frozenset({"task", "method_name", "seed", "steps", "color_distractor"})
SCALES = ("debug", "demo", "cpu")  # blocks that make runs smaller, the smallest first


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log that count.

    Raises:
        UserError: the folder holds no log, or a damaged one.
    """
    try:
        return read_metrics(folder / "metrics.jsonl")
    except FileNotFoundError:
        raise UserError(f"{folder} is no run's folder: it has no metrics.jsonl") from None
    except ValueError as error:
        raise UserError(f"{error}; take it out, or name another run") from None


def read_config(folder: Path) -> dict[str, Any]:
    """A run's configuration, as it was saved.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} is no run's folder: it has no config.yaml")
    config = yaml_files.load(path)
    if not isinstance(config, dict) or not config.keys() >= KEYS:
        raise UserError(f"{path} is not a run's configuration; name another run")
    return config


def find_runs(folder: Path) -> list[Path]:
    """The run that a folder is, or all runs below it but pretrainings, in the order of their paths.

    Raises:
        UserError: there is none.
    """
    folder = Path(folder)
    if (folder / "config.yaml").is_file():
        return [folder]
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        if "config.yaml" in files:  # nothing of a run's own folders is another run
            folders.clear()
            if not is_pretraining(Path(place).absolute().parts[-2]):
                found.append(Path(place))
    if not found:
        what = "holds no run" if folder.is_dir() else "is not there"
        raise UserError(f"{folder} {what}: name a folder like <logdir>/<task>/<method>/seed_<n>")
    return sorted(found)


def runs_in(folders: Iterable[Path] | Mapping[str, Path]) -> list[Path]:
    """All runs in or below folders, which may have names.

    Raises:
        UserError: there is none in one of them.
    """
    given = folders.values() if isinstance(folders, Mapping) else folders
    return [run for folder in given for run in find_runs(Path(folder))]


def scale_of(folder: Path) -> str:
    """The smallest of ``SCALES`` among the blocks that a run was stacked from; else nothing."""
    with (folder / "config.yaml").open(encoding="utf-8", errors="replace") as file:
        head = "".join(line for _, line in zip(range(3), file, strict=False))
    found = re.search(r"^# --configs (.*)$", head, re.MULTILINE)
    blocks = found[1].split() if found else []
    return next((scale for scale in SCALES if scale in blocks), "")


def source_of(config: Mapping[str, Any]) -> str:
    """The task whose videos taught a run's first stage, where its folder's path tells; else ''."""
    taught = config.get("distillation") or config["method_name"] not in ("diswm", "dreamerv2")
    parts = Path(config.get("pretrain_checkpoint_path") or "").parts
    return parts[-3] if taught and len(parts) > 2 and is_pretraining(parts[-2]) else ""


def arm_of(config: Mapping[str, Any]) -> str:
    """A run's method, with its label if it has one."""
    return variant(config["method_name"], config.get("label", ""))


def switches(folders: Iterable[Path]) -> dict[str, float]:
    """{task: frame} where the colours switch, of those runs in or below folders that have one."""
    found: dict[str, float] = {}
    for run in runs_in(folders):
        config = read_config(run)
        at = config.get("switch_at", config["steps"] / 2)
        if not config["steps"] or at is None:  # a collection: no training that could be switched in
            continue
        if config["color_distractor"] and has_switch(config["task"], config):
            found[config["task"]] = at
    return found
