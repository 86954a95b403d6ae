"""The updates of authors whose agents see stacked frames, from checkouts that the user has.

Their files are imported as they are and never edited. What makes them run here:

- Modules that they import and an update does not need are stubs (`repositories.py` lists them).
- ``skimage.util.shape.view_as_windows`` is NumPy's ``sliding_window_view``, the same view.
- ``kornia.augmentation.RandomCrop`` is a loop of slices, as in kornia's later versions; the one of
  the authors' time warped images, which takes longer.
- RAD's crops are told their size, which is 84 unless it is told.
- On a CPU ``.cuda()`` moves nothing, and ``np.array(…, copy=False)`` may copy, as it might before
  NumPy 2.
- DrQ-v2's replay loads in the process that learns (``num_workers=0``): its four worker processes
  would take the cores that are measured.

An update is their agent's ``update``, which draws from their own replay buffer, full of noise:
sampling and augmentation are parts of it, as they are of ours.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.noise import EPISODES, STEPS, make_episodes, stacks
from benchmarks.repositories import REPOSITORIES
from benchmarks.stubs import Nothing, enter

Given = Mapping[str, Any]
Log = dict[str, Any]


class Reference:
    """Authors' agent and its replay of noise.

    Args:
        method: whose.
        checkout: the folder with their files.
        config: `repositories.KEYS` of our configuration, as far as the method has them.
        actions: A.
        device: ``cpu`` or ``cuda:0``.
    """

    def __init__(self, method: str, checkout: Path, config: Given, actions: int, device: str):
        repository = REPOSITORIES[method]
        real = {
            "skimage.util.shape.view_as_windows": np.lib.stride_tricks.sliding_window_view,
            "kornia.augmentation": SimpleNamespace(RandomCrop=RandomCrop),
        }
        enter(checkout / repository.folder, repository.stubs, ("algorithms", "utils"), real)
        self._log: Log = {}
        build = {"sac": _curl, "rad": _curl, "curl": _curl, "ted": _ted, "svea": _svea}
        make = build.get(method, _drqv2)
        self._update = make(method, dict(config), actions, torch.device(device), self._log)
        self._step = 2

    def update(self, batch: Any) -> dict[str, float]:
        """One update of theirs; the batch is their own replay's.

        Returns:
            The critic's loss, where this update has told it.
        """
        self._update(self._step)
        self._step += 1
        return {"critic_loss": float(self._log["loss"])}


def make(spec: Mapping[str, Any]) -> Callable[[Any], dict[str, float]]:
    """The update of what a worker is to hold."""
    given = (spec["keys"], spec["actions"], spec["device"])
    return Reference(spec["method"], Path(spec["checkout"]), *given).update


class _Logger(Nothing):
    """Where their agents log to: it keeps the critic's loss and drops the rest."""

    def __init__(self, log: Log):
        self._kept = log

    def log(self, name: str, value: Any, step: int) -> None:
        if name == "train_critic/loss":
            self._kept["loss"] = value.detach()


class _EarlierNumPy:
    """NumPy whose ``array(…, copy=False)`` may copy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def array(value: Any, *args: Any, copy: bool = True, **kwargs: Any) -> np.ndarray:
        return np.array(value, *args, copy=copy or None, **kwargs)


class RandomCrop(nn.Module):
    """A crop of each image, all places alike.

    Args:
        size: height and width.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C, h, w]."""
        (height, width), count = self.size, len(x)
        tops = torch.randint(x.shape[2] - height + 1, (count,)).tolist()
        lefts = torch.randint(x.shape[3] - width + 1, (count,)).tolist()
        places = zip(x, tops, lefts, strict=True)
        return torch.stack([i[:, t : t + height, w : w + width] for i, t, w in places])


def _transitions(
    given: Given, side: int, actions: int, add: Callable[..., Any], wrap: Any = None
) -> None:
    """Calls ``add(obs, action, reward, next_obs, False, number)`` for each transition of noise."""
    for number, episode in enumerate(make_episodes((side, side), actions)):
        seen = wrap(episode) if wrap else stacks(episode, given["frame_stack"])
        for row in range(STEPS):
            action, reward = episode["action"][row + 1], episode["reward"][row + 1]
            add(seen[row], action, reward, seen[row + 1], False, number)


def _stored_side(given: Given) -> int:
    """Of the images in replays whose crops are not padded."""
    return given.get("render_size") or given["size"][0] + 2 * given.get("crop_pad", 0)


# Settings of CURL's and RAD's agents that are called the same here.
_SAME = (
    *("hidden_dim", "discount", "init_temperature", "alpha_lr", "alpha_beta", "actor_lr"),
    *("actor_update_freq", "critic_tau", "critic_target_update_freq", "encoder_feature_dim"),
    *("encoder_tau", "num_layers", "num_filters"),
)


def _curl(
    method: str, given: Given, actions: int, device: torch.device, log: Log
) -> Callable[[int], None]:
    module, utils = importlib.import_module("curl_sac"), importlib.import_module("utils")
    size, side, g = given["size"][0], _stored_side(given), given
    channels = 3 * g["frame_stack"]
    settings = {
        **{name: g[name] for name in _SAME},
        "critic_lr": g["value_lr"],
        "encoder_lr": g.get("encoder_lr", 1e-3),
        "log_interval": 1,  # the loss of each update is told
    }
    make = module.CurlSacAgent if method == "curl" else module.RadSacAgent
    if method != "curl":
        settings["data_augs"] = "no_aug" if method == "sac" else "crop"
    agent = make((channels, size, size), (actions,), device, **settings)
    if method == "rad":
        agent.augs_funcs["crop"] = functools.partial(agent.augs_funcs["crop"], out=size)
    shape, rows = (channels, side, side), EPISODES * STEPS
    replay = utils.ReplayBuffer(shape, (actions,), rows, g["batch_size"], device, size)
    _transitions(g, side, actions, lambda *what: replay.add(*what[:5]))
    return lambda step: agent.update(replay, _Logger(log), step)


def _arguments(words: list[str]) -> argparse.Namespace:
    """What their own command line makes of some words."""
    before, sys.argv = sys.argv, ["train.py", *words]
    try:
        return importlib.import_module("arguments").parse_args()
    finally:
        sys.argv = before


def _words(given: Given, names: Mapping[str, str]) -> list[str]:
    """Words of their command line, of what it calls by other names, too."""
    return [word for ours, theirs in names.items() for word in (f"--{theirs}", str(given[ours]))]


_THEIR_NAMES = {
    **{name: name for name in ("batch_size", "discount", "hidden_dim", "num_filters")},
    **{name: name for name in ("critic_tau", "encoder_tau", "actor_lr", "alpha_lr")},
    **{name: name for name in ("actor_update_freq", "critic_target_update_freq")},
    **{name: name for name in ("frame_stack", "init_temperature")},
    "value_lr": "critic_lr",
}


def _ted(
    method: str, given: Given, actions: int, device: torch.device, log: Log
) -> Callable[[int], None]:
    side, rows = given["size"][0], EPISODES * STEPS
    names = {**_THEIR_NAMES, "ted_lr": "ted_lr", "num_layers": "num_conv_layers"}
    names |= {"encoder_feature_dim": "feature_dim", "crop_pad": "image_pad"}
    args = _arguments([*_words(given, names), "--device", str(device), "--algorithm", "rad"])
    algorithms = importlib.import_module("algorithms")
    buffer = importlib.import_module("replay_buffer").ReplayBuffer
    shape = (3 * given["frame_stack"], side, side)
    agent = algorithms.make_agent(shape, (actions,), [-1.0, 1.0], args)
    replay = buffer(shape, (actions,), rows, args.image_pad, device, args.ted)
    _transitions(
        given,
        side,
        actions,
        lambda obs, action, reward, after, done, number: replay.add(
            obs, action, reward, after, done, done, number
        ),
    )
    return lambda step: agent.update(replay, _Logger(log), step)


def _svea(
    method: str, given: Given, actions: int, device: torch.device, log: Log
) -> Callable[[int], None]:
    if device.type == "cpu":
        for kind in (Tensor, nn.Module):
            kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    side, g = given["size"][0], given
    names = {**_THEIR_NAMES, "num_layers": "num_shared_layers", "alpha_beta": "alpha_beta"}
    names |= {"encoder_feature_dim": "projection_dim"}
    names |= {"svea_alpha": "svea_alpha", "svea_beta": "svea_beta"}
    args = _arguments([*_words(g, names), "--algorithm", "svea", "--seed", "0"])
    utils = importlib.import_module("utils")
    utils.np = _EarlierNumPy()  # type: ignore[attr-defined]
    shape, stack = (3 * g["frame_stack"], side, side), g["frame_stack"]
    agent = importlib.import_module("algorithms.factory").make_agent(shape, (actions,), args)
    rows = EPISODES * STEPS
    replay = utils.ReplayBuffer(shape, (actions,), rows, g["batch_size"], prefill=False)

    def frames(episode: Mapping[str, np.ndarray]) -> list[Any]:
        image = episode["image"].transpose(0, 3, 1, 2)
        at = [[max(row - back, 0) for back in range(stack)][::-1] for row in range(len(image))]
        return [utils.LazyFrames([image[i] for i in wanted]) for wanted in at]

    _transitions(g, side, actions, lambda *what: replay.add(*what[:5]), frames)
    return lambda step: agent.update(replay, _Logger(log), step)


def _drqv2(
    method: str, given: Given, actions: int, device: torch.device, log: Log
) -> Callable[[int], None]:
    module = importlib.import_module("drqv2")
    replay, g = importlib.import_module("replay_buffer"), given
    side, stack = g["size"][0], g["frame_stack"]
    agent = module.DrQV2Agent(
        obs_shape=(3 * stack, side, side),
        action_shape=(actions,),
        device=device,
        lr=g["actor_lr"],
        feature_dim=g["encoder_feature_dim"],
        hidden_dim=g["hidden_dim"],
        critic_target_tau=g["critic_tau"],
        num_expl_steps=0,
        update_every_steps=2,
        stddev_schedule=g["stddev_schedule"],
        stddev_clip=g["stddev_clip"],
        use_tb=True,
    )
    # They read an episode's file once, at the first batch.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, episode in enumerate(make_episodes((side, side), actions)):
            theirs = {key: episode[key][:, None] for key in ("reward", "discount")}
            theirs |= {"observation": stacks(episode, stack), "action": episode["action"]}
            replay.save_episode(theirs, folder / f"noise_{number}_{STEPS}.npz")
        batch, nstep, discount = g["batch_size"], g["nstep"], g["discount"]
        loader = replay.make_replay_loader(folder, 10**6, batch, 0, True, nstep, discount)
        batches = iter(loader)
        next(batches)

    def update(step: int) -> None:
        log["loss"] = agent.update(batches, 2 * step)["critic_loss"]

    return update
