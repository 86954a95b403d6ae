"""Stands for dreamer.py: a run's folder, lock, log, checkpoints and signals, and nothing learned.

It is a script of its own that imports nothing of the project, so that it starts in a moment.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def main(folder: Path, end: int, wait_for: str, fails: int) -> int:
    """Counts to the end; first waits for a file, if one is named, and fails so many times."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.truncate(0)
    lock.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    (folder / "config.yaml").write_text("task: fake\n")
    log = (folder / "metrics.jsonl").open("a")

    def write(step, **row):
        log.write(json.dumps({"step": step, "time": step / 10, **row}) + "\n")
        log.flush()

    begun = max((int(p.stem[11:]) for p in folder.glob("checkpoint_*.pt")), default=0)
    write(begun, event="resume" if begun else "start")
    starts = (folder / "metrics.jsonl").read_text().count('"event": "start"')
    if starts <= fails:
        print("fake.py: the simulator has gone fishing", flush=True)
        return 1
    write(begun + 1, eval_return=float(end), eval_return_std=0.0, eval_episodes=1)
    while wait_for and not Path(wait_for).exists():
        if asked:
            (folder / f"checkpoint_{begun + 1:09d}.pt").touch()
            return 143
        time.sleep(0.01)
    write(end, event="finished")
    (folder / f"checkpoint_{end:09d}.pt").touch()
    print("this run has finished", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
