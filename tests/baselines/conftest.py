"""One space for all files that look at it."""

import pytest

from dms_jax import SearchSpace
from dms_jax.method.layout import Layout
from tests.baselines.small import LIMITS, Toy, X


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(Toy(), X[:1], tie=("inner[0-1]",))


@pytest.fixture(scope="module")
def layout(space):
    return Layout.of(space, LIMITS)
