"""What jobs take of memory: as much as their kind has been seen to take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from study.job import Job, read_state


class Needs:
    """Bytes of memory that a job takes: as others of its kind came to, else as foreseen.

    Args:
        jobs: of the study.
        logdir: of their runs.
    """

    def __init__(self, jobs: Sequence[Job], logdir: Path):
        self._jobs, self._logdir = jobs, logdir

    def __call__(self, job: Job) -> int:
        alike = (other for other in self._jobs if other.kind == job.kind)
        peaks = [read_state(other, self._logdir / other.name).peak for other in alike]
        return max(peaks, default=0) or job.memory
