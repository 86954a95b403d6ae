"""What fails in a run and is no mistake of this code, in words."""

from __future__ import annotations

import errno

import torch

from envs import EnvError, in_a_line

# How PyTorch and Python tell of memory, threads or a GPU that fail, and of no mistake of ours.
_SAID = (
    "can't allocate memory",
    "can't start new thread",
    "uncorrectable ECC error",
    "busy or unavailable",
    "no CUDA-capable device",
    "CUDA error: unknown error",
)


class RunFailed(Exception):
    """What the run needs failed. Its text is one line with the mend and the way on."""


def is_environment_failure(error: Exception) -> bool:
    """Whether the machine or an environment failed, and not this code."""
    if isinstance(error, OSError | MemoryError | EnvError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _SAID)


def describe(error: Exception) -> str:
    """What failed in a run, and the mend, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: give a smaller --batch_size, or --replay_device cpu"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "the memory is full: end what else needs it, or give --replay_storage disk"
    if isinstance(error, EnvError):
        return in_a_line(error)
    if not isinstance(error, OSError):
        return f"the machine failed: {str(error).strip().splitlines()[0]}"
    what = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}: free some space there"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{what}: make it writable again"
    return f"{what}: mend that"
