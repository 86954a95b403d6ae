"""The figures, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fileio.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a figure as a PNG, whole or not at all, and says where it is."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
    print(path)
