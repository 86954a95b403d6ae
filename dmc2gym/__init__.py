"""The dm_control suite as Gymnasium environments, with or without visual distractions.

    env = dmc2gym.make("walker", "walk", seed=1, from_pixels=True, frame_skip=2)
    env = gymnasium.make("dmc2gym/walker_walk-v1", from_pixels=True, frame_skip=2)

Importing this package registers an id `dmc2gym/<domain>_<task>-v1` for every task; an id takes
the keyword arguments of `make`. The ids come from a table in `registration.py`, so that importing
neither loads MuJoCo nor chooses a renderer. The first env that is made does, unless `MUJOCO_GL`
says which (see `distracting_control.rendering`).

A process that was forked from one that has drawn cannot draw, so spawn those of a vector:

    gymnasium.make_vec(..., vectorization_mode="async", vector_kwargs={"context": "spawn"})
"""

from dmc2gym.registration import env_id, make, register_gym, register_gymnasium, tasks

__all__ = ["env_id", "make", "register_gym", "register_gymnasium", "tasks"]

register_gymnasium()
