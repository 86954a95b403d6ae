"""How all figures look: sizes for print, and one colour, dash and marker for each method.

The colours are those of Okabe and Ito (2008) and of Tol (2021), which people who see colours
differently tell apart; markers and dashes tell them apart in grey.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tools import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, TEXT = 3.25, 6.875  # inches: a column and the whole width of a two-column page
GREY = "0.35"

RC: dict[str, Any] = {
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "legend.title_fontsize": 6.5,
    "legend.frameon": False,
    "figure.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "hatch.linewidth": 0.5,
    "savefig.facecolor": "white",
}


class Look(NamedTuple):
    """How a line, a point or a bar of a method looks.

    Attributes:
        label: in legends and tables.
        color: of everything.
        marker: of points and lines.
        hatch: of bars.
    """

    label: str
    color: str
    marker: str
    hatch: str


METHODS = {
    "diswm": Look("DisWM", "#D55E00", "o", ""),
    "dreamerv2": Look("DreamerV2", "#000000", "s", "///"),
    "dv2_finetune": Look("DV2 finetune", "#0072B2", "^", "\\\\\\"),
    "apv": Look("APV", "#009E73", "D", "xxx"),
    "ted": Look("TED", "#CC79A7", "v", "..."),
    "curl": Look("CURL", "#E69F00", "P", "---"),
    "tdmpc2": Look("TD-MPC2", "#56B4E9", "X", "||"),
    "dreamerv3": Look("DreamerV3", "#332288", "<", "++"),
    "contextwm": Look("ContextWM", "#882255", ">", "oo"),
    "hrssm": Look("HRSSM", "#117733", "h", "**"),
    "sac": Look("SAC", "#999999", "d", "//"),
    "rad": Look("RAD", "#AA4499", "p", "\\\\"),
    "drqv2": Look("DrQ-v2", "#44AA99", "*", "xx"),
    "svea": Look("SVEA", "#661100", "8", ".."),
    "random": Look("random policy", GREY, "_", ""),
}
# Systems of which only published numbers are here.
_ELSEWHERE = {"drq": "DrQ", "soda": "SODA", "sgqn": "SGQN", "madi": "MaDi", "tpc": "TPC"}
_ELSEWHERE |= {"dreamerpro": "DreamerPro"}
# Variants of a method, and methods without a name above, take those whose marker is free.
_OTHERS = [
    Look("", color, marker, hatch)
    for color, marker, hatch in zip(
        ("#CCBB44", "#66CCEE", "#AA3377", "#228833", "#EE6677", "#222255", "#999933", "#4477AA"),
        ("^", "D", "v", "P", "X", "<", ">", "h"),
        ("///", "\\\\\\", "xxx", "...", "---", "||", "++", "oo"),
        strict=True,
    )
]


def looks(arms: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """How each (method, name) looks, the name being the method's own or a variant's.

    A method looks alike in all figures; variants differ from it and from each other.
    """
    found, known = {}, list(METHODS)
    # Methods in one order in all figures; variants behind them, as they come.
    own = [arm for arm in dict.fromkeys(arms) if arm[0] == arm[1] and arm[0] in METHODS]
    others = [arm for arm in dict.fromkeys(arms) if arm not in own]
    markers = {METHODS[name].marker for _, name in own}
    free = itertools.cycle([look for look in _OTHERS if look.marker not in markers] or _OTHERS)
    for method, name in [*sorted(own, key=lambda arm: known.index(arm[0])), *others]:
        if name == method and method in METHODS:
            found[method, name] = METHODS[method]
            continue
        found[method, name] = next(free)._replace(label=label_of(name))
    return found


def own_name(method: str, arm: str) -> str:
    """An arm's name: the method's where it is called as that is in legends; else its own."""
    return method if method in METHODS and arm == METHODS[method].label else arm


def named(arm: str) -> str:
    """The name of an arm that may be called as in legends."""
    return next((method for method in METHODS if METHODS[method].label == arm), arm)


def label_of(name: str) -> str:
    """A method's or variant's name as text: ``diswm-no_switch`` is ``DisWM, no switch``."""
    method, _, variant = name.partition("-")
    if method in METHODS:
        parts = [METHODS[method].label, *([variant.replace("_", " ")] if variant else [])]
        return ", ".join(parts)
    return _ELSEWHERE.get(name) or name.replace("_", " ")


def task_name(task: str) -> str:
    """A task as text: ``dmc2gym_walker_walk`` is ``Walker Walk``; a suite alone stays."""
    name = task.partition("_")[2] or task
    words = re.split(r"[_-]", re.sub(r"-v\d+$", "", name))
    return " ".join(word[:1].upper() + word[1:] for word in words if word)


def grid_of(panels: int) -> tuple[int, int, tuple[float, float]]:
    """Rows, columns and size in inches of so many panels."""
    columns = min(panels, 3)
    if panels == 4:
        columns = 2
    rows = -(-panels // columns)
    width = COLUMN + 0.6 if columns == 1 else TEXT
    return rows, columns, (width, 1.95 * rows + 0.2)


def counted(counts: Iterable[int]) -> str:
    """How many, in words: ``3``, or ``1 to 3`` where that differs."""
    found = sorted(counts)
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))


def write_legend(figure: Figure, entries: Mapping[str, Any], title: str) -> None:
    """Writes what stands for what below a figure, which grows by as much.

    Args:
        figure: with a constrained layout.
        entries: a line or patch by its label.
        title: a line above them.
    """
    width, height = figure.get_size_inches()
    longest = max(map(len, entries), default=1)
    columns = max(1, min(len(entries), int(width / (0.5 + 0.052 * longest))))
    rows = -(-len(entries) // columns)
    columns = -(-len(entries) // rows) if rows else 1  # as even as can be
    figure.set_size_inches(width, height + 0.25 + 0.14 * rows)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, title=title
    )


def choose(name: str, given: str, names: Iterable[str]) -> str:
    """What was chosen of several names.

    Raises:
        UserError: it is none of them.
    """
    names = list(names)
    if given not in names:
        raise UserError(f"{name} takes {', '.join(names)}, not '{given}'{nearest(given, names)}")
    return given
