"""The benchmark that tells where an update's time goes."""

import json

import pytest

from benchmarks import profile

SMALL = ["--batch_size", "2", "--batch_length", "3", "--imag_horizon", "3"]
TINY = ["--device", "cpu", "--threads", "1", "--updates", "1", *SMALL]
NETWORKS = ["--", "--units", "16", "--cnn_depth", "2", "--dyn_hidden", "16", "--dyn_deter", "16"]


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::convolution_backward", "convolutions, backward"),
        ("aten::elu_backward", "activations"),
        ("aten::_softmax_backward_data", "softmaxes"),
        ("aten::native_layer_norm_backward", "norms"),
        ("aten::linalg_vector_norm", "reductions"),
        ("aten::normal_", "noise"),
        ("aten::_fused_adam_", "optimisers"),
        ("aten::_to_copy", "copies, casts, gathers"),
        ("_RMSNorm", "norms"),
        ("autograd::engine::evaluate_function: LogSoftmaxBackward0", "softmaxes"),
        ("aten::einsum", "matrix products"),
        ("aten::maximum", profile.OTHER),
        # Parts of a namespace say nothing.
        ("summary::mul", profile.OTHER),
    ],
)
def test_an_operator_has_one_kind(operator, kind):
    assert profile.kind_of(operator) == kind


def test_kinds_are_sums_and_the_largest_comes_first():
    times = [("aten::mul", 1.0), ("aten::mm", 2.0), ("aten::bmm", 3.0), ("aten::add", 0.5)]
    assert profile.by_kind(times) == {"matrix products": 5.0, profile.OTHER: 1.5}
    assert list(profile.by_kind(times)) == ["matrix products", profile.OTHER]


def test_an_update_is_told_by_kind_and_by_operator(tmp_path, capsys):
    words = [*TINY, "--operators", "2", "--settings", "exact", "--json", str(tmp_path / "p.json")]
    assert profile.main([*words, *NETWORKS]) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "p.json").read_text())
    times = report["ms"]["exact"]
    assert times["aten::convolution_backward"] > 0
    assert times["aten::mm"] > 0
    assert list(times.values()) == sorted(times.values(), reverse=True)
    assert report["method"] == "diswm"
    assert report["sizes"]["batch_length"] == 3
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    assert ["sum", f"{sum(times.values()):,.0f}"] in lines
    start = lines.index(["exact", "ms"])
    assert [line[0] for line in lines[start + 2 :]] == list(times)[:2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "tdmcp2"], "tdmpc2"),
        (["--settings", "exatc"], "exact"),
        (["--settings", "reference"], "what is traced is ours: leave it out"),
        (["--operators", "0"], "--operators takes a whole number from 1"),
        (["--updates", "0"], "--updates takes a whole number from 1"),
    ],
)
def test_mistakes_are_one_line(words, told, capsys, monkeypatch):
    monkeypatch.setattr(profile, "look", lambda *_, **__: {"device": "cpu"})
    assert profile.main(["--device", "cpu", "--threads", "1", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
