"""Touch the latents of a run: sliders, strips, episodes and imagination in a browser.

python -m explorer runs/dmc2gym_walker_walk/diswm/seed_0
python -m explorer runs/dmc2gym_reacher_easy/pretrain/seed_0 --port 8765

It takes the folder of a finetuning or of a pretraining, one of their checkpoints, or a folder with
encoder.pt, decoder.pt and rssm.pt. It listens on this machine alone.
"""

from __future__ import annotations

import argparse
import errno
import socket
import sys
from collections.abc import Sequence

from tools import UserError, print_safe

HOST = "127.0.0.1"
INSTALL = "pip install -e '.[explorer]' -c constraints.txt"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(
        prog="python -m explorer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", metavar="RUN_OR_CHECKPOINT")
    made.add_argument("--port", type=int, default=8765, help="0 takes one that is free")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until Ctrl-C; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        return serve(args.run, args.port)
    except UserError as error:
        print_safe(f"explorer: {error}")
        return 2
    except OSError as error:
        from training.failures import describe

        print_safe(f"explorer: {describe(error)}")
        return 1
    except KeyboardInterrupt:
        return 0


def serve(run: str, port: int) -> int:
    """Opens a run and serves it.

    Raises:
        UserError: the port cannot be had, there is nothing to explore, or a package is missing.
    """
    try:
        import uvicorn

        from explorer.app import make_app
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"the explorer needs {error.name}: {INSTALL}") from None
    with listen(port) as listening:
        from accel.threads import return_memory
        from explorer.session import Session
        from explorer.subject import RUNTIME, open_subject

        return_memory()
        RUNTIME.prepare()
        session = Session(open_subject(run))
        print_safe(f"http://{HOST}:{listening.getsockname()[1]}  (Ctrl-C ends it)", sys.stdout)
        config = uvicorn.Config(make_app(session), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address, before anything long begins.

    Raises:
        UserError: the port is taken, not allowed, or no port.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: give one from 1024 to 65535, or 0 for a free one")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen()
    except OSError as error:
        made.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is taken" if error.errno == errno.EADDRINUSE else "is not for you to use"
        raise UserError(f"--port {port} {why}: give another, or 0 for a free one") from None
    return made


if __name__ == "__main__":
    sys.exit(main())
