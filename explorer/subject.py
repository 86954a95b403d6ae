"""What is explored: the models of a run or of a pretrained predictor, and a run's agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import config as configuration
from accel.runtime import CPU_CHUNK, Runtime
from agents.base import Spaces
from agents.diswm import DisWM
from agents.pretrained import PREDICTOR_FILES, find_predictor, load_predictor
from agents.registry import METHODS, agent_class
from config import Config, load_saved
from figures.stages import MODEL, TEACHER, Stages, model_of, videos_of
from fileio import checkpoints
from heads import ActionHead
from models import VideoPredictor
from replay.files import episode_files
from tools import UserError, print_safe
from training.run_folder import CONFIG, check_format
from training.run_names import EPISODES
from training.saved_run import load_state

PREDICTOR, STUDENT, TAUGHT_BY = "predictor", "student", "teacher"
VIDEOS = "videos"  # of the first stage, beside a run's own episodes
LISTED = 100  # episodes of each folder: a run may have thousands
RUNTIME = Runtime(torch.device("cpu"), image_chunk=CPU_CHUNK)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is explored.

    Attributes:
        folder: the run's, or the predictor's.
        config: the run's; None of a predictor that came without.
        models: by their names: ``teacher`` and ``student``, or ``predictor``.
        agent: whose student it is; None without one.
        folders: of episodes, by the names of their groups.
        newest: whether the models are those that the folder stands for, and what was measured of it
            is of them; not those of an earlier checkpoint.
    """

    folder: Path
    config: Config | None
    models: dict[str, VideoPredictor]
    agent: DisWM | None
    folders: dict[str, Path]
    newest: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the models see."""
        return next(iter(self.models.values())).config.image.shape

    @property
    def vector_size(self) -> int:
        """V, the numbers that the student sees beside an image; 0 for none."""
        return 0 if self.agent is None else self.agent.vector_size

    def episodes(self) -> dict[str, Path]:
        """Episode files as they are now, by their names: the newest of each folder first.

        Those whose names are no text are left out: a page cannot ask for them.
        """
        found: dict[str, Path] = {}
        for group, folder in self.folders.items():
            files = episode_files(folder) if folder.is_dir() else []
            names = {f"{group}/{path.relative_to(folder).as_posix()}": path for path in files}
            texts = [name for name in names if as_text(name) == name]
            found.update((name, names[name]) for name in texts[: -LISTED - 1 : -1])
        return found


def as_text(name: str) -> str:
    """A file's name as UTF-8 can have it: with ``?`` for what is no text in it."""
    return name.encode(errors="replace").decode()


def open_subject(given: str) -> Subject:
    """What a run's folder, one of its checkpoints, or a predictor's folder has to explore.

    Raises:
        UserError: there is nothing of the kind; one line.
    """
    path = Path(given).expanduser()
    if not path.exists():
        raise UserError(f"{given}: there is no such file or folder; give a run's folder")
    folder = path if path.is_dir() else path.parent
    saved = folder / CONFIG
    if path.name in PREDICTOR_FILES.values() or not saved.is_file():
        return _of_predictor(folder, _config_near(folder), {})
    check_format(folder)
    config = load_saved(saved, METHODS)
    if not config.beta_vae:
        raise UserError(
            f"{folder} has no β-VAE, whose latents are explored: give a run with --beta_vae True"
        )
    if config.beta_vae_pretrain and path.is_dir():
        return _of_predictor(folder, config, _folders(folder, config))
    if path.is_file():
        state = checkpoints.load(path)
    elif checkpoints.find(folder):
        state = load_state("run", folder)
    else:
        raise UserError(f"{folder} has no {checkpoints.NEWEST} yet: wait until it has written one")
    learner = state.get("learner") if isinstance(state, Mapping) else None
    weights = learner.get("weights") if isinstance(learner, Mapping) else None
    if not isinstance(learner, Mapping) or not isinstance(weights, Mapping):
        raise UserError(f"{path} is no checkpoint of a run: give its folder")
    if config.beta_vae_pretrain:
        models = {PREDICTOR: model_of(weights, "model.", config, folder)}
        subject = Subject(folder, config, models, None, _folders(folder, config))
    else:
        subject = _of_agent(folder, config, learner)
    named = path.is_dir() or path.name == checkpoints.NEWEST
    return dataclasses.replace(subject, newest=named or path in checkpoints.find(folder)[:1])


def _of_predictor(folder: Path, config: Config | None, folders: dict[str, Path]) -> Subject:
    """A predictor's files, with their configuration or, without one, the sizes of the paper."""
    sizes = config or configuration.parse(["--beta_vae", "True"], methods=METHODS)
    try:
        source = find_predictor(str(folder))
        model = load_predictor(sizes.replace(pretrain_checkpoint_path=str(source)))
    except UserError as error:
        text = str(error).replace("--pretrain_checkpoint_path: ", "")
        text = text.replace("--pretrain_checkpoint_path ", "")
        if config is None:
            text += f"; or put the {CONFIG} of its pretraining beside it"
        raise UserError(text) from None
    return Subject(folder, config, {PREDICTOR: model.eval()}, None, folders)


def _config_near(folder: Path) -> Config | None:
    """The configuration beside a predictor, or of the pretraining that a snapshot lies in."""
    for path in (folder / CONFIG, folder.parent.parent / CONFIG):
        if path.is_file():
            return load_saved(path, METHODS)
    return None


def _of_agent(folder: Path, config: Config, learner: Mapping[str, Any]) -> Subject:
    """A finetuning's agent and, where it has one, its teacher."""
    kind, weights = agent_class(config.method_name), learner["weights"]
    if not issubclass(kind, DisWM):
        raise UserError(f"{folder} is a run of {config.method_name}: give a run of diswm")
    # What "auto" means the task's suite says, whose package need not be here.
    ends = any(name.startswith(f"{MODEL}discount.") for name in weights)
    own = config.replace(device="cpu", pred_discount=str(ends))
    try:
        agent = kind(own, RUNTIME, _spaces(config, weights))
        agent.load_state(learner)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder}: {error}: explore it with the code that made the run") from None
    models: dict[str, VideoPredictor] = {}
    if any(name.startswith(TEACHER) for name in weights):
        models[TAUGHT_BY] = model_of(weights, TEACHER, config, folder)
    models[STUDENT] = agent.world_model
    agent.eval()
    return Subject(folder, config, models, agent, _folders(folder, config))


def _spaces(config: Config, weights: Mapping[str, torch.Tensor]) -> Spaces:
    """What the agent sees and how it acts, from the shapes of its weights."""
    stoch = config.dyn_stoch * max(1, config.dyn_discrete)
    actions = weights[f"{MODEL}rssm.inputs.0.weight"].shape[1] - stoch - config.action_num_gap
    vector = weights.get(f"{MODEL}vector.layers.0.weight")
    # A choice has one number for each action, a Gaussian's mean and deviation are two; those whose
    # deviation is fixed have one, and are named, as "auto" stands for none of them.
    single = weights["behavior.actor.out.weight"].shape[0] == actions
    discrete = single and config.actor_dist not in ActionHead.CONTINUOUS
    channels = 1 if config.grayscale else 3
    size = 0 if vector is None else vector.shape[1]
    return Spaces((*config.size, channels), actions, discrete, size)


def _folders(folder: Path, config: Config) -> dict[str, Path]:
    """Where a run's episodes lie, and those that its first stage learned from."""
    folders = {name: folder / name for name in EPISODES}
    try:
        videos = videos_of(Stages(config, None, None))
    except UserError as error:  # of the other run's folder, which is not what was asked for
        print_safe(f"note: the first stage's videos are left out: {error}")
        return folders
    return folders if videos is None else {**folders, VIDEOS: videos}
