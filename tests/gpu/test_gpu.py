"""The same agent on a CUDA device: it learns, acts, and goes on from a checkpoint.

Each update of the fast path is compared with the eager one, from the same weights and with the same
noise. Losses agree within 1e-3 of their size in float32 and 5e-2 in bfloat16, where operations that
are fused round less often; gradients' norms within ten and two times as much.
"""

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import config
from accel.compiling import missing_compiler
from accel.fallback import Accelerated
from accel.generators import rng_state, set_rng_state
from accel.graphs import CUDAGraph
from accel.runtime import Runtime
from agents.base import Spaces
from agents.diswm import DisWM
from agents.model_configs import predictor_config
from agents.predictor import Predictor
from agents.pretrained import save_predictor
from fileio.checkpoints import load, save
from models import VideoPredictor
from replay.batch import to_tensors
from tests.helpers.models import make_batch as random_batch
from tests.helpers.models import stored
from tests.helpers.runs import assert_same

pytestmark = pytest.mark.gpu

DEVICE, CPU = torch.device("cuda:0"), torch.device("cpu")
SPACES = Spaces((64, 64, 3), 6, False)
FLAGS = "--configs defaults dmc2gym --beta_vae True --distillation True --batch_size 4 "
FLAGS += "--batch_length 8 --imag_horizon 5 --slow_target_update 2 --kl_free 0.1"
EAGER = {"compile": "False", "cuda_graphs": "False"}
GRAPHED = {"compile": "False", "cuda_graphs": "True"}
COMPILED = {"compile": "True", "cuda_graphs": "False"}
BOTH = {"compile": "True", "cuda_graphs": "True"}
PATHS = {"graphed": GRAPHED, "compiled": COMPILED, "both": BOTH}
SHARES = {"32": 1e-3, "bf16": 5e-2}


def make_config(device=DEVICE, **changes):
    return config.parse([*FLAGS.split(), "--device", str(device)]).replace(**changes)


def make_agent(seed=0, **changes):
    """An agent of the paper's sizes; all of them have the same teacher of random weights."""
    with tempfile.TemporaryDirectory() as teacher:
        c = make_config(pretrain_checkpoint_path=teacher, **changes)
        if c.compile == "True" and (missing := missing_compiler(torch.device(c.device))):
            pytest.skip(f"torch.compile needs {missing}")
        torch.manual_seed(9)
        save_predictor(Path(teacher), VideoPredictor(predictor_config(c), 2))
        torch.manual_seed(seed)
        return DisWM(c, Runtime.resolve(c), SPACES, DisWM.find_source(c))


def make_pretrainer(**changes):
    torch.manual_seed(0)
    c = make_config(**changes)
    return Predictor(c, Runtime.resolve(c))


def make_batch(seed=0, device=DEVICE):
    return to_tensors(random_batch(seed, 4, 8, SPACES), device)


def make_obs(seed=0):
    batch = random_batch(seed, 4, 8, SPACES)
    return {name: batch[name][:, t].numpy() for name, t in (("image", 0), ("is_first", seed % 8))}


@pytest.fixture(autouse=True)
def settings():
    """TensorFloat-32 is off, as under --precision 32, and all is put back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.fixture(params=["32", "bf16"])
def precision(request):
    return request.param


def test_updates_on_the_gpu(precision):
    agent, batch = make_agent(precision=precision), make_batch()
    metrics = [agent.learn(batch, 0).metrics for _ in range(20)]
    assert all(value.device.type == "cuda" for value in metrics[-1].values())
    assert all(torch.isfinite(value).all() for value in metrics[-1].values())
    assert metrics[-1]["image_loss"] < metrics[0]["image_loss"]
    action, _ = agent.act(make_obs(), None, "train")
    assert action.shape == (4, 6)
    assert np.abs(action).max() <= 1


def test_gpu_and_cpu_compute_the_same_terms():
    torch.manual_seed(0)
    model = VideoPredictor(predictor_config(make_config()), 0)
    image = torch.rand(2, 5, 64, 64, 3) - 0.5
    first = torch.eye(1, 5, dtype=torch.bool).repeat(2, 1)

    def reconstruct(device):
        own = model.to(device)
        post, _ = own.observe({"is_first": first.to(device)}, own.encode(image.to(device)))
        return own.decoder(own.rssm.get_feat(post)).mode().detach().cpu()

    torch.testing.assert_close(reconstruct(DEVICE), reconstruct(CPU), atol=1e-3, rtol=1e-3)


def test_a_checkpoint_continues_the_generators(precision, tmp_path):
    pretrainer = make_pretrainer(precision=precision)
    pretrainer.learn(make_batch(), 0)
    save(tmp_path / "c.pt", {"learner": pretrainer.save_state(), "rng": rng_state(DEVICE)})
    expected = torch.rand(3, device=DEVICE)
    state = load(tmp_path / "c.pt")
    other = make_pretrainer(precision=precision)
    other.load_state(state["learner"])
    set_rng_state(state["rng"], DEVICE)
    assert torch.equal(torch.rand(3, device=DEVICE), expected)
    assert all(map(torch.equal, other.parameters(), pretrainer.parameters()))


# The fast path against the eager one


def assert_near(metrics, expected, share):
    """The same losses, statistics and norms, but for rounding."""
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        wanted = share * (10 if share < 1e-2 else 2) if name.endswith("norm") else share
        close = pytest.approx(float(value), rel=wanted, abs=share * 0.4)
        assert float(metrics[name]) == close, name


CASES = [
    {},
    {"beta_vae": False},
    {"actor_dist": "tanh_normal"},  # its entropy draws inside the recording
    {"dyn_discrete": 4, "imag_gradient": "both", "pred_discount": "True"},
]


@pytest.mark.parametrize("path", PATHS)
def test_the_fast_path_computes_the_eager_update(precision, path):
    compare(precision, PATHS[path], {})


@pytest.mark.parametrize("changes", CASES[1:], ids=str)
def test_a_recorded_update_of_other_settings(changes):
    compare("32", GRAPHED, changes)


def compare(precision, path, changes):
    """Three updates; the first is recorded, and the critic's slow copy moves in the third."""
    told = []
    for flags in (EAGER, path):
        agent = make_agent(precision=precision, **flags, **changes)
        torch.manual_seed(1)
        rows = []
        for turn in range(3):
            metrics = agent.learn(make_batch(turn), turn).metrics
            rows.append((metrics, torch.cuda.get_rng_state()))
        assert agent.updates == 3
        told.append(rows)
    for turn, ((expected, before), (metrics, after)) in enumerate(zip(*told, strict=True)):
        assert torch.equal(before, after), turn  # recording drew nothing
        # Adam makes steps of one size of the smallest gradients, whose signs rounding decides.
        assert_near(metrics, expected, SHARES[precision] * (1 if turn == 0 else 5))


def test_a_recorded_pretrainer():
    told = []
    for flags in (EAGER, GRAPHED):
        pretrainer = make_pretrainer(precision="32", **flags)
        batch = {name: make_batch()[name] for name in ("image", "is_first")}
        told.append([pretrainer.learn(batch, 0).metrics for _ in range(3)])
    for expected, metrics in zip(*told, strict=True):
        assert_near(metrics, expected, 5e-3)


def test_recording_moves_no_weight_and_no_moment():
    """After one update, the first, both have made one step: an Adam's first is the learning rate's.

    Four steps, three of them not put back, would lie four times as far.
    """
    agents = [make_agent(precision="32", **flags) for flags in (EAGER, GRAPHED)]
    before = {name: p.clone() for name, p in agents[0].named_parameters()}
    for agent in agents:
        torch.manual_seed(1)
        agent.learn(make_batch(), 0)
        for optimizer in agent.optimizers.values():
            steps = [state["step"] for state in optimizer.optimizer.state.values()]
            assert all(float(step) == 1 for step in steps)
            assert all(step.is_cuda for step in steps)
    plain, graphed = (dict(agent.named_parameters()) for agent in agents)
    for name, start in before.items():
        moved, apart = (plain[name] - start).norm(), (graphed[name] - plain[name]).norm()
        assert float(apart.detach()) <= 0.1 * float(moved.detach()) + 1e-6, name


def test_metrics_of_a_recorded_update_stay_as_they_are():
    agent = make_agent(precision="32", **GRAPHED)
    first = agent.learn(make_batch(0), 0).metrics
    kept = {name: value.clone() for name, value in first.items()}
    second = agent.learn(make_batch(1), 0).metrics
    assert all(torch.equal(first[name], value) for name, value in kept.items())
    assert second["image_loss"] != first["image_loss"]


def test_a_recording_computes_once_what_it_is_asked_for():
    state, out = torch.zeros(3, device=DEVICE), torch.zeros(3, device=DEVICE)

    def function(inputs):
        state.add_(inputs["x"].sum() + torch.rand(3, device=DEVICE))
        out.copy_(state)
        return {"vector": out, "number": state.sum()}

    graph = CUDAGraph(function, lambda: [state], DEVICE)
    told = []
    for call in (function, graph):
        torch.manual_seed(0)
        state.zero_()
        for size in (2, 2, 5, 5, 2):  # another shape is recorded anew
            answer = call({"x": torch.ones(size, device=DEVICE)})
            told.append({name: value.clone() for name, value in answer.items()})
    for plain, recorded in zip(told[:5], told[5:], strict=True):
        for name, value in plain.items():
            torch.testing.assert_close(recorded[name], value, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_recorded_goes_on_as_it_is(capsys):
    device = torch.device(DEVICE)
    state = torch.zeros(3, device=device)

    def function(inputs):
        kept = torch.rand(1 << 20, device=device)  # memory of the recording's own
        state.add_(inputs["x"].sum() + kept.mean())
        return {"state": state, "number": torch.full((), state.sum().item(), device=device)}

    told, x = [], {"x": torch.ones(2, device=device)}
    fallen = Accelerated(function, Runtime(device, graphs=True), "it", lambda: [state])
    for call in (function, fallen):
        torch.manual_seed(0)
        state.zero_()
        told.append([{k: v.clone() for k, v in call(x).items()} for _ in range(2)])
    assert all(torch.equal(a[k], b[k]) for a, b in zip(*told, strict=True) for k in a)
    assert "it could not be recorded as a CUDA graph" in capsys.readouterr().err
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    before = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()  # it would fail if the allocator took the recording for unfinished
    assert torch.cuda.memory_reserved() <= before
    again = CUDAGraph(lambda inputs: {"twice": inputs["x"] * 2}, list, device)
    assert torch.equal(again(x)["twice"], x["x"] * 2)


@pytest.mark.parametrize("path", ["eager", *PATHS])
def test_nothing_waits_between_updates(precision, path):
    agent = make_agent(precision=precision, **({"eager": EAGER} | PATHS)[path])
    data = make_batch()
    for _ in range(2):  # compiles, records
        agent.learn(data, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = [agent.learn(data, 0).metrics for _ in range(3)]
        agent.sync()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert agent.updates == 5
    assert all(torch.isfinite(value) for value in metrics[-1].values())


# Acting


def weights(agent):
    return {name: value.cpu() for name, value in agent.state_dict().items()}


def act(agent, steps=3):
    """Actions of so many steps in each mode, with the same noise for every agent."""
    done = []
    for mode in ("train", "eval"):
        state = None
        for step in range(steps):
            torch.manual_seed(step)
            action, state = agent.act(make_obs(step), state, mode)
            done.append(action)
    return np.stack(done)


@pytest.mark.parametrize("changes", [{}, {"beta_vae": False}, {"actor_dist": "normal"}], ids=str)
def test_recorded_acting_is_eager_acting(changes):
    plain, graphed = (make_agent(precision="32", **flags, **changes) for flags in (EAGER, GRAPHED))
    np.testing.assert_allclose(act(graphed), act(plain), atol=1e-4)
    for agent in (plain, graphed):
        torch.manual_seed(1)
        agent.learn(make_batch(), 0)
        agent.sync()
    graphed.load_state(stored(plain.save_state()))  # exactly the same weights, in the same places
    np.testing.assert_allclose(act(graphed), act(plain), atol=1e-4)


@pytest.mark.parametrize("flags", [EAGER, GRAPHED], ids=["eager", "graphed"])
def test_overlapped_acting_is_on_a_stream_of_its_own_with_older_weights(flags):
    agent = make_agent(precision="32", overlap="True", **flags)
    assert agent.policy._stream != torch.cuda.current_stream()
    data = make_batch()
    for _ in range(2):
        agent.learn(data, 0)
    agent.sync()
    old = act(agent)
    for _ in range(5):
        agent.learn(data, 0)  # the device is at it while the next actions are computed
    now = act(agent)
    np.testing.assert_allclose(now[:3], old[:3], atol=1e-5)
    assert np.abs(now[3:] - old[3:]).max() > 1e-4  # evaluation sees the newest weights
    for _ in range(5):
        agent.learn(data, 0)
    agent.sync()  # at once behind them: it waits on the device, not here
    newest = act(agent)
    other = make_agent(seed=5, precision="32", overlap="False", **EAGER)
    other.load_state(stored(agent.save_state()))
    np.testing.assert_allclose(newest, act(other), atol=1e-4)
    assert np.abs(newest[:3] - now[:3]).max() > 1e-4


# Checkpoints, memory, and a run


@pytest.mark.parametrize("opt", ["adam", "adamax", "momentum"])
def test_a_checkpoint_goes_from_cpu_to_gpu_and_back(tmp_path, opt):
    same = {"precision": "32", "opt": opt}
    cpu = make_agent(device="cpu", **same, **EAGER)
    for turn in range(2):
        cpu.learn(make_batch(turn, CPU), turn)
    save(tmp_path / "cpu.pt", cpu.save_state())
    gpu = make_agent(seed=1, **same, **GRAPHED)
    gpu.learn(make_batch(), 0)  # a recording that loading makes stale
    gpu.load_state(load(tmp_path / "cpu.pt"))
    assert_same(weights(gpu), weights(cpu))
    eager = make_agent(seed=2, **same, **EAGER)
    eager.load_state(load(tmp_path / "cpu.pt"))
    told = []
    for agent in (gpu, eager):
        torch.manual_seed(3)
        told.append([agent.learn(make_batch(turn), turn).metrics for turn in (2, 3)])
    for metrics, expected in zip(*told, strict=True):
        assert_near(metrics, expected, 5e-3)
    save(tmp_path / "gpu.pt", gpu.save_state())
    back = make_agent(seed=4, device="cpu", **same, **EAGER)
    back.load_state(load(tmp_path / "gpu.pt"))
    assert_same(weights(back), weights(gpu))
    assert back.updates == 4
    metrics = back.learn(make_batch(4, CPU), 4).metrics
    assert all(torch.isfinite(value) and not value.is_cuda for value in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("path", ["graphed", "both"])
def test_memory_of_an_update_of_the_papers_size(path):
    gc.collect()
    torch.cuda.empty_cache()
    sizes = {"batch_size": 50, "batch_length": 50, "imag_horizon": 15}
    agent = make_agent(precision="bf16", **sizes, **PATHS[path])
    batch = {
        "image": torch.randint(0, 256, (50, 50, 64, 64, 3), dtype=torch.uint8, device=DEVICE),
        "action": torch.rand(50, 50, 6, device=DEVICE) * 2 - 1,
        "reward": torch.rand(50, 50, device=DEVICE),
        "discount": torch.ones(50, 50, device=DEVICE),
        "is_first": torch.eye(1, 50, dtype=torch.bool, device=DEVICE).repeat(50, 1),
    }
    torch.cuda.reset_peak_memory_stats()
    metrics = [agent.learn(batch, 0).metrics for _ in range(3)][-1]
    torch.cuda.synchronize()
    assert all(torch.isfinite(value) for value in metrics.values())
    assert torch.cuda.max_memory_allocated() <= 5e9


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [True, False])
def test_a_run_on_the_gpu(tmp_path, tiny, overlap):
    """The real command line: batches are drawn while updates are recorded."""
    flags = {"device": "cuda:0", "compile": False, "overlap": overlap}
    folder = tiny.finish(tiny.finetune(tmp_path, replay_device="cpu", **flags))
    assert (folder / "checkpoint.pt").exists()
