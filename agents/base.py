"""The contract between the loops and whoever learns and acts.

A loop hands an agent batches and observations and knows nothing else about it. What a method has to
bring is on this page; docs/add_a_method.md walks through an example, agents/random.py is the
smallest one. A method that wants compiled and recorded updates, schedules, and updates that are
skipped where they are not finite inherits them from `agents/learner.py`.

Symbols in shape comments: B batch, T time, N environments, A action, H W C image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from replay.episodes import Columns
from replay.sampler import Windows

if TYPE_CHECKING:
    from config import Config

Obs = Mapping[str, np.ndarray]  # image uint8 [N, H, W, C], is_first bool [N], vector [N, V] or none
Batch = dict[str, Tensor]  # image uint8 [B, T, H, W, C], is_first bool [B, T]; see `Learner.learn`
State = dict[str, Tensor]  # what an agent remembers of N environments, [N, …] each
Policy = Callable[[Obs, State | None], tuple[np.ndarray, State | None]]  # as `Agent.act`, one mode
Metrics = dict[str, Tensor]  # 0-d each, on the device
CLIPS = 6  # sequences that pictures are drawn from
PRETRAIN_UNIT = 50  # one update counts so many pretrain steps, as in the authors' code


class Spaces(NamedTuple):
    """What an agent sees and how it acts.

    Attributes:
        image: (H, W, C).
        action_size: A. Continuous actions lie in [−1, 1]; discrete ones are one-hot vectors.
        discrete: whether actions are discrete.
        vector_size: V, the numbers that are seen beside the image; 0 for none.
    """

    image: tuple[int, int, int]
    action_size: int
    discrete: bool
    vector_size: int = 0

    @property
    def kind(self) -> str:
        """``discrete`` or ``continuous``."""
        return "discrete" if self.discrete else "continuous"


class Update(NamedTuple):
    """What one update came to.

    Attributes:
        metrics: numbers to log, on the device: nobody waits for them before the next log line.
        skipped: above 0 anywhere if a step of the update was not taken because a loss or gradient
            was not finite; None for a method that does not look.
    """

    metrics: Metrics
    skipped: Tensor | None = None


class Taken(NamedTuple):
    """What an agent took of another one; tensors by their names.

    Attributes:
        tensors: how many it took.
        fresh: its own that it did not: the other has none of that name, or one of another shape.
        left_over: the other's that are called like none of its own.
    """

    tensors: int
    fresh: list[str]
    left_over: list[str]


class Learner(nn.Module, ABC):
    """Whoever learns from batches; enough for pretraining.

    Attributes:
        name: how ``--method_name`` and the run's folder call it.
        Keys: the dataclass of the method's own configuration keys, made with `config.key`; None
            if it has none of its own.
        clips: sequences that its pictures are drawn from.
        has_latent: whether `latent` gives one where ``--beta_vae`` is on.
        unread: flags of all methods that change nothing with this one.
    """

    name: ClassVar[str]
    clips: ClassVar[int] = CLIPS
    has_latent: ClassVar[bool] = False
    Keys: ClassVar[type | None] = None
    unread: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks what the method needs of a configuration, before anything is made.

        Raises:
            UserError: one line that names the flag and the mend.
        """

    @classmethod
    def windows(cls, config: Config) -> Windows:
        """Which windows of episodes its batches are made of; default ``--batch_length`` rows."""
        return Windows(config.batch_length)

    @classmethod
    def image_size(cls, config: Config) -> tuple[int, ...]:
        """Height and width of the images that it is shown; default ``--size``."""
        return config.size

    @abstractmethod
    def learn(self, batch: Batch, step: int) -> Update:
        """One update.

        Args:
            batch: on the device: ``image`` uint8 [B, T, H, W, C], ``is_first`` bool [B, T] and, for
                an agent, ``action`` [B, T, A], ``reward`` and ``discount`` [B, T]; with
                `columns` also these, [B, T, …] each. Row t holds the image at t, the action that
                led to it, and what that earned.
            step: what schedules follow: agent steps; while pretraining, updates.
        """

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """Pictures of what it has learned, by their tags.

        Args:
            batch: as for `learn`.

        Returns:
            Images [H, W, C] and videos [N, T, H, W, C], uint8 or float in 0..1.
        """
        return {}

    def latent(self, images: np.ndarray) -> np.ndarray | None:
        """What it makes of single images, to be measured; default nothing.

        Args:
            images: uint8 [N, H, W, C].

        Returns:
            The means of a β-VAE's latent, float32 [N, Z].
        """
        return None

    @abstractmethod
    def save_state(self) -> dict[str, Any]:
        """Everything it is: nested dicts and lists of tensors, numbers and strings."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Becomes what `save_state` returned; tensors lie on the CPU.

        Raises:
            ValueError: it does not fit; the text says what.
        """

    def init_from(self, state: Mapping[str, Any]) -> Taken:
        """Begins with what another agent of this method has learned: its weights, no optimiser.

        The default takes the parameters and buffers that stand at the top of the state under their
        names, each where the shapes are the same.

        Args:
            state: what the other's `save_state` returned; tensors lie on the CPU.
        """
        given = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        own = self.state_dict()
        fits = [k for k, mine in own.items() if k in given and given[k].shape == mine.shape]
        for name in fits:
            own[name].copy_(given[name])  # where the parameter lies
        fresh = [name for name in own if name not in fits]
        return Taken(len(fits), fresh, [name for name in given if name not in own])

    @classmethod
    def second_stage(cls, config: Config) -> dict[str, Any]:
        """The flags of the second stage of what it trains, by their keys; default none."""
        return {}

    def export(self, folder: Path, batch: Batch) -> None:
        """Writes what a second stage starts from, each file whole or not at all; default nothing.

        Args:
            folder: made if it is not there.
            batch: one sequence, as for `learn` with B = 1, to draw a picture of what is exported.
        """


class Agent(Learner):
    """Whoever also acts. Every subclass is built as ``Method(config, runtime, spaces, source)``.

    Args:
        config: the run's configuration.
        runtime: device, dtype and what else `accel` has decided.
        spaces: what it sees and how it acts.
        source: the folder that `find_source` found; None also where the agent is only to act, as
            in ``--evaluate``.

    Attributes:
        pretrainer: what its first stage trains, if it has one.
        kinds: of actions that it can take, ``continuous`` and ``discrete``.
        sees_vectors: whether it learns from the numbers beside an image, too, where environments
            show them: ``vector`` float32 [N, V] of observations, [B, T, V] of batches.
    """

    pretrainer: ClassVar[type[Learner] | None] = None
    kinds: ClassVar[frozenset[str]] = frozenset({"continuous", "discrete"})
    sees_vectors: ClassVar[bool] = False

    @classmethod
    def find_source(cls, config: Config) -> Path | None:
        """The folder of a first stage that the configuration asks to learn from; default None.

        Raises:
            UserError: it is not there.
        """
        return None

    def columns(self) -> Columns | None:
        """What batches of training have beside the columns of episodes; default nothing.

        It is for what follows from single images alone and never changes, such as the outputs of a
        frozen network: computed once, when an episode becomes sampleable. A batch need not have
        it: pictures are drawn from other replays, too.
        """
        return None

    @abstractmethod
    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State | None]:
        """The next actions.

        Args:
            obs: ``image`` uint8 [N, H, W, C] and ``is_first`` bool [N], where a new episode has
                begun and the state is to be forgotten.
            state: what the last call returned; None at the start.
            mode: ``train`` explores, ``eval`` does its best.

        Returns:
            Actions float32 [N, A], and the state; None where nothing is remembered.
        """

    def sync(self) -> None:
        """From here on, `act` in ``train`` mode knows of all updates so far.

        A method whose actions always do has nothing to do here.
        """
