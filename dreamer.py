"""DisWM: pretrain on distracting videos, finetune an agent that learns from them, evaluate it.

python dreamer.py --configs defaults dmc2gym --task dmc2gym_reacher_easy --beta_vae_pretrain True …
python dreamer.py --configs defaults dmc2gym --task dmc2gym_walker_walk --distillation True …
python dreamer.py --evaluate runs/dmc2gym_walker_walk/diswm/seed_0

The same command in the same --logdir resumes its run. --help lists every flag.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from collections.abc import Sequence

import torch

import checks
import config as configuration
import evaluation
from accel.runtime import Runtime
from config import Config
from envs import EnvError, UnknownTask
from envs.rendering import RenderingError
from envs.restarts import in_a_line
from finetuning import Finetuning
from predictors import export_predictor
from pretraining import Pretraining
from run import Run, Stopped
from tools import Diverged, UserError, derive_seed, say


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    try:
        config = configuration.parse(sys.argv[1:] if argv is None else argv)
        if config.export_checkpoint is not None:
            return export(config)
        if config.evaluate is not None:
            config = evaluation.configure(config)  # the run's own, under the flags given
        runtime = Runtime.resolve(config)
        config = config.replace(device=str(runtime.device))  # auto is settled
        checks.check(config)
        runtime.prepare()
        torch.manual_seed(derive_seed(config.seed, "torch"))
        if config.evaluate is not None:
            evaluation.evaluate(config, runtime)
            return 0
        with contextlib.closing(Run(config, runtime)) as run:
            return train(run)
    except (UserError, UnknownTask, RenderingError) as error:
        say(f"dreamer.py: {error}")
        return 2
    except (Diverged, Broken) as error:
        say(f"dreamer.py: {error}")
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_the_machines(error):
            raise
        say(f"dreamer.py: {in_words(error)}")
        return 1
    except KeyboardInterrupt:
        say("dreamer.py: stopped without a checkpoint")
        return 130


def train(run: Run) -> int:
    """Begins a run or goes on with it; returns the exit status.

    Raises:
        UserError: something that was given cannot be used.
        Diverged: losses or weights are not finite any more.
        Broken: the machine or an environment failed; the run's folder is whole.
    """
    kind = Pretraining if run.config.beta_vae_pretrain else Finetuning
    if run.finished:
        say(f"this run has finished: {run.folder}\n{kind.next_step(run)}", sys.stdout)
        return 0
    try:
        with kind(run) as job, run:
            try:
                job.loop()
            except Stopped:
                job.save()
                run.logger.event("stopped", resume="the same command goes on from here")
                return run.stop_code
            say(kind.next_step(run), sys.stdout)
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_the_machines(error):
            raise
        if run.config.debug:
            traceback.print_exc()
        raise Broken(f"{in_words(error)}; the same command tries again: {run.last}") from error
    return 0


class Broken(Exception):
    """What the run needs failed. Its text is one line with the mend and the way on."""


# How PyTorch and Python tell of memory, threads or a GPU that fail, and of no mistake of ours.
_FAILURES = ("can't allocate memory", "can't start new thread", "uncorrectable ECC error")
_FAILURES += ("busy or unavailable", "no CUDA-capable device", "CUDA error: unknown error")


def is_the_machines(error: Exception) -> bool:
    """Whether the machine or an environment failed, and not this code."""
    if isinstance(error, OSError | MemoryError | EnvError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _FAILURES)


def in_words(error: Exception) -> str:
    """What failed in a run, and the mend, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: give a smaller --batch_size, or --replay_device cpu"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "the memory is full: end what else needs it, or give --replay_storage disk"
    if isinstance(error, EnvError):
        return in_a_line(error)
    if not isinstance(error, OSError):
        return f"the machine failed: {str(error).strip().splitlines()[0]}"
    what = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}: free some space there"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{what}: make it writable again"
    return f"{what}: mend that"


def export(config: Config) -> int:
    """The pretrained predictor in the authors' format; returns the exit status."""
    checks.check_values(config)
    source, paths = export_predictor(config)
    names = ", ".join(path.name for path in paths)
    print(f"{names} of {source}, as the authors' code reads them, are in {paths[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
