"""What a suite of environments has to say of itself to be one of ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gymnasium as gym

from envs.parts import Parts
from envs.settings import EnvSettings

VARIATIONS = ("train", "test", "original")
SPLITS = ("train", "eval")

# Settings that every suite reads.
COMMON = frozenset({"action_repeat", "time_limit", "size", "grayscale", "camera_id", "shadow_size"})

Factories = Mapping[str, Callable[[], gym.Env]]


def switch_at_midpoint(split: str, color_distractor: bool, second_half: bool) -> str:
    """The variation that an episode is played in, as for the colours of the control suite.

    With ``color_distractor`` training and evaluation see the same set, which changes from
    'train' to 'test' at the midpoint. Without it training stays on 'train' and evaluation is
    on 'test'.

    Args:
        split: 'train' or 'eval'.
        color_distractor: Whether the distraction is switched during training.
        second_half: Whether training is past its midpoint.

    Returns:
        'train' or 'test'.

    Raises:
        ValueError: If ``split`` is neither of the two.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    on_test = second_half if color_distractor else split == "eval"
    return "test" if on_test else "train"


@dataclass(frozen=True)
class Suite:
    """A family of tasks under one prefix.

    Attributes:
        prefix: First word of its tasks' names, without an underscore.
        tasks: Name after the prefix → what identifies the task within the suite. Short names
            of a task map to the same identity.
        factories: ``(identity, settings)`` → {variation: thunk}. A thunk builds an environment
            that draws itself in ``render()`` as uint8 [height, width, 3], steps
            ``settings.action_repeat`` control steps at a time and says so in
            ``info['control_steps']``. Two variations that look alike share one thunk.
        variation_for: ``(split, color_distractor, second_half)`` → variation.
        reads: Names of the settings that can change anything here.
        unread: Identity → those of ``reads`` that change nothing in that task.
        endless: Identities of the tasks whose episodes end by the time limit alone, so that there
            is nothing to learn of their ends.
        limits: A sentence on which of the package's environments are none of its tasks; '' if all
            are.
        has_distractors: Whether any of its tasks can look different.
        block: The block of configs.yaml with its settings; '' if it is called like the suite.
        opengl: Whether OpenGL draws its pictures; None where that is the task's own matter.
        has_backdrop: Whether pictures are behind the robot in any case: computed ones, where no
            folder is given.
        parts: What its scenes are made of, whose factors are true of a picture; None if it tells
            nothing but ``info['factors']``.
    """

    prefix: str
    tasks: Mapping[str, tuple[str, ...]]
    factories: Callable[[tuple[str, ...], EnvSettings], Factories]
    variation_for: Callable[[str, bool, bool], str] = switch_at_midpoint
    reads: frozenset[str] = COMMON
    unread: Callable[[tuple[str, ...]], frozenset[str]] = lambda _: frozenset()
    endless: frozenset[tuple[str, ...]] = frozenset()
    limits: str = ""
    has_distractors: bool = True
    block: str = ""
    opengl: bool | None = True
    has_backdrop: bool = False
    parts: Parts | None = None

    def read_by(self, identity: tuple[str, ...]) -> frozenset[str]:
        """Names of the settings that can change anything in a task."""
        return self.reads - self.unread(identity)
