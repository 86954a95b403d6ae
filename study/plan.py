"""From arms, transfers and seeds to jobs, each a checked command line; shared ones once."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

import config as configuration
import data
import envs
from agents.registry import METHODS, agent_class
from config import Config
from envs import UnknownTask, parse_task
from fileio.yaml_files import printable
from study.document import Arm, Common, Stages, Study, Transfer
from study.job import Job
from tools import UserError, expand_path, nearest, print_safe
from training.factory import expected_rows
from training.length import length_of
from training.online import OnlineTrainer
from training.pretrain import PretrainTrainer
from training.run_folder import folder_of

_PLACE = re.compile(r"\{(\w*)\}")
# The tasks that each place asks for.
_ASKED: dict[str, tuple[str, ...]] = {
    "source": ("source",),
    "target": ("target",),
    "source_actions": ("source",),
    "gap": ("source", "target"),
    "cross_domain": ("source", "target"),
}
# Bytes that a process takes with its libraries, and for each row of a batch; an update of 50 × 50
# rows takes 1.6 GB in all.
BASE, PER_ROW, ON_GPU = 600 << 20, 420 << 10, 3 << 30


class Run(NamedTuple):
    """Which run of a study: an arm on a transfer, with a seed."""

    arm: Arm
    transfer: Transfer
    seed: int

    @property
    def source(self) -> str | None:
        """The task of the videos."""
        return self.arm.source or self.transfer.source


def expand(
    study: Study,
    common: Common,
    scale: str,
    logdir: str,
    seeds: int | None = None,
    only: Sequence[str] = (),
) -> list[Job]:
    """The jobs of a study, each behind those that it needs.

    Args:
        study: what its file says.
        common: what studies share.
        scale: which of its scales.
        logdir: of all runs, as it stands in their command lines.
        seeds: how many, in the place of the study's.
        only: arms; all by default.

    Raises:
        UserError: a command line that dreamer.py would refuse, a stage that is not there or needs
            itself, two runs in one folder; one line that says where in the file.
    """
    if unknown := [name for name in only if name not in [arm.name for arm in study.arms]]:
        names = [arm.name for arm in study.arms]
        raise UserError(
            f"--only {printable(unknown[0])}: {study.name} has no such arm"
            f"{nearest(unknown[0], names)}; there are {', '.join(map(printable, names))}"
        )
    planner = _Planner(study, common, scale, logdir)
    count = seeds or study.seeds or common.scales[scale]["seeds"]
    # By seed, so that a study which is stopped has one of everything.
    for seed in range(study.first_seed, study.first_seed + count):
        for transfer in study.transfers:
            for arm in study.arms:
                if not only or arm.name in only:
                    planner.add(Run(arm, transfer, seed), study.goal)
    planner.tell_notes()
    return [*planner.jobs.values()]


class _Planner:
    """Makes jobs and keeps those that there are.

    Args:
        study, common, scale, logdir: as for `expand`.

    Attributes:
        jobs: by their names.
    """

    def __init__(self, study: Study, common: Common, scale: str, logdir: str):
        self._study, self._common, self._logdir = study, common, logdir
        self._scale = scale
        self.jobs: dict[str, Job] = {}
        self._by_words: dict[tuple[str, ...], str] = {}
        self._notes: dict[str, None] = {}

    def add(self, run: Run, stage: str, above: tuple[str, ...] = ()) -> str:
        """A run's job of a stage, and those before it; returns its name.

        Args:
            run: which.
            stage: which.
            above: the stages that ask for it.
        """
        if stage in above:
            circle = " → ".join([*above[above.index(stage) :], stage])
            raise self._error(run, stage, f"it needs itself: {circle}")
        flags, needs = dict(self._flags(run, stage)), {}
        for value in flags.values():
            for name in self._places(value):
                if name in self._common.stages and name not in needs:
                    needs[name] = self.add(run, name, (*above, stage))
        values = self._values(run, stage) | {k: self._folder(name) for k, name in needs.items()}
        blocks = flags.pop("configs", [])
        flags = {flag: self._fill(v, values, run, stage) for flag, v in flags.items()}
        try:
            suite = parse_task(flags.get("task", "")).suite
        except UnknownTask as error:
            raise self._error(run, stage, str(error)) from None
        words = ["--configs", "defaults", suite, *blocks]
        for flag, value in flags.items():
            words += [f"--{flag}", *(value if isinstance(value, list) else [value])]
        words += ["--logdir", self._logdir]
        return self._keep(run, stage, tuple(words), tuple(needs.values()))

    def _keep(self, run: Run, stage: str, words: tuple[str, ...], needs: tuple[str, ...]) -> str:
        """Checks a command line, and makes it a job if it is a new one."""
        known = self._by_words.get(words)
        if known is None:
            known = self._check(run, stage, words, needs)
        job = self.jobs[known]
        is_goal = stage == self._study.goal
        arms = job.arms if run.arm.name in job.arms else (*job.arms, run.arm.name)
        changed = {"arms": arms, "is_goal": job.is_goal or is_goal}
        self.jobs[known] = Job(**job.to_dict() | changed)
        return known

    def _check(self, run: Run, stage: str, words: tuple[str, ...], needs: tuple[str, ...]) -> str:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                config = configuration.parse(words, methods=METHODS)
                check(config, waits=bool(needs))
                name = folder_of(config).relative_to(expand_path(self._logdir, "logdir")).as_posix()
        except (UserError, UnknownTask) as error:
            raise self._error(run, stage, str(error)) from None
        self._notes |= dict.fromkeys(said.getvalue().splitlines())
        if name in self.jobs:
            first, arm = self.jobs[name].arms[0], run.arm.name
            whose = "of an earlier transfer" if first == arm else f"of arm {printable(first)}"
            raise self._error(
                run, stage, f"its run would lie where that {whose} does, {name}: give it a `label`"
            )
        self._by_words[words] = name
        self.jobs[name] = Job(
            name=name,
            words=words,
            needs=needs,
            arms=(),
            stage=stage,
            method=config.method_name,
            task=config.task,
            source=(run.source or "") if needs else "",
            seed=config.seed,
            is_goal=False,
            end=end_of(config),
            device=config.device,
            memory=foresee_memory(config),
        )
        return name

    def _flags(self, run: Run, stage: str) -> dict[str, Any]:
        """The flags of a stage, of all layers; blocks of configs.yaml behind each other."""
        study, common, arm = self._study, self._common, run.arm
        layers: list[Stages] = [
            common.stages,
            common.methods.get(arm.method, {}),
            common.scales[self._scale],
            study.stages,
            study.scales.get(self._scale, {}),
            arm.stages,
        ]
        found: dict[str, Any] = {}
        for layer in layers:
            own = dict(layer.get(stage, {}))
            blocks = [*found.get("configs", []), *own.pop("configs", [])]
            found |= {**own, "configs": blocks}
        if arm.label and (stage == study.goal or stage in arm.stages):
            found["label"] = arm.label
        return {flag: value for flag, value in found.items() if value is not None}

    def _values(self, run: Run, stage: str) -> dict[str, str]:
        """What the places in flags stand for, as far as the run tells."""
        source, target = run.source, run.transfer.target
        values = {"method": run.arm.method, "seed": str(run.seed)}
        if source is not None:
            values |= {"source": source}
        if target is not None:
            values |= {"target": target}
        if source is not None and target is not None:
            suites = {task.partition("_")[0] for task in (source, target)}
            values["cross_domain"] = str(len(suites) > 1)
        actions = {**self._common.actions, **self._study.actions}
        if source in actions:
            values["source_actions"] = str(actions[source])
            if target in actions:
                values["gap"] = str(max(actions[source] - actions[target], 0))
        return values

    def _places(self, value: Any) -> list[str]:
        many = value if isinstance(value, list) else [value]
        return [name for one in many if isinstance(one, str) for name in _PLACE.findall(one)]

    def _fill(self, value: Any, values: Mapping[str, str], run: Run, stage: str) -> Any:
        """A flag's value with what its places stand for."""
        if isinstance(value, list):
            return [self._fill(one, values, run, stage) for one in value]
        for name in self._places(value):
            if name not in values:
                raise self._error(run, stage, self._missing(name, run))
        return _PLACE.sub(lambda match: values[match[1]], str(value))

    def _missing(self, name: str, run: Run) -> str:
        """Why nothing stands in a place."""
        tasks = {"source": run.source, "target": run.transfer.target}
        known = {**self._common.actions, **self._study.actions}
        for which in _ASKED.get(name, ()):
            task = tasks[which]
            if task is None:
                return f"it needs a {which}, and its transfer names none: add `{which}: <task>`"
            if name in ("source_actions", "gap") and task not in known:
                return f"how many actions has {task}? Add `actions: {{{task}: <number>}}`"
        there = [*self._common.stages, "method", "seed", *_ASKED]
        return (
            f"there is no stage or value '{{{printable(name)}}}'{nearest(name, there)}; there are "
            f"{', '.join(there)}"
        )

    def _folder(self, name: str) -> str:
        return f"{self._logdir.rstrip('/')}/{name}"

    def _error(self, run: Run, stage: str, what: str) -> UserError:
        return UserError(f"{self._study.path.name}, arm {printable(run.arm.name)}, {stage}: {what}")

    def tell_notes(self) -> None:
        """Prints what the checks had to say, each line once."""
        for line in self._notes:
            print_safe(line, sys.stderr)


def check(config: Config, waits: bool) -> None:
    """What dreamer.py checks before a run, but for what jobs before it are still to make.

    Args:
        config: of the job.
        waits: whether there are jobs before it.

    Raises:
        UserError, UnknownTask: as dreamer.py.
    """
    envs.check(config)
    try:
        if config.beta_vae_pretrain:
            if not waits:
                data.check(config)
            PretrainTrainer.check(config)
        else:
            agent_class(config.method_name).check(config)
            OnlineTrainer.check(config)
    except UserError as error:
        # What it is to begin as is not there yet, and the other checks come before that one.
        if not (waits and str(error).startswith("--pretrain_checkpoint_path")):
            raise


def end_of(config: Config) -> int:
    """Where a run ends, in frames or pretrain steps; one that only collects plays on a little."""
    if config.beta_vae_pretrain:
        return length_of(config)
    return max(length_of(config), config.prefill * config.action_repeat)


def foresee_memory(config: Config) -> int:
    """Bytes that a run takes, near enough to decide whether another one still fits."""
    height, width = config.size
    row = height * width * (1 if config.grayscale else 3) + 200
    rows = 0 if config.replay_storage == "disk" else expected_rows(config)
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    update = ON_GPU if on_gpu else BASE + PER_ROW * config.batch_size * config.batch_length
    return update + rows * row
