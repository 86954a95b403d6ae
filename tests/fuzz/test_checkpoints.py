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
from agents import pretrained
from agents.model_configs import predictor_config
from fileio import checkpoints
from models import VideoPredictor
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid
from tests.fuzz.pickles import OBJECTS, PICKLES, zipped
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


def _inside(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


_INSIDE = _inside(SEEDS[1])
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
    pickles = st.sampled_from(PICKLES)
    made = st.one_of(
        pickles,
        pickles.map(lambda content: zipped(content, _INSIDE)),
        damaged([_PICKLE, *PICKLES]).map(lambda content: zipped(content, _INSIDE)),
        st.sampled_from((*_TARS, *_CODE, *SEEDS)),
    )
    content = draw(st.one_of(damaged(SEEDS), made, made))
    content = draw(damaged([content], 2)) if draw(st.integers(0, 5)) == 0 else content
    return _sealed(content) if draw(st.integers(0, 2)) == 0 else content


@fuzz(40, files())
def test_a_checkpoint_is_loaded_or_refused_and_no_code_is_run(content):
    with laid({"checkpoint.pt": content}) as (there, made):
        path = there / "checkpoint.pt"
        try:
            checkpoints.load(path)
        except UserError as error:
            check_refusal(error, str(path))
        assert list(made.iterdir()) == []  # or code was run


# Predictors.

_WORDS = "--device cpu --beta_vae True --units 16 --dyn_deter 16 --dyn_hidden 16 --dyn_stoch 4"
CONFIG = config.parse([*_WORDS.split(), "--z_dim", "4", "--cnn_depth", "4"])


def _parts() -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = VideoPredictor(predictor_config(CONFIG), 2)
    return {part: dict(getattr(model, part).state_dict()) for part in pretrained.PREDICTOR_FILES}


PARTS = _parts()
_FILES = {f"{part}.pt": dumped(state) for part, state in PARTS.items()}
_NAMES = ("inputs.0.weight", "_inp_layers.0.weight", "x", "a\nb", "", "layers.0.weight", 3, None)
_VALUES = (*_ODD_TENSORS, None, 3, "x", [], {}, {"shape": (2, 3)}, torch.zeros(16, 1 << 20))
_DAMAGES = ("drop", "rename", "value", "value", "shape", "nan", "cast", "widen")
_KINDS = (torch.int64, torch.bool, torch.complex64, torch.float16, torch.float64)
_WHOLE = (None, [], {}, 3, torch.zeros(2), {"state_dict": {}}, PARTS["encoder"])


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """A predictor with tensors dropped, renamed, replaced, or with its files damaged."""
    case = dict(_FILES)
    part = draw(st.sampled_from(list(PARTS)))
    state: Any = dict(PARTS[part])
    for _ in range(draw(st.integers(1, 3))):
        name, damage = draw(st.sampled_from(list(state))), draw(st.sampled_from(_DAMAGES))
        tensor = state[name]
        small = isinstance(tensor, torch.Tensor) and 0 < tensor.numel() < 1 << 20
        if damage == "drop" or not small or tensor.layout != torch.strided:
            state.pop(name)
        elif damage == "rename":
            state[draw(st.sampled_from(_NAMES))] = state.pop(name)
        elif damage == "shape":
            state[name] = tensor.flatten()
        elif damage == "nan":
            state[name] = tensor * float("nan")
        elif damage == "cast":
            state[name] = tensor.to(draw(st.sampled_from(_KINDS)))
        elif damage == "widen":
            size = draw(st.sampled_from((1, 1 << 40)))
            state[name] = tensor.flatten()[:1].expand(*tensor.shape, size)
        else:
            state[draw(st.sampled_from((name, "inputs.0.weight")))] = draw(st.sampled_from(_VALUES))
    state = draw(st.sampled_from(_WHOLE)) if draw(st.integers(0, 6)) == 0 else state
    case[f"{part}.pt"] = dumped(state)
    for name in ("decoder.pt", "rssm.pt"):
        if draw(st.integers(0, 5)) == 0:
            del case[name]
    return case | ({"encoder.pt": draw(files())} if draw(st.integers(0, 4)) == 0 else {})


@fuzz(8, folders())
def test_a_folder_gives_a_predictor_of_finite_tensors_or_is_refused(case):
    with laid(case) as (there, made):
        chosen = CONFIG.replace(pretrain_checkpoint_path=str(there))
        try:
            model = pretrained.load_predictor(chosen)
        except UserError as error:
            check_refusal(error, str(there))
        else:
            for name, tensor in model.state_dict().items():
                assert torch.isfinite(tensor).all(), name
        assert list(made.iterdir()) == []  # or code was run
