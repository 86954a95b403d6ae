"""Names of the environments, and how they are made."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium

from distracting_control.rendering import settle_backend

# The tasks of dm_control 1.0.28, written down so that registering them need not import it.
_TASKS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse three_poles two_poles",
    "cheetah": "run",
    "dog": "fetch run stand trot walk",
    "finger": "spin turn_easy turn_hard",
    "fish": "swim upright",
    "hopper": "hop stand",
    "humanoid": "run run_pure_state stand walk",
    "humanoid_CMU": "run stand walk",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "escape fetch run walk",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer15 swimmer6",
    "walker": "run stand walk",
}
_SHORT = {"cup": "ball_in_cup"}


def env_id(domain_name: str, task_name: str) -> str:
    """The registered id of a task, e.g. `'dmc2gym/walker_walk-v1'`."""
    return f"dmc2gym/{domain_name}_{task_name}-v1"


def tasks() -> tuple[tuple[str, str], ...]:
    """All (domain, task) pairs of the installed dm_control suite, which this imports."""
    from dm_control import suite

    return tuple(suite.ALL_TASKS)


def make(domain_name: str, task_name: str, **kwargs: Any) -> gymnasium.Env:
    """Makes an environment.

    Args:
        domain_name: Domain of the suite; `'cup'` is short for `'ball_in_cup'`.
        task_name: Task of the domain.
        **kwargs: See `dmc2gym.env.DMCEnv`.

    Returns:
        The environment, without any of Gymnasium's wrappers.

    Raises:
        RenderingError: If `MUJOCO_GL` names an OpenGL that cannot work here.
        ValueError: If there is no such task; the nearest one is named.
    """
    settle_backend()
    from dmc2gym.env import DMCEnv  # it imports dm_control, which reads that choice

    domain_name = _SHORT.get(domain_name, domain_name)
    _check_exists(domain_name, task_name)
    return DMCEnv(domain_name, task_name, **kwargs)


def register_gymnasium() -> None:
    """Registers all ids with Gymnasium; those already registered stay."""
    for domain, task in _named_tasks():
        if env_id(domain, task) not in gymnasium.registry:
            gymnasium.register(
                env_id(domain, task),
                entry_point="dmc2gym.registration:make",
                # The env itself raises on a step too early or too late, and ends its episodes.
                order_enforce=False,
                kwargs={"domain_name": domain, "task_name": task},
            )


def register_gym() -> None:
    """Registers the same ids with the old `gym` 0.26, Gymnasium's predecessor.

    Under NumPy 2 gym's own checker fails, so make them with
    `gym.make("dmc2gym/walker_walk-v1", disable_env_checker=True)`.

    Raises:
        ImportError: If `gym` is not installed.
    """
    import gym

    for domain, task in _named_tasks():
        if env_id(domain, task) not in gym.envs.registry:
            gym.register(
                env_id(domain, task),
                entry_point="dmc2gym.legacy:make",
                order_enforce=False,
                kwargs={"domain_name": domain, "task_name": task},
            )


def _named_tasks() -> list[tuple[str, str]]:
    """The (domain, task) pairs that get an id, with domains under their short names too."""
    full = [(domain, task) for domain, names in _TASKS.items() for task in names.split()]
    names = {domain: short for short, domain in _SHORT.items()}
    return full + [(names[domain], task) for domain, task in full if domain in names]


def _check_exists(domain_name: str, task_name: str) -> None:
    known = tasks()
    if (domain_name, task_name) in known:
        return
    of_domain = [pair for pair in known if pair[0] == domain_name]
    # Within a known domain the mistake is in the task, so only its own tasks are near.
    names = [f"{domain} {task}" for domain, task in of_domain or known]
    nearest = difflib.get_close_matches(f"{domain_name} {task_name}", names, n=1, cutoff=0.0)[0]
    kind = f"task {task_name!r} in domain {domain_name!r}" if of_domain else f"{domain_name!r}"
    raise ValueError(f"dm_control's suite has no {kind}: did you mean {nearest!r}?")
