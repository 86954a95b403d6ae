"""DisWM: pretrain on distracting videos, train an agent that learns from them, evaluate it.

python dreamer.py --configs defaults dmc2gym --task dmc2gym_reacher_easy --beta_vae_pretrain True …
python dreamer.py --configs defaults dmc2gym --task dmc2gym_walker_walk --distillation True …
python dreamer.py --evaluate runs/dmc2gym_walker_walk/diswm/seed_0

The same command in the same --logdir resumes its run. --help shows the flags of a first run,
--help all every flag.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence

import config as configuration
from agents.registry import METHODS, agent_class

if __name__ == "__main__" and configuration.show_help(sys.argv[1:] or ["--help"], METHODS):
    sys.exit(0)  # before the imports that take seconds

import torch

import data
import envs
from accel.runtime import Runtime
from agents.model_configs import check_networks
from agents.pretrained import export_predictor
from config import Config
from envs import RenderingError, UnknownTask
from replay.device import check_device
from tools import Diverged, UserError, derive_seed, print_safe
from training import evaluate
from training.failures import RunFailed, describe, is_environment_failure
from training.length import key_of, updates_of
from training.online import OnlineTrainer
from training.pretrain import PretrainTrainer
from training.run_folder import RunFolder
from training.stop import Stopped
from training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    try:
        return run_command(sys.argv[1:] if argv is None else argv)
    except (UserError, UnknownTask, RenderingError) as error:
        print_safe(f"dreamer.py: {error}")
        return 2
    except (Diverged, RunFailed) as error:
        print_safe(f"dreamer.py: {error}")
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_environment_failure(error):
            raise
        print_safe(f"dreamer.py: {describe(error)}")
        return 1
    except KeyboardInterrupt:
        print_safe("dreamer.py: stopped without a checkpoint")
        return 130


def run_command(argv: Sequence[str]) -> int:
    """What a command line asks for; returns the exit status.

    Raises:
        UserError, UnknownTask, RenderingError: something that was given cannot be used.
        Diverged: losses or weights are not finite any more.
        RunFailed: the machine or an environment failed; the run's folder is whole.
    """
    config = configuration.parse(evaluate.with_method(argv), methods=METHODS)
    if config.export_checkpoint is not None:
        return export(config)
    if config.evaluate is not None:
        config = evaluate.configure(config)  # the run's own, under the flags given
    runtime = Runtime.resolve(config, 0 if config.evaluate is not None else updates_of(config))
    check(config, runtime)
    runtime.prepare()
    torch.manual_seed(derive_seed(config.seed, "torch"))
    if config.evaluate is not None:
        evaluate.evaluate(config, runtime)
        return 0
    with contextlib.closing(RunFolder(config, runtime, argv)) as run:
        return train(run)


def check(config: Config, runtime: Runtime) -> None:
    """Each room checks what is true of its things, before anything is made.

    Raises:
        UserError: one line that names the flag and the mend.
        UnknownTask: there is no such task; one line with the nearest one.
    """
    envs.check(config)
    check_device(config.replay_device, runtime.device, config.replay_storage)
    if config.evaluate is not None:
        return
    evaluate.check(config)
    if config.beta_vae_pretrain:
        data.check(config)
        PretrainTrainer.check(config)
    else:
        agent_class(config.method_name).check(config)
        OnlineTrainer.check(config)


def train(run: RunFolder) -> int:
    """Begins a run or goes on with it; returns the exit status.

    Raises:
        UserError: something that was given cannot be used.
        Diverged: losses or weights are not finite any more.
        RunFailed: the machine or an environment failed; the run's folder is whole.
    """
    kind: type[Trainer] = PretrainTrainer if run.config.beta_vae_pretrain else OnlineTrainer
    if run.finished:
        if flags := run.changed_flags:
            longer = f"larger --{key_of(run.config)} go on with it"
            print_safe(f"note: {', '.join(flags)} changes nothing in a finished run: {longer}")
        print_safe(f"this run has finished: {run.folder}\n{kind.next_step(run)}", sys.stdout)
        return 0
    try:
        with kind(run) as trainer, run:
            try:
                trainer.loop()
            except Stopped:
                run.logger.event("stopped", resume="the same command goes on from here")
                trainer.save()
                return run.stop.exit_code
            print_safe(kind.next_step(run), sys.stdout)
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_environment_failure(error):
            raise
        if run.config.debug:
            traceback.print_exc()
        raise RunFailed(f"{describe(error)}; the same command tries again: {run.last}") from error
    return 0


def export(config: Config) -> int:
    """The pretrained predictor in the authors' format; returns the exit status."""
    if config.evaluate is not None:
        raise UserError("--export_checkpoint and --evaluate do not go together: give one of them")
    check_networks(config)
    source, paths = export_predictor(config)
    names = ", ".join(path.name for path in paths)
    print(f"{names} of {source}, as the authors' code reads them, are in {paths[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
