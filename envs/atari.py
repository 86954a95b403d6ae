"""Atari 2600 games (``atari_<game>``) of the Arcade Learning Environment, whose ROMs come with it.

Sticky actions, no-ops and the maximum over two frames are those of Machado et al. 2018
(arXiv 1709.06009), as DreamerV2 was evaluated. A control step is a frame of the game.
"""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.packages import PackageTasks
from envs.palette import READS, Colors, distract, palettes, switch_palette
from envs.pictures import fit
from envs.settings import EnvSettings
from envs.suites import COMMON, Factories, Suite
from envs.wrappers import OneHotAction

STICKINESS = 0.25  # how likely a frame repeats the action of the one before
_NOOP = 0  # the emulator's number of doing nothing


class Atari(gym.Env):
    """A game from its beginning to its end; observations are the machine's memory.

    All chance is the seed's: the emulator starts each game in the same state, and no-ops and sticky
    actions are drawn here.

    Attributes:
        actions: What the agent chooses from, the emulator's numbers.
        ground: RGB, the colour of most of the screen where the game began.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (128,), np.uint8)
    render_mode = "rgb_array"

    def __init__(self, game: str, settings: EnvSettings):
        """Loads a game.

        Args:
            game: Its name in the package, such as 'ms_pacman'.
            settings: Repetition, length and size of the picture, and those of Atari.
        """
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._settings, self._ale = settings, ale_py.ALEInterface()
        self._ale.setInt("random_seed", 0)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.loadROM(roms.get_rom_path(game))
        self._start = self._ale.cloneState(include_rng=True)
        ale, every = self._ale, settings.all_actions
        self.actions = ale.getLegalActionSet() if every else ale.getMinimalActionSet()
        self.action_space = spaces.Discrete(len(self.actions))
        self._pressed, self._elapsed = _NOOP, 0
        self._screens = [self._ale.getScreenRGB()] * 2
        self.ground = self._commonest()

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts a game, after one to ``noops`` frames without action."""
        super().reset(seed=seed)
        self._begin()
        if self._settings.noops:
            for _ in range(int(self.np_random.integers(1, self._settings.noops + 1))):
                self._ale.act(_NOOP)
                if self._ale.game_over():
                    self._begin()
        self._pressed, self._elapsed = _NOOP, 0
        self._screens = [self._ale.getScreenRGB()] * 2
        self.ground = self._commonest()
        return self._ale.getRAM(), {}

    def step(self, action: int):
        """``action_repeat`` frames, fewer where the game ends; the picture is of the last two."""
        settings, chosen, total, count = self._settings, self.actions[int(action)], 0.0, 0
        lives, ended = self._ale.lives(), False
        while count < settings.action_repeat and not ended:
            sticks = settings.sticky_actions and self.np_random.random() < STICKINESS
            self._pressed = self._pressed if sticks else chosen
            total += self._ale.act(self._pressed)
            count, self._elapsed = count + 1, self._elapsed + 1
            over = self._ale.game_over() or (settings.life_loss and self._ale.lives() < lives)
            late = self._elapsed >= settings.time_limit
            ended = over or late
            if ended or count > settings.action_repeat - 2:
                self._screens = [self._screens[-1], self._ale.getScreenRGB()]
        return self._ale.getRAM(), total, over, late and not over, {"control_steps": count}

    def render(self) -> np.ndarray:
        """The brighter of the last two frames in each pixel and channel: objects flicker."""
        return fit(np.maximum(*self._screens), self._settings.size)

    def is_ground(self, image: np.ndarray) -> np.ndarray:
        """Which pixels of a picture [H, W, 3] are the ground and nothing else: bool [H, W]."""
        return (image == self.ground).all(axis=-1)

    def _commonest(self) -> np.ndarray:
        indices = self._ale.getScreen().ravel()  # into the machine's palette
        place = np.argmax(indices == np.bincount(indices).argmax())
        return self._screens[-1].reshape(-1, 3)[place]

    def _begin(self) -> None:
        self._ale.restoreState(self._start)
        self._ale.act(_NOOP)  # the state does not hold the screen


def _build(game: str, settings: EnvSettings, colors: Colors | None, prefix: str | None) -> gym.Env:
    env = Atari(game, settings)
    return OneHotAction(distract(env, settings, colors, prefix, env.is_ground))


def factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The game in the palette and before the pictures of each variation.

    Args:
        identity: (game,).
        settings: The first group, those of Atari, the colours and the background.
    """
    return palettes(functools.partial(_build, identity[0], settings), settings)


def _games() -> list[str]:
    from ale_py import roms

    return roms.get_all_rom_ids()


_READS = READS | {"sticky_actions", "noops", "life_loss", "all_actions"}

SUITES = (
    Suite(
        "atari",
        PackageTasks("atari", "ale_py", _games),
        factories,
        switch_palette,
        reads=COMMON - {"camera_id", "shadow_size"} | _READS,
        opengl=False,
    ),
)
