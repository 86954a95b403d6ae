"""What the numbers of a latent stand for, as `python -m study metrics` has measured it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from tools import UserError

FOLDER, FILE = "disentanglement", "metrics.json"
LARGEST = 64 << 20  # bytes of a file that is read


class Label(NamedTuple):
    """One number of a latent.

    Attributes:
        kl: its KL from the prior, in nats; None where it was not measured.
        factor: the true factor that it tells most of; None for none.
        r2: how much of that it explains, 0..1.
    """

    kl: float | None = None
    factor: str | None = None
    r2: float = 0.0


def read_labels(folder: Path, size: int) -> list[Label] | None:
    """The labels [Z] in a folder; None where nothing was measured.

    Raises:
        UserError: the file is damaged, or of an encoder with another number of latents.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    mend = "measure again (python -m study metrics), or take it away"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        rows = json.loads(path.read_text(encoding="utf-8"))["latents"]
        labels = {int(row["index"]): _label(row) for row in rows}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} cannot be read ({what}): {mend}") from None
    if labels.keys() != set(range(size)):
        raise UserError(f"{path} tells of {len(labels)} latents, not of {size}: {mend}")
    return [labels[i] for i in range(size)]


def _label(row: dict[str, Any]) -> Label:
    kl, factor, r2 = row["kl"], row["best_factor"], float(row["r2"])
    kl = None if kl is None else float(kl)
    if not math.isfinite(r2) or not (kl is None or math.isfinite(kl)):
        raise ValueError("a number is not finite")
    if not (factor is None or isinstance(factor, str)):
        raise TypeError("a factor's name is no text")
    return Label(kl, None if factor is None else factor[:80], r2)
