"""A process that holds one setting and does its updates, or acts, on request.

It reads one JSON object a line: first what to hold, then ``{"do": …}`` requests, and answers each
with one JSON line. It ends when its input does. :mod:`benchmarks.turns` is the other side.

What to hold: ``source`` (``ours``, ``reference``, ``flops``, ``machine``), ``kind`` (``update``,
``pretrain``, ``act``), ``method`` (``diswm`` by default), ``flags`` (words of our command line),
``precision`` (of the reference), ``checkout`` (of the reference), ``keys`` (what the reference is
told of the configuration), ``device``, ``threads`` (0 leaves the choice), ``actions`` and ``sizes``
(``batch_size``, ``batch_length``, ``imag_horizon``), or ``points``, a list of such sizes to count
the arithmetic of. ``image`` is the height and width of what is drawn, ``stacked`` is true of an
agent that draws transitions from a replay of noise, ``more`` are further words of our command line.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.noise import make_batch, make_episodes
from benchmarks.repositories import REPOSITORIES

Update = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
# (image uint8 [N, 64, 64, 3], is_first bool [N], state, mode) → (action [N, A], state)
Policy = Callable[[np.ndarray, np.ndarray, Any, str], tuple[np.ndarray, Any]]
Held = Callable[..., Any]  # a policy where the kind is ``act``, else an update

LOSSES = ("model_loss", "critic_loss")  # what an update tells of: the first that is there


def memory(device: str) -> dict[str, int]:
    """Bytes of this process: resident now and at most so far; on CUDA also the allocator's."""
    status = Path("/proc/self/status").read_text()
    found = {name: int(kb) * 1024 for name, kb in re.findall(r"Vm(RSS|HWM):\s+(\d+) kB", status)}
    sizes = {"resident": found["RSS"], "resident_peak": found["HWM"]}
    if torch.device(device).type == "cuda":
        sizes["cuda_allocated_peak"] = torch.cuda.max_memory_allocated(device)
        sizes["cuda_reserved_peak"] = torch.cuda.max_memory_reserved(device)
    return sizes


def ours(spec: Mapping[str, Any]) -> tuple[Held, dict[str, Any]]:
    """Our update or policy at a setting, and the configuration keys that say which."""
    import config  # not above: a process with the reference has modules of theirs by these names
    from accel.runtime import Runtime
    from agents.base import Agent, Learner, Spaces
    from agents.model_configs import predictor_config
    from agents.pretrained import save_predictor
    from agents.registry import METHODS, agent_class
    from benchmarks.settings import command
    from models import VideoPredictor
    from replay.batch import to_tensors
    from training.length import updates_of

    kind, image = agent_class(spec.get("method", "diswm")), tuple(spec.get("image", (64, 64)))
    with tempfile.TemporaryDirectory() as folder:
        flags = [*command(spec), *spec["flags"], "--pretrain_checkpoint_path", folder]
        parsed = config.parse(flags, methods=METHODS)
        runtime = Runtime.resolve(parsed, updates_of(parsed))
        runtime.prepare()
        torch.manual_seed(parsed.seed)
        learner: Learner
        if spec["kind"] == "pretrain":
            assert kind.pretrainer is not None  # `settings` refuses others
            learner = kind.pretrainer(parsed, runtime)
        else:
            source = None  # what begins as a predictor computes the same from any weights
            if parsed.distillation:  # a teacher of random weights
                save_predictor(Path(folder), VideoPredictor(predictor_config(parsed), 0))
                source = kind.find_source(parsed)
            learner = kind(parsed, runtime, Spaces((*image, 3), spec["actions"], False), source)
    keys = ("precision", "compile", "cuda_graphs", "image_chunk")
    facts = {"config": {k: parsed[k] for k in keys}, "dtype": str(runtime.dtype)}

    def policy(image: np.ndarray, is_first: np.ndarray, state: Any, mode: str) -> Any:
        assert isinstance(learner, Agent)
        return learner.act({"image": image, "is_first": is_first}, state, mode)

    columns = learner.columns() if isinstance(learner, Agent) else None
    computed: dict[str, np.ndarray] = {}  # of the one batch that there is

    def update(batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        if columns is not None and not computed:  # the replay computes them once an episode
            each = [columns.compute(image) for image in batch["image"]]
            computed.update({name: np.stack([e[name] for e in each]) for name in columns.fields})
        return learner.learn(to_tensors({**batch, **computed}, runtime.device), 0).metrics

    if spec["kind"] == "act":
        return policy, facts
    if spec.get("stacked"):
        replay, windows = _replay(image, spec["actions"]), kind.windows(parsed)
        return lambda _: update(replay.sample(parsed.batch_size, windows)), facts
    return update, facts


def _replay(image: tuple[int, ...], actions: int) -> Any:
    """A replay of noise."""
    from replay import HostStorage, Replay, row_fields

    replay = Replay(HostStorage(row_fields((*image, 3), actions)))
    replay.replace(make_episodes(image, actions))
    return replay


def reference(spec: Mapping[str, Any]) -> tuple[Held, dict[str, Any]]:
    """The authors' update or policy, and the commit of their checkout."""
    from benchmarks.machine import commit

    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    repository = REPOSITORIES[spec.get("method", "diswm")]
    facts = {"commit": commit(Path(spec["checkout"])), "stubs": list(repository.stubs)}
    return importlib.import_module(repository.adapter).make(spec), facts


def count_flops(spec: Mapping[str, Any]) -> dict[str, list[int]]:
    """Multiplications and additions of one update of ours, at each of the sizes ``points``.

    Matrix products and convolutions, counted in eager mode on a batch of one sequence; each of
    them is linear in the batch, so that the whole batch's is a multiple.
    """
    from torch.utils.flop_counter import FlopCounterMode

    flags, counts = ["--compile", "False", "--cuda_graphs", "False", "--precision", "32"], []
    for sizes in spec["points"]:
        one = {**sizes, "batch_size": 1}
        update, _ = ours({**spec, "sizes": one, "flags": flags})
        batch = batch_of({**spec, "sizes": one})
        update(batch)
        updates = 1 + spec.get("stacked", False)  # every second one may have more to do
        with FlopCounterMode(display=False) as counter:
            for _ in range(updates):
                update(batch)
        counts.append(counter.get_total_flops() * sizes["batch_size"] // updates)
    return {"flops": counts}


def _machine(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The machine's description and ceiling; ``device`` auto becomes CUDA where there is one."""
    from benchmarks.machine import ceiling, describe

    device = spec["device"]
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    elif torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is here: give --device cpu")
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    rates = ceiling(device) if spec.get("ceiling", True) else {}
    return {"device": device, "machine": describe(device), "ceiling_tflops": rates}


def batch_of(spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a learner is fed; one that sees stacked frames draws from a replay instead.

    A pretrainer of ours sees frames alone.
    """
    if spec["kind"] == "act" or spec.get("stacked"):
        return {}
    batch = make_batch(spec["sizes"], spec["actions"], spec.get("image", (64, 64)))
    if spec["kind"] == "pretrain" and spec["source"] != "reference":
        return {name: batch[name] for name in ("image", "is_first")}
    return batch


def _timed(
    update: Update, batch: Mapping[str, np.ndarray], updates: int, device: str
) -> dict[str, Any]:
    """Seconds of one update, the mean of ``updates`` in a row that end in one synchronisation.

    ``cpu_seconds`` are those that the process had a core for, its threads together.

    One more before them is not timed: while the others had their turns, caches have cooled down
    and the system may have taken pages of a process that sat idle, which no training run does.
    """
    update(batch)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(updates):
        metrics = update(batch)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / updates
    cpu_seconds = (time.process_time() - cpu_start) / updates
    loss = float(next(metrics[name] for name in LOSSES if name in metrics))
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "loss": loss}
    return {**found, "memory": memory(device)}


class _Player:
    """A policy among environments that show noise.

    Args:
        policy: who acts.
        actions: A.
    """

    def __init__(self, policy: Policy, actions: int):
        self._policy, self._actions = policy, actions
        self._states: dict[tuple[int, str], Any] = {}
        self._rng = np.random.default_rng(0)

    def act(self, envs: int, mode: str, steps: int) -> dict[str, float]:
        """``seconds`` of one step of all ``envs``, the mean of ``steps``; the episodes go on."""
        image = self._rng.integers(0, 256, (2, envs, 64, 64, 3), dtype=np.uint8)
        state = self._states.get((envs, mode))
        is_first = np.full(envs, state is None)
        start = time.perf_counter()
        for step in range(steps):
            action, state = self._policy(image[step % 2], is_first, state, mode)
            is_first = np.zeros(envs, bool)
        seconds = (time.perf_counter() - start) / steps
        if action.shape != (envs, self._actions) or not np.isfinite(action).all():
            raise ValueError(f"the policy's actions are {action}")
        self._states[envs, mode] = state
        return {"seconds": seconds}


def serve(requests: Any, answer: Callable[[Mapping[str, Any]], None]) -> None:
    """Builds what the first request says, then does updates or acts until the requests end."""
    spec = json.loads(next(requests))
    if spec["source"] in ("flops", "machine"):
        answer(count_flops(spec) if spec["source"] == "flops" else _machine(spec))
        return
    acts = spec["kind"] == "act"
    batch = batch_of(spec)
    made, facts = {"ours": ours, "reference": reference}[spec["source"]](spec)
    answer(
        {"facts": {**facts, "threads": torch.get_num_threads()}, "memory": memory(spec["device"])}
    )
    player = _Player(made, spec["actions"])
    for line in requests:
        wanted = json.loads(line)
        answer(
            player.act(**wanted) if acts else _timed(made, batch, wanted["updates"], spec["device"])
        )


def main() -> int:
    """Serves the process on the other side of the pipes; returns the exit status."""
    # What anybody prints goes to stderr: the answers have the old stdout for themselves.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def answer(message: Mapping[str, Any]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        try:
            serve(iter(sys.stdin.readline, ""), answer)
        except Exception as error:  # the other side tells it, and goes on without this setting
            traceback.print_exc()
            first = (str(error).strip() or repr(error)).splitlines()[0]
            answer({"error": f"{type(error).__name__}: {first}"})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
