"""What the tests of the suites share."""

import numpy as np
import pytest

import envs


@pytest.fixture
def make():
    """make_env, of which all are closed afterwards."""
    made = []

    def build(*args, **settings):
        made.append(envs.make_env(*args, **settings))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture
def equal_outcomes():
    """A function that asserts that two vectors showed the same, and returns what it was.

    Of each it takes (images, results of steps, images).
    """

    def check(one, other):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[2], other[2])
        for result, again in zip(one[1], other[1], strict=True):
            for field, value in result._asdict().items():
                np.testing.assert_array_equal(value, getattr(again, field), err_msg=field)
        return one

    return check
