"""What turns any suite's environment into the one the agent sees. One wrapper, one job."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.suites import Factories

Info = dict[str, Any]

TOLD = ("success", "distance")
VECTOR = "vector"  # key of the numbers that the agent sees beside the image, where there are any


class Variations(gym.Env):
    """One task in several variations, of which one is built at a time.

    ``reset(options={"variation": name})`` chooses; without a name the variation stays. The inner
    environment is rebuilt only when the new name has another thunk than the old one, so a
    switch in the middle of training costs one construction and nothing before or after.
    """

    def __init__(self, factories: Factories, initial: str):
        """Builds the first variation.

        Args:
            factories: {variation: thunk that builds the environment}.
            initial: The variation to start with.

        Raises:
            ValueError: If ``initial`` is not among the factories.
        """
        self._factories = factories
        self._thunk = self._thunk_of(initial)
        self.variation = initial
        self.inner = self._thunk()
        self.observation_space = self.inner.observation_space
        self.action_space = self.inner.action_space
        self.metadata = self.inner.metadata
        self.render_mode = self.inner.render_mode

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode in the variation that ``options`` names.

        Raises:
            ValueError: If there is no such variation, or it has other spaces than the first.
        """
        options = dict(options or {})
        name = options.pop("variation", None)
        if name is not None and name != self.variation:
            self._switch(name)
        super().reset(seed=seed)
        return self.inner.reset(seed=seed, options=options or None)

    def step(self, action: np.ndarray):
        """One step of the inner environment."""
        return self.inner.step(action)

    def render(self):
        """The frame of the inner environment."""
        return self.inner.render()

    def close(self) -> None:
        """Closes the inner environment."""
        self.inner.close()

    def _thunk_of(self, name: str):
        if name not in self._factories:
            raise ValueError(f"no variation {name!r}: use one of {', '.join(self._factories)}")
        return self._factories[name]

    def _switch(self, name: str) -> None:
        thunk = self._thunk_of(name)
        if thunk is not self._thunk:
            inner = thunk()
            if inner.action_space != self.action_space:
                inner.close()
                raise ValueError(f"variation {name!r} has another action space")
            # The old one goes only when the new one stands, so a failure leaves a whole env.
            self.inner.close()
            self.inner, self._thunk = inner, thunk
        self.variation = name


class Pixels(gym.Wrapper):
    """Observes what the environment draws, uint8 [height, width, 3], in place of its state.

    Inside ``with env.unseen():`` nothing is drawn and the observation is black: a step that
    nobody looks at costs physics alone.

    Attributes:
        numbers: Space of what the agent sees beside the image, float32 [V]; None where the
            environment's observations are no Dict with a ``vector``.
        vector: That, as it is now.
    """

    def __init__(self, env: gym.Env, size: tuple[int, int]):
        """Wraps ``env``, whose ``render()`` gives images of ``size`` (height, width)."""
        super().__init__(env)
        inner = env.observation_space
        self.numbers = inner.get(VECTOR) if isinstance(inner, spaces.Dict) else None
        self.vector: np.ndarray | None = None
        self.observation_space = spaces.Box(0, 255, (*size, 3), np.uint8)
        self._black = np.zeros((*size, 3), np.uint8)
        self._seen = True

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """Leaves out the drawing for as long as the context lasts."""
        self._seen = False
        try:
            yield
        finally:
            self._seen = True

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode; returns its first frame."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._keep(observation)
        return self.frame(), info

    def step(self, action: np.ndarray):
        """One step; returns the frame after it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._keep(observation)
        return self.frame(), reward, terminated, truncated, info

    def _keep(self, observation: Any) -> None:
        if self.numbers is not None:
            self.vector = observation[VECTOR]

    def frame(self) -> np.ndarray:
        """The picture now, black where nothing is drawn."""
        if not self._seen:
            return self._black
        frame = self.env.render()
        shape = self._black.shape
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"the frame is {frame.dtype}{frame.shape}, expected uint8{shape}")
        # OpenGL's rows go upwards, so simulators hand out flipped views.
        return np.ascontiguousarray(frame)


class Named(gym.Wrapper):
    """Observations by their names: ``image``, and ``vector`` where the environment has one."""

    def __init__(self, env: gym.Env):
        """Wraps an environment that observes images, with :class:`Pixels` in it."""
        super().__init__(env)
        numbers = env.get_wrapper_attr("numbers")
        parts = {"image": env.observation_space} | ({} if numbers is None else {VECTOR: numbers})
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        image, info = self.env.reset(seed=seed, options=options)
        return self._name(image), info

    def step(self, action: np.ndarray):
        """One step."""
        image, *rest = self.env.step(action)
        return self._name(image), *rest

    def _name(self, image: np.ndarray) -> dict[str, np.ndarray]:
        if VECTOR not in self.observation_space.spaces:
            return {"image": image}
        return {"image": image, VECTOR: self.get_wrapper_attr("vector")}


class OwnContext(gym.Wrapper):
    """Draws in the environment's own OpenGL context, and frees it there.

    Gymnasium's renderer makes its context current only when it creates it. Of several such
    environments in a process the last one's textures would show in all of their frames, and
    nothing at all once that one is closed.
    """

    def __init__(
        self, env: gym.Env, drawing: gym.Env, camera_id: int | None, shadow_size: int | None
    ):
        """Wraps ``env``, whose frames are those of ``drawing``.

        Args:
            env: The environment.
            drawing: The ``MujocoEnv`` of Gymnasium within it, before its first frame.
            camera_id: The model's camera that it draws with; None for a free one.
            shadow_size: Side of the shadow map, in texels; None for the model's own.

        Raises:
            ValueError: If the model has no such camera.
        """
        super().__init__(env)
        model = drawing.model
        if camera_id is not None and not -1 <= camera_id < model.ncam:
            env.close()
            raise ValueError(f"camera_id must be between -1 and {model.ncam - 1}, not {camera_id}")
        if shadow_size is not None:
            model.vis.quality.shadowsize = shadow_size
        self._renderer = drawing.mujoco_renderer

    def render(self):
        """The frame of the environment."""
        self._make_current()
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        if self._make_current():
            # Later, Python would free its textures by number from whichever context is current.
            self._renderer.viewer.con.free()
        self._renderer = None
        self.env.close()

    def _make_current(self) -> bool:
        """Whether there is a context yet, or still."""
        if self._renderer is None or self._renderer.viewer is None:
            return False
        self._renderer.viewer.make_context_current()
        return True


class ActionRepeat(gym.Wrapper):
    """Holds an action for several control steps, and counts an episode's length in them.

    For suites whose environments do neither themselves. The rewards of the control steps are
    summed; the repetition stops at the end of the episode.
    """

    def __init__(self, env: gym.Env, repeat: int, time_limit: int):
        """Wraps ``env``, an env of single control steps.

        Args:
            env: The environment.
            repeat: Control steps per step.
            time_limit: Control steps after which the episode is truncated.
        """
        super().__init__(env)
        self._repeat = repeat
        self._time_limit = time_limit
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        self._elapsed = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray):
        """At most ``repeat`` control steps; ``info['control_steps']`` says how many.

        ``info['success']``, where there is one, tells whether any of them succeeded.
        """
        total = success = 0.0
        count = 0
        terminated = truncated = False
        while count < self._repeat and not (terminated or truncated):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            success = max(success, info.get("success", 0.0))
            count += 1
            self._elapsed += 1
            truncated = truncated or self._elapsed >= self._time_limit
        info = {**info, "control_steps": count}
        if "success" in info:
            info["success"] = success
        return observation, total, terminated, truncated, info


class OneHot(spaces.Box):
    """The one-hot vectors of ``size`` choices; its type tells them from continuous actions."""

    def __init__(self, size: int):
        """A box [size] between 0 and 1."""
        super().__init__(0.0, 1.0, (size,), np.float32)

    def sample(self, *args, **kwargs) -> np.ndarray:
        """A random choice."""
        choice = np.zeros(self.shape, np.float32)
        choice[self.np_random.integers(self.shape[0])] = 1.0
        return choice


class OneHotAction(gym.ActionWrapper):
    """A discrete action space as a box of one-hot vectors [A], whose largest entry acts."""

    def __init__(self, env: gym.Env):
        """Wraps ``env``.

        Raises:
            TypeError: If its action space is not ``Discrete``.
        """
        super().__init__(env)
        if not isinstance(env.action_space, spaces.Discrete):
            raise TypeError(f"one-hot actions need a Discrete space, not {env.action_space}")
        self._start = int(env.action_space.start)
        self.action_space = OneHot(int(env.action_space.n))

    def action(self, action: np.ndarray) -> int:
        """The index of the largest entry of ``action`` [A]."""
        return self._start + int(np.argmax(action))


class AgentInfo(gym.Wrapper):
    """``info`` has 'discount', 0.0 after a terminal step, and 'control_steps'.

    It also has 'success', above 0 where the task was achieved in this step, and 'distance' from
    the goal: NaN where the environment does not tell them; and 'factors', {name: value} of what is
    drawn beside the task, where that is told. Whatever else the environment says ends here, as
    between processes it would cost time.
    Their types do not vary either: Gymnasium's vectors take an array's type from its first
    element, and an int there would cut the others' fractions off.
    """

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode, at discount 1 after 0 control steps."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**_told(info), "discount": 1.0, "control_steps": 0}

    def step(self, action: np.ndarray):
        """One step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        discount = 0.0 if terminated else float(info.get("discount", 1.0))
        count = int(info.get("control_steps", 1))
        info = {**_told(info), "discount": discount, "control_steps": count}
        return observation, float(reward), bool(terminated), bool(truncated), info


def _told(info: Info) -> Info:
    told: Info = {name: float(info.get(name, "nan")) for name in TOLD}
    return told | ({"factors": info["factors"]} if "factors" in info else {})


class Resumable(gym.Wrapper):
    """Goes on inside an episode that another process had begun.

    ``reset(options={"replay": {index: {"seed", "variation", "actions"}}})`` starts the episode
    of that seed in that variation, applies the actions [k, A] again without drawing the frames
    between, and returns the observation after the last: bit for bit what the uninterrupted
    environment showed. One message can serve a whole vector: each environment reads the entry
    of its own index.
    """

    def __init__(self, env: gym.Env, index: int = 0):
        """Wraps ``env``, the ``index``-th of its vector."""
        super().__init__(env)
        self.index = index

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode, or takes one up.

        Raises:
            ValueError: If the recorded actions do not fit the episode.
        """
        options = dict(options or {})
        episode = options.pop("replay", {}).get(self.index)
        if episode is None:
            return self.env.reset(seed=seed, options=options)
        return self._take_up(episode, options)

    def _take_up(self, episode: Mapping[str, Any], options: dict[str, Any]):
        """The observation and info after the last action of ``episode``."""
        actions = np.asarray(episode["actions"], np.float32).reshape(-1, *self.action_space.shape)
        options["variation"] = episode.get("variation")
        unseen = self.get_wrapper_attr("unseen")
        with unseen() if len(actions) else contextlib.nullcontext():
            observation, info = self.env.reset(seed=int(episode["seed"]), options=options)
        for t, action in enumerate(actions, start=1):
            with unseen() if t < len(actions) else contextlib.nullcontext():
                observation, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                raise ValueError(
                    f"the episode of seed {episode['seed']} ends at action {t} of the "
                    f"{len(actions)} recorded: there is nothing left of it to resume"
                )
        return observation, info
