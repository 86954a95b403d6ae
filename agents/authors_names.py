"""The names that tensors of a predictor have in the authors' encoder.pt, decoder.pt, rssm.pt.

Their modules compute what ours compute, from tensors of the same shapes in the same order: only
the names differ. Gates are reset, candidate, update; statistics are mean, then std or log variance;
inputs are [stoch, action], [input, state], [deter, embed]; features are [stoch, deter].

A file's part is ``encoder``, ``decoder`` or ``rssm``. The plain CNN's encoder has the same names on
both sides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from networks import SIDES

# Beginnings of names: ours → theirs.
_BETA_VAE = {
    "encoder": {"layers.": "encoder.", "stats.": "dis_encoder.0."},
    "decoder": {
        "bottleneck.": "feat_to_decoder.0.",
        "inflate.": "decoder.0.",
        # Their convolutions follow the linear layer, a reshape and an activation.
        **{f"layers.{n}.": f"decoder.{n + 3}." for n in range(0, 10, 2)},
    },
}
_PLAIN = {
    "encoder": {},
    "decoder": {"first.": "_linear_layer.", "layers.": "_cnnt_layers."},
}
_RSSM = {
    "inputs.": "_inp_layers.",
    "cell.layer.": "_cell._layer.",
    "cell.norm.": "_cell._norm.",
    "prior.": "_img_out_layers.",
    "prior_stats.": "_ims_stat_layer.",
    "posterior.": "_obs_out_layers.",
    "posterior_stats.": "_obs_stat_layer.",
}
# What no name of ours begins with.
_MARKS = {
    "encoder": ("encoder.", "dis_encoder."),
    "decoder": ("feat_to_decoder.", "decoder.", "_linear_layer.", "_cnnt_layers."),
    "rssm": ("_",),
}


# Every name of a part's tensors, ours and theirs; all that end in weight or bias.
_KNOWN = {
    "encoder": r"(layers|encoder)\.\d+|stats|dis_encoder\.0",
    "decoder": r"(layers|decoder|_cnnt_layers)\.\d+|bottleneck|inflate|first|_linear_layer"
    r"|feat_to_decoder\.0",
    "rssm": r"(inputs|prior|posterior|_inp_layers|_img_out_layers|_obs_out_layers)\.\d+"
    r"|cell\.(layer|norm)|_cell\._(layer|norm)|(prior|posterior)_stats|_(ims|obs)_stat_layer",
}


def unwrapped(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """A state dict without the prefixes of torch.compile and of DataParallel; else as it is.

    Raises:
        ValueError: two tensors have the same name without them; its text is that name.
    """
    found: dict[Any, Any] = {}
    for name, value in state.items():
        if isinstance(name, str):
            name = re.sub(r"^(module\.)+", "", name.replace("_orig_mod.", ""))
        if name in found:
            raise ValueError(name)
        found[name] = value
    return found


def is_part(part: str, state: Mapping[Any, Any]) -> bool:
    """Whether a state dict has a tensor of that part of a predictor, under either name.

    Encoders and decoders have convolutions: other networks have ``layers.0.weight``, too.
    """
    name = re.compile(rf"({_KNOWN[part]})\.(weight|bias)")
    known = [value for key, value in state.items() if name.fullmatch(str(key))]
    return any(getattr(value, "ndim", 0) == 4 or part == "rssm" for value in known)


def is_theirs(part: str, names: Iterable[str]) -> bool:
    """Whether a file has the authors' names."""
    return any(str(name).startswith(_MARKS[part]) for name in names)


def is_beta_vae(names: Collection[str]) -> bool | None:
    """Whether an encoder's tensors, under either name, are a β-VAE's; None for no encoder's."""
    if any(str(name).startswith((*_MARKS["encoder"], "stats.")) for name in names):
        return True
    return False if "layers.0.weight" in names else None


def side_of(states: Mapping[str, Mapping[Any, Any]]) -> int | None:
    """The side of the images of a predictor's files, under either name; None if they do not tell.

    A β-VAE's encoder halves images until its last kernel is as large as they. A plain encoder's
    files do not tell; its decoder draws them from 1×1 or 2×2.
    """

    def kernels(part: str) -> list[int]:
        found = {}
        for name, tensor in states.get(part, {}).items():
            number = re.search(r"\.(\d+)\.weight$", str(name))
            if number and tensor.ndim == 4:
                found[int(number[1])] = tensor.shape[-1]
        return [found[number] for number in sorted(found)]

    side = 0
    if is_beta_vae(states["encoder"]):
        *halving, last = kernels("encoder") or [0]
        side = last << min(len(halving), 9)
    else:
        decoder = states.get("decoder", {})
        first = decoder.get("first.weight", decoder.get("_linear_layer.weight"))
        then = decoder.get("layers.0.weight", decoder.get("_cnnt_layers.0.weight"))
        if first is not None and then is not None and first.ndim and then.ndim:
            side = math.isqrt(first.shape[0] // max(then.shape[0], 1))
        for kernel in kernels("decoder"):
            side = 2 * (side - 1) + kernel
    return side if side in SIDES else None


def to_theirs(part: str, name: str, beta_vae: bool) -> str:
    """The authors' name of one of our tensors; a name without a counterpart stays."""
    table = _RSSM if part == "rssm" else (_BETA_VAE if beta_vae else _PLAIN)[part]
    return _replace(name, table.items())


def to_ours(part: str, name: str) -> str:
    """Our name of one of the authors' tensors; a name without a counterpart stays."""
    tables = [_RSSM] if part == "rssm" else [_BETA_VAE[part], _PLAIN[part]]
    return _replace(name, ((theirs, ours) for table in tables for ours, theirs in table.items()))


def _replace(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for before, after in pairs:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
