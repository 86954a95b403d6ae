"""Experience: episodes on disk, what is sampled of them, and where their rows lie.

- episodes.py: one episode, its file, and what a row holds
- files.py: folders of episode files, read
- open_episodes.py: episodes that are being played
- buffer.py: Replay, which takes rows and files in, gives batches out, and resumes
- sampler.py: which slices of which episodes make up a batch
- storage.py: closed episodes in memory or on disk; device.py: on a GPU
- room.py: whether there is room for what will come
- batch.py: the way of a batch to the device that trains
"""

from replay.buffer import Replay
from replay.episodes import Columns, Episode, Restored, row_fields
from replay.storage import DiskStorage, HostStorage

__all__ = [
    "Columns",
    "DiskStorage",
    "Episode",
    "HostStorage",
    "Replay",
    "Restored",
    "row_fields",
]
