"""What Gymnasium's checker is given."""

import gymnasium as gym


class Told(gym.Wrapper):
    """Without what the environment does not tell: the checker takes NaN to differ from itself."""

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._known(info)

    def step(self, action):
        *rest, info = self.env.step(action)
        return *rest, self._known(info)

    @staticmethod
    def _known(info):
        return {name: value for name, value in info.items() if value == value}
