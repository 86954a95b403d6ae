"""The code keeps to the plan of docs/architecture.md: who imports whom, and how long things are."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
NOT_ROOMS = {"tests", "runs", "results", "shared"}
# What knows no models and no agents, and what knows no configuration.
NO_MODELS = {"envs", "replay", "logger", "data"}
NO_CONFIG = {"models", "behavior", "networks", "rssm", "accel"}
FILE, FUNCTION, ROOT_FILES = 400, 60, 8


class Import(NamedTuple):
    """An import of one room by another; of its types alone, it does not run."""

    where: str
    room: str
    other: str
    typing: bool


def room_of(path: Path) -> str:
    """The folder at the root, or the file there without its ending."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def product_files() -> list[Path]:
    """All Python files but the tests."""
    inside = [
        path
        for folder in ROOT.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in NOT_ROOMS
        for path in folder.rglob("*.py")
    ]
    return sorted([*ROOT.glob("*.py"), *inside])


def floors() -> dict[str, int]:
    """{room: floor} of the table, from top to bottom."""
    found = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if match := re.match(r"\| (\d) \| ([^|]*) \|", line):
            for name in re.findall(r"`([\w.]+)/?`", match[2]):
                found[name.removesuffix(".py")] = int(match[1])
    return found


def imported(node: ast.AST, typing: bool = False):
    """(module, line, whether it is for types alone) of every import, at whatever depth."""
    for child in ast.iter_child_nodes(node):
        inside = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
        if isinstance(child, ast.Import):
            yield from ((name.name, child.lineno, inside) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: write the package's name"
            yield child.module, child.lineno, inside
        yield from imported(child, inside)


FILES = product_files()
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
FLOORS = floors()
IMPORTS = [
    Import(f"{file}:{line}", room_of(ROOT / file), module.split(".")[0], typing)
    for file, tree in TREES.items()
    for module, line, typing in imported(tree)
    if module.split(".")[0] in FLOORS and module.split(".")[0] != room_of(ROOT / file)
]


def test_the_table_has_every_room_and_no_other():
    assert set(FLOORS) == {room_of(path) for path in FILES}
    assert len(list(ROOT.glob("*.py"))) <= ROOT_FILES


def test_no_import_goes_upwards():
    assert len(IMPORTS) > 100  # the parsing works
    assert [i for i in IMPORTS if FLOORS[i.other] > FLOORS[i.room]] == []


def test_the_ground_imports_nothing_of_ours():
    assert [i for i in IMPORTS if FLOORS[i.room] == min(FLOORS.values())] == []


def test_rooms_do_not_go_in_circles():
    graph: dict[str, set[str]] = {}
    for i in IMPORTS:
        if not i.typing:
            graph.setdefault(i.room, set()).add(i.other)
    order = [*graphlib.TopologicalSorter(graph).static_order()]  # CycleError names the circle
    assert set(order) >= graph.keys()
    assert all(order.index(other) < order.index(room) for room in graph for other in graph[room])


@pytest.mark.parametrize(
    ("rooms", "unknown"),
    [(NO_MODELS, {"models", "behavior", "agents"}), (NO_CONFIG, {"config", "agents"})],
    ids=["models", "config"],
)
def test_some_rooms_know_nothing_of_others(rooms, unknown):
    assert rooms <= set(FLOORS)
    assert [i for i in IMPORTS if i.room in rooms and i.other in unknown] == []


def test_files_and_functions_are_short():
    long = {}
    for path in FILES:
        file, lines = path.relative_to(ROOT).as_posix(), len(path.read_text().splitlines())
        if lines > FILE:
            long[file] = lines
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION:
                    long[f"{file}: {node.name}"] = length
    assert long == {}
