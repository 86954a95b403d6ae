"""Checkpoints and pretrained predictors: files of PyTorch's."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

import config
import predictors
from fileio import checkpoints
from models import VideoPredictor
from tests.fuzz.guard import Wrong
from tests.fuzz.harness import Case, Target
from tests.fuzz.mutate import changed, mutated, pick
from tests.fuzz.pickles import CANARY, OBJECTS, PICKLES, zipped
from tests.fuzz.words import refusal
from tools import UserError


def dumped(state: Any, legacy: bool = False) -> bytes:
    """The bytes of PyTorch's file, b"" for what it does not write."""
    file = io.BytesIO()
    try:
        torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    except (TypeError, AttributeError, RuntimeError, ValueError):
        return b""
    return file.getvalue()


def saved(state: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint of ours."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(Path(folder, "x"), state)
        return Path(folder, "x").read_bytes()


STATE = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3, dtype=torch.bfloat16)},
    "frames": 120,
    "finished": False,
    "rng": [torch.ones(5, dtype=torch.uint8), "text", 0.5, None],
}
_ODD_TENSORS = (
    torch.zeros(1).expand(1 << 40),
    torch.zeros(2, 3).to_sparse(),
    torch.zeros(2, 3, dtype=torch.complex64),
    torch.nn.Parameter(torch.zeros(2, 3)),
    torch.zeros(2, 3, device="meta"),
    torch.full((2, 3), float("nan")),
    torch.zeros(0),
    torch.zeros(2, 3, dtype=torch.float64),
)
SEEDS = (
    saved(STATE),
    dumped(STATE),
    dumped(STATE, legacy=True),
    dumped({"odd": [*_ODD_TENSORS[:5]]}),
    *(data for value in OBJECTS[::4] if (data := dumped(value))),
    *(data for value in OBJECTS[::4] if (data := dumped(value, legacy=True))),
)
_CODE = dumped(torch.nn.Linear(2, 2)), dumped(torch.nn.Linear(2, 2), legacy=True)


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


_INSIDE = {name.partition("/")[2]: data for name, data in _members(SEEDS[1]).items()}
_PICKLE = _INSIDE.pop("data.pkl")


def _tarred(data: bytes) -> bytes:
    """PyTorch's oldest format, which is unpacked onto the disk when it is read."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("storages", "tensors", "pickle", "../canary"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


_TARS = tuple(_tarred(data) for data in PICKLES[:6])


def _sealed(data: bytes) -> bytes:
    return data + f"\nDisWM, sha256 {hashlib.sha256(data).hexdigest()}\n".encode()


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A checkpoint's bytes: damaged, with another pickle inside, or with objects in it."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        data = pick(draw, PICKLES)
    elif kind == 1:
        data = zipped(pick(draw, PICKLES), _INSIDE)
    elif kind == 2:
        data = zipped(draw(changed(_PICKLE, PICKLES, 3)), _INSIDE)
    elif kind == 3:
        data = pick(draw, (*_TARS, *_CODE, *SEEDS))
    else:
        return draw(mutated(SEEDS, 4))
    if draw(st.integers(0, 3)) == 0:
        data = draw(changed(data, SEEDS, 2))
    return _sealed(data) if draw(st.integers(0, 2)) == 0 else data


def _check_canary(given: Path) -> None:
    for folder in (given, given.parent, Path.cwd()):  # it is the one to write into
        if (folder / CANARY).exists():
            raise Wrong(f"{folder / CANARY} is there: code was run")


def judge_checkpoint(given: Path, made: Path) -> None:
    """A checkpoint is loaded, or refused in one line that names the file; no code is run."""
    path = given / "checkpoint.pt"
    try:
        checkpoints.load(path)
    except UserError as error:
        refusal(error, str(path))
    _check_canary(given)


# Predictors.

_WORDS = "--device cpu --beta_vae True --units 16 --dyn_deter 16 --dyn_hidden 16 --dyn_stoch 4"
CONFIG = config.parse([*_WORDS.split(), "--z_dim", "4", "--cnn_depth", "4"])


def _parts() -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = VideoPredictor(CONFIG, 2)
    return {part: dict(getattr(model, part).state_dict()) for part in predictors.PREDICTOR_FILES}


PARTS = _parts()
_FILES = {f"{part}.pt": dumped(state) for part, state in PARTS.items()}
_NAMES = ("inputs.0.weight", "_inp_layers.0.weight", "x", "a\nb", "", "layers.0.weight", 3, None)
_VALUES = (*_ODD_TENSORS, None, 3, "x", [], {}, {"shape": (2, 3)}, torch.zeros(16, 1 << 20))
_DAMAGES = ("drop", "rename", "value", "value", "shape", "nan", "cast", "widen")
_WHOLE = (None, [], {}, 3, torch.zeros(2), {"state_dict": {}}, PARTS["encoder"])


@st.composite
def folders(draw: st.DrawFn) -> Case:
    """A predictor with tensors dropped, renamed, replaced, or with its files damaged."""
    case = dict(_FILES)
    part = pick(draw, tuple(PARTS))
    state: Any = dict(PARTS[part])
    for _ in range(draw(st.integers(1, 3))):
        name, damage = pick(draw, tuple(state)), pick(draw, _DAMAGES)
        tensor = state[name]
        small = isinstance(tensor, torch.Tensor) and 0 < tensor.numel() < 1 << 20
        if damage == "drop" or not small or tensor.layout != torch.strided:
            state.pop(name)
        elif damage == "rename":
            state[pick(draw, _NAMES)] = state.pop(name)
        elif damage == "shape":
            state[name] = tensor.flatten()
        elif damage == "nan":
            state[name] = tensor * float("nan")
        elif damage == "cast":
            kinds = (torch.int64, torch.bool, torch.complex64, torch.float16, torch.float64)
            state[name] = tensor.to(pick(draw, kinds))
        elif damage == "widen":
            state[name] = tensor.flatten()[:1].expand(*tensor.shape, pick(draw, (1, 1 << 40)))
        else:
            state[pick(draw, (name, "inputs.0.weight"))] = pick(draw, _VALUES)
    if draw(st.integers(0, 6)) == 0:
        state = pick(draw, _WHOLE)
    case[f"{part}.pt"] = dumped(state)
    for name in ("decoder.pt", "rssm.pt"):
        if draw(st.integers(0, 5)) == 0:
            del case[name]
    if draw(st.integers(0, 4)) == 0:
        case["encoder.pt"] = draw(files())
    return case


def judge_predictor(given: Path, made: Path) -> None:
    """A folder gives a predictor of finite tensors, or is refused in one line that names it."""
    chosen = CONFIG.replace(pretrain_checkpoint_path=str(given))
    try:
        model = predictors.load_predictor(chosen)
    except UserError as error:
        return refusal(error, str(given))
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise Wrong(f"{name} is not finite")
    _check_canary(given)


TARGETS = (
    Target("checkpoints", 7, files().map(lambda data: {"checkpoint.pt": data}), judge_checkpoint),
    Target("predictors", 2, folders(), judge_predictor),
)
