"""Command lines to type next, which work in the folder where the user is."""

from __future__ import annotations

import os
import shlex

import envs
from training.provenance import ROOT


def dreamer(*words: str) -> str:
    """``python dreamer.py`` and words behind it; another folder than the code's needs its path."""
    return shlex.join(["python", "dreamer.py" if _at_home() else str(ROOT / "dreamer.py"), *words])


def evaluate(task: str, folder: str, *words: str) -> str:
    """The evaluation of a run; a task that imports a module has to be named again."""
    named = ["--task", task] if envs.module_of(task) else []
    return dreamer("--evaluate", folder, *named, *words)


def module(name: str, *words: str) -> str:
    """``python -m`` and a module of this code, which Python finds in its own folder alone."""
    path = "" if _at_home() else f"PYTHONPATH={shlex.quote(str(ROOT))} "
    return path + shlex.join(["python", "-m", name, *words])


def _at_home() -> bool:
    return os.path.samefile(os.curdir, ROOT)
