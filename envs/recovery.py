"""What it takes to play an episode again after its environment has failed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.errors import EnvError


@dataclass
class OpenEpisode:
    """An episode that an environment plays.

    Attributes:
        seed: Its seed; None for one that cannot be played again.
        variation: Its variation; None for the one that the environment was built with.
        actions: float32 [A] each, those that were answered.
    """

    seed: int | None = None
    variation: str | None = None
    actions: list[np.ndarray] = field(default_factory=list)

    def reset(self, index: int) -> dict[str, Any]:
        """The arguments of ``reset`` that take environment ``index`` to where this one stands.

        Raises:
            EnvError: If nothing does.
        """
        if not self.actions:
            options = {} if self.variation is None else {"variation": self.variation}
            return {"seed": self.seed, "options": options}
        if self.seed is None:
            raise EnvError(f"env {index} was reset without a seed: its episode cannot be taken up")
        entry = {"seed": self.seed, "variation": self.variation, "actions": np.array(self.actions)}
        return {"seed": None, "options": {"replay": {index: entry}}}


def steps_of(index: int, command: str, data: Any) -> int:
    """How many steps what is sent to environment ``index`` asks for, beyond one."""
    if command != "reset":
        return 0
    entry = data["options"].get("replay", {}).get(index)
    return 0 if entry is None else len(entry["actions"])


def in_a_line(error: EnvError) -> str:
    """What failed and why, without the traceback between."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    first, last = lines[0].rstrip(":"), lines[-1]
    return last if last.startswith(first) else f"{first}: {last}"


def used_up(error: EnvError, restarts: int) -> EnvError:
    """``error``, with a last line that says that environments have been made anew often enough."""
    if not restarts:
        return error
    count = "1 restart is" if restarts == 1 else f"{restarts} restarts are"
    last = f"{in_a_line(error)}; {count} used up (--env_restarts)"
    text = str(error).strip()
    return EnvError(f"{text}\n{last}" if "\n" in text else last)
