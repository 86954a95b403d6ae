"""What the agent makes of action spaces, and of numbers beside an image."""

import numpy as np
import pytest
import torch

from accel.runtime import Runtime
from agents.base import Spaces
from agents.diswm import DisWM
from agents.model_configs import behavior_config
from agents.registry import AGENTS, agent_class
from tests.helpers.models import make_batch, make_config, make_obs
from tests.helpers.runs import refusal
from training.factory import check_spaces

V = 3
SPACES = Spaces((64, 64, 3), 2, False, V)


@pytest.mark.parametrize(
    ("discrete", "given", "expected"),
    [
        (False, {}, ("trunc_normal", "dynamics")),
        (True, {}, ("onehot", "reinforce")),
        (True, {"actor_dist": "onehot_gumble"}, ("onehot_gumble", "reinforce")),
        (True, {"imag_gradient": "both"}, ("onehot", "both")),
        (False, {"actor_dist": "normal", "imag_gradient": "reinforce"}, ("normal", "reinforce")),
    ],
)
def test_actor_and_gradient_follow_the_action_space_unless_they_are_given(
    discrete, given, expected
):
    made = behavior_config(make_config(**given), discrete)
    assert (made.actor.dist, made.gradient) == expected


def make(**changes):
    config = make_config(units=12, vector_layers=2, **changes)
    torch.manual_seed(0)
    return DisWM(config, Runtime.resolve(config), SPACES)


@pytest.mark.parametrize("discrete", [0, 3])
def test_numbers_are_learned_from_and_acted_on(discrete):
    agent = make(dyn_discrete=discrete)
    model, batch = agent.world_model, make_batch(spaces=SPACES)
    seen = model.encode(batch["image"])
    joined = model.join(seen.embed, batch)
    assert joined.shape == (*batch["is_first"].shape, seen.embed.shape[-1] + 12)
    torch.testing.assert_close(joined[..., :-12], seen.embed)
    before = {name: value.clone() for name, value in model.vector.named_parameters()}
    update = agent.learn(batch, 0)
    assert not update.skipped.any()
    assert all((before[name] != value).any() for name, value in model.vector.named_parameters())
    obs = make_obs(spaces=SPACES)
    _, state = agent.act(obs, None, "eval")
    _, other = agent.act({**obs, "vector": obs["vector"] + 1}, None, "eval")
    torch.testing.assert_close(state["deter"], other["deter"])  # which the past alone makes
    name = "logit" if "logit" in state else "mean"
    assert (state[name] != other[name]).any()
    # A filter over a batch sees what the policy sees, step by step.
    torch.manual_seed(0)
    first = {key: value[:1, :1] for key, value in batch.items()}
    with torch.no_grad():
        post, _ = model.observe(first, model.encode(first["image"]))
    agent.policy.config = agent.config.replace(eval_state_mean=True)
    one = {key: first[key][:, 0].numpy() for key in ("image", "is_first", "vector")}
    _, state = agent.act(one, None, "eval")
    torch.testing.assert_close(state[name], post[name][:, 0], rtol=1e-4, atol=1e-5)


def test_pictures_are_drawn_of_an_agent_that_sees_numbers():
    pictures = make(traverse=True).report(make_batch(length=6, size=2, spaces=SPACES))
    assert {"openl", "beta_vae_traverse"} <= set(pictures)


def test_large_numbers_stay_small():
    agent = make()
    huge = torch.tensor([[1e6, -1e6, 0.0]])
    assert agent.world_model.vector(huge).abs().max() < 100
    flipped = agent.world_model.vector(-huge)
    assert (agent.world_model.vector(huge) != flipped).any()


def test_methods_that_see_images_alone_say_so():
    for method in sorted(AGENTS):
        config = make_config().replace(method_name=method)
        if agent_class(method).sees_vectors:
            check_spaces(config, SPACES)
        else:
            line = refusal(check_spaces, config, SPACES)
            assert f"shows {V} numbers beside its image, and --method_name {method} sees" in line
            check_spaces(config, SPACES._replace(vector_size=0))
    able = {name for name in AGENTS if agent_class(name).sees_vectors}
    assert {"diswm", "dreamerv2", "random"} <= able
    assert not able & {"apv", "dv2_finetune", "sac", "curl"}


def test_numbers_beside_images_are_kept_with_them(tmp_path):
    from replay import HostStorage, Replay, row_fields
    from replay.episodes import read_episode

    replay = Replay(HostStorage(row_fields((2, 2, 3), 1, V)), tmp_path)
    for t in range(4):
        row = {"image": np.full((2, 2, 3), t, np.uint8), "vector": np.full(V, t / 8)}
        row |= {"action": [t], "reward": 0.0, "discount": 1.0, "is_terminal": False}
        replay.add(0, {**row, "is_first": t == 0, "is_last": t == 3})
    batch = replay.sample(2, 3)
    np.testing.assert_array_equal(batch["vector"][..., 0] * 8, batch["image"][:, :, 0, 0, 0])
    assert read_episode(next(tmp_path.glob("*.npz")))["vector"].shape == (4, V)
    again = Replay(HostStorage(row_fields((2, 2, 3), 1, V)), tmp_path)
    again.load(tmp_path)
    assert again.sample(1, 2)["vector"].dtype == np.float32
    plain = Replay(HostStorage(row_fields((2, 2, 3), 1)))
    plain.load(tmp_path)  # a replay without numbers leaves them out
    assert "vector" not in plain.sample(1, 2)
    bare = {k: v for k, v in row.items() if k != "vector"} | {"is_first": True, "is_last": False}
    with pytest.raises(ValueError, match="row without vector"):
        again.add(0, bare)
