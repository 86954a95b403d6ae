"""The repositories of authors whose updates ours are measured beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Repository:
    """Where authors' code is.

    Attributes:
        name: on GitHub.
        files: what a checkout of it has.
        folder: of its modules, below the checkout.
        stubs: modules that it imports and an update does not need.
        packages: modules that it needs and we do not, each with what pip is to install.
        sides: of the images that its networks take.
        mixed: whether it has a mixed precision.
        adapter: the module here whose ``make`` runs it: given what a worker is to hold, it
            returns the update or the policy.
    """

    name: str
    files: tuple[str, ...]
    folder: str = ""
    stubs: tuple[str, ...] = ()
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sides: tuple[int, ...] = (64, 84)
    mixed: bool = False
    adapter: str = "benchmarks.authors"

    def missing(self, checkout: Path) -> str | None:
        """What a folder lacks of a checkout, or None."""
        folder = checkout / self.folder
        return next((name for name in self.files if not (folder / name).is_file()), None)


DISWM = Repository(
    "qiwang067/DisWM",
    ("dreamer.py", "pretrain.py", "models.py", "tools.py", "configs.yaml"),
    stubs=(
        *("wandb", "wrappers", "torch.utils.tensorboard", "panda_gym", "gym", "cloudpickle"),
        *("dmc2gym", "numpy.distutils", "numpy.testing.print_coercion_tables"),
        "torch.fx.experimental.migrate_gradual_types",
    ),
    sides=(64,),
    mixed=True,
    adapter="benchmarks.reference",
)
RAD = Repository(
    "MishaLaskin/rad",
    ("curl_sac.py", "encoder.py", "utils.py", "data_augs.py"),
    stubs=("gym", "skimage", "matplotlib"),
)
# By the method that is measured.
REPOSITORIES = {
    **dict.fromkeys(("diswm", "dreamerv2", "dv2_finetune", "apv"), DISWM),
    "sac": RAD,  # without an augmentation
    "rad": RAD,
    "curl": Repository(
        "MishaLaskin/curl", ("curl_sac.py", "encoder.py", "utils.py"), stubs=("gym", "skimage")
    ),
    "ted": Repository(
        "uoe-agents/TED",
        ("algorithms/rad.py", "replay_buffer.py", "arguments.py", "utils.py"),
        stubs=("gym", "kornia"),
    ),
    "drqv2": Repository(
        "facebookresearch/drqv2",
        ("drqv2.py", "replay_buffer.py", "utils.py"),
        stubs=("hydra", "omegaconf"),
        sides=(84,),
    ),
    "svea": Repository(
        "nicklashansen/dmcontrol-generalization-benchmark",
        ("algorithms/svea.py", "utils.py", "arguments.py", "augmentations.py"),
        folder="src",
        stubs=("kornia", "torchvision"),
        sides=(84,),
    ),
    "hrssm": Repository(
        "bit1029public/HRSSM",
        ("dreamer.py", "models.py", "masking_generator.py", "configs.yaml"),
        stubs=("kornia", "imageio", "envs", "torch.utils.tensorboard"),
        sides=(64,),
        mixed=True,
        adapter="benchmarks.sequences",
    ),
    "contextwm": Repository(
        "thuml/ContextWM",
        ("wmlib/agents/apv_finetune.py", "configs/apv_finetuning.yaml"),
        stubs=("kornia", "torchvision", "torchtyping", "typeguard", "wandb"),
        sides=(64,),
        mixed=True,
        adapter="benchmarks.sequences",
    ),
    "dreamerv3": Repository(
        "NM512/r2dreamer",
        ("dreamer.py", "rssm.py", "configs/configs.yaml", "configs/model/size12M.yaml"),
        stubs=("torch.utils.tensorboard",),
        packages={"tensordict": "tensordict", "hydra": "hydra-core"},
        sides=(64,),
        mixed=True,
        adapter="benchmarks.sequences",
    ),
    "tdmpc2": Repository(
        "nicklashansen/tdmpc2",
        ("tdmpc2.py", "common/buffer.py", "common/world_model.py", "config.yaml"),
        folder="tdmpc2",
        # Later ones leave tensors on the meta device that its `to` cannot move.
        packages={"tensordict": "tensordict==0.8.3", "torchrl": "torchrl==0.8.1"},
        sides=(64,),
        adapter="benchmarks.planner",
    ),
}
# What their agents that see stacked frames are told of our configuration, by our names.
KEYS = (
    *("batch_size", "size", "render_size", "crop_pad", "frame_stack", "discount"),
    *("encoder_feature_dim", "hidden_dim", "num_layers", "num_filters", "critic_tau"),
    *("encoder_tau", "actor_update_freq", "critic_target_update_freq", "init_temperature"),
    *("actor_lr", "value_lr", "encoder_lr", "alpha_lr", "alpha_beta", "ted_lr", "nstep"),
    *("stddev_schedule", "stddev_clip", "svea_alpha", "svea_beta"),
    *("num_channels", "mlp_dim", "simnorm_dim", "num_q", "num_bins", "vmin", "vmax", "dropout"),
    *("horizon", "iterations", "num_samples", "num_elites", "num_pi_trajs"),
)
# What their agents that see sequences are told of it: where each key stands in theirs.
PLACES: dict[str, dict[str, str]] = {
    "hrssm": {
        **{name: name for name in ("batch_size", "batch_length", "imag_horizon")},
        **{name: name for name in ("dyn_deter", "dyn_hidden", "dyn_stoch", "dyn_discrete")},
        **{name: name for name in ("units", "reward_layers", "actor_layers", "value_layers")},
        **{name: name for name in ("dyn_cont_stoch_size", "patch_size", "block_size")},
        "discount_layers": "cont_layers",
        "cnn_depth": "encoder.cnn_depth",
    },
    "contextwm": {
        "imag_horizon": "imag_horizon",
        "dyn_deter": "rssm.deter af_rssm.deter",
        "dyn_hidden": "rssm.hidden af_rssm.hidden",
        "dyn_stoch": "rssm.stoch af_rssm.stoch",
        "dyn_discrete": "rssm.discrete af_rssm.discrete",
        "cnn_depth": "encoder.cnn_depth decoder.cnn_depth encoder_ctx.ctx_cnn_depth",
        "res_layers": "encoder.res_layers decoder.res_layers encoder_ctx.ctx_res_layers",
        "units": "reward_head.units actor.units critic.units",
        "reward_layers": "reward_head.layers",
        "actor_layers": "actor.layers",
        "value_layers": "critic.layers",
        "concat_embed": "concat_embed",
        "context_mask": "decoder_ctx.ctx_attmask",
        "aux_reward_scale": "loss_scales.aux_reward",
        "queue_size": "queue_size",
    },
    "dreamerv3": {
        "imag_horizon": "model.imag_horizon",
        "dyn_deter": "model.deter",
        "dyn_hidden": "model.hidden",
        "dyn_stoch": "model.rssm.stoch",
        "dyn_discrete": "model.discrete",
        "dyn_blocks": "model.rssm.blocks",
        "cnn_depth": "model.depth",
        "units": "model.units",
        "reward_layers": "model.reward.layers",
        "discount_layers": "model.cont.layers",
        "actor_layers": "model.actor.layers",
        "value_layers": "model.critic.layers",
    },
}
