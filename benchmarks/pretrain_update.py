"""One pretraining update of the video predictor at the paper's size, setting against setting.

python -m benchmarks.pretrain_update [--reference PATH] [--json OUT] [--device cuda:0] [--rounds N]

The settings, the table and the flags are those of ``benchmarks.update``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import compare, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    made = settings.parser("pretrain_update", __doc__)
    settings.add_turns(made)
    return compare.run("pretrain", made, argv)


if __name__ == "__main__":
    sys.exit(main())
