"""What a benchmark leaves behind: a Markdown table on the terminal, and JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fileio.atomic import atomic_write


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text, its columns padded: the first to the left, the others to the right."""
    lines = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def draw(line: Sequence[str]) -> str:
        cells = [
            f"{t:<{w}}" if i == 0 else f"{t:>{w}}"
            for i, (t, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    rule = [("-" * w if i == 0 else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    return "\n".join([draw(lines[0]), draw(rule), *map(draw, lines[1:])])


def write(path: Path, report: Mapping[str, Any]) -> None:
    """The report as JSON, with the time, whole or not at all."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with atomic_write(path) as file:
        file.write((json.dumps({"when": now, **report}, indent=2) + "\n").encode())
