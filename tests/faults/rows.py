"""The table: one row for each kind of fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.faults import broken, files, kills, stops
from tests.faults.harness import Lab, Tally

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- the table -->", "<!-- end of the table -->"

SAME = "bit for bit"
LINE = "one line, exit {}; then bit for bit"


class Row(NamedTuple):
    """A kind of fault, what hurts runs with it, and how they are looked at afterwards."""

    name: str
    fault: str
    hurt: Callable[[Lab, str, Tally], None]
    compared: str = SAME
    mounts: bool = False  # a disk, which root alone can


ROWS = [
    Row("checkpoint-write", "kill −9 inside a checkpoint's write", kills.checkpoint_write),
    Row(
        "checkpoint-renames",
        "kill −9 before, between and after the renamings of checkpoints",
        kills.checkpoint_renames,
    ),
    Row("episode-write", "kill −9 inside and around an episode's write", kills.episode_write),
    Row("random", "kill −9 at any moment", kills.random_single),
    Row("random-workers", "kill −9 at any moment, with four workers", kills.random_workers),
    Row(
        "orphans",
        "kill −9 between two steps; no worker outlives it",
        kills.worker_orphans,
    ),
    Row("drawing-orphan", "kill −9 while a worker draws; nor does that one", broken.stuck_worker),
    Row("random-pretrain", "kill −9 at any moment of pretraining", kills.random_pretraining),
    Row("snapshot-write", "kill −9 inside a predictor's write", kills.snapshot_write),
    Row(
        "two-at-once",
        "a second start while the first one runs, then a kill −9",
        kills.two_at_once,
        LINE.format(2),
    ),
    Row("sigterm", "SIGTERM", stops.terminate, "exit 143, then " + SAME),
    Row("sigint", "Ctrl-C", stops.interrupt, "exit 130, then " + SAME),
    Row("sighup", "SIGHUP", stops.hang_up, "exit 129, then " + SAME),
    Row("reader-gone", "the reader of stdout and stderr goes away", stops.reader_gone),
    Row(
        "full-checkpoint", "disk full at a checkpoint", stops.full_checkpoint, LINE.format(1), True
    ),
    Row("full-episode", "disk full at an episode", stops.full_episode, LINE.format(1), True),
    Row("full-metrics", "disk full at metrics.jsonl", stops.full_metrics, LINE.format(1)),
    Row("full-events", "disk full at TensorBoard's file", stops.full_events, "a warning; " + SAME),
    Row("file-limit", "a limit on the size of files", stops.file_limit, LINE.format(1)),
    Row(
        "read-only-start",
        "--logdir read-only at a start",
        stops.read_only_start,
        LINE.format(2),
        True,
    ),
    Row(
        "read-only-later",
        "a disk that fails in mid-run",
        stops.read_only_later,
        LINE.format(1),
        True,
    ),
    Row("worker-killed", "kill −9 of workers between two steps", broken.worker_killed),
    Row(
        "worker-drawing", "kill −9 of a worker in a step, in a reset", broken.worker_killed_drawing
    ),
    Row("worker-hangs", "a worker hangs in a step, in a reset", broken.worker_hangs),
    Row("evaluation-killed", "kill −9 of an evaluation's worker", broken.evaluation_killed),
    Row("renderer-once", "the renderer raises once", broken.renderer_fails_once),
    Row(
        "renderer-episode",
        "the renderer raises in one episode each time",
        broken.renderer_fails_in_an_episode,
        "the episode is dropped, the run finishes",
    ),
    Row(
        "renderer-always",
        "the renderer raises from a moment on",
        broken.renderer_fails_always,
        LINE.format(1),
    ),
    Row(
        "not-finite",
        "NaN in one update",
        broken.not_finite,
        "skipped, counted, written down; the run finishes",
    ),
    Row("never-finite", "NaN in every update", broken.never_finite, LINE.format(1)),
    Row("unreachable", "W&B does not answer", broken.unreachable, "a warning; " + SAME),
    Row(
        "newest-damaged",
        "the newest checkpoint is damaged, in six ways",
        files.newest_damaged,
        "set aside, a warning; " + SAME,
    ),
    Row("all-damaged", "every checkpoint is damaged", files.all_damaged, LINE.format(2)),
    Row("torn-log", "metrics.jsonl ends in half a line, in zeros", files.torn_log),
    Row(
        "bad-episodes",
        "an episode is damaged, in twelve ways",
        files.bad_episodes,
        "set aside with the reason, the run finishes",
    ),
]


def table(results: dict[str, Tally]) -> str:
    """The rows in Markdown, those that were run."""
    lines = ["| fault | injected | survived | most frames lost | checkpoint_every | compared |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    for row in ROWS:
        if (tally := results.get(row.name)) is None:
            continue
        share = 100 * tally.survived // max(tally.injected, 1)
        every = ", ".join(map(str, sorted(tally.every)))
        compared = "; ".join([row.compared, *tally.notes])
        survived = f"{tally.survived} ({share}%)"
        lines.append(
            f"| {row.fault} | {tally.injected} | {survived} | {tally.lost} | {every} | {compared} |"
        )
    times, survived = (
        sum(getattr(tally, name) for tally in results.values()) for name in ("injected", "survived")
    )
    return "\n".join([*lines, f"| **all** | **{times}** | **{survived}** | | | |"]) + "\n"


def write(results: dict[str, Tally], foot: str) -> None:
    """Puts the table into its place in the README."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{table(results)}\n{foot}\n\n{END}{after}")
