"""What agents from pixels see and refuse, how they act, and what they are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import config
from accel.runtime import Runtime
from agents.base import Spaces
from agents.registry import METHODS, agent_class
from baselines import overlays, stacking
from baselines.augment import Crops, join
from baselines.networks import Convs, GaussianActor, Head, TwinQ, orthogonal
from baselines.ted import TemporalClassifier
from tests.baselines.test_losses import make, make_case
from tests.helpers.models import make_obs
from tests.helpers.runs import refusal
from training.factory import make_replay

PIXELS = ["sac", "rad", "curl", "ted", "drqv2", "svea"]


def parse(*words):
    return config.parse([*words], methods=METHODS)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_sizes_are_those_of_the_published_networks():
    encoders = {
        side: count(convs := Convs(9, (side, side), 4, 32), Head(convs.out_size, 50))
        for side in (64, 84)
    }
    assert encoders[64] == 1_030_518
    q, actor = TwinQ(50, 6, 1024), GaussianActor(50, 6, 1024)
    assert (count(q), count(actor)) == (2 * 1_108_993, 1_114_124)
    assert count(TemporalClassifier(50)) == 251
    # With its target, TED has the 11.5 million parameters at 84×84 that are reported for it.
    ted = 2 * (encoders[84] + count(q)) + count(actor) + 251
    assert ted == pytest.approx(11.5e6, rel=0.25)
    assert [Convs(9, (side, side), 11, 32).out_size for side in (64, 84)] == [3872, 14_112]


@pytest.mark.parametrize("delta", [True, False])
def test_weights_begin_orthogonal(delta):
    torch.manual_seed(0)
    convs, head = Convs(4, (12, 12), 2, 4), Head(64, 8)
    orthogonal(torch.nn.ModuleList([convs, head]), delta)
    linear = head[0].weight.detach()
    torch.testing.assert_close(linear @ linear.T, torch.eye(8), atol=1e-5, rtol=0)
    weight = convs.layers[1].weight.detach()
    if delta:
        assert weight[:, :, 1, 1].count_nonzero() == weight.count_nonzero() > 0
        weight = weight[:, :, 1, 1]
    rows = weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(4), atol=1e-5, rtol=0)
    assert not any(layer.bias.any() for layer in convs.layers)


def test_an_agent_sees_the_last_frames_and_a_new_episode_the_first_one_alone():
    obs = [make_obs(seed, 2, spaces=Spaces((9, 11, 3), 2, False))["image"] for seed in range(3)]
    first = [[True, True], [False, False], [False, True]]
    frames = None
    for image, new in zip(obs, first, strict=True):
        frames = stacking.push(frames, torch.from_numpy(image), torch.tensor(new), 2)
    np.testing.assert_array_equal(frames[0], np.stack([obs[1][0], obs[2][0]]))
    np.testing.assert_array_equal(frames[1], np.stack([obs[2][1], obs[2][1]]))
    joined = join(frames)
    np.testing.assert_array_equal(joined[0, 3:], obs[2][0].transpose(2, 0, 1))


@settings(max_examples=30)
@given(first=st.lists(st.booleans(), min_size=5, max_size=5), row=st.integers(1, 4))
def test_frames_of_a_row_are_of_its_episode(first, row):
    found = stacking.frames_at(torch.tensor([first]), row, 2)[0].tolist()
    begun = max([0, *(t for t in range(row + 1) if first[t])])
    assert found == [max(row - 1, begun), row]


def test_crops_lie_anywhere_and_actions_see_the_middle():
    crops = Crops((7, 9), (5, 6))
    drawn = crops.draw(4000, torch.device("cpu")).numpy()
    counts = np.array([[np.all(drawn == (y, x), 1).sum() for x in range(4)] for y in range(3)])
    assert counts.sum() == 4000  # the last place in each direction, too
    assert ((counts - 4000 / 12) ** 2 / (4000 / 12)).sum() < 31.3  # χ², 11 degrees, p = 0.001
    image = torch.arange(7 * 9).view(1, 7, 9, 1)
    np.testing.assert_array_equal(crops.center(image)[0, :, :, 0], image[0, 1:6, 1:7, 0])


def test_images_are_drawn_larger_and_acted_on_in_the_middle():
    c = parse("--method_name", "curl", "--size", "9", "11", "--render_size", "14")
    method = agent_class("curl")
    assert method.image_size(c) == (14, 14)
    assert method.crops_of(c, (14, 14)) == Crops((14, 14), (9, 11), 0)
    replay = make_replay(c, Runtime.resolve(c), "train", 2)
    assert replay.storage.fields["image"][0] == (14, 14, 3)
    assert method.image_size(parse("--method_name", "curl")) == (64, 64)
    assert parse("--method_name", "curl").crop_pad == 6
    assert parse("--method_name", "ted").crop_pad == 4


def test_training_explores_and_evaluation_does_not():
    for kind in ("rad", "drqv2"):
        agent = make(kind)
        obs = make_obs(0, 2, spaces=agent.spaces)
        acts = [agent.act(obs, None, mode)[0] for mode in ("train", "train", "eval", "eval")]
        assert (acts[0] != acts[1]).all()
        np.testing.assert_array_equal(acts[2], acts[3])
        assert np.abs(acts).max() <= 1


def test_exploration_follows_its_schedule_across_a_resume():
    agent, other = make("drqv2"), make("drqv2")
    assert float(agent.stddev) == 1
    agent.learn(make_case(agent)[0], 3)
    assert float(agent.stddev) == pytest.approx(0.7)
    other.load_state(agent.save_state())
    assert float(other.stddev) == pytest.approx(0.7)


@pytest.mark.parametrize("method", PIXELS)
def test_a_discrete_task_is_refused(method):
    c = parse("--method_name", method)
    spaces = Spaces((64, 64, 3), 3, True)
    line = refusal(agent_class(method), c, Runtime.resolve(c), spaces)
    assert f"--method_name {method} takes continuous actions" in line


REFUSED = {
    "sac --beta_vae True": "--beta_vae True is for --method_name diswm",
    "ted --distillation True": "--distillation True",
    "rad --size 8 8": "--size 8 8: 4 convolutions (--num_layers) leave nothing of it: give 15 15",
    "svea --size 42 64": "give 43 43 or more",
    "rad --size 84 84 --render_size 80": "--render_size 80: crops of --size 84 84 do not fit",
    "curl --render_size 100 --crop_pad 4": "--crop_pad does not go with --render_size",
    "curl --batch_size 1": "--batch_size 1: curl tells transitions",
    "drqv2 --oversample_ends True": "--oversample_ends True",
    "svea --svea_augment conv --overlay_path {empty}": "goes with --svea_augment overlay",
    "svea --svea_augment overlay --overlay_path {empty}": "has no image: give one with images",
    "svea --svea_augment overlay --overlay_path {empty}/none": "there is no such folder",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused(words, tmp_path):
    method, *flags = words.format(empty=tmp_path).split()
    line = refusal(agent_class(method).check, parse("--method_name", method, *flags))
    assert REFUSED[words] in line


def test_the_smallest_size_that_is_named_is_taken():
    for method in PIXELS:
        least = str(4 * parse("--method_name", method).num_layers - 1)
        agent_class(method).check(parse("--method_name", method, "--size", least, least))


def test_overlays_follow_from_the_seed_and_are_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(overlays, "COUNT", 6)
    for number, color in enumerate([(250, 0, 0), (0, 250, 0)]):
        Image.new("RGB", (40, 30), color).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")

    def draw(folder, seed, channels=3):
        torch.manual_seed(0)
        made = overlays.Overlays(str(folder), (8, 10), channels, seed)
        return made.draw(20, torch.device("cpu"))

    images = draw(tmp_path, 0)
    assert (images.dtype, images.shape) == (torch.uint8, (20, 3, 8, 10))
    assert {tuple(image[:, 0, 0].tolist()) for image in images} == {(250, 0, 0), (0, 250, 0)}
    textures = draw("", 0)
    assert torch.equal(textures, draw("", 0))
    assert not torch.equal(textures, draw("", 1))
    assert textures.float().std((1, 2, 3)).min() > 5
    assert draw("", 0, 1).shape == (20, 1, 8, 10)
