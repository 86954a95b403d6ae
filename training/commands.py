"""Command lines to type next, which work in the folder where the user is."""

from __future__ import annotations

import os
import shlex

from training.provenance import ROOT


def dreamer(*words: str) -> str:
    """``python dreamer.py`` and words behind it; another folder than the code's needs its path."""
    return shlex.join(["python", "dreamer.py" if _at_home() else str(ROOT / "dreamer.py"), *words])


def module(name: str, *words: str) -> str:
    """``python -m`` and a module of this code, which Python finds in its own folder alone."""
    path = "" if _at_home() else f"PYTHONPATH={shlex.quote(str(ROOT))} "
    return path + shlex.join(["python", "-m", name, *words])


def _at_home() -> bool:
    return os.path.samefile(os.curdir, ROOT)
