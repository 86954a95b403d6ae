"""The repositories of authors whose updates ours are measured beside."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Repository:
    """Where authors' code is.

    Attributes:
        name: on GitHub.
        files: what a checkout of it has.
        folder: of its modules, below the checkout.
        stubs: modules that it imports and an update does not need.
        sides: of the images that its networks take.
    """

    name: str
    files: tuple[str, ...]
    folder: str = ""
    stubs: tuple[str, ...] = ()
    sides: tuple[int, ...] = (64, 84)

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
}
# What their agents that see stacked frames are told of our configuration.
KEYS = (
    *("batch_size", "size", "render_size", "crop_pad", "frame_stack", "discount"),
    *("encoder_feature_dim", "hidden_dim", "num_layers", "num_filters", "critic_tau"),
    *("encoder_tau", "actor_update_freq", "critic_target_update_freq", "init_temperature"),
    *("actor_lr", "value_lr", "encoder_lr", "alpha_lr", "alpha_beta", "ted_lr", "nstep"),
    *("stddev_schedule", "stddev_clip", "svea_alpha", "svea_beta"),
)
