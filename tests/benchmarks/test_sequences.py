"""Authors' world models and planner: what they are built of, fed with and asked."""

import functools

import numpy as np
import pytest

from benchmarks import acting, compare, noise, pretrain_update, settings, turns, update, worker
from tests.benchmarks.here import checkout_of, ours_here

# Checkouts in the shape of the authors': the same names and entry points, and what they check.
HRSSM = """
import exploration, models, tools
import envs.wrappers as wrappers
import torch
class Dreamer(torch.nn.Module):
    def __init__(self, obs_space, act_space, config, logger, dataset):
        super().__init__()
        assert obs_space.spaces['image'].shape == (64, 64, 3) and act_space.shape == (2,)
        assert (config.dyn_deter, config.cont_layers, config.batch_length) == (64, 3, 4)
        assert config.encoder == {'cnn_keys': 'image', 'cnn_depth': 8}
        assert config.model_lr == 1e-4 and config.simsr_scale == 1 and config.device == 'cpu'
        assert config.precision == 32 and config.num_actions == 2 and logger.step == 0
        self.layer = torch.nn.Linear(1, 1)
        self._metrics = {}
        self.calls = 0
    def _train(self, data):
        assert not self.layer.weight.requires_grad
        assert set(data) == {'image', 'action', 'reward', 'is_first', 'is_terminal'}
        assert data['image'].shape == (2, 4, 64, 64, 3) and not data['is_terminal'].any()
        self.calls += 1
        self._metrics.setdefault('model_loss', []).append(float(self.calls))
"""
HRSSM_CONFIGS = """
defaults: {size: [64, 64], batch_size: 16, batch_length: 64, dyn_deter: 512, cont_layers: 2,
           encoder: {cnn_keys: image, cnn_depth: 32}, model_lr: '1e-4', device: 'cuda:0'}
"""
HRSSM_TOOLS = """
import imageio
def args_type(default):
    return lambda x: float(x) if x == '1e-4' else x
"""
WMLIB = """
ENABLE_FP16 = True
class CarryOverState:
    def __init__(self, fn):
        self.fn, self.state = fn, None
    def __call__(self, data):
        self.state, out = self.fn(data, self.state)
        return out
"""
WMLIB_UTILS = """
class Config(dict):
    def update(self, other):
        new = Config(self)
        for place, value in other.items():
            block, _, name = place.rpartition('.')
            if block:
                new[block] = {**new[block], name: value}
            else:
                new[name] = value
        return new
def Counter(start):
    return start
"""
APV = """
import kornia, torch
from torchtyping import TensorType
def observe(embed: TensorType['batch', 'seq']):
    pass
class APV_Finetune:
    def __init__(self, config, obs_space, act_space, step):
        from .. import ENABLE_FP16
        assert not ENABLE_FP16 and step == 0
        assert obs_space['image'].shape == (64, 64, 3) and act_space['action'].shape == (2,)
        assert config['rssm'] == {'deter': 64, 'hidden': 16, 'stoch': 8, 'discrete': 4}
        assert config['af_rssm'] == config['rssm'] and config['decoder_ctx']['ctx_attmask'] == 0.75
        assert config['encoder']['cnn_depth'] == config['encoder_ctx']['ctx_cnn_depth'] == 8
        assert (config['beta'], config['encoder_type']) == (0.1, 'ctx_resnet')
        self.optimizers = False
    def to(self, device):
        assert not self.optimizers and device.type == 'cpu'
        return self
    def init_optimizers(self):
        self.optimizers = True
    def train(self, data, state):
        assert data['image'].shape == (2, 4, 3, 64, 64)
        assert all(value.dtype == torch.float32 for value in data.values())
        assert {'action', 'reward', 'is_first', 'is_last', 'is_terminal'} < set(data)
        return (state or 0) + 1, {'model_loss': float(data['image'].mean()) + (state or 0)}
"""
APV_CONFIGS = """
defaults: {rssm: {deter: 1024, stoch: 32}, af_rssm: {deter: 1024, stoch: 32}, beta: 1.0,
           encoder: {cnn_depth: 48}, decoder: {cnn_depth: 48}, encoder_ctx: {ctx_cnn_depth: 48},
           reward_head: {}, actor: {}, critic: {}, decoder_ctx: {}, loss_scales: {}}
dmc_vision: {beta: 0.1}
contextualized: {encoder_type: ctx_resnet}
"""
HYDRA = """
import contextlib, types
@contextlib.contextmanager
def initialize_config_dir(folder, version_base):
    assert folder.endswith('/configs')
    yield
def compose(name, words):
    assert name == 'configs'
    return types.SimpleNamespace(model=dict(word.split('=') for word in words))
"""
TENSORDICT = """
class TensorDict(dict):
    def __init__(self, columns, batch_size):
        super().__init__(columns)
        self.batch_size = batch_size
    def __len__(self):
        return self.batch_size[0]
    def clone(self, recurse):
        return TensorDict(self, self.batch_size)
"""
R2DREAMER = """
import types
import torch
import torch.utils.tensorboard
from torch.amp import GradScaler, autocast
class Dreamer(torch.nn.Module):
    def __init__(self, config, obs_space, act_space):
        super().__init__()
        assert obs_space.spaces['image'].shape == (64, 64, 3) and act_space.shape == (2,)
        assert (config['model.deter'], config['model.rssm.stoch']) == ('64', '8')
        assert (config['model.rep_loss'], config['model.compile']) == ('dreamer', 'False')
        assert config['device'] == 'cpu' and not GradScaler().is_enabled()
        self.rssm = types.SimpleNamespace(initial=lambda batch: batch)
    def update(self, replay):
        data, index, initial = replay.sample()
        assert initial == 2 and data['image'].dtype == torch.uint8
        data['image'] = data['image'] / 255
        for name in ('reward', 'is_first', 'is_last', 'is_terminal'):
            assert data[name].shape == (2, 4, 1)
        with autocast(device_type='cpu', dtype=torch.bfloat16):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        replay.update(index, None, None)
        return {'opt/loss': data['image'].mean()}
"""
TDMPC2 = """
import torch
from common.scale import scale
class TDMPC2(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.device = torch.device('cuda:0')
        assert self.device.type == scale().type == 'cpu'
        torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=cfg.lr, capturable=True)
        assert cfg.obs_shape == {'rgb': (9, 64, 64)} and cfg.latent_dim == 128
        assert (cfg.mlp_dim, cfg.action_dim, cfg.bin_size, cfg.compile) == (16, 2, 0.2, False)
    def update(self, buffer):
        return {'value_loss': torch.tensor(float(len(buffer.episodes)))}
    def act(self, obs, t0, eval_mode):
        assert obs.dtype == torch.uint8 and obs.shape == (9, 64, 64)
        return torch.stack([obs[::3, 0, 0].float().sum(), torch.tensor(float(2 * t0 + eval_mode))])
"""
TDMPC2_BUFFER = """
import torch, tensordict
class Buffer:
    def __init__(self, cfg):
        assert torch.device('cuda:0').type == 'cpu' and torch.cuda.mem_get_info()[0] == 0
        assert cfg.batch_size == 2 and cfg.buffer_size == cfg.steps == 10
        self.episodes = []
    def add(self, episode):
        assert episode['obs'].shape == (5, 9, 64, 64) and episode['obs'].dtype == torch.uint8
        assert episode['action'].shape == (5, 2) and episode.batch_size == (5,)
        self.episodes.append(episode)
"""
FILES = {
    "hrssm": {
        **{"dreamer.py": HRSSM, "configs.yaml": HRSSM_CONFIGS, "tools.py": HRSSM_TOOLS},
        "exploration.py": "from kornia.augmentation import CenterCrop",
    },
    "contextwm": {
        **{"wmlib/__init__.py": WMLIB, "wmlib/utils.py": WMLIB_UTILS},
        "wmlib/agents/__init__.py": "from .apv_finetune import APV_Finetune",
        "wmlib/agents/apv_finetune.py": APV,
        "configs/apv_finetuning.yaml": APV_CONFIGS,
    },
    "dreamerv3": {"dreamer.py": R2DREAMER, "hydra.py": HYDRA, "tensordict.py": TENSORDICT},
    "tdmpc2": {
        **{"tdmpc2.py": TDMPC2, "common/buffer.py": TDMPC2_BUFFER, "tensordict.py": TENSORDICT},
        "common/scale.py": "import torch\nscale = lambda: torch.device('cuda:0')",
        "config.yaml": "{lr: 3e-4, batch_size: 256, mlp_dim: 512, latent_dim: 512}",
    },
}
KEYS = {
    **{"batch_size": 2, "batch_length": 4, "imag_horizon": 3, "dyn_deter": 64, "dyn_hidden": 16},
    **{"dyn_stoch": 8, "dyn_discrete": 4, "dyn_blocks": 8, "cnn_depth": 8, "units": 16},
    **{"reward_layers": 1, "discount_layers": 3, "actor_layers": 1, "value_layers": 1},
    **{"dyn_cont_stoch_size": 8, "patch_size": 10, "block_size": 4, "res_layers": 1},
    **{"concat_embed": True, "context_mask": 0.75, "aux_reward_scale": "1.0", "queue_size": 16},
    **{"size": [64, 64], "frame_stack": 3, "num_channels": 8, "mlp_dim": 16, "simnorm_dim": 8},
    **{"num_q": 5, "num_bins": 101, "vmin": -10.0, "vmax": 10.0, "dropout": 0.01, "horizon": 3},
    **{"iterations": 2, "num_samples": 16, "num_elites": 4, "num_pi_trajs": 4},
}


@pytest.fixture
def made(tmp_path, alone):
    """What a process of the authors' answers with, by method and kind."""

    def make(method, kind="update"):
        checkout = checkout_of(method, tmp_path, FILES[method])
        spec = {"method": method, "kind": kind, "checkout": str(checkout), "threads": 0}
        spec |= {"keys": KEYS, "actions": 2, "device": "cpu", "precision": 32}
        return worker.reference(spec)

    return make


BATCH = functools.partial(noise.make_batch, {"batch_size": 2, "batch_length": 4}, 2)


@pytest.mark.parametrize(
    ("method", "losses"),
    [("hrssm", [1, 2]), ("contextwm", [127.5, 128.5]), ("dreamerv3", [0.5, 0.5])],
)
def test_authors_world_models_learn_from_the_batch_of_ours(method, losses, made):
    theirs, facts = made(method)
    batch = BATCH()
    before = {name: value.copy() for name, value in batch.items()}
    found = [theirs(batch)["model_loss"] for _ in losses]
    assert found == pytest.approx(losses, abs=0.4)
    assert facts["stubs"]
    for name, value in before.items():
        assert (batch[name] == value).all()


def test_authors_planner_learns_from_its_own_replay(made):
    theirs, _ = made("tdmpc2")
    assert theirs({}) == {"critic_loss": 2}


def test_authors_planner_plans_for_one_environment_after_the_other(made):
    act, _ = made("tdmpc2", "act")
    image = np.zeros((2, 64, 64, 3), np.uint8)
    image[:, 0, 0, 0] = 1, 10
    action, state = act(image, np.array([True, True]), None, "train")
    assert action.tolist() == [[3, 2], [30, 2]]  # three times the first frame
    action, state = act(image + 1, np.array([False, True]), state, "eval")
    assert action.tolist() == [[1 + 1 + 2, 1], [33, 3]]
    assert state[:, ::3, 0, 0].tolist() == [[1, 1, 2], [11, 11, 11]]


@pytest.mark.parametrize(
    ("main", "words", "told"),
    [
        (
            update.main,
            "--method dreamerv3",
            "imports tensordict and hydra: pip install",
        ),
        (acting.main, "--method tdmpc2", "pip install tensordict==0.8.3 torchrl==0.8.1"),
        (acting.main, "--method hrssm", "--reference: hrssm acts beside no authors'"),
    ],
)
def test_what_a_reference_lacks_is_told_in_one_line(
    main, words, told, monkeypatch, tmp_path, capsys
):
    looked = {"device": "cpu", "machine": {}, "ceiling_tflops": {}}
    for module in (compare, acting):
        monkeypatch.setattr(module, "look", lambda *_, **__: looked)
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    checkout = checkout_of(words.split()[1], tmp_path, {})
    assert main([*words.split(), "--reference", str(checkout)]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("method", "words", "sizes"),
    [
        ("hrssm", "--batch_size 2", (2, 64, 15)),  # as published
        ("dreamerv3", "--batch_length 8 --horizon 4", (16, 8, 4)),
        ("diswm", "--batch_size 2", (2, 50, 15)),
    ],
)
def test_sizes_are_the_methods_own(method, words, sizes):
    args = settings.parser("update", "").parse_args([*words.split(), "--method", method])
    args.reference = None
    found = settings.measured("update", args, "cpu", ["--units", "32"])
    assert tuple(found["sizes"].values()) == sizes
    if method != "diswm":
        assert found["keys"]["units"] == 32


def test_authors_pretraining_is_diswms_alone(monkeypatch, tmp_path, capsys):
    looked = {"device": "cpu", "machine": {}, "ceiling_tflops": {}}
    monkeypatch.setattr(compare, "look", lambda *_: looked)
    monkeypatch.setattr(turns, "Worker", ours_here)
    assert pretrain_update.main(["--method", "contextwm", "--reference", str(tmp_path)]) == 2
    assert "contextwm pretrains beside no authors'" in capsys.readouterr().err
    assert pretrain_update.main(["--method", "dreamerv3"]) == 2
    assert "--method dreamerv3 begins from no predictor" in capsys.readouterr().err
