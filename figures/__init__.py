"""The figures, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fileio.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300
# Dates would make every file another one; PDFs get fonts that can be searched and edited.
_METADATA = {"png": {}, "pdf": {"CreationDate": None}}
_RC = {"pdf.fonttype": 42}


def save(figure: Figure, output: Path, dpi: int = DPI) -> list[Path]:
    """Writes a figure, each file whole or not at all; returns their paths.

    Args:
        figure: what was drawn.
        output: a name that ends in ``.png`` or ``.pdf``; any other gets both endings.
        dpi: dots per inch of the PNG, and of pictures within the PDF.
    """
    import matplotlib

    paths = []
    for path in paths_of(output, tuple(_METADATA)):
        kind = path.suffix[1:]
        with matplotlib.rc_context(_RC), atomic_write(path) as file:
            figure.savefig(file, format=kind, dpi=dpi, metadata=_METADATA[kind])
        paths.append(path)
    return paths


def paths_of(output: Path, kinds: tuple[str, ...]) -> list[Path]:
    """The files that an output stands for: itself, or one of each kind if it ends in none."""
    output = Path(output)
    if output.suffix[1:] in kinds:
        return [output]
    return [output.with_name(f"{output.name}.{kind}") for kind in kinds]
