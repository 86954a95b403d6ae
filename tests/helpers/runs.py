"""Tiny runs of the real command line: what they are called with, leave behind, and compare by."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

TASK = "dmc2gym_point_mass_easy"
NETWORKS = {"units": 16, "dyn_deter": 16, "dyn_hidden": 16, "dyn_stoch": 4, "z_dim": 4}
NETWORKS |= {"cnn_depth": 4, "batch_size": 2, "batch_length": 6, "imag_horizon": 3}
PROCESS = {"device": "cpu", "num_threads": 1, "seed": 0, "log_videos": False}
# 60 agent steps in episodes of 10; training begins after 15, in the middle of the second.
EPISODES = {"time_limit": 20, "action_repeat": 2, "prefill": 15, "pretrain": 3, "steps": 120}
EPISODES |= {"eval_every": 60, "eval_episodes": 2, "eval_envs": 1, "log_every": 40}
EPISODES |= {"checkpoint_every": 58, "shadow_size": 64, "video_every": 1}
PREDICTOR = {"beta_vae_pretrain": True, "beta_vae": True, "pretrain_action_num": 2}
PREDICTOR |= {"pretrain_steps": 500, "pretrain_save_every": 200, "log_every": 150}
PREDICTOR |= {"checkpoint_every": 150}

# Where a kill leaves what the reference run's folder is at that moment; see `calling`.
KILLS = {
    "before the first checkpoint": ("prefill", 12),
    "right after a checkpoint": ("acting", 16),
    "many steps after a checkpoint": ("acting", 36),
    "last evaluation": ("evaluation", 75),
}

# What a log holds beside the run itself: when it was, and where it stopped and went on.
CLOCKED = {"time", "fps", "updates_per_second", "folder", "env_restarts"}
TIMED = ("seconds_", "share_")
RESTARTS = {"start", "resume", "renderer", "dataset", "stopped", "set_aside", "finished", "warning"}
RESTARTS |= {"env_restart", "provenance", "init_from"}


class Result(NamedTuple):
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


class Tiny:
    """Command lines of runs that take seconds, and what they leave behind.

    Args:
        teacher: a folder with a pretrained predictor of the tiny sizes.
    """

    task = TASK

    def __init__(self, teacher: Path):
        self.teacher = teacher

    @functools.cached_property
    def plain(self) -> Path:
        """A folder with a predictor that has DreamerV2's CNN, and no action input."""
        folder = self.teacher.with_name(f"{self.teacher.name}_plain")
        _save_predictor(folder, self.pretrain(folder, folder, beta_vae=False), 0)
        return folder

    @functools.cached_property
    def contextual(self) -> Path:
        """A folder with ContextWM's predictor, one residual layer a stage."""
        from agents.pretrained import save_predictor
        from agents.registry import METHODS
        from baselines.context_model import ContextPredictor, context_config
        from config import parse

        folder = self.teacher.with_name(f"{self.teacher.name}_contextual")
        flags = {"method_name": "contextwm", "beta_vae": False, "dyn_discrete": 3, "res_layers": 1}
        argv = self.pretrain(folder, folder, **flags)
        torch.manual_seed(1)
        save_predictor(folder, ContextPredictor(context_config(parse(argv, methods=METHODS))))
        return folder

    def command(self, runs: Path, /, *flags: Mapping[str, Any], **more: Any) -> list[str]:
        """The words of a command line; later flags win."""
        chosen = {"task": TASK, "logdir": runs, **NETWORKS, **PROCESS}
        for given in (*flags, more):
            chosen |= given
        words: list[str] = []
        for name, value in chosen.items():
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name}", *map(str, values)]
        return ["--configs", "defaults", "dmc2gym", *words]

    def pretrain(self, runs: Path, data: Path, /, **flags: Any) -> list[str]:
        """A pretraining of 10 updates."""
        return self.command(runs, PREDICTOR, {"pretrain_datasets_path": data}, **flags)

    def finetune(self, runs: Path, /, **flags: Any) -> list[str]:
        """A finetuning of 60 agent steps with the teacher."""
        transfer = {"beta_vae": True, "distillation": True, "color_distractor": True}
        transfer |= {"pretrain_checkpoint_path": self.teacher}
        return self.command(runs, EPISODES, transfer, **flags)

    def episodes(self, runs: Path, /, **flags: Any) -> list[str]:
        """A run of 60 agent steps, of any method."""
        return self.command(runs, EPISODES, **flags)

    def run(self, argv: list[str]) -> Result:
        """A command line in this process."""
        import dreamer

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = dreamer.main(argv)
        return Result(code, out.getvalue(), err.getvalue())

    def finish(self, argv: list[str]) -> Path:
        """A command line that has to succeed; its run's folder."""
        result = self.run(argv)
        assert result.code == 0, result.err
        return self.folder(argv)

    def folder(self, argv: list[str]) -> Path:
        """The run's folder of a command line."""
        import config
        from agents.registry import METHODS
        from training.run_folder import folder_of

        return folder_of(config.parse(argv, methods=METHODS))


@contextlib.contextmanager
def calling(actions: Mapping[tuple[str, int], Callable[[], None]]) -> Iterator[None]:
    """Calls functions at the n-th time that a run asks, within a phase, whether to stop."""
    from training.evaluator import Evaluator
    from training.stop import StopSignal
    from training.trainer import Trainer

    counts: dict[str, int] = {}
    left, trainers, play, evaluating = dict(actions), [], Evaluator.play, []

    def enter(self: Trainer) -> Trainer:
        trainers.append(self)
        return self

    def evaluate(self: Evaluator, *args: Any, **kwargs: Any) -> Any:
        evaluating.append(True)
        try:
            return play(self, *args, **kwargs)
        finally:
            evaluating.pop()

    def check(self: StopSignal) -> None:
        phase = "evaluation" if evaluating else _phase(trainers[-1])
        counts[phase] = counts.get(phase, 0) + 1
        if action := left.pop((phase, counts[phase]), None):
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__enter__", enter)
        patch.setattr(Evaluator, "play", evaluate)
        patch.setattr(StopSignal, "check", check)
        yield
    assert not left, f"the run never came to {sorted(left)}: {counts}"


def _phase(trainer: Any) -> str:
    """What a run is doing where it asks whether to stop."""
    if not hasattr(trainer, "begun_at"):
        return "update"
    if trainer.begun_at < 0:
        return "prefill"
    return "update" if trainer.updates < trainer.updates_due else "acting"


def refusal(function: Callable[..., Any], *args: Any) -> str:
    """The one line that a call is refused with."""
    from tools import UserError

    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def events(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The rows that count in a run's log and tell of such events."""
    from logger import read_metrics

    return [r for r in read_metrics(folder / "metrics.jsonl") if r.get("event") in names]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log that a restart must not change."""
    from logger import read_metrics

    rows = read_metrics(folder / "metrics.jsonl")
    rows = [row for row in rows if row.get("event") not in RESTARTS]

    def kept(name: str) -> bool:
        return name not in CLOCKED and not name.startswith(TIMED)

    return [{k: v for k, v in row.items() if kept(k)} for row in rows]


def episodes(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every episode file of a run, by its name."""
    paths = sorted([*folder.glob("train_eps/*.npz"), *folder.glob("eval_eps/*.npz")])
    return {f"{path.parent.name}/{path.name}": dict(np.load(path)) for path in paths}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Asserts that nested dicts and lists of tensors, arrays and plain values are equal."""
    assert type(one) is type(other), f"{where}: {type(one)} and {type(other)}"
    if isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(one, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=where)
    else:
        assert one == other, f"{where}: {one} and {other}"


def saved(path: Path) -> dict[str, Any]:
    """What a .pt file of a run holds, without how long the log is, which has times in it."""
    state = torch.load(path, weights_only=True)
    return {name: value for name, value in state.items() if name != "log"}


def assert_same_run(one: Path, other: Path) -> None:
    """Asserts that two runs ended in the same state, saw the same and logged the same rows.

    Whether a row is there twice is not looked at here.
    """
    assert_same(episodes(one), episodes(other))
    assert_same(*(saved(folder / "checkpoint.pt") for folder in (one, other)))
    rows = [sorted({str(sorted(row.items())) for row in metrics(f)}) for f in (one, other)]
    assert_same(*rows, "log")


class Same(NamedTuple):
    """Comparisons, and what they read."""

    run: Callable[..., None] = staticmethod(assert_same_run)
    values: Callable[..., None] = staticmethod(assert_same)
    metrics: Callable[..., list] = staticmethod(metrics)
    episodes: Callable[[Path], dict] = staticmethod(episodes)


def make_runs(teacher: Path) -> Tiny:
    """Tiny runs, and a teacher for them in an empty folder."""
    runs = Tiny(teacher)
    _save_predictor(teacher, runs.pretrain(teacher, teacher), 2)
    return runs


def _save_predictor(folder: Path, argv: list[str], actions: int) -> None:
    """Writes a predictor of a pretraining's sizes, which has learned nothing."""
    from agents.model_configs import predictor_config
    from agents.pretrained import save_predictor
    from config import parse
    from models import VideoPredictor

    torch.manual_seed(1)
    save_predictor(folder, VideoPredictor(predictor_config(parse(argv)), actions))


def make_videos(folder: Path) -> Path:
    """A dataset of six short videos: frames, and nothing else."""
    rng = np.random.default_rng(0)
    for number in range(6):
        image = rng.integers(0, 256, (10 + number, 64, 64, 3), dtype=np.uint8)
        np.savez_compressed(folder / f"{number}.npz", image=image)
    return folder
