"""The dm_control suite as Gymnasium environments, with or without visual distractions.

    env = dmc2gym.make("walker", "walk", seed=1, from_pixels=True, frame_skip=2)
    env = gymnasium.make("dmc2gym/walker_walk-v1", from_pixels=True, frame_skip=2)

Importing this package registers an id `dmc2gym/<domain>_<task>-v1` for every task; an id takes
the keyword arguments of `make`. The ids come from a table in `registration.py`, so that importing
neither loads MuJoCo nor chooses a renderer: `MUJOCO_GL` may be set until the first env is made.
"""

from dmc2gym.registration import env_id, make, register_gym, register_gymnasium, tasks

__all__ = ["env_id", "make", "register_gym", "register_gymnasium", "tasks"]

register_gymnasium()
