"""What the tests share: headless rendering, one thread, and tiny runs of the real command line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from envs.rendering import RenderingError, choose_backend

if "mujoco" not in sys.modules:
    # MuJoCo reads MUJOCO_GL when it is imported and never again.
    with contextlib.suppress(RenderingError):
        choose_backend()
# Sums are split among threads: with one of them numbers repeat, and tiny networks are faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

TASK = "dmc2gym_reacher_easy"
NETWORKS = {"units": 16, "dyn_deter": 16, "dyn_hidden": 16, "dyn_stoch": 4, "z_dim": 4}
NETWORKS |= {"cnn_depth": 4, "batch_size": 2, "batch_length": 6, "imag_horizon": 3}
PROCESS = {"device": "cpu", "num_threads": 1, "seed": 0, "log_videos": False}
# 60 agent steps in episodes of 10; training begins after 15, in the middle of the second.
EPISODES = {"time_limit": 20, "action_repeat": 2, "prefill": 15, "pretrain": 3, "steps": 120}
EPISODES |= {"eval_every": 60, "eval_episodes": 2, "eval_envs": 1, "log_every": 40}
EPISODES |= {"checkpoint_every": 58, "shadow_size": 64}
PREDICTOR = {"beta_vae_pretrain": True, "beta_vae": True, "pretrain_action_num": 2}
PREDICTOR |= {"pretrain_steps": 500, "pretrain_save_every": 200, "log_every": 150}
PREDICTOR |= {"checkpoint_every": 150}

# What a log holds beside the run itself: when it was, and where it stopped and went on.
CLOCKED = {"time", "fps", "updates_per_second", "folder"}
RESTARTS = {"start", "resume", "renderer", "dataset", "stopped", "set_aside", "finished"}


# Tests that fail today, by what the code does instead. A test that passes again is an error, and
# is to be taken off here.
KNOWN = {
    "refused only inside the run's folder: it stays, config.yaml in it, and events are on stderr": [
        "test_wrong_finetuning_is_refused[pretrain_checkpoint_path=damaged_encoder]",
        "test_wrong_finetuning_is_refused[pretrain_checkpoint_path=encoder_without_tensors]",
        "test_wrong_finetuning_is_refused[pretrain_checkpoint_path=code_in_encoder]",
        "test_wrong_finetuning_is_refused[z_dim=5]",
        "test_wrong_finetuning_is_refused[dyn_deter=8]",
        "test_wrong_finetuning_is_refused[source_action_num=9]",
        "test_wrong_finetuning_is_refused[actor_dist=onehot]",
        "test_wrong_finetuning_is_refused[traindir=used_traindir]",
        "test_wrong_pretraining_is_refused[pretrain_datasets_path=broken_videos]",
        "test_corrected_command_works_after_a_refusal",
        "test_refusal_of_a_real_process",
    ],
    "a traceback instead of one line": [
        "test_wrong_finetuning_is_refused[kl_scale=exp(1,0,0)]",
        "test_wrong_pretraining_is_refused[kl_scale=horizon(0,10,100)]",
        "test_wrong_finetuning_is_refused[act=Conv2d]",
        "test_wrong_finetuning_is_refused[test_max_delta=0.5]",
        "test_wrong_finetuning_is_refused[camera=True]",
        "test_wrong_finetuning_is_refused[camera_id=99]",
        "test_wrong_finetuning_is_refused[shadow_size=-1]",
        "test_wrong_finetuning_is_refused[background_dataset_path=nowhere]",
        "test_wrong_finetuning_is_refused[camera_max_zoom_in_percent=2.0 camera=True]",
        "test_wrong_finetuning_is_refused[decoder_kernels=[5, 5, 5, 5]]",
        "test_wrong_finetuning_is_refused[decoder_thin=False]",
        "test_wrong_pretraining_is_refused[offline_evaldir=nowhere]",
        "test_missing_episode_of_a_checkpoint_is_refused",
        "test_presets_that_are_none_are_refused_in_one_line[empty]",
        "test_presets_that_are_none_are_refused_in_one_line[no keys]",
        "test_presets_that_are_none_are_refused_in_one_line[no defaults]",
        "test_grayscale_run_draws_its_pictures",
    ],
    "episodes of --offline_traindir and --offline_evaldir are left out in silence": [
        "test_wrong_finetuning_is_refused[offline_traindir=empty]",
        "test_wrong_finetuning_is_refused[offline_traindir=broken_videos]",
        "test_wrong_pretraining_is_refused[offline_evaldir=broken_videos]",
    ],
    "the line has no mend, or shows not what was given": [
        "test_wrong_finetuning_is_refused[size=[64, 64, 3]]",
        "test_wrong_finetuning_is_refused[logdir=a_file]",
        "test_wrong_finetuning_is_refused[logdir=below_a_file]",
        "test_logdir_that_cannot_be_made_is_refused",
        "test_config_that_is_none_is_refused[broken]",
    ],
    "a note is printed before the refusal: two lines": [
        "test_wrong_finetuning_is_refused[beta_vae=False distillation=False traverse=True]",
    ],
    "the blocks are read off sys.argv, not off the command line that was parsed": [
        "test_blocks_of_the_printed_command_are_those_of_this_run",
    ],
    "the last log line is written a second time, with 0 fps": [
        "test_one_value_a_step_where_the_end_is_also_a_log_line",
        "test_every_name_has_one_value_a_step",
        "test_finished_run_started_again_does_nothing",
        "test_finished_pretraining_started_again_does_nothing",
    ],
    "an episode's event is logged at the step before it ended": [
        "test_events_and_rows_of_an_episode_have_one_step",
        "test_killed_run_logs_every_row_once[right after a checkpoint]",
        "test_killed_run_logs_every_row_once[many steps after a checkpoint]",
    ],
    "what an evaluation logged before it was stopped is logged again": [
        "test_stopped_run_logs_every_row_once[first evaluation]",
    ],
    "with --steps 0 the midpoint is passed at once": [
        "test_dataset_of_prefill_alone_has_the_first_colours",
    ],
    "episodes in --traindir are not set aside when a run begins again": [
        "test_killed_run_with_its_episodes_elsewhere_goes_on",
    ],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first; what needs a GPU only where there is one; known failures as such."""
    reasons = {name: reason for reason, names in KNOWN.items() for name in names}
    for item in items:
        if item.name in reasons:
            item.add_marker(pytest.mark.xfail(strict=True, reason=reasons[item.name]))
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


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
        from run import folder_of

        return folder_of(config.parse(argv))


@contextlib.contextmanager
def _calling(actions: Mapping[tuple[str, int], Callable[[], None]]) -> Iterator[None]:
    from run import Run

    counts: dict[str, int] = {}
    left = dict(actions)

    def check_stop(self: Run) -> None:
        phase = _phase(sys._getframe(1))
        counts[phase] = counts.get(phase, 0) + 1
        if action := left.pop((phase, counts[phase]), None):
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "check_stop", check_stop)
        yield
    assert not left, f"the run never came to {sorted(left)}: {counts}"


def _phase(frame: Any) -> str:
    """What a run is doing at the place that asks whether to stop."""
    if frame.f_code.co_name == "play":
        return "evaluation"
    job = frame.f_locals["self"]
    if not hasattr(job, "begun_at"):
        return "update"
    if job.begun_at < 0:
        return "prefill"
    return "update" if job.learner.updates < job.updates_due else "acting"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log that a restart must not change."""
    from logger import read_metrics

    rows = read_metrics(folder / "metrics.jsonl")
    rows = [row for row in rows if row.get("event") not in RESTARTS]
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in rows]


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


def assert_same_run(one: Path, other: Path) -> None:
    """Asserts that two runs ended in the same state, saw the same and logged the same rows.

    Whether a row is there twice is not looked at here.
    """
    assert_same(episodes(one), episodes(other))
    checkpoints = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (one, other)]
    assert_same(*checkpoints)
    rows = [sorted({str(sorted(row.items())) for row in metrics(f)}) for f in (one, other)]
    assert_same(*rows, "log")


class Same(NamedTuple):
    """Comparisons, and what they read."""

    run: Callable[..., None] = staticmethod(assert_same_run)
    values: Callable[..., None] = staticmethod(assert_same)
    metrics: Callable[..., list] = staticmethod(metrics)
    episodes: Callable[[Path], dict] = staticmethod(episodes)


@pytest.fixture(scope="session")
def same() -> Same:
    """Comparisons of runs."""
    return Same()


@pytest.fixture(scope="session")
def calling() -> Callable[..., Any]:
    """``with calling({("acting", 9): function})`` calls it at the run's ninth step of acting.

    A run asks again and again whether a signal came: in the phases ``prefill``, ``update``,
    ``acting`` and ``evaluation``. Each function is called at its place, and must be reached.
    """
    return _calling


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Tiny runs, and a teacher for them."""
    import config
    from checkpoint import save_predictor
    from models import VideoPredictor

    runs = Tiny(tmp_path_factory.mktemp("teacher"))
    torch.manual_seed(1)
    parsed = config.parse(runs.pretrain(runs.teacher, runs.teacher))
    save_predictor(runs.teacher, VideoPredictor(parsed, 2))
    return runs


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six short videos: frames, and nothing else."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(6):
        image = rng.integers(0, 256, (10 + number, 64, 64, 3), dtype=np.uint8)
        np.savez_compressed(folder / f"{number}.npz", image=image)
    return folder
