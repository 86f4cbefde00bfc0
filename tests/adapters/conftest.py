"""Frameworks broadcast as they please: a bias of shape [N] is added to [B, N]."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def rank_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield
