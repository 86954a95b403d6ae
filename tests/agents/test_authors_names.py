"""The authors' checkpoints: theirs compute here what they are to compute, and ours become theirs.

The expected numbers come from the functions below, which know the authors' names and orders and
nothing of our modules.
"""

import math
import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import authors_names, pretrained
from tests.helpers import models
from tests.helpers.models import copied, equal
from tests.helpers.runs import refusal

Z, STOCH, DETER, HIDDEN, DEPTH = 4, 4, 16, 16, 4  # as in the tiny runs
FILES = ["decoder.pt", "encoder.pt", "rssm.pt"]


def modules(cell="gru_layer_norm", actions=3, beta_vae=True):
    """The shapes of the weights in the authors' files, by file and module."""
    embed, feat = (Z if beta_vae else 32 * DEPTH), STOCH + DETER
    if beta_vae:
        convs = [(32, 3, 4, 4), (32, 32, 4, 4), (64, 32, 4, 4), (64, 64, 4, 4), (256, 64, 4, 4)]
        encoder = {f"encoder.{2 * i}": shape for i, shape in enumerate(convs)}
        encoder["dis_encoder.0"] = (2 * Z, 256)
        decoder = {"feat_to_decoder.0": (Z, feat), "decoder.0": (256, Z)}
        convs = [(256, 64, 4, 4), (64, 64, 4, 4), (64, 32, 4, 4), (32, 32, 4, 4), (32, 3, 4, 4)]
        decoder |= {f"decoder.{2 * i + 3}": shape for i, shape in enumerate(convs)}
    else:
        convs = [(4, 3, 4, 4), (8, 4, 4, 4), (16, 8, 4, 4), (32, 16, 4, 4)]
        encoder = {f"layers.{2 * i}": shape for i, shape in enumerate(convs)}
        decoder = {"_linear_layer": (32 * DEPTH, feat)}
        convs = [(128, 16, 5, 5), (16, 8, 5, 5), (8, 4, 6, 6), (4, 3, 6, 6)]
        decoder |= {f"_cnnt_layers.{2 * i}": shape for i, shape in enumerate(convs)}
    rssm = {"_inp_layers.0": (HIDDEN, STOCH + actions), "_cell._layer": (48, HIDDEN + DETER)}
    if cell == "gru_layer_norm":
        rssm["_cell._norm"] = (48,)
    rssm |= {"_img_out_layers.0": (HIDDEN, DETER), "_obs_out_layers.0": (HIDDEN, DETER + embed)}
    rssm |= {"_ims_stat_layer": (2 * STOCH, HIDDEN), "_obs_stat_layer": (2 * STOCH, HIDDEN)}
    return {"encoder": encoder, "decoder": decoder, "rssm": rssm}


def write_theirs(folder, seed=0, **kind):
    """Writes random files under the authors' names; their state dicts."""
    generator, states = torch.Generator().manual_seed(seed), {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, shapes in modules(**kind).items():
        states[part] = {}
        for name, shape in shapes.items():
            transposed = name.startswith(("decoder.", "_cnnt_layers.")) and len(shape) == 4
            weight = torch.randn(shape, generator=generator)
            if len(shape) > 1:
                weight *= 1.5 / math.sqrt(4 * shape[0] if transposed else math.prod(shape[1:]))
            bias = torch.randn(shape[1] if transposed else shape[0], generator=generator)
            states[part] |= {f"{name}.weight": weight, f"{name}.bias": 0.3 * bias}
        torch.save(states[part], folder / f"{part}.pt")
    return states


def make_config(folder, *flags, **changes):
    return models.make_config(*flags, pretrain_checkpoint_path=str(folder), **changes)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def encode(state, image):
    """Images [N, 64, 64, 3] → mean, log variance."""
    x = image.permute(0, 3, 1, 2)
    for i, (stride, padding) in enumerate([(2, 1)] * 4 + [(1, 0)]):
        name = f"encoder.{2 * i}"
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)
        x = F.elu(x)
    stats = linear(state, "dis_encoder.0", x.reshape(len(x), 256))
    return stats[:, :Z], stats[:, Z:]


def decode(state, feat):
    """Features [N, F] → images [N, 64, 64, 3]."""
    x = F.elu(linear(state, "feat_to_decoder.0", feat))
    x = F.elu(linear(state, "decoder.0", x).reshape(-1, 256, 1, 1))
    for i, (stride, padding) in enumerate([(1, 0)] + [(2, 1)] * 4):
        name = f"decoder.{2 * i + 3}"
        x = F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)
        x = F.elu(x) if i < 4 else x
    return x.permute(0, 2, 3, 1)


def plain_encode(state, image):
    x = image.permute(0, 3, 1, 2)
    for i in range(4):
        x = F.elu(F.conv2d(x, state[f"layers.{2 * i}.weight"], state[f"layers.{2 * i}.bias"], 2))
    return x.flatten(1)  # channels before rows before columns


def plain_decode(state, feat):
    x = linear(state, "_linear_layer", feat).reshape(-1, 32 * DEPTH, 1, 1)
    for i in range(4):
        name = f"_cnnt_layers.{2 * i}"
        x = F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], 2)
        x = F.elu(x) if i < 3 else x
    return x.permute(0, 2, 3, 1)


def step(state, stoch, deter, action, embed):
    """One step of the RSSM → deter, and mean and std of prior and posterior."""
    x = F.elu(linear(state, "_inp_layers.0", torch.cat([stoch, action], -1)))
    gates = linear(state, "_cell._layer", torch.cat([x, deter], -1))
    if "_cell._norm.weight" in state:
        spread = (gates.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        gates = (gates - gates.mean(-1, keepdim=True)) / spread
        gates = gates * state["_cell._norm.weight"] + state["_cell._norm.bias"]
    reset, candidate, update = gates[:, :DETER], gates[:, DETER:-DETER], gates[:, -DETER:]
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1)
    deter = update * candidate + (1 - update) * deter
    prior = F.elu(linear(state, "_img_out_layers.0", deter))
    post = F.elu(linear(state, "_obs_out_layers.0", torch.cat([deter, embed], -1)))
    found = [deter]
    for name, x in (("_ims_stat_layer", prior), ("_obs_stat_layer", post)):
        stats = linear(state, name, x)
        found += [stats[:, :STOCH], 2 * torch.sigmoid(stats[:, STOCH:] / 2) + 0.1]
    return found


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("cell", "actions"), [("gru", 0), ("gru", 3), ("gru_layer_norm", 3)])
@pytest.mark.parametrize("beta_vae", [True, False])
@torch.no_grad()
def test_their_files_compute_the_same(tmp_path, cell, actions, beta_vae):
    states = write_theirs(tmp_path, cell=cell, actions=actions, beta_vae=beta_vae)
    model = pretrained.load_predictor(make_config(tmp_path, beta_vae=beta_vae))
    assert model.complete
    assert model.rssm.action_size == actions
    torch.manual_seed(0)
    image, feat = torch.rand(2, 64, 64, 3) - 0.5, torch.randn(2, STOCH + DETER)
    if beta_vae:
        mean, logvar = encode(states["encoder"], image)
        encoding = model.encode(image[:, None])
        close(encoding.mean[:, 0], mean)
        close(encoding.logvar[:, 0], logvar)
        noise = torch.randn(2, 1, Z)
        close(
            model.encode(image[:, None], noise).embed,
            encoding.mean + noise * (logvar / 2).exp()[:, None],
        )
        assert (mean - logvar).abs().max() > 0.1
        embed, picture = mean, decode(states["decoder"], feat)
    else:
        embed = plain_encode(states["encoder"], image)
        picture = plain_decode(states["decoder"], feat)
        close(model.encode(image[:, None]).embed[:, 0], embed)
    close(model.decoder(feat[:, None]).mode()[:, 0], picture)
    action = torch.randn(2, actions)
    before = {"stoch": torch.randn(2, STOCH), "deter": torch.randn(2, DETER)}
    expected = step(states["rssm"], *before.values(), action, embed)
    prior = model.rssm.img_step(before, action, sample=False)
    post = model.rssm.obs_step(before, action, embed, torch.zeros(2).bool(), sample=False)
    found = [prior["deter"], prior["mean"], prior["std"], post["mean"], post["std"]]
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    close(post["deter"], expected[0])
    joined = torch.cat([post["stoch"], post["deter"]], -1)
    assert torch.equal(model.rssm.get_feat(post), joined)


@pytest.mark.parametrize("student", ["gru", "gru_layer_norm"])
@pytest.mark.parametrize("cell", ["gru", "gru_layer_norm"])
def test_the_cell_is_the_files(tmp_path, student, cell):
    """A teacher pretrained with one preset teaches a student that has another's cell."""
    states = write_theirs(tmp_path / "theirs", cell=cell)
    pretrained.save_predictor(tmp_path / "ours", models.make_predictor(2, dyn_cell=cell))
    for folder in ("theirs", "ours"):
        settings = make_config(tmp_path / folder, dyn_cell=student)
        rssm = pretrained.load_predictor(settings).rssm
        assert isinstance(rssm.cell.norm, nn.LayerNorm) == (cell == "gru_layer_norm")
        theirs = torch.equal(rssm.cell.layer.weight, states["rssm"]["_cell._layer.weight"])
        assert theirs == (folder == "theirs")


KINDS = [
    {"cell": "gru"},
    {"cell": "gru_layer_norm", "actions": 0},
    {"cell": "gru_layer_norm", "beta_vae": False},
]


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path, same, kind):
    states = write_theirs(tmp_path / "theirs", **kind)
    settings = make_config(tmp_path / "theirs", beta_vae=kind.get("beta_vae", True))
    pretrained.save_predictor(tmp_path / "ours", pretrained.load_predictor(settings))
    ours = {p: torch.load(tmp_path / "ours" / f"{p}.pt", weights_only=True) for p in states}
    assert "cell.layer.weight" in ours["rssm"]
    assert "layers.0.weight" in ours["encoder"]
    for source in ("ours", "theirs"):
        out = tmp_path / f"from_{source}"
        found, paths = pretrained.export_predictor(
            make_config(tmp_path / source, "--export_checkpoint", out)
        )
        assert found == tmp_path / source
        assert sorted(paths) == sorted(out / file for file in FILES)
        assert sorted(os.listdir(out)) == FILES
        for part, state in states.items():
            again = torch.load(out / f"{part}.pt", weights_only=True)
            assert set(again) == set(state)
            assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
            assert all(tensor.is_contiguous() for tensor in again.values())
    back = pretrained.load_predictor(settings.replace(pretrain_checkpoint_path=str(out)))
    for part, state in ours.items():
        same.values(dict(getattr(back, part).state_dict()), dict(state))


RSSMS = [{"dyn_input_layers": 3, "dyn_output_layers": 2}, {"dyn_discrete": 3}]


@pytest.mark.parametrize("changes", [*RSSMS, {"dyn_temp_post": False}], ids=str)
def test_every_rssm_has_a_counterpart(tmp_path, changes):
    settings = make_config(tmp_path / "a", "--export_checkpoint", tmp_path / "b", **changes)
    model = models.make_predictor(3, **changes)
    pretrained.save_predictor(tmp_path / "a", model)
    pretrained.export_predictor(settings)
    names = torch.load(tmp_path / "b" / "rssm.pt", weights_only=True)
    assert len(names) == len(model.rssm.state_dict())
    assert all(name.startswith("_") for name in names)
    back = pretrained.load_predictor(settings.replace(pretrain_checkpoint_path=str(tmp_path / "b")))
    assert equal(copied(back), copied(model))


def test_names_without_a_counterpart_stay():
    assert authors_names.to_ours("decoder", "decoder.1.weight") == "decoder.1.weight"
    assert authors_names.to_theirs("decoder", "other", True) == "other"
    assert not authors_names.is_theirs("rssm", ["inputs.0.weight"])
    assert authors_names.is_beta_vae({5: 0, "x": 1}) is None


def test_formats_may_differ_from_file_to_file(tmp_path):
    states = write_theirs(tmp_path / "a", actions=2)
    settings = make_config(tmp_path / "a")
    model = pretrained.load_predictor(settings)
    pretrained.save(tmp_path / "a" / "rssm.pt", model.rssm.state_dict())
    again = pretrained.load_predictor(settings)
    assert torch.equal(again.rssm.cell.layer.weight, states["rssm"]["_cell._layer.weight"])
    assert torch.equal(again.encoder.stats.bias, states["encoder"]["dis_encoder.0.bias"])
    (tmp_path / "a" / "rssm.pt").unlink()
    assert not pretrained.load_predictor(settings).complete


MISFITS = [
    (["--z_dim", 5], ["encoder.pt", "'dis_encoder.0.weight'", "(8, 256)", "(10, 256)", "--z"]),
    (["--grayscale", True], ["'encoder.0.weight'", "(32, 3, 4, 4)", "(32, 1, 4, 4)", "--gray"]),
    (["--dyn_deter", 9], ["decoder.pt", "'feat_to_decoder.0.weight'", "(4, 13)", "--dyn_deter"]),
    (["--source_action_num", 6], ["'_inp_layers.0.weight'", "(16, 7)", "(16, 10)", "--source"]),
    (["--dyn_hidden", 9], ["rssm.pt", "'_inp_layers.0.weight'", "(9, 7)", "--dyn_hidden"]),
    (["--dyn_input_layers", 2], ["no tensor '_inp_layers.2.weight'", "--dyn_input_layers"]),
    (["--dyn_output_layers", 2], ["no tensor '_img_out_layers.2.w", "--dyn_output_layers"]),
    (["--dyn_temp_post", False], ["'_obs_out_layers.0.weight'", "(16, 20)", "--dyn_temp_post"]),
    (["--beta_vae", False], ["encoder.pt is a β-VAE's encoder", "--beta_vae True"]),
]


@pytest.mark.parametrize(("flags", "said"), MISFITS)
def test_a_misfit_names_their_tensor_both_shapes_and_the_flag(tmp_path, flags, said):
    write_theirs(tmp_path)
    line = refusal(pretrained.load_predictor, make_config(tmp_path, *flags))
    assert line.startswith(str(tmp_path))
    assert all(words in line for words in said), line


TENSORS = [
    ("encoder", "dis_encoder.0.weight", "--z_dim"),
    ("encoder", "encoder.8.bias", "--beta_vae"),
    ("decoder", "decoder.11.weight", "--beta_vae"),
    ("decoder", "decoder.0.bias", "--z_dim"),
    ("rssm", "_cell._norm.weight", "--dyn_deter"),
    ("rssm", "_obs_stat_layer.weight", "--dyn_stoch"),
]


@pytest.mark.parametrize(("file", "tensor", "flag"), TENSORS)
def test_missing_and_superfluous_tensors(tmp_path, file, tensor, flag):
    state = write_theirs(tmp_path)[file]
    path = tmp_path / f"{file}.pt"
    torch.save({k: v for k, v in state.items() if k != tensor}, path)
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert line.startswith(f"{path} has no tensor '{tensor}': set --")
    assert flag in line
    extra = tensor.replace(".", "s.", 1)
    torch.save({**state, extra: torch.ones(2)}, path)
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert line.startswith(f"{path} has a tensor '{extra}' too many: ")


def test_a_layer_too_many_names_its_flag(tmp_path):
    state = write_theirs(tmp_path)["rssm"]
    torch.save({**state, "_inp_layers.2.weight": torch.ones(2)}, tmp_path / "rssm.pt")
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert "has a tensor '_inp_layers.2.weight' too many: set --dyn_input_layers" in line


def test_a_plain_encoder_where_a_beta_vae_is_asked_for(tmp_path):
    write_theirs(tmp_path, beta_vae=False)
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert "encoder.pt is a plain CNN's encoder: set --beta_vae False" in line


def test_a_whole_module_is_refused_with_the_mend(tmp_path):
    write_theirs(tmp_path)
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "encoder.pt")
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert str(tmp_path / "encoder.pt") in line
    assert "state_dict()" in line


def test_files_saved_on_a_gpu_load_without_one(tmp_path, monkeypatch):
    """They name the device in every tensor; also in the format of PyTorch before 1.6."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    states = write_theirs(tmp_path)
    torch.save(states["rssm"], tmp_path / "rssm.pt", _use_new_zipfile_serialization=False)
    assert b"cuda:0" in (tmp_path / "encoder.pt").read_bytes()
    assert b"cuda:0" in (tmp_path / "rssm.pt").read_bytes()
    model = pretrained.load_predictor(make_config(tmp_path))
    assert torch.equal(model.encoder.stats.bias, states["encoder"]["dis_encoder.0.bias"])
    assert torch.equal(model.rssm.cell.norm.bias, states["rssm"]["_cell._norm.bias"])


@pytest.mark.slow
def test_a_finetuning_learns_from_their_files(tmp_path, tiny):
    """The teacher has the plain GRU, the student LayerNorm."""
    states = write_theirs(tmp_path / "theirs", cell="gru", actions=2)
    flags = {"steps": 60, "eval_every": 0, "log_videos": True}
    folder = tiny.finish(
        tiny.finetune(tmp_path, pretrain_checkpoint_path=tmp_path / "theirs", **flags)
    )
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["learner"]["weights"]
    teacher = "world_model.teacher"
    assert torch.equal(
        weights[f"{teacher}.encoder.stats.weight"], states["encoder"]["dis_encoder.0.weight"]
    )
    assert torch.equal(
        weights[f"{teacher}.rssm.cell.layer.weight"], states["rssm"]["_cell._layer.weight"]
    )
    assert f"{teacher}.rssm.cell.norm.weight" not in weights
    assert "world_model.rssm.cell.norm.weight" in weights
    assert list((folder / "pictures").glob("*teacher_openl.gif"))
