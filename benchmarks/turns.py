"""Settings side by side: each in a process of its own, and they take turns.

A machine's noise, its clock and its temperature then hit every setting alike, and the ratio of two
settings is taken within a round.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A setting's process gave up. Its text is one line that says why."""


class Worker:
    """A setting's process.

    Args:
        spec: what to hold, in the words of :mod:`benchmarks.worker`.

    Raises:
        Failed: it could not be built.
    """

    def __init__(self, spec: Mapping[str, Any]):
        # Its stderr goes to a file: a full pipe that nobody reads would stop it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        try:
            self.built = self._ask(spec)
        except Failed:
            self.close()
            raise

    def update(self, updates: int = 1) -> dict[str, Any]:
        """So many updates in a row: ``seconds`` of one, ``loss``, ``memory`` in bytes."""
        return self._ask({"updates": updates})

    def act(self, envs: int, mode: str, steps: int) -> float:
        """Seconds of one step of all ``envs``, the mean of so many steps."""
        return self._ask({"envs": envs, "mode": mode, "steps": steps})["seconds"]

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise Failed(f"its process ended with status {code}{self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._stderr.close()


def count_flops(spec: Mapping[str, Any], points: Sequence[Mapping[str, int]]) -> list[int]:
    """The arithmetic of one update of ours, by its sizes.

    Args:
        spec: ``kind``, ``method``, ``actions``, ``image``, ``stacked`` and ``more``.
        points: ``batch_size``, ``batch_length`` and ``imag_horizon`` of each.
    """
    common = {"source": "flops", "device": "cpu", "threads": spec["threads"]}
    names = ("kind", "method", "actions", "image", "stacked", "more")
    common |= {name: spec[name] for name in names if name in spec}
    return ask_once({**common, "points": list(points)})["flops"]


def ask_once(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a process answers to its first request; then it ends."""
    worker = Worker(spec)
    worker.close()
    return worker.built


class Settings:
    """The processes of some settings, warmed up, and what each of them did.

    Args:
        specs: by the setting's name, what its process holds.
        warmup: updates of each before the first round.
        together: how many processes are built and warmed up at once.
    """

    def __init__(self, specs: Mapping[str, Mapping[str, Any]], warmup: int, together: int = 1):
        self.results: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._workers: dict[str, Worker] = {}
        with ThreadPoolExecutor(together) as pool:
            building = [pool.submit(self._build, *item, warmup) for item in specs.items()]
        for each in building:
            each.result()  # what is no setting's failure is raised here
        # In the order of the command line, whichever was ready first.
        self.results = {name: self.results[name] for name in specs if name in self.results}

    def _build(self, name: str, spec: Mapping[str, Any], warmup: int) -> None:
        with self._noting(name):
            _say(f"{name}: building, {warmup} updates to warm up")
            self._workers[name] = worker = Worker(spec)
            result: dict[str, Any] = {"spec": _public(spec), **worker.built["facts"]}
            result["before"] = worker.built["memory"]
            result["warmup_seconds"] = [worker.update()["seconds"] for _ in range(warmup)]
            self.results[name] = {**result, "seconds": [], "cpu_seconds": []}

    @contextlib.contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """One setting's failure is told and kept, and the others go on."""
        try:
            yield
        except Failed as error:
            self.failed[name] = str(error)
            self.results.pop(name, None)
            if worker := self._workers.pop(name, None):
                worker.close()
            _say(f"{name} FAILED: {error}")

    def round(self, first: int, updates: int) -> None:
        """One turn of each setting, beginning with another one every round."""
        names = list(self.results)
        for index in range(len(names)):
            name = names[(first + index) % len(names)]
            with self._noting(name):
                answer = self._workers[name].update(updates)
                if not math.isfinite(answer["loss"]):
                    raise Failed(f"its loss is {answer['loss']}")
                for kind in ("seconds", "cpu_seconds"):
                    self.results[name][kind].append(answer[kind])
                self.results[name]["memory"] = answer["memory"]
                self.results[name]["loss"] = answer["loss"]

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


def _public(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the folder of the user's checkout."""
    return {name: value for name, value in spec.items() if name != "checkout"}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
