"""Every image family computes in bfloat16 with float32 parameters, statistics and logits, and a search does, too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Schedule, Search, SearchSpace
from dms_jax.training import supervised
from tests.counting import equations, random_variables
from tests.models.small import CLASSES, NETWORKS, SIZE, images

IN_HALF = {"dot_general", "conv_general_dilated"}
IN_FULL = {"exp", "log", "rsqrt", "sqrt"}  # softmax and norms


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_in_half_precision_and_the_rest_in_full(name):
    model = NETWORKS[name].clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(model.init, jax.random.key(0), images())
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}

    def train(v, x):
        return model.apply(v, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})

    kinds: dict[str, set[str]] = {}
    for equation in equations(jax.make_jaxpr(train)(variables, images()).jaxpr):
        kinds.setdefault(equation.primitive.name, set()).update(str(v.aval.dtype) for v in equation.invars)
    for primitive, dtypes in kinds.items():
        assert primitive not in IN_HALF or dtypes == {"bfloat16"}, primitive
        assert primitive not in IN_FULL or dtypes == {"float32"}, primitive
    assert IN_HALF & set(kinds) and IN_FULL & set(kinds)


@pytest.mark.parametrize("name", ["resnet_basic", "efficientnet", "deit_distilled", "swin"])  # every kind of product
def test_a_search_in_half_precision(name):
    model = NETWORKS[name].clone(dtype=jnp.bfloat16)
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32))
    search = Search(space, supervised.classification_loss(model), optax.sgd(0.01), {"macs": 0.5}, Schedule(4))
    state, step = search.init(random_variables(space)), jax.jit(search.step)
    batch = {"image": images(4), "label": jnp.arange(4) % CLASSES}
    for _ in range(search.schedule.steps):
        state, metrics = step(state, batch, jax.random.key(1))
    assert float(metrics["importance_skipped"]) == 0
    for leaf in jax.tree.leaves((state.params, state.ratios, state.importance, search.masks(state), metrics)):
        assert jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))
    # a group of one element has nothing to compare
    assert all(float(jnp.max(c)) > 0 for c in state.importance.values() if len(c) > 1)
    assert float(jnp.min(search.flat_masks(state.ratios, space.flat(state.importance), state.step))) < 0.97
