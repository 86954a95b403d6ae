"""DisWM: pretrain on distracting videos, finetune an agent that learns from them, evaluate it.

python dreamer.py --configs defaults dmc2gym --task dmc2gym_reacher_easy --beta_vae_pretrain True …
python dreamer.py --configs defaults dmc2gym --task dmc2gym_walker_walk --distillation True …
python dreamer.py --evaluate runs/dmc2gym_walker_walk/diswm/seed_0

The same command in the same --logdir resumes its run. --help lists every flag.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

import checks
import config as configuration
import evaluation
import fast
from checkpoint import export_predictor
from config import Config
from envs import UnknownTask
from envs.rendering import RenderingError
from finetuning import Finetuning
from pretraining import Pretraining
from run import Run, Stopped
from tools import Diverged, UserError, derive_seed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    try:
        config = configuration.parse(sys.argv[1:] if argv is None else argv)
        if config.export_checkpoint is not None:
            return export(config)
        if config.evaluate is not None:
            config = evaluation.configure(config)  # the run's own, under the flags given
        checks.check(config)
        prepare_torch(config)
        if config.evaluate is not None:
            evaluation.evaluate(config)
            return 0
        run = Run(config)
        kind = Pretraining if config.beta_vae_pretrain else Finetuning
        if run.finished:
            print(f"this run has finished: {run.folder}\n{kind.next_step(run)}")
            return 0
        with kind(run) as job, run:
            try:
                job.loop()
            except Stopped:
                job.save()
                run.logger.event("stopped", resume="the same command goes on from here")
                return run.stop_code
            print(kind.next_step(run))
    except (UserError, UnknownTask, RenderingError) as error:
        print(f"dreamer.py: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"dreamer.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dreamer.py: stopped without a checkpoint", file=sys.stderr)
        return 130
    return 0


def export(config: Config) -> int:
    """The pretrained predictor in the authors' format; returns the exit status."""
    checks.check_values(config)
    source, paths = export_predictor(config)
    names = ", ".join(path.name for path in paths)
    print(f"{names} of {source}, as the authors' code reads them, are in {paths[0].parent}")
    return 0


def prepare_torch(config: Config) -> None:
    """Seeds and settings of the process; the first use of PyTorch's generators comes after it."""
    fast.prepare_process(config)
    torch.autograd.set_detect_anomaly(config.debug)
    torch.manual_seed(derive_seed(config.seed, "torch"))


if __name__ == "__main__":
    sys.exit(main())
