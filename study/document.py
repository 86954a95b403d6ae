"""What a study's YAML file says, checked as far as it can be without a scale.

Its keys: `figure` and `draw` (what draws it, with which settings), `seeds` (how many, from
`first_seed` on), `transfers` (pairs of source and target), `arms` (each a method, and what it
changes), `goal` (the last stage; default train), and, where it needs them, flags of stages for all
arms or, below `scales`, at one scale, where `draw` has settings of its own.
common.yaml has the stages, the methods' own flags and the scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fileio import yaml_files
from fileio.yaml_files import printable
from tools import UserError, nearest

HERE = Path(__file__).parent
COMMON = "common"  # the file that is no study
SCALES = ("paper", "cpu", "debug")
FIGURES = ("curves", "bars", "traversals", "tsne", "logged", "table")
ENDINGS = (".yaml", ".yml")

Flags = Mapping[str, Any]  # of dreamer.py, and `configs`
Stages = Mapping[str, Flags]


class Transfer(NamedTuple):
    """From videos of one task to learning another."""

    source: str | None
    target: str | None


class Arm(NamedTuple):
    """One curve of a figure: a method, and what it changes.

    Attributes:
        name: in legends.
        method: as ``--method_name`` has it.
        label: of the runs of the last stage, and of each stage before it that the arm changes.
        source: in the place of the transfers' source; None leaves that.
        stages: its own flags.
    """

    name: str
    method: str
    label: str
    source: str | None
    stages: Stages


class Common(NamedTuple):
    """What studies share; see common.yaml."""

    stages: Stages
    methods: Mapping[str, Stages]
    scales: Mapping[str, Mapping[str, Any]]
    actions: Mapping[str, int]


class Study(NamedTuple):
    """A figure or a table: arms by transfers by seeds.

    Attributes:
        path: of its file.
        name: the file's, without the ending.
        figure: what draws it, one of `FIGURES`.
        draw: settings of the drawing.
        draw_at: more of them, of each scale.
        goal: the stage that it is about.
        seeds: how many; None leaves it to the scale.
        first_seed: the least of them.
        transfers: at least one.
        arms: at least one.
        stages: flags for all arms.
        scales: of each scale, flags of stages for all arms.
        actions: how many numbers an action has, of tasks that common.yaml does not know.
    """

    path: Path
    name: str
    figure: str
    draw: Mapping[str, Any]
    draw_at: Mapping[str, Mapping[str, Any]]
    goal: str
    seeds: int | None
    first_seed: int
    transfers: tuple[Transfer, ...]
    arms: tuple[Arm, ...]
    stages: Stages
    scales: Mapping[str, Stages]
    actions: Mapping[str, int]


def names() -> list[str]:
    """The studies that come with the code."""
    return sorted(path.stem for path in HERE.glob("*.yaml") if path.stem != COMMON)


def find(given: str) -> Path:
    """The file of a study that is named, or named by its path.

    Raises:
        UserError: there is none.
    """
    if given.endswith(ENDINGS):
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"{given}: there is no such file; studies are {', '.join(names())}")
        return path
    if given not in names():
        shown = printable(given)
        raise UserError(
            f"there is no study '{shown}'{nearest(given, names())}: give one of "
            f"{', '.join(names())}, or a .yaml file of your own"
        )
    return HERE / f"{given}.yaml"


def load_common() -> Common:
    """What studies share.

    Raises:
        UserError: common.yaml is not what it should be.
    """
    reader = _Reader(HERE / f"{COMMON}.yaml")
    top = reader.mapping(reader.load(), "", ("stages", "methods", "scales", "actions"))
    stages = reader.stages(top.get("stages", {}), "stages", None)
    methods = reader.mapping(top.get("methods", {}), "methods", None)
    scales = reader.mapping(top.get("scales", {}), "scales", SCALES)
    return Common(
        stages,
        {m: reader.stages(own, f"methods: {m}", stages) for m, own in methods.items()},
        {s: reader.scale(own, f"scales: {s}", stages) for s, own in scales.items()},
        reader.actions(top.get("actions", {})),
    )


def load(given: str, common: Common, methods: Iterable[str]) -> Study:
    """A study, by its name or by its file's path.

    Args:
        given: the name or the path.
        common: what studies share.
        methods: what an arm's method may be.

    Raises:
        UserError: it is not there, or says what nothing here understands; one line.
    """
    path = find(given)
    reader, stages = _Reader(path), common.stages
    own = ("figure", "draw", "seeds", "first_seed", "goal", "transfers", "arms", "scales")
    top = reader.mapping(reader.load(), "", (*own, "actions", *stages))
    scales = {
        scale: reader.mapping(own, f"scales: {scale}", ("draw", *stages))
        for scale, own in reader.mapping(top.get("scales", {}), "scales", SCALES).items()
    }
    draw_at = {
        scale: reader.mapping(own.pop("draw", {}), f"scales: {scale}: draw", None)
        for scale, own in scales.items()
    }
    draw = reader.mapping(top.get("draw", {}), "draw", None)
    arms = reader.mapping(top.get("arms"), "arms", None)
    transfers = top.get("transfers")
    if not isinstance(transfers, list) or not transfers or not arms:
        raise reader.error("", "it needs `transfers`, a list, and `arms`, a mapping of names")
    for settings in (draw, *draw_at.values()):
        if "against" in settings:
            reader.choice(settings["against"], "draw: against", arms)
    return Study(
        path=path,
        name=path.stem,
        figure=reader.choice(top.get("figure", "curves"), "figure", FIGURES),
        draw=draw,
        draw_at=draw_at,
        goal=reader.choice(top.get("goal", [*stages][-1]), "goal", stages),
        seeds=reader.count(top["seeds"], "seeds") if "seeds" in top else None,
        first_seed=reader.count(top.get("first_seed", 0), "first_seed", least=0),
        transfers=tuple(
            reader.transfer(one, f"transfers, number {n}") for n, one in enumerate(transfers, 1)
        ),
        arms=tuple(reader.arm(name, arm, stages, methods) for name, arm in arms.items()),
        stages=reader.stages({k: top[k] for k in stages if k in top}, "", stages),
        scales={s: reader.stages(own, f"scales: {s}", stages) for s, own in scales.items()},
        actions=reader.actions(top.get("actions", {})),
    )


class _Reader:
    """Typed reading of one file; whatever is wrong is one line that says where."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> Any:
        return yaml_files.load(self._path)

    def error(self, where: str, what: str) -> UserError:
        return UserError(f"{self._path}{where and f', {printable(where)}'}: {what}")

    def mapping(self, value: Any, where: str, keys: Iterable[str] | None) -> dict[str, Any]:
        """A mapping, whose keys are among some."""
        if not isinstance(value, Mapping):
            raise self.error(where, f"a mapping is needed, not '{printable(value)}'")
        for key in value:
            if not isinstance(key, str):
                raise self.error(where, f"'{printable(key)}' is no name")
            if keys is not None and key not in keys:
                raise self.error(
                    where,
                    f"unknown key '{printable(key)}'{nearest(key, keys)}; there are "
                    f"{', '.join(keys)}",
                )
        return dict(value)

    def stages(self, value: Any, where: str, known: Iterable[str] | None) -> dict[str, Flags]:
        """Flags by stage; a flag is plain, a list of plain values, or null."""
        found = self.mapping(value, where, known)
        for stage, flags in found.items():
            place = f"{where}: {stage}".removeprefix(": ")
            for name, given in self.mapping(flags, place, None).items():
                many = given if isinstance(given, list) else [given]
                if any(not isinstance(v, str | int | float | bool | None) for v in many):
                    raise self.error(place, f"--{name} is a value, a list of values, or null")
                if name == "configs" and not isinstance(given, list):
                    raise self.error(place, "configs is a list of blocks of configs.yaml")
        return found

    def scale(self, value: Any, where: str, stages: Stages) -> dict[str, Any]:
        """How many seeds, and flags by stage."""
        found = self.mapping(value, where, ("seeds", *stages))
        seeds = self.count(found.pop("seeds", 1), f"{where}: seeds")
        return {"seeds": seeds, **self.stages(found, where, stages)}

    def actions(self, value: Any) -> dict[str, int]:
        found = self.mapping(value, "actions", None)
        return {task: self.count(n, f"actions: {task}") for task, n in found.items()}

    def count(self, value: Any, where: str, least: int = 1) -> int:
        if type(value) is not int or value < least:
            what = f"a whole number from {least} on is needed"
            raise self.error(where, f"{what}, not '{printable(value)}'")
        return value

    def choice(self, value: Any, where: str, choices: Iterable[str]) -> str:
        if value not in [*choices]:
            near = nearest(str(value), choices)
            raise self.error(where, f"'{printable(value)}'{near} is none of {', '.join(choices)}")
        return value

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value:
            raise self.error(where, f"a name is needed, not '{printable(value)}'")
        return value

    def transfer(self, value: Any, where: str) -> Transfer:
        found = self.mapping(value, where, Transfer._fields)
        for name, task in found.items():
            self.text(task, f"{where}: {name}")
        return Transfer(found.get("source"), found.get("target"))

    def arm(self, name: str, value: Any, stages: Stages, methods: Iterable[str]) -> Arm:
        where = f"arm {name}"
        found = self.mapping(value, where, ("method", "label", "source", *stages))
        if "method" not in found:
            raise self.error(where, "it names no `method`")
        return Arm(
            name=self.text(name, "arms"),
            method=self.choice(found["method"], f"{where}: method", methods),
            label=str(found.get("label", "")),
            source=self.text(found["source"], f"{where}: source") if "source" in found else None,
            stages=self.stages({k: found[k] for k in stages if k in found}, where, stages),
        )
