"""One full update (world model, actor, critic) at the paper's size, setting against setting.

python -m benchmarks.update [--method M] [--reference PATH] [--json OUT] [--device cuda:0]
    [--rounds N]

Settings: ``reference`` and ``reference16`` (the authors', in float32 and in their mixed
precision), ``exact`` (ours with ``--compile False --precision 32``), ``bf16`` (eager in bfloat16),
``graphs`` and ``compiled`` (each alone; in float32 with a 32 behind the name), ``default`` (what a
run does without flags, at ``--precision auto``). ``--also 'name=--flag value'`` adds more.

``--method M`` measures another method than DisWM, ``--reference`` is then a checkout of its
authors' code (`repositories.py`); words behind ``--`` are flags of dreamer.py, such as
``-- --size 84 84 --render_size 100``. Agents that see stacked frames draw their transitions from a
replay of noise, theirs from the authors' own; an update has that in it.

Each setting has a process of its own; they take turns, one turn each a round. ``× reference`` is
the median over rounds of the reference's time over the setting's in the same round. ``CPU ms`` are
those that the process had a core for: on one thread (``--threads 1``) they tell a busy machine's
settings apart where the others cannot. ``before`` is
the resident memory before the first update, its share of the peak. ``TFLOP/s`` counts the
arithmetic of our eager update for every setting; the ceiling is the machine's fastest large matrix
product in any number format.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import compare, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    made = settings.parser("update", __doc__)
    settings.add_turns(made)
    return compare.run("update", made, argv)


if __name__ == "__main__":
    sys.exit(main())
