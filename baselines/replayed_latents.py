"""What the last update made of each row of the replay, so that windows need not begin from nothing.

Symbols in shapes: R rows that there is room for, B batch, T time, D deter, S stoch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rssm import State

EMPTY = -2  # no row's number, nor that before a first one


class ReplayedLatents:
    """The latents of rows by the rows' numbers (`replay.sampler.Windows.numbered`).

    deter lies in float16 and stoch as the classes' indices, 2·D + S bytes a row and 8 for its
    number. Row n lies at n mod R: newer rows take the places of those that are R older.

    Nothing here waits for the device.

    Args:
        rows: R.
        deter: D.
        stoch: S.
        classes: K, at most 256.
        device: where the latents lie.
    """

    def __init__(self, rows: int, deter: int, stoch: int, classes: int, device: torch.device):
        self.rows, self.classes = rows, classes
        # One place more takes what is not to be kept.
        self.number = torch.full((rows + 1,), EMPTY, dtype=torch.int64, device=device)
        # Not filled, so that on a CPU memory is taken as rows come; nothing unknown is read.
        self.deter = torch.empty((rows + 1, deter), dtype=torch.float16, device=device)
        self.stoch = torch.empty((rows + 1, stoch), dtype=torch.uint8, device=device)

    def before(self, row: Tensor) -> tuple[State, Tensor]:
        """The states [B, …] of the rows before rows [B], and which of them are known, bool [B]."""
        place = (row - 1) % self.rows
        known = self.number[place] == row - 1
        deter = torch.where(known[:, None], self.deter[place].float(), 0.0)
        index = torch.where(known[:, None], self.stoch[place].long(), 0)
        stoch = F.one_hot(index, self.classes).to(deter.dtype) * known[:, None, None]
        return {"deter": deter, "stoch": stoch}, known

    def keep(self, row: Tensor, deter: Tensor, stoch: Tensor) -> None:
        """Keeps the latents of rows [B, T]: deter [B, T, D], and stoch [B, T, S] as indices.

        Of a row that is there twice, the later one; nothing of one that is not finite.
        """
        row, deter, stoch = row.flatten(), deter.flatten(0, 1), stoch.flatten(0, 1)
        again = torch.triu(row[:, None] == row, diagonal=1).any(1)
        good = torch.isfinite(deter).all(-1) & ~again
        place = torch.where(good, row % self.rows, self.rows)
        self.number.index_copy_(0, place, row)
        self.deter.index_copy_(0, place, deter.half())
        self.stoch.index_copy_(0, place, stoch.to(torch.uint8))

    def save_state(self) -> dict[str, Any]:
        """What is known: numbers of rows and their latents."""
        known = (self.number[:-1] != EMPTY).nonzero()[:, 0]
        parts = {"number": self.number, "deter": self.deter, "stoch": self.stoch}
        return {name: part[known] for name, part in parts.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Knows what `save_state` returned, and nothing else; the room may be another."""
        self.number.fill_(EMPTY)
        device = self.number.device
        number = state["number"].to(device)
        place = number % self.rows
        again = torch.zeros(self.rows, dtype=torch.int64, device=device)
        again.scatter_reduce_(0, place, number, "amax", include_self=False)
        newest = again[place] == number  # of the rows that a smaller room has one place for
        for own, name in ((self.number, "number"), (self.deter, "deter"), (self.stoch, "stoch")):
            own[place[newest]] = state[name].to(device)[newest]
