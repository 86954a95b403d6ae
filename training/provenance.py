"""What a run was made with: code, command, versions, machine; one line for each of its starts."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fileio.atomic import atomic_write

FILE = "provenance.jsonl"
ROOT = Path(__file__).parents[1]  # of the code
PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "dm_control", "metaworld")
CODE = (".py", ".yaml")  # how files end that say what a run does


def write_start(
    folder: Path, command: Sequence[str], device: torch.device, renderer: str | None
) -> dict[str, Any]:
    """Adds a start to ``provenance.jsonl``, which is whole at any moment; returns what it says.

    Args:
        folder: the run's.
        command: the words behind ``dreamer.py``.
        device: where the model lives.
        renderer: what draws the images, if anything does.

    Raises:
        OSError: it cannot be written.
    """
    start = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **code(),
        "command": shlex.join(["dreamer.py", *command]),
        "versions": versions(),
        "renderer": renderer,
        "device": str(device),
        "device_name": device_name(device),
    }
    path = folder / FILE
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):  # an editor took it
        before += b"\n"
    with atomic_write(path) as file:
        file.write(before + json.dumps(start).encode() + b"\n")
    return start


def writer_of(folder: Path) -> str | None:
    """The commit that a run's last start was made with; None where that is not known."""
    path = folder / FILE
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    try:
        commit = json.loads(lines[-1])["commit"]
    except (LookupError, TypeError, ValueError):  # an editor took it
        return None
    return commit if isinstance(commit, str) and re.fullmatch("[0-9a-f]{7,64}", commit) else None


def code(root: Path = ROOT) -> dict[str, Any]:
    """The version of the code.

    Returns:
        ``version`` of the package; ``commit`` of the checkout, and whether its code is ``modified``
        since: both None without a checkout, or without git.
    """
    project, version = root / "pyproject.toml", None
    if project.exists() and (found := re.search(r'^version = "(.*)"', project.read_text(), re.M)):
        version = found[1]
    commit = _git(root, "rev-parse", "HEAD")
    tree = None if commit is None else _git(root, "ls-tree", "-r", "-z", "HEAD")
    return {
        "version": version,
        "commit": None if commit is None else commit.decode().strip(),
        "modified": None if tree is None else _is_modified(root, tree),
    }


def _git(root: Path, *words: str) -> bytes | None:
    """What git prints of the checkout's own repository; None where it cannot.

    Of a repository's own settings it follows none that names a program: these are no commands that
    compare, filter or fetch, and so ``git status`` is not among them.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    variables |= {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", f"--git-dir={root / '.git'}", *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=variables,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def _is_modified(root: Path, tree: bytes) -> bool:
    """Whether a file of code differs from what ``git ls-tree -z`` says of it, or is gone."""
    for entry in tree.split(b"\0"):
        described, _, name = entry.partition(b"\t")
        path = root / os.fsdecode(name)
        if not described.startswith(b"100") or path.suffix not in CODE:
            continue
        digest = described.split()[2].decode()
        if not path.is_file() or _blob(path.read_bytes(), len(digest)) != digest:
            return True
    return False


def _blob(content: bytes, digits: int) -> str:
    """Git's name for a file's content, in a repository whose names have so many digits."""
    kind = hashlib.sha1 if digits == 40 else hashlib.sha256
    return kind(b"blob %d\0" % len(content) + content).hexdigest()


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that numbers depend on, where they are here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def device_name(device: torch.device) -> str:
    """How its maker calls a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    return found[1] if found else platform.processor() or platform.machine()
