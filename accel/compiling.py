"""Steps that ``torch.compile`` has fused, within updates only."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

# The packages that errors of compiling come from.
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


def missing_compiler(device: torch.device) -> str | None:
    """What ``torch.compile`` lacks on this machine, in words; None if it has what it needs."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    given, usual = ("CC", ("cc", "gcc", "clang"))
    if device.type == "cpu":
        given, usual = ("CXX", ("c++", "g++", "clang++"))
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0):
        return "a GPU of compute capability 7.0 or more"
    if not any(shutil.which(name) for name in (os.environ.get(given), *usual) if name):
        return f"a compiler ({usual[1]})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (python3-dev)"
    return None


class Compiled:
    """A function that is compiled inside :func:`updating` and runs as it is elsewhere.

    Updates have one shape; acting and pictures have others, for which compiling would not pay.
    """

    inside = False

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._compiled = torch.compile(function, dynamic=False)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._compiled if Compiled.inside else self.function)(*args, **kwargs)


@contextlib.contextmanager
def updating() -> Iterator[None]:
    """Inside, compiled functions are used."""
    before, Compiled.inside = Compiled.inside, True
    try:
        yield
    finally:
        Compiled.inside = before


def compile_methods(owner: object, *names: str) -> None:
    """Replaces methods of an object by their :class:`Compiled` selves."""
    # The noise of a compiled step is the one that it would draw if it were not compiled.
    torch._inductor.config.fallback_random = True
    for name in names:
        object.__setattr__(owner, name, Compiled(getattr(owner, name)))


def is_compilers(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of compiling and not of what is compiled."""
    while error is not None:
        if type(error).__module__.startswith(_COMPILERS):
            return True
        error = error.__cause__ or error.__context__
    return False
