"""What tests of experiments share."""

from functools import partial

import jax
import pytest

from experiments import digits_search
from tests.experiments.digits_runs import make_quick


@pytest.fixture
def quick_digits(monkeypatch):
    """The main job with a network that compiles in a second, on one device."""
    make_quick(monkeypatch)
    monkeypatch.setattr(digits_search, "make_mesh", partial(digits_search.make_mesh, jax.devices()[:1]))
