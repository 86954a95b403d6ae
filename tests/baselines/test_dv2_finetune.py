"""DV2 finetune: what it begins as, which actions it takes, and what is refused."""

import shutil

import pytest
import torch

from accel.runtime import Runtime
from agents.pretrained import save_predictor
from baselines.dv2_finetune import DV2Finetune
from tests.helpers.models import SPACES, A, copied, make_batch, make_config, make_predictor
from tests.helpers.models import equal as same
from tests.helpers.runs import refusal


def configure(folder, **changes):
    given = {"beta_vae": False, "pretrain_checkpoint_path": str(folder), **changes}
    return make_config("--method_name", "dv2_finetune", **given)


def build(folder, **changes):
    c = configure(folder, **changes)
    DV2Finetune.check(c)
    torch.manual_seed(5)
    return DV2Finetune(c, Runtime.resolve(c), SPACES, DV2Finetune.find_source(c))


@pytest.mark.parametrize(
    ("wide", "gap"),
    [(A + 3, 3), (A, 0), (1, 0), (0, 2)],
    ids=["wider", "equal", "narrower", "none"],
)
def test_everything_of_the_predictor_is_where_it_begins(tmp_path, wide, gap):
    given = make_predictor(wide, seed=3, beta_vae=False)
    save_predictor(tmp_path, given)
    agent = build(tmp_path, action_num_gap=gap, kl_free="0.0")
    model, theirs = agent.world_model, copied(given.rssm)
    assert same(copied(given.encoder), copied(model.encoder))
    assert same(copied(given.decoder), copied(model.decoder))
    own = copied(model.rssm)
    weight, pretrained = own.pop("inputs.0.weight"), theirs.pop("inputs.0.weight")
    assert same(own, theirs)
    width = pretrained.shape[1]
    assert weight.shape[1] == model.rssm.stoch + A + gap >= width
    assert torch.equal(weight[:, :width], pretrained)
    assert (weight[:, width:] != 0).all()
    before = copied(model)
    agent.learn(make_batch(), 0)
    fixed = {name for name, value in copied(model).items() if torch.equal(value, before[name])}
    assert fixed == set()  # all of it is trained on


def test_an_evaluated_one_needs_no_predictor():
    c = configure("nowhere")
    assert DV2Finetune(c, Runtime.resolve(c), SPACES).world_model.teacher is None


def test_too_small_a_gap_is_refused(tmp_path):
    save_predictor(tmp_path, make_predictor(A + 3, beta_vae=False))
    line = refusal(lambda: build(tmp_path, action_num_gap=1))
    assert line.startswith("--action_num_gap 1: the predictor in ")
    assert line.endswith(f"has {A + 3} actions and dmc2gym_walker_walk has {A}: give "
                         "--action_num_gap 3")  # fmt: skip


@pytest.mark.parametrize("part", ["encoder", "decoder", "rssm"])
def test_a_predictor_that_is_not_whole_is_refused(tiny, tmp_path, part):
    for path in tiny.plain.iterdir():
        if path.name != f"{part}.pt":
            shutil.copy(path, tmp_path)
    line = refusal(DV2Finetune.check, configure(tmp_path))
    assert f"has no {part}.pt" in line
    assert "--beta_vae_pretrain True" in line


def test_a_beta_vaes_predictor_is_refused(tiny):
    line = refusal(DV2Finetune.check, configure(tiny.teacher))
    assert "holds a β-VAE's predictor" in line
    assert "pretrain with --method_name dv2_finetune --beta_vae_pretrain True" in line


def test_pretraining_and_finetuning_from_published_words(tiny, videos, tmp_path):
    """``--naive_fine_tune True`` in both stages, and the printed command says the same."""
    first = tiny.pretrain(tmp_path, videos, beta_vae=False, naive_fine_tune=True, pretrain_steps=50)
    result = tiny.run(first)
    assert result.code == 0, result.err
    assert "--method_name dv2_finetune" in result.out
    assert "--distillation" not in result.out
    folder = tmp_path / "dmc2gym_point_mass_easy" / "pretrain" / "seed_0"
    c = tiny.episodes(tmp_path, naive_fine_tune=True, pretrain_checkpoint_path=folder)
    assert tiny.run([*c, "--steps", "0", "--prefill", "4"]).code == 0
