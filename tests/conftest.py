"""What the tests share: headless rendering, one thread, and tiny runs of the real command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from envs import RenderingError, choose_backend
from tests.helpers import runs
from tests.helpers.runs import Same, Tiny

if "mujoco" not in sys.modules:
    # MuJoCo reads MUJOCO_GL when it is imported and never again.
    with contextlib.suppress(RenderingError):
        choose_backend()
# Sums are split among threads: with one of them numbers repeat, and tiny networks are faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# The same examples each time, however slow the machine is.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first; what needs a GPU only where there is one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def same() -> Same:
    """Comparisons of runs."""
    return Same()


@pytest.fixture(scope="session")
def calling() -> Callable[..., Any]:
    """Calls functions at given places of a run.

    ``with calling({("acting", 9): function})`` calls it at the run's ninth step of acting. A run
    asks again and again whether a signal came: in the phases ``prefill``, ``update``, ``acting``
    and ``evaluation``. Each function is called at its place, and must be reached.
    """
    return runs.calling


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Tiny runs, and a teacher for them."""
    return runs.make_runs(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, calling: Callable) -> Path:
    """A run that nothing interrupts; `killed` has what kills would have left of it."""
    root = tmp_path_factory.mktemp("whole")

    def copying(name: str) -> Callable[[], Any]:
        return lambda: shutil.copytree(root / "runs", root / name, symlinks=True)

    with calling({place: copying(name) for name, place in runs.KILLS.items()}):
        return tiny.finish(tiny.finetune(root / "runs"))


@pytest.fixture
def killed(tmp_path: Path, whole: Path) -> Callable[[str], Path]:
    """Copies into ``tmp_path / "killed"`` what a kill of that name would have left of the run."""

    def copy(name: str) -> Path:
        return shutil.copytree(whole.parents[3] / name, tmp_path / "killed", symlinks=True)

    return copy


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """The same run with all pictures; the colours switch at frame 60 of 120."""
    flags = {"log_videos": True, "traverse": True, "expl_gifs": True}
    return tiny.finish(tiny.finetune(tmp_path_factory.mktemp("shown"), **flags))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six short videos: frames, and nothing else."""
    return runs.make_videos(tmp_path_factory.mktemp("videos"))
