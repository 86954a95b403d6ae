"""Modules of others that their code imports and an update does not need."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Nothing:
    """Takes every call and index, has every attribute, and gives itself; as a base it is none."""

    def __call__(self, *args: Any, **kwargs: Any) -> Nothing:
        return self

    def __getitem__(self, key: Any) -> Nothing:
        return self

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class StubModule(types.ModuleType):
    """A module whose every name is there and is nothing."""

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a stub for each of some modules and those below."""

    def __init__(self, names: Sequence[str], real: Mapping[str, Any]):
        self._names, self._real = tuple(names), real

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(name == stub or name.startswith(stub + ".") for stub in self._names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """What an update does need of a module is put there; a stub has nothing to run."""
        for path, value in self._real.items():
            owner, _, name = path.rpartition(".")
            if owner == module.__name__:
                setattr(module, name, value)


def enter(
    checkout: Path,
    stubs: Sequence[str],
    shared: Sequence[str],
    real: Mapping[str, Any] | None = None,
) -> None:
    """Makes a folder's modules importable over stubs, and ours not, for this whole process.

    Args:
        checkout: the folder.
        stubs: modules that become stubs.
        shared: names that modules have there and of ours, too.
        real: what stubs have that is not nothing, by its dotted name.

    Raises:
        RuntimeError: the process has modules of ours under the same names.
    """
    ours = [name for name in shared if name in sys.modules]
    if ours:
        raise RuntimeError(f"{', '.join(ours)} is imported: the reference needs its own process")
    here = Path(__file__).resolve().parent.parent
    kept = [p for p in sys.path if Path(p or ".").resolve() != here]
    sys.path[:] = [str(checkout.resolve()), *kept]
    sys.meta_path.insert(0, _StubFinder(stubs, real or {}))
