"""One network and one search for all files that look at them."""

import pytest

from dms_jax import SearchSpace
from tests.counting import random_variables
from tests.method.small import Counted, Toy, X, run, searcher


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(Toy(), X[:1])


@pytest.fixture(scope="module")
def variables(space):
    return random_variables(space)


@pytest.fixture(scope="module")
def counted():
    """Space and variables of a network that has some which are not trained."""
    space = SearchSpace.from_model(Counted(), X[:1])
    return space, random_variables(space)


@pytest.fixture(scope="module")
def usual(space, variables):
    search = searcher(space)
    return search, *run(search, variables, 20)
