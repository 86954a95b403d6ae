"""Checkpoints: what goes in comes out, and what is wrong is refused in one line."""

import os
import pickle

import numpy as np
import pytest
import torch

import checkpoint
import checks
import config
from models import VideoPredictor
from tools import UserError

CPU = torch.device("cpu")
SMALL = ["--configs", "defaults", "dmc2gym", "--device", "cpu", "--beta_vae", "True"]
SMALL += ["--z_dim", "3", "--dyn_stoch", "4", "--dyn_deter", "6", "--dyn_hidden", "7"]
SMALL += ["--cnn_depth", "2"]


def make_config(folder, **changes):
    return config.parse(SMALL).replace(pretrain_checkpoint_path=str(folder), **changes)


def pretrained(folder, actions=0, **changes):
    torch.manual_seed(0)
    model = VideoPredictor(make_config(folder, **changes), actions)
    checkpoint.save_predictor(folder, model)
    return model


def refusal(function, *args):
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nested_state_comes_back(tmp_path):
    state = {
        "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)},
        "list": [1, 2.5, "three", None, {"deep": torch.tensor([1], dtype=torch.uint8)}],
        "array": np.arange(4, dtype=np.float64)[::2],
        "bits": np.array([0, 255], np.uint8),
        "tuple": (1, 2),
        "scalars": [np.float32(0.5), np.int64(7), np.bool_(True)],
        "big": 2**100,
        5: "a number for a key",
        "empty": {},
    }
    checkpoint.save(tmp_path / "state.pt", state)
    back = checkpoint.load(tmp_path / "state.pt")
    assert torch.equal(back["weights"]["a"], state["weights"]["a"])
    assert back["weights"]["b"].dtype is torch.bool
    assert back["list"][:4] == state["list"][:4]
    assert torch.equal(back["list"][4]["deep"], torch.tensor([1], dtype=torch.uint8))
    assert torch.equal(back["array"], torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert torch.equal(back["bits"], torch.tensor([0, 255], dtype=torch.uint8))
    assert back["tuple"] == [1, 2]
    assert back["scalars"] == [0.5, 7, True]
    assert [type(x) for x in back["scalars"]] == [float, int, bool]
    assert (back["big"], back[5], back["empty"]) == (2**100, "a number for a key", {})
    assert os.listdir(tmp_path) == ["state.pt"]


def test_arrays_are_copied_into_the_file_and_back(tmp_path):
    state = {"a": torch.arange(3), "b": [torch.ones(2), {"c": 1}], "d": (torch.zeros(1),)}
    arrays = checkpoint.to_arrays(state)
    assert isinstance(arrays["a"], np.ndarray)
    np.testing.assert_array_equal(arrays["b"][0], np.ones(2))
    assert arrays["b"][1] == {"c": 1}
    np.testing.assert_array_equal(arrays["d"][0], np.zeros(1))
    moved = checkpoint.to_device({"x": torch.ones(1), "y": {"z": torch.ones(1)}, "n": 3}, CPU)
    assert moved["y"]["z"].device == CPU
    assert moved["n"] == 3
    checkpoint.save(tmp_path / "a.pt", {"x": np.arange(3)[::-1]})  # PyTorch has no such strides
    assert checkpoint.load(tmp_path / "a.pt")["x"].tolist() == [2, 1, 0]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"x": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        checkpoint.save(path, {"x": lambda: 1})
    assert checkpoint.load(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


class Evil:
    """Unpickling it would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_nothing_in_a_file_is_executed(tmp_path, write):
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    write({"x": Evil(f"touch {proof}")}, path)
    line = refusal(checkpoint.load, path)
    assert line.startswith(f"{path} cannot be read as a checkpoint: ")
    assert not proof.exists()


def test_missing_and_damaged_files(tmp_path):
    path = tmp_path / "state.pt"
    assert refusal(checkpoint.load, path) == f"there is no file {path}"
    checkpoint.save(path, {"x": torch.randn(1000)})
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not a checkpoint", bytes(range(200))):
        path.write_bytes(damage)
        line = refusal(checkpoint.load, path)
        assert line.startswith(f"{path} cannot be read as a checkpoint: it is damaged")
        assert line.endswith("copy it again")
    assert str(tmp_path) in refusal(checkpoint.load, tmp_path)


def test_a_predictor_comes_back(tmp_path):
    model = pretrained(tmp_path, actions=5)
    assert sorted(os.listdir(tmp_path)) == ["decoder.pt", "encoder.pt", "rssm.pt"]
    loaded = checkpoint.load_predictor(make_config(tmp_path))
    assert loaded.rssm.actions == 5
    own = model.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.equal(v, own[k]) for k, v in loaded.state_dict().items())


@pytest.mark.parametrize("discrete", [0, 3])
@pytest.mark.parametrize("actions", [0, 4])
def test_the_action_width_is_read_off_the_file(tmp_path, discrete, actions):
    pretrained(tmp_path, actions, dyn_discrete=discrete)
    loaded = checkpoint.load_predictor(make_config(tmp_path, dyn_discrete=discrete))
    assert loaded.rssm.actions == actions
    given = make_config(tmp_path, dyn_discrete=discrete, source_action_num=4)
    if actions == 4:
        assert checkpoint.load_predictor(given).rssm.actions == 4
    else:
        assert "--source_action_num" in refusal(checkpoint.load_predictor, given)


def test_the_encoder_alone_is_a_teacher(tmp_path):
    model = pretrained(tmp_path)
    (tmp_path / "rssm.pt").unlink()
    (tmp_path / "decoder.pt").unlink()
    loaded = checkpoint.load_predictor(make_config(tmp_path))
    image = torch.rand(1, 2, 64, 64, 3) - 0.5
    assert torch.equal(loaded.encode(image, sample=False).embed, model.encoder(image)[0])
    line = refusal(checkpoint.load_predictor, make_config(tmp_path / "elsewhere"))
    assert "--pretrain_checkpoint_path" in line
    assert "there is no such folder" in line
    (tmp_path / "encoder.pt").unlink()
    assert "has no encoder.pt" in refusal(checkpoint.load_predictor, make_config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "file", "tensor", "there", "here", "flag"),
    [
        ({"z_dim": 5}, "encoder", "stats.weight", "(6, 256)", "(10, 256)", "--z_dim"),
        (
            {"grayscale": True},
            "encoder",
            "layers.0.weight",
            "(32, 3, 4, 4)",
            "(32, 1, 4, 4)",
            "--gray",
        ),
        ({"dyn_hidden": 9}, "rssm", "inputs.0.weight", "(7, 4)", "(9, 4)", "--dyn_hidden"),
        ({"dyn_deter": 8}, "decoder", "bottleneck.weight", "(3, 10)", "(3, 12)", "--dyn_deter"),
        (
            {"source_action_num": 2},
            "rssm",
            "inputs.0.weight",
            "(7, 4)",
            "(7, 6)",
            "--source_action",
        ),
    ],
)
def test_a_misfit_names_tensor_shapes_and_flag(tmp_path, changes, file, tensor, there, here, flag):
    pretrained(tmp_path)
    line = refusal(checkpoint.load_predictor, make_config(tmp_path, **changes))
    assert line.startswith(f"{tmp_path / file}.pt: tensor '{tensor}' has shape {there}, not {here}")
    assert flag in line


@pytest.mark.parametrize("below", ["", "snapshots"])
def test_the_newest_snapshot_stands_in_for_the_run(tmp_path, below, capsys):
    run = tmp_path / "run"
    for number, actions in (("100", 3), ("90", 2), ("last", 1)):
        pretrained(run / below / number, actions)
    (run / below / "200").mkdir()
    checkpoint.save(run / below / "200" / "encoder.pt", {})  # the rest is yet to be written
    for given, found in ((run, "100"), (run / below, "100"), (run / below / "90", "90")):
        assert checkpoint.find_predictor(str(given)) == run / below / found
    settings = make_config(run, distillation=True)
    checks.check(settings)
    noted = capsys.readouterr().err
    assert str(run / below / "100") in noted
    assert noted.count("\n") == 1
    assert checkpoint.load_predictor(settings).rssm.actions == 3
    pretrained(run, 5)
    checks.check(settings)
    assert not capsys.readouterr().err
    assert checkpoint.load_predictor(settings).rssm.actions == 5


def test_a_missing_and_a_superfluous_tensor(tmp_path):
    model = pretrained(tmp_path)
    state = model.rssm.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name != "cell.norm.weight"}
    checkpoint.save(tmp_path / "rssm.pt", kept)
    line = refusal(checkpoint.load_predictor, make_config(tmp_path))
    assert "has no tensor 'cell.norm.weight'" in line
    assert "--dyn_deter" in line
    checkpoint.save(tmp_path / "rssm.pt", {**state, "cell.norm.scale": torch.ones(1)})
    line = refusal(checkpoint.load_predictor, make_config(tmp_path))
    assert "has a tensor 'cell.norm.scale' too many" in line
    pretrained(tmp_path, beta_vae=False)
    assert "--beta_vae" in refusal(checkpoint.load_predictor, make_config(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], 3, "text", {"inputs.0.weight": 1}])
@pytest.mark.parametrize("name", ["encoder", "rssm"])
def test_a_file_that_holds_something_else(tmp_path, content, name):
    pretrained(tmp_path)
    torch.save(content, tmp_path / f"{name}.pt")
    assert f"{tmp_path / name}.pt" in refusal(checkpoint.load_predictor, make_config(tmp_path))


@pytest.mark.parametrize("content", [torch.ones(2), {"inputs.0.weight": torch.ones(3)}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_rssm_of_flat_tensors_is_refused(tmp_path, content):
    pretrained(tmp_path)
    torch.save(content, tmp_path / "rssm.pt")
    assert str(tmp_path / "rssm.pt") in refusal(checkpoint.load_predictor, make_config(tmp_path))


def test_generator_states_travel(tmp_path):
    torch.manual_seed(3)
    checkpoint.save(tmp_path / "rng.pt", checkpoint.rng_state(CPU))
    expected = torch.randn(5)
    torch.manual_seed(4)
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "rng.pt"), CPU)
    assert torch.equal(torch.randn(5), expected)


def scratch(seed):
    with checkpoint.scratch_rng(seed, CPU):
        return torch.randn(5)


def test_scratch_draws_leave_the_generator_alone():
    torch.manual_seed(1)
    expected = torch.randn(5)
    torch.manual_seed(1)
    first, second, other = scratch(7), scratch(7), scratch(8)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.randn(5), expected)


def test_an_error_inside_restores_the_generator_too():
    def fail():
        with checkpoint.scratch_rng(7, CPU):
            torch.randn(3)
            raise KeyError

    torch.manual_seed(1)
    expected = torch.randn(5)
    torch.manual_seed(1)
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.randn(5), expected)
