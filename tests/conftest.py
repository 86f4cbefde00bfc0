"""Settings of every test: the CPU, no silent rank promotion, hypothesis without deadlines."""

import os

import hypothesis
import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
# Eight devices for the tests of sharding; every other test runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
# [N] + [N, 1] is almost always a mistake; code under test broadcasts by name.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a property compiles, so no deadline is fair. A run of CI can be repeated exactly.
hypothesis.settings.register_profile("dms", deadline=None, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("dms")


@pytest.fixture(scope="module")
def hasty():
    """Compile fast rather than well: in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
