"""A process that holds one setting and does its updates, or acts, on request.

It reads one JSON object a line: first what to hold, then ``{"do": …}`` requests, and answers each
with one JSON line. It ends when its input does. :mod:`benchmarks.turns` is the other side.

What to hold: ``source`` (``ours``, ``reference``, ``flops``, ``machine``), ``kind`` (``update``,
``pretrain``, ``act``), ``method`` (``diswm`` by default), ``flags`` (words of our command line),
``precision`` (of the reference), ``checkout`` (of the reference), ``keys`` (of its configuration:
the method's), ``device``, ``threads`` (0 leaves the choice), ``actions`` and ``sizes``
(``batch_size``, ``batch_length``, ``imag_horizon``), or ``points``, a list of such sizes to count
the arithmetic of.
"""

from __future__ import annotations

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

Update = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
# (image uint8 [N, 64, 64, 3], is_first bool [N], state, mode) → (action [N, A], state)
Policy = Callable[[np.ndarray, np.ndarray, Any, str], tuple[np.ndarray, Any]]


LOSSES = ("model_loss", "critic_loss")  # what an update tells of: the first that is there


def make_batch(sizes: Mapping[str, int], actions: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of noise in the replay's format: [B, T, …], one episode a row."""
    shape = (sizes["batch_size"], sizes["batch_length"])
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.integers(0, 256, (*shape, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (*shape, actions)).astype(np.float32),
        "reward": rng.random(shape, dtype=np.float32),
        "discount": np.ones(shape, np.float32),
        "is_first": np.zeros(shape, bool),
    }
    batch["is_first"][:, 0] = True
    return batch


def memory(device: str) -> dict[str, int]:
    """Bytes of this process: resident now and at most so far; on CUDA also the allocator's."""
    status = Path("/proc/self/status").read_text()
    found = {name: int(kb) * 1024 for name, kb in re.findall(r"Vm(RSS|HWM):\s+(\d+) kB", status)}
    sizes = {"resident": found["RSS"], "resident_peak": found["HWM"]}
    if torch.device(device).type == "cuda":
        sizes["cuda_allocated_peak"] = torch.cuda.max_memory_allocated(device)
        sizes["cuda_reserved_peak"] = torch.cuda.max_memory_reserved(device)
    return sizes


def ours(spec: Mapping[str, Any]) -> tuple[Update | Policy, dict[str, Any]]:
    """Our update or policy at a setting, and the configuration keys that say which."""
    import config  # not above: a process with the reference has modules of theirs by these names
    from accel.runtime import Runtime
    from agents.base import Agent, Spaces
    from agents.model_configs import predictor_config
    from agents.pretrained import save_predictor
    from agents.registry import METHODS, agent_class
    from models import VideoPredictor
    from replay.batch import to_tensors
    from training.length import updates_of

    method, kind = spec.get("method", "diswm"), agent_class(spec.get("method", "diswm"))
    flags = ["--configs", "defaults", "dmc2gym", "--method_name", method]
    flags += [*_flags_of(method, spec["kind"]), "--device", spec["device"]]
    flags += [word for name, size in spec["sizes"].items() for word in (f"--{name}", str(size))]
    flags += ["--num_threads", str(spec["threads"]), *spec["flags"]]
    with tempfile.TemporaryDirectory() as folder:
        flags += ["--pretrain_checkpoint_path", folder]
        parsed = config.parse(flags, methods=METHODS)
        runtime = Runtime.resolve(parsed, updates_of(parsed))
        runtime.prepare()
        torch.manual_seed(parsed.seed)
        if spec["kind"] == "pretrain":
            learner = kind.pretrainer(parsed, runtime)
        else:
            source = None  # what begins as a predictor computes the same from any weights
            if parsed.distillation:  # a teacher of random weights
                save_predictor(Path(folder), VideoPredictor(predictor_config(parsed), 0))
                source = kind.find_source(parsed)
            learner = kind(parsed, runtime, Spaces((64, 64, 3), spec["actions"], False), source)
    keys = ("precision", "compile", "cuda_graphs", "image_chunk")
    facts = {"config": {k: parsed[k] for k in keys}, "dtype": str(runtime.dtype)}

    def policy(image: np.ndarray, is_first: np.ndarray, state: Any, mode: str) -> Any:
        return learner.act({"image": image, "is_first": is_first}, state, mode)

    rows = kind.windows(parsed).length  # a method may take others than --batch_length

    columns = learner.columns() if isinstance(learner, Agent) else None
    computed: dict[str, np.ndarray] = {}  # of the one batch that there is

    def update(batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        cut = {name: value[:, :rows] for name, value in batch.items()}
        if columns is not None and not computed:  # the replay computes them once an episode
            each = [columns.compute(image) for image in cut["image"]]
            computed.update({name: np.stack([e[name] for e in each]) for name in columns.fields})
        cut |= computed
        return learner.learn(to_tensors(cut, runtime.device), 0).metrics

    return policy if spec["kind"] == "act" else update, facts


def _flags_of(method: str, kind: str) -> list[str]:
    """The words that a method is measured with; a teacher is for updates alone."""
    from benchmarks.settings import METHODS

    flags = list(METHODS.get(method, {}).get("flags", ()))
    if kind != "update" and "--distillation" in flags:
        at = flags.index("--distillation")
        del flags[at : at + 2]
    return [*flags, "--beta_vae_pretrain", "True"] if kind == "pretrain" else flags


def reference(spec: Mapping[str, Any]) -> tuple[Update | Policy, dict[str, Any]]:
    """The authors' update or policy, and the commit of their checkout."""
    from benchmarks.machine import commit
    from benchmarks.reference import STUBS, Reference

    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    checkout = Path(spec["checkout"])
    theirs = Reference(
        checkout,
        "pretrain" if spec["kind"] == "pretrain" else "update",
        spec["actions"],
        spec["device"],
        spec["precision"],
        {**spec.get("keys", {"beta_vae": True, "distillation": True}), **spec["sizes"]},
    )

    @torch.no_grad()  # as their loop has it
    def policy(image: np.ndarray, is_first: np.ndarray, state: Any, mode: str) -> Any:
        obs = {"image": image, "reward": np.zeros(len(image), np.float32)}
        output, state = theirs.agent._policy(obs, state, mode == "train")
        return output["action"].cpu().numpy(), state

    facts = {"commit": commit(checkout), "stubs": list(STUBS)}
    return policy if spec["kind"] == "act" else theirs.update, facts


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
        batch = known(make_batch(one, spec["actions"]), spec)
        update(batch)
        with FlopCounterMode(display=False) as counter:
            update(batch)
        counts.append(counter.get_total_flops() * sizes["batch_size"])
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


def known(batch: dict[str, np.ndarray], spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a learner is fed: a pretrainer of ours sees frames alone."""
    if spec["kind"] == "pretrain" and spec["source"] != "reference":
        return {name: batch[name] for name in ("image", "is_first")}
    return batch


def _timed(
    update: Update, batch: Mapping[str, np.ndarray], updates: int, device: str
) -> dict[str, Any]:
    """Seconds of one update, the mean of ``updates`` in a row that end in one synchronisation.

    One more before them is not timed: while the others had their turns, caches have cooled down
    and the system may have taken pages of a process that sat idle, which no training run does.
    """
    update(batch)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(updates):
        metrics = update(batch)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / updates
    loss = float(next(metrics[name] for name in LOSSES if name in metrics))
    return {"seconds": seconds, "loss": loss, "memory": memory(device)}


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
    batch = {} if acts else known(make_batch(spec["sizes"], spec["actions"]), spec)
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
