"""The settings that the benchmarks of updates compare, and the flags that they share."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import config
from agents import registry
from agents.registry import AGENTS, agent_class
from benchmarks.repositories import DISWM, KEYS, PLACES, REPOSITORIES
from benchmarks.turns import ROOT, Failed, ask_once
from tools import UserError, nearest

PAPER = {"batch_size": 50, "batch_length": 50, "imag_horizon": 15}
ACTIONS = 6


def _ours(compiled: bool, graphs: bool, precision: str) -> dict[str, Any]:
    flags = ["--compile", str(compiled), "--cuda_graphs", str(graphs), "--precision", precision]
    return {"source": "ours", "flags": flags}


# What each setting is: the authors' at a precision, or words of our command line.
SETTINGS: dict[str, dict[str, Any]] = {
    "reference": {"source": "reference", "precision": 32},
    "reference16": {"source": "reference", "precision": 16},
    "exact": _ours(False, False, "32"),
    "bf16": _ours(False, False, "bf16"),
    "graphs32": _ours(False, True, "32"),
    "graphs": _ours(False, True, "bf16"),
    "compiled32": _ours(True, False, "32"),
    "compiled": _ours(True, False, "bf16"),
    "default": {"source": "ours", "flags": ["--precision", "auto"]},
}
# What is measured of a method beside its name: words of our command line, and keys of the
# configuration of DisWM's authors, where their code has the method.
METHODS: dict[str, dict[str, Any]] = {
    "diswm": {
        "flags": ["--beta_vae", "True", "--distillation", "True"],
        "keys": {"beta_vae": True, "distillation": True},
    },
    "dv2_finetune": {"keys": {"naive_fine_tune": True, "source_action_num": ACTIONS}},
    "apv": {"keys": {"fine_tune": True, "source_action_num": ACTIONS}},
}
ON_CPU = ("reference", "exact", "bf16", "default")
ON_CUDA = tuple(SETTINGS)


def base(name: str, description: str | None) -> argparse.ArgumentParser:
    """The flags that all benchmarks on a device share."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--device", default="auto", help="cpu or cuda:0; auto takes CUDA if present")
    made.add_argument("--json", type=Path, help="write every number and the machine there")
    return made


def split(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A command line's words before ``--``, and those behind it, which are dreamer.py's."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The flags that the benchmarks of updates share."""
    made = base(name, description)
    made.add_argument("--method", default="diswm", help="whose update: a --method_name")
    made.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice")
    made.add_argument("--warmup", type=int, help="updates before the first round; CUDA 5, CPU 1")
    for size, value in PAPER.items():
        flags = [f"--{size}", "--horizon"] if size == "imag_horizon" else [f"--{size}"]
        made.add_argument(*flags, dest=size, type=int, help=f"default: {value}, or the method's")
    return made


def add_turns(made: argparse.ArgumentParser) -> None:
    """The flags of the benchmarks that compare settings."""
    made.add_argument("--reference", type=Path, help="your checkout of the authors' code")
    made.add_argument("--settings", nargs="+", help=f"some of {' '.join(SETTINGS)}")
    made.add_argument("--also", nargs="+", default=[], metavar="NAME=FLAGS", help="more of ours")
    made.add_argument("--rounds", type=int, default=5, help="turns of each setting")
    made.add_argument("--updates", type=int, help="updates of one turn; CUDA 10, CPU 1, or 2")


def command(spec: Mapping[str, Any]) -> list[str]:
    """The words of our command line that a process is to hold, but for a setting's own.

    Args:
        spec: in the words of :mod:`benchmarks.worker`.
    """
    method, kind = spec.get("method", "diswm"), spec["kind"]
    words = ["--configs", "defaults", "dmc2gym", "--method_name", method]
    own = list(METHODS.get(method, {}).get("flags", ()))
    if kind != "update" and "--distillation" in own:  # a teacher is for updates alone
        at = own.index("--distillation")
        del own[at : at + 2]
    words += own + (["--beta_vae_pretrain", "True"] if kind == "pretrain" else [])
    words += ["--device", spec["device"], "--num_threads", str(spec["threads"])]
    words += [word for name, size in spec["sizes"].items() for word in (f"--{name}", str(size))]
    return [*words, *spec.get("more", ())]


def measured(
    kind: str, args: argparse.Namespace, device: str, more: Sequence[str]
) -> dict[str, Any]:
    """What the processes of all settings hold: see :mod:`benchmarks.worker`.

    Args:
        kind: ``update`` or ``pretrain``.
        args: of :func:`parser`.
        device: where it is measured.
        more: words of our command line.

    Raises:
        UserError: sizes that the method has not, or that the authors' code cannot have.
    """
    found: dict[str, Any] = {"kind": kind, "device": device, "threads": args.threads}
    found |= {"actions": ACTIONS, "method": args.method, "more": list(more)}
    given = {name: getattr(args, name) for name in PAPER if getattr(args, name) is not None}
    learner = agent_class(args.method)
    if kind == "pretrain" and learner.pretrainer is None:
        raise UserError(f"--method {args.method} begins from no predictor: give diswm, or another")
    parsed = config.parse(command({**found, "sizes": given}), methods=registry.METHODS)
    found["image"] = list(learner.image_size(parsed))
    found["stacked"] = learner.windows(parsed).stack > 0
    if found["stacked"]:
        for name in ("batch_length", "imag_horizon"):
            if name in given:
                raise UserError(f"--{name}: {args.method} has transitions: leave it out")
        found["sizes"] = {"batch_size": parsed.batch_size}
    else:
        found["sizes"] = {name: parsed[name] for name in PAPER}
    found["keys"] = keys_of(args.method, parsed)
    if args.reference is not None:
        if kind == "pretrain" and REPOSITORIES.get(args.method) is not DISWM:
            raise UserError(
                f"--reference: {args.method} pretrains beside no authors': leave it out"
            )
        check_checkout(args.method, args.reference, parsed.size)
    return found | {"checkout": str((args.reference or ROOT).resolve())}


def keys_of(method: str, parsed: config.Config) -> dict[str, Any]:
    """What the authors' code of a method is told: keys of theirs for DisWM's, else of ours."""
    if REPOSITORIES.get(method, DISWM) is DISWM:
        return METHODS.get(method, {}).get("keys", {})
    return {name: parsed[name] for name in PLACES.get(method, KEYS) if name in parsed}


def chosen(args: argparse.Namespace, device: str) -> dict[str, dict[str, Any]]:
    """The settings that a command line names, or those of the device.

    Raises:
        UserError: an unknown name, or the reference without its checkout.
    """
    table = dict(SETTINGS)
    for text in args.also:
        name, equals, flags = text.partition("=")
        if not equals or not name:
            raise UserError(
                f"--also takes NAME=FLAGS such as 'half=--image_chunk 25', not '{text}'"
            )
        table[name] = {"source": "ours", "flags": shlex.split(flags)}
    names = list(args.settings or (ON_CUDA if device.startswith("cuda") else ON_CPU))
    names += [text.partition("=")[0] for text in args.also]
    if args.reference is None and not args.settings:
        names = [name for name in names if table[name]["source"] != "reference"]
    method = getattr(args, "method", "diswm")
    if args.settings is None and not (method in REPOSITORIES and REPOSITORIES[method].mixed):
        names = [name for name in names if name != "reference16"]
    for name in names:
        if name not in table:
            raise UserError(f"no setting is called '{name}'{nearest(name, table)}")
        if table[name]["source"] == "reference" and args.reference is None:
            raise UserError(f"the setting '{name}' needs --reference, a checkout of theirs")
        if table[name].get("precision") == 16 and not device.startswith("cuda"):
            raise UserError(f"the setting '{name}' needs --device cuda:0: theirs is 32 on a CPU")
    return {name: table[name] for name in dict.fromkeys(names)}


def check(args: argparse.Namespace) -> None:
    """Refuses sizes and folders that cannot be meant.

    Raises:
        UserError: one line that names the flag.
    """
    for name in ("batch_size", "batch_length", "imag_horizon", "rounds", "updates", "warmup"):
        value, least = getattr(args, name, None), 2 if name == "imag_horizon" else 1
        if value is not None and value < least:
            raise UserError(f"--{name} takes a whole number from {least}, not {value}")
    learning = [name for name in AGENTS if name != "random"]
    if args.method not in learning:
        raise UserError(
            f"--method takes {', '.join(learning)}, not '{args.method}'"
            f"{nearest(args.method, learning)}"
        )
    if args.threads < 0:
        raise UserError(f"--threads takes 0 or more, not {args.threads}")


def look(args: argparse.Namespace, ceiling: bool = True) -> dict[str, Any]:
    """``device``, ``machine`` and ``ceiling_tflops`` of where the benchmark runs."""
    spec = {"source": "machine", "device": args.device, "threads": args.threads}
    try:
        return ask_once({**spec, "ceiling": ceiling})
    except Failed as error:
        raise UserError(f"--device {args.device}: {error}") from None


def check_checkout(method: str, checkout: Path, size: Sequence[int]) -> None:
    """Checks that a folder has a method's authors' code, and that it takes images of a size.

    Raises:
        UserError: one line that names the mend.
    """
    if method not in REPOSITORIES:
        raise UserError(f"--reference: there is no authors' code of {method}: leave it out")
    repository = REPOSITORIES[method]
    if lacks := repository.missing(checkout):
        raise UserError(f"--reference {checkout} is no checkout of {repository.name}: no {lacks}")
    absent = [name for name in repository.packages if importlib.util.find_spec(name) is None]
    if absent:
        wanted = " ".join(repository.packages[name] for name in absent)
        raise UserError(
            f"--reference: {repository.name} imports {' and '.join(absent)}: pip install {wanted}"
        )
    if size[0] != size[1] or size[0] not in repository.sides:
        sides = " or ".join(f"{side}×{side}" for side in repository.sides)
        raise UserError(
            f"--size {size[0]} {size[1]}: the authors' networks of {method} take images of {sides}:"
            f" give -- --size {repository.sides[-1]} {repository.sides[-1]}, or no --reference"
        )
