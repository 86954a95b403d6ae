"""The documentation as a reader uses it: its blocks of code, and a copy of the code to change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".*", "results", "shared", "checkpoints", "runs", "__pycache__", "predictors.tar.xz")


def blocks(document: str, language: str) -> list[str]:
    """What stands between the fences of that language, from top to bottom."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def copy_code(folder: Path, *left_out: str) -> Path:
    """A copy of the checkout to change; no history, no runs."""
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT, *left_out))


def edit(path: Path, old: str, new: str) -> None:
    """Puts a text in the place of another that stands there once."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new))


def add_keys(folder: Path, keys: str) -> None:
    """Adds lines to the defaults, at the end of the environment's."""
    edit(folder / "configs.yaml", "\n  # ## Training\n", f"{keys}\n  # ## Training\n")


def bash(folder: Path, script: str) -> subprocess.CompletedProcess:
    """A session of bash in a folder, whose python is this one; stops at what fails."""
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
