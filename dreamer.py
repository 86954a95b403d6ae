"""DisWM: pretrain on distracting videos, then finetune an agent that learns from them.

python dreamer.py --configs defaults dmc2gym --task dmc2gym_reacher_easy --beta_vae_pretrain True …
python dreamer.py --configs defaults dmc2gym --task dmc2gym_walker_walk --distillation True …

The same command in the same --logdir resumes its run. --help lists every flag.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

import checks
import config as configuration
from config import Config
from envs import UnknownTask
from envs.rendering import RenderingError
from finetuning import Finetuning
from pretraining import Pretraining
from run import Run, Stopped
from tools import UserError, derive_seed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    try:
        config = configuration.parse(sys.argv[1:] if argv is None else argv)
        checks.check(config)
        prepare_torch(config)
        with Run(config) as run:
            job = Pretraining(run) if config.beta_vae_pretrain else Finetuning(run)
            with job:
                try:
                    job.loop()
                except Stopped:
                    job.save()
                    run.logger.event("stopped", resume="the same command goes on from here")
                    return run.stop_code
    except (UserError, UnknownTask, RenderingError) as error:
        print(f"dreamer.py: {error}", file=sys.stderr)
        return 2
    return 0


def prepare_torch(config: Config) -> None:
    """Seeds and settings of the process; the first use of PyTorch's generators comes after it."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    torch.autograd.set_detect_anomaly(config.debug)
    torch.backends.cuda.matmul.allow_tf32 = config.precision != "32"
    torch.manual_seed(derive_seed(config.seed, "torch"))


if __name__ == "__main__":
    sys.exit(main())
