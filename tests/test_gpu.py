"""The same agent on a CUDA device: it learns, acts, and goes on from a checkpoint."""

import numpy as np
import pytest
import torch

import config
from agent import Agent, Pretrainer
from checkpoint import load, rng_state, save, set_rng_state
from models import VideoPredictor

pytestmark = pytest.mark.gpu

FLAGS = "--configs defaults dmc2gym --device cuda:0 --beta_vae True --distillation True "
FLAGS += "--batch_size 4 --batch_length 8 --imag_horizon 5"


@pytest.fixture(params=["32", "bf16"])
def setup(request):
    parsed = config.parse([*FLAGS.split(), "--precision", request.param])
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 8, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (4, 8, 6)).astype(np.float32),
        "reward": rng.random((4, 8), np.float32),
        "discount": np.ones((4, 8), np.float32),
        "is_first": np.eye(1, 8, dtype=bool).repeat(4, 0),
    }
    return parsed, batch


def test_updates_on_the_gpu(setup):
    parsed, batch = setup
    agent = Agent(parsed, 6, VideoPredictor(parsed, 2))
    metrics = [agent.update(batch) for _ in range(20)]
    assert all(value.device.type == "cuda" for value in metrics[-1].values())
    assert all(torch.isfinite(value).all() for value in metrics[-1].values())
    assert metrics[-1]["image_loss"] < metrics[0]["image_loss"]
    obs = {"image": batch["image"][:, 0], "is_first": batch["is_first"][:, 0]}
    action, _ = agent.act(obs, None)
    assert action.shape == (4, 6)
    assert np.abs(action).max() <= 1


def test_gpu_and_cpu_compute_the_same_terms():
    parsed = config.parse(FLAGS.split())
    torch.manual_seed(0)
    model = VideoPredictor(parsed, 0)
    image = torch.rand(2, 5, 64, 64, 3) - 0.5
    first = torch.eye(1, 5, dtype=torch.bool).repeat(2, 1)

    def reconstruct(device):
        own = model.to(device)
        encoding = own.encode(image.to(device), sample=False)
        post, _ = own.observe({"is_first": first.to(device)}, encoding, sample=False)
        return own.decoder(own.rssm.get_feat(post)).mode().cpu()

    torch.testing.assert_close(reconstruct("cuda:0"), reconstruct("cpu"), atol=1e-3, rtol=1e-3)


def test_a_checkpoint_continues_the_generators(setup, tmp_path):
    parsed, batch = setup
    pretrainer, device = Pretrainer(parsed), torch.device("cuda:0")
    pretrainer.update(batch)
    save(tmp_path / "c.pt", {"learner": pretrainer.state_dict(), "rng": rng_state(device)})
    expected = torch.rand(3, device=device)
    state = load(tmp_path / "c.pt")
    other = Pretrainer(parsed)
    other.load_state_dict(state["learner"])
    set_rng_state(state["rng"], device)
    torch.testing.assert_close(torch.rand(3, device=device), expected, atol=0, rtol=0)
    for one, two in zip(other.parameters(), pretrainer.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=0, rtol=0)
