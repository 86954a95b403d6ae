"""Pickles that would run code, were they ever loaded: each would leave a file behind."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

CANARY = "canary"  # in the working folder, were one of them run


class _Call:
    def __init__(self, function: Callable[..., Any], *args: Any):
        self._reduced = function, args

    def __reduce__(self) -> tuple:
        return self._reduced


_CALLS = (
    _Call(os.system, f"touch {CANARY}"),
    _Call(builtins.exec, f"open({CANARY!r}, 'w').close()"),
    _Call(builtins.open, CANARY, "w"),
    _Call(os.mkdir, CANARY),
    _Call(subprocess.Popen, ["touch", CANARY]),
)
OBJECTS = tuple(value for call in _CALLS for value in (call, {"state": [1, {"a": call}]}))
PICKLES = tuple(pickle.dumps(value, protocol) for value in OBJECTS for protocol in (0, 2, 4))
PICKLES += (
    b"cos\nsystem\n(S'touch canary'\ntR.",
    b"\x80\x02" + b"(" * 100_000 + b".",
    b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    b"\x80\x02\x8b\xff\xff\xff\x7f.",
    b"\x80\x02}q\x00(U\x01aq\x01" + b"\x8a\xff" + b"\xff" * 255 + b"u.",
)


def zipped(data: bytes, records: dict[str, bytes]) -> bytes:
    """A file of PyTorch's around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()
