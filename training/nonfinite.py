"""What happens to an update that is not finite: it is counted, recorded, and in the end too much.

The optimisers have not taken such a step, nor those after it in the same update (`optimizer.py`).
Here its batch, terms and norms are written down, its metrics are kept out of the log's means, and
the run stops after too many in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.base import Batch, Metrics, Update
from fileio.atomic import atomic_write
from tools import Diverged
from training.run_folder import RunFolder

FOLDER = "bad_updates"
RECORDS = 20  # of bad updates that a run's folder takes; a batch is megabytes


class _Pending(NamedTuple):
    """An update that may not have ended yet."""

    number: int
    batch: Batch
    metrics: Metrics
    skipped: Tensor  # on the host, once `ended`
    ended: Any  # a CUDA event, or None


class NonFinite:
    """Looks at each update, on a GPU once the next one has been given to it.

    So the device never waits for the host to look.

    Args:
        run: whose meter takes the metrics of good updates, and whose log tells of bad ones.
        most: updates in a row that may be bad.

    Attributes:
        bad: how many updates were bad.
        in_a_row: how many of them came last, one after the other.
    """

    def __init__(self, run: RunFolder, most: int):
        self._run, self._folder, self._most = run, run.folder / FOLDER, most
        self._pending: _Pending | None = None
        self.bad = self.in_a_row = 0

    def submit(self, number: int, batch: Batch, update: Update) -> None:
        """Takes an update's number, batch and result, and looks as soon as that costs nothing.

        Raises:
            Diverged: too many in a row were not finite.
        """
        if update.skipped is None:  # the method does not look
            self._run.meter.add(update.metrics)
            return
        skipped, before, ended = update.skipped.detach(), self._pending, None
        if skipped.is_cuda:
            # Copies to memory that is not pinned would wait.
            host = torch.empty(skipped.shape, pin_memory=True)
            skipped = host.copy_(skipped, non_blocking=True)
            ended = torch.cuda.Event()
            ended.record()
        self._pending = _Pending(number, batch, update.metrics, skipped, ended)
        if before is not None:
            self._look(before)
        if ended is None:
            self.flush()

    def flush(self) -> None:
        """Looks at the last update, too; waits for it.

        Raises:
            Diverged: too many in a row were bad.
        """
        last, self._pending = self._pending, None
        if last is not None:
            self._look(last)

    def save_state(self) -> dict[str, int]:
        """How many updates were bad."""
        self.flush()
        return {"bad": self.bad, "in_a_row": self.in_a_row}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Goes on from what `save_state` returned."""
        self.bad, self.in_a_row = state["bad"], state["in_a_row"]

    def _look(self, update: _Pending) -> None:
        if update.ended is not None:
            update.ended.synchronize()
        if not update.skipped.any():
            self.in_a_row = 0
            self._run.meter.add(update.metrics)
            return
        self.bad += 1
        self.in_a_row += 1
        values = {name: float(value) for name, value in update.metrics.items()}
        what = [name for name, value in values.items() if not np.isfinite(value)]
        told = {"update": update.number, "what": " ".join(what), "in_a_row": self.in_a_row}
        self._run.logger.event("bad_update", **told, **self._record(update, values))
        if self.in_a_row >= self._most:
            raise Diverged(
                f"the loss or gradient of {self.in_a_row} updates in a row (--max_bad_updates)",
                f"no such step was taken, {FOLDER}/ in {self._run.folder} has their batches and "
                f"terms, {self._run.last}; ",
            )

    def _record(self, update: _Pending, values: Mapping[str, float]) -> dict[str, str]:
        """Writes an update down, unless there are enough of them already."""
        if len(list(self._folder.glob("*.npz"))) >= RECORDS:
            return {}
        path = self._folder / f"{update.number:09d}.npz"
        arrays: dict[str, Any] = {f"batch/{k}": v.cpu().numpy() for k, v in update.batch.items()}
        arrays |= {f"metrics/{name}": np.float64(value) for name, value in values.items()}
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)
        return {"file": str(path)}
