"""NumPy arrays from files of torch's old format, without torch and without trust.

Environments live in processes that do not import torch, which would take 200 MB in each. What such
a file may name is written down here, four functions that make arrays; anything else is refused
before it is called.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

LARGEST = 1 << 20  # bytes of a file
_MAGIC = 0x1950A86A20F9469CFC6C  # how torch.save began until its version 1.6

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the file names.

        Raises:
            UnpicklingError: If it is none of what makes arrays.
        """
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[module, name]


def read_arrays(path: Path) -> Any:
    """Lists and dictionaries of arrays, as ``torch.save`` wrote them.

    Raises:
        OSError: If the system fails to read it.
        ValueError: If it is no such file, is too large for one, or asks for anything else.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError("it is too large for a file of colours")
    file = io.BytesIO(path.read_bytes())
    try:
        if _Arrays(file).load() != _MAGIC:
            raise ValueError("it is not of the format of the benchmark's files")
        _Arrays(file).load()  # the format's version
        _Arrays(file).load()  # the machine that wrote it
        return _Arrays(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
        raise ValueError(f"it is damaged, or no file of colours: {error}") from error
