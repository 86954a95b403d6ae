"""What `python -m study run` and `commands` do: plan, check, and hand over to a backend."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from agents.registry import AGENTS
from study import document, records
from study.backend import Backend
from study.document import Study
from study.foresee import Needs
from study.job import Job
from study.local import LocalPool
from study.plan import expand
from study.runner import Runner
from tools import UserError, expand_path, print_safe
from training.commands import dreamer
from training.run_folder import check_writable
from training.stop import StopSignal


def plan(args: argparse.Namespace) -> tuple[Study, list[Job]]:
    """The study that a command line names, and its jobs.

    Raises:
        UserError: one line that names what is wrong, in the file or in the command line.
    """
    common = document.load_common()
    study = document.load(args.study, common, AGENTS)
    scale = args.scale or "paper"
    return study, expand(study, common, scale, args.logdir, args.seeds, args.only)


def show(args: argparse.Namespace) -> int:
    """Prints every command line, in an order in which they can be run."""
    _, jobs = plan(args)
    for job in jobs:
        print_safe(dreamer(*job.words), sys.stdout)
    return 0


def run(args: argparse.Namespace) -> int:
    """Runs a study to its end; returns the exit status.

    Raises:
        UserError: one line, before anything is started.
        OSError: the study's own files cannot be written.
    """
    study, jobs = plan(args)
    logdir = expand_path(args.logdir, "logdir")
    if args.dry:
        from study.costs import tell_costs

        pool = LocalPool(args.jobs, args.per_gpu, count_gpus(jobs), Needs(jobs, logdir))
        return tell_costs(jobs, args.logdir, pool.threads, pool.slots)
    check_writable(logdir.absolute(), "--logdir", "choose another")
    records.check_scale(logdir, args.scale)
    backend = make_backend(args, jobs, logdir, study.name)
    lock = records.lock(logdir, study.name)
    stop = StopSignal()
    try:
        records.write_plan(logdir, study, args.scale, jobs)
        stop.listen()
        return Runner(study.name, jobs, logdir, backend, stop).run()
    finally:
        backend.close()
        stop.close()
        lock.release()


def make_backend(args: argparse.Namespace, jobs: list[Job], logdir: Path, name: str) -> Backend:
    """Who runs the jobs.

    Raises:
        UserError: it is not installed, or not there.
    """
    for flag, given, backend in (("slurm", args.slurm, "slurm"), ("address", args.address, "ray")):
        if given and args.backend != backend:
            raise UserError(f"--{flag} is for --backend {backend}: add that, or leave it out")
    on_gpu = any(job.device != "cpu" for job in jobs)
    if args.backend == "slurm":
        from study.slurm import SlurmArrays

        folder = records.folder_of(logdir, name) / "slurm"
        return SlurmArrays(folder, args.slurm, args.jobs, int(on_gpu))
    if args.backend == "ray":
        from study.ray_tasks import RayTasks

        return RayTasks(args.address, args.jobs, args.per_gpu, on_gpu)
    return LocalPool(args.jobs, args.per_gpu, count_gpus(jobs), Needs(jobs, logdir))


def count_gpus(jobs: list[Job]) -> int:
    """The GPUs of this machine, for jobs that would use one."""
    return torch.cuda.device_count() if any(job.device != "cpu" for job in jobs) else 0
