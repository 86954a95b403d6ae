"""What the tests of the suites share."""

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
