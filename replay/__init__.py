"""Experience: episodes on disk, what is sampled of them, and where their rows lie."""

from replay.buffer import Replay

__all__ = ["Replay"]
