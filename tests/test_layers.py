"""Mask-aware normalisations: with 0/1 masks exactly the norm of the pruned vector."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import chex
import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import Searchable, layers
from tests.helpers import FINITE_DIFFERENCES, FLOAT32_ROUNDING

N = 8


class Normed(Searchable):
    norm: type[nn.Module]
    dtype: type | None = None

    @nn.compact
    def __call__(self, x):
        return self.norm(dtype=self.dtype, name="norm")(x, self.elements("width", x.shape[-1]))


NORMS = [(layers.LayerNorm, nn.LayerNorm), (layers.RMSNorm, nn.RMSNorm)]


def variables(norm):
    rng = np.random.default_rng(0)
    params = {"scale": rng.uniform(0.5, 2, N), "bias": rng.normal(size=N)}
    names = ["scale", "bias"] if norm is layers.LayerNorm else ["scale"]
    return {"params": {"norm": {name: jnp.asarray(params[name], jnp.float32) for name in names}}}


@pytest.mark.parametrize(("ours", "flaxs"), NORMS)
def test_without_masks_it_is_flaxs(ours, flaxs):
    x, v = jax.random.normal(jax.random.key(0), (2, 3, N)), variables(ours)
    expected = flaxs(use_fast_variance=False).apply({"params": v["params"]["norm"]}, x)
    np.testing.assert_allclose(Normed(ours).apply(v, x), expected, atol=5 * FLOAT32_ROUNDING)


@pytest.mark.parametrize(("ours", "flaxs"), NORMS)
@hypothesis.settings(max_examples=20)
@hypothesis.given(kept=st.sets(st.integers(0, N - 1), min_size=1))
def test_hard_masks_are_the_pruned_vectors_norm(ours, flaxs, kept):
    x, v, at = jax.random.normal(jax.random.key(1), (3, N)), variables(ours), np.array(sorted(kept))
    mask = jnp.asarray(np.isin(np.arange(N), at), jnp.float32)
    y = Normed(ours).apply({**v, "masks": {"width": mask}}, x)
    pruned = {name: leaf[at] for name, leaf in v["params"]["norm"].items()}
    np.testing.assert_allclose(y[:, at], flaxs(use_fast_variance=False).apply({"params": pruned}, x[:, at]), atol=1e-5)
    np.testing.assert_array_equal(y[:, np.setdiff1d(np.arange(N), at)], 0)


@pytest.mark.parametrize("norm", [layers.LayerNorm, layers.RMSNorm])
def test_gradients(norm):
    x, v = jax.random.normal(jax.random.key(2), (2, N)), variables(norm)
    mask = jnp.linspace(0.1, 1.0, N)

    def apply(x, mask, params):
        return Normed(norm).apply({"params": params, "masks": {"width": mask}}, x)

    chex.assert_numerical_grads(
        apply, (x, mask, v["params"]), order=1, atol=FINITE_DIFFERENCES, rtol=FINITE_DIFFERENCES
    )
    one = jnp.zeros(N).at[3].set(1.0)  # a single element left: its variance is zero
    grads = jax.grad(lambda *args: jnp.sum(jnp.sin(apply(*args))), (0, 1, 2))(x, one, v["params"])
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("norm", [layers.LayerNorm, layers.RMSNorm])
def test_statistics_are_float32_and_results_of_the_asked_type(norm):
    x = (1000 + jax.random.normal(jax.random.key(3), (2, N))).astype(jnp.bfloat16)
    v = {**variables(norm), "masks": {"width": jnp.ones(N)}}
    y = Normed(norm).apply(v, x)
    assert y.dtype == jnp.bfloat16
    wide = Normed(norm, dtype=jnp.float32).apply(v, x)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, Normed(norm).apply(v, x.astype(jnp.float32)), rtol=1e-5)
    shapes = jax.eval_shape(Normed(norm, dtype=jnp.bfloat16).init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes["params"])} == {jnp.dtype("float32")}
