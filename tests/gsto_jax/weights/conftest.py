"""State dicts of small networks."""

import pytest

from tests.gsto_jax.weight_states import random_state
from tests.gsto_jax.weights.wrapped_states import POSE, SEGMENTATION


@pytest.fixture(scope="session")
def state():
    return random_state(SEGMENTATION)


@pytest.fixture(scope="session")
def pose_state():
    return random_state(POSE)
