"""Authors' agents that see stacked frames: what they are built of, fed with and asked."""

import json

import numpy as np
import pytest
import torch

from benchmarks import authors, compare, noise, turns, update
from tests.benchmarks.here import checkout_of, ours_here

# Checkouts in the shape of the authors': the same names and entry points, and what they check.
SAC = """
import torch
import utils
from encoder import make_encoder
class Agent:
    def __init__(self, obs_shape, action_shape, device, **settings):
        assert obs_shape == (9, 64, 64) and action_shape == (2,)
        assert settings['critic_lr'] == 3e-3 and settings['hidden_dim'] == 16
        self.augs_funcs = {settings['data_augs']: utils.crop} if 'data_augs' in settings else {}
    def update(self, replay, L, step):
        assert replay.rows == 8 and replay.image_size == 64
        for name, crop in self.augs_funcs.items():
            assert name in ('crop', 'no_aug')
            if name == 'crop':
                assert crop(replay.obs[None]).shape == (1, 9, 64, 64)
        L.log('train_critic/loss', torch.tensor(float(step), requires_grad=True), step)
        L.log('train_actor/loss', torch.tensor(0.0), step)
        L.log_histogram('anything', None, step)
CurlSacAgent = RadSacAgent = Agent
"""
SAC_UTILS = """
import gym
import numpy as np
from skimage.util.shape import view_as_windows
class FrameStack(gym.Wrapper):
    pass
def crop(images, out=84):
    return view_as_windows(images, (1, 1, out, out))[:, :, 0, 0, 0, 0]
class ReplayBuffer:
    def __init__(self, obs_shape, action_shape, capacity, batch_size, device, image_size):
        assert capacity == 8 and batch_size == 4
        self.rows, self.shape, self.image_size = 0, obs_shape, image_size
    def add(self, obs, action, reward, next_obs, done):
        assert obs.shape == next_obs.shape == self.shape and obs.dtype == np.uint8
        assert (obs[3:] == next_obs[:6]).all() and action.shape == (2,) and not done
        self.rows, self.obs = self.rows + 1, obs
"""
ARGUMENTS = """
import argparse
def parse_args():
    parser = argparse.ArgumentParser()
    for name in ('algorithm', 'seed', 'device'):
        parser.add_argument('--' + name)
    for name in NAMES:
        parser.add_argument('--' + name, type=float, required=True)
    args = parser.parse_args()
    assert args.algorithm
    args.image_pad, args.ted = 4, True
    return args
"""


def arguments(*more):
    """A command line that has to be told what it asks for."""
    names = ["batch_size", "discount", "hidden_dim", "num_filters", "critic_tau", "encoder_tau"]
    names += ["actor_lr", "alpha_lr", "actor_update_freq", "critic_target_update_freq"]
    names += ["frame_stack", "init_temperature", "critic_lr", *more]
    return ARGUMENTS.replace("NAMES", repr(names))


AGENT = """
class Agent:
    def update(self, replay, L, step):
        L.log('train_critic/loss', replay.sample(), step)
def make_agent(obs_shape, *rest):
    args = rest[-1]
    assert obs_shape[0] == 9 and args.hidden_dim == 16 and args.critic_lr == 3e-3
    return Agent()
"""
TED_BUFFER = """
import kornia
import torch
class ReplayBuffer:
    def __init__(self, obs_shape, action_shape, capacity, image_pad, device, ted):
        self.crop = kornia.augmentation.RandomCrop((60, 60))
        assert capacity == 8 and image_pad == 4 and ted and str(device) == 'cpu'
        self.episodes = []
    def add(self, obs, action, reward, next_obs, done, done_no_max, episode):
        self.episodes.append(episode)
        self.obs = obs
    def sample(self):
        assert self.episodes == [0] * 4 + [1] * 4
        assert self.crop(torch.from_numpy(self.obs)[None].float()).shape == (1, 9, 60, 60)
        return torch.tensor(1.5)
"""
SVEA_UTILS = """
import numpy as np
import torch
import torchvision.transforms as TF
class LazyFrames:
    def __init__(self, frames):
        self.frames = frames
    def __array__(self, dtype=None, copy=None):
        return np.concatenate(self.frames, 0)
class ReplayBuffer:
    def __init__(self, obs_shape, action_shape, capacity, batch_size, prefill):
        assert not prefill and capacity == 8
        self.last = None
    def add(self, obs, action, reward, next_obs, done):
        assert np.asarray(obs).shape == (9, 84, 84)
        self.last = obs
    def sample(self):
        return torch.as_tensor(np.array(self.last, copy=False)).cuda().float().mean()
"""
DRQ = """
import hydra
class DrQV2Agent:
    def __init__(self, obs_shape, action_shape, device, lr, update_every_steps, **more):
        assert obs_shape == (9, 84, 84) and lr == 2e-3 and more['use_tb']
        self.every = update_every_steps
    def update(self, batches, step):
        return {'critic_loss': next(batches)} if step % self.every == 0 else {}
"""
DRQ_BUFFER = """
import numpy as np
def save_episode(episode, file):
    assert {name: value.shape[1:] for name, value in episode.items()} == {
        'observation': (9, 84, 84), 'action': (2,), 'reward': (1,), 'discount': (1,)}
    np.savez(file, **episode)
def make_replay_loader(folder, size, batch_size, workers, keep, nstep, discount):
    assert (batch_size, workers, keep, nstep) == (4, 0, True, 3)
    files = sorted(folder.glob('*.npz'))
    assert [file.stem for file in files] == ['noise_0_4', 'noise_1_4']
    loads = (float(np.load(file)['action'].shape[0]) for file in files[:1])
    yield from [*loads, 2.5, 3.5]
"""
FILES = {
    "rad": {"curl_sac.py": SAC, "utils.py": SAC_UTILS, "data_augs.py": "import matplotlib"},
    "curl": {"curl_sac.py": SAC, "utils.py": SAC_UTILS},
    "ted": {
        "algorithms/__init__.py": AGENT,
        "algorithms/rad.py": "",
        "replay_buffer.py": TED_BUFFER,
        "arguments.py": arguments("ted_lr", "num_conv_layers", "feature_dim", "image_pad"),
    },
    "svea": {
        "algorithms/factory.py": AGENT,
        "algorithms/svea.py": "",
        "utils.py": SVEA_UTILS,
        "augmentations.py": "",
        "arguments.py": arguments(
            *("num_shared_layers", "alpha_beta", "projection_dim", "svea_alpha", "svea_beta")
        ),
    },
    "drqv2": {"drqv2.py": DRQ, "replay_buffer.py": DRQ_BUFFER},
}
CONFIG = {
    **{"batch_size": 4, "frame_stack": 3, "discount": 0.99, "encoder_feature_dim": 50},
    **{"hidden_dim": 16, "num_layers": 4, "num_filters": 8, "critic_tau": 0.01},
    **{"encoder_tau": 0.05, "actor_update_freq": 2, "critic_target_update_freq": 2},
    **{"init_temperature": 0.1, "actor_lr": 2e-3, "value_lr": 3e-3, "alpha_lr": 1e-4},
    **{"alpha_beta": 0.5, "ted_lr": 1e-3, "nstep": 3, "stddev_schedule": "0.1"},
    **{"stddev_clip": 0.3, "svea_alpha": 0.5, "svea_beta": 0.5, "render_size": None},
}


@pytest.mark.parametrize(
    ("method", "size", "losses"),
    [
        *((name, 64, [2, 3]) for name in ("sac", "rad", "curl")),
        ("ted", 64, [1.5, 1.5]),
        ("svea", 84, None),
        ("drqv2", 84, [2.5, 3.5]),
    ],
)
def test_authors_agents_learn_from_their_own_replay(method, size, losses, tmp_path, alone):
    config = {**CONFIG, "size": [size, size]} | ({} if method == "sac" else {"crop_pad": 4})
    checkout = checkout_of(method, tmp_path, FILES["rad" if method == "sac" else method])
    theirs = authors.Reference(method, checkout, config, actions=2, device="cpu")
    found = [theirs.update(None)["critic_loss"] for _ in range(2)]
    if losses is None:  # the mean of the last observation's pixels
        assert found[0] == found[1] == pytest.approx(127.5, abs=2)
    else:
        assert found == losses


def test_stacks_begin_with_the_first_frame_again():
    episode = {"image": np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)}
    assert noise.stacks(episode, 3)[..., 0, 0].tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
    ]


def test_crops_of_theirs_are_windows():
    torch.manual_seed(0)
    images = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(40, 1, 1, 1)
    crops = authors.RandomCrop((4, 5))(images)
    assert crops.shape == (40, 1, 4, 5)
    corners = {int(crop[0, 0, 0]) for crop in crops}
    assert corners == {0, 1, 6, 7, 12, 13}
    whole = crops - crops[:, :, :1, :1]
    assert (whole == whole[:1]).all()


def test_ours_learns_from_a_replay_of_noise(monkeypatch, tmp_path):
    looked = {"device": "cpu", "machine": {"cpu": "this one"}, "ceiling_tflops": {"fp32": 1.0}}
    monkeypatch.setattr(compare, "look", lambda args: looked)
    monkeypatch.setattr(turns, "Worker", ours_here)
    out = tmp_path / "update.json"
    words = ["--method", "rad", "--settings", "exact", "--rounds", "1", "--batch_size", "2"]
    small = ["--size", "20", "20", "--render_size", "24", "--hidden_dim", "8", "--num_filters", "4"]
    words += ["--threads", "1", "--json", str(out)]
    assert update.main([*words, "--", *small]) == 0
    report = json.loads(out.read_text())
    assert report["sizes"] == {"batch_size": 2}
    spec = report["settings"]["exact"]["spec"]
    assert (spec["image"], spec["keys"]["size"], spec["keys"]["crop_pad"]) == (
        [24, 24],
        [20, 20],
        6,
    )
    row = report["rows"]["exact"]
    (cpu,) = report["settings"]["exact"]["cpu_seconds"]
    assert row["cpu_ms"] == pytest.approx(1e3 * cpu)
    assert report["flops"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--method rad --reference .", "no checkout of MishaLaskin/rad: no curl_sac.py"),
        ("--method drqv2 --reference HERE", "--size 64 64: the authors' networks of drqv2"),
        ("--method sac --batch_length 5", "--batch_length: sac has transitions"),
        ("--method sac -- --frames 5", "--frames"),
    ],
)
def test_what_a_method_has_not_is_refused_in_one_line(words, told, monkeypatch, tmp_path, capsys):
    looked = {"device": "cpu", "machine": {}, "ceiling_tflops": {}}
    monkeypatch.setattr(compare, "look", lambda args: looked)
    monkeypatch.chdir(tmp_path)
    checkout_of("drqv2", tmp_path / "HERE", FILES["drqv2"])
    assert update.main(words.split()) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
