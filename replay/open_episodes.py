"""Episodes that are being played: the rows of each worker since its reset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from replay.episodes import Fields, check_row, stack_rows


class OpenEpisodes:
    """The open episode of each worker.

    Args:
        fields: of a row (`episodes.row_fields`).
    """

    def __init__(self, fields: Fields):
        self._fields = fields
        self._rows: dict[int, list[dict]] = {}

    def add(self, worker: int, row: Mapping) -> dict[str, np.ndarray] | None:
        """Append a row; see `Replay.add`.

        Returns:
            The whole episode if this row is its last one. It stays open until `drop`.

        Raises:
            ValueError: a row of wrong keys, shape, dtype or order, or a number that is not finite.
        """
        checked = check_row(worker, row, self._fields)
        rows = self._rows.get(worker)
        if row["is_first"]:
            if rows:
                raise ValueError(
                    f"worker {worker} starts an episode, but its last one is open after "
                    f"{len(rows)} rows: close it with is_last"
                )
            rows = self._rows[worker] = []
        elif rows is None:
            raise ValueError(f"worker {worker} has no open episode: its first row needs is_first")
        rows.append(checked)
        return stack_rows(rows) if row["is_last"] else None

    def drop(self, worker: int) -> None:
        """Forget a worker's episode, if it has one."""
        self._rows.pop(worker, None)

    def actions(self) -> dict[int, np.ndarray]:
        """The actions float32 [k, A] that each worker has taken so far."""
        return {
            worker: np.stack([row["action"] for row in rows])[1:]
            for worker, rows in self._rows.items()
        }

    def state_dict(self) -> dict[int, dict[str, np.ndarray]]:
        """The rows so far, as arrays [T, …]."""
        return {worker: stack_rows(rows) for worker, rows in self._rows.items()}

    def load_state_dict(self, state: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Goes on from what `state_dict` returned."""
        self._rows = {
            worker: [{k: v[t] for k, v in rows.items()} for t in range(len(rows["image"]))]
            for worker, rows in state.items()
        }
