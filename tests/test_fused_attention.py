"""cuDNN's attention in a search: read, run smaller and differentiated on shapes alone, where no GPU is."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from dms_jax import Schedule, Search, SearchSpace, models, shrink
from dms_jax.models import llama
from dms_jax.training.language import language_loss
from dms_jax.training.memory import abstract_variables

KERNELS = ("dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper")
EXAMPLE = jax.ShapeDtypeStruct((1, 16), jnp.int32)
BATCH = {"tokens": jax.ShapeDtypeStruct((2, 17), jnp.int32)}


@pytest.fixture
def fast(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_is_flash_attention", lambda *_: None)
    monkeypatch.setattr(llama, "_has_fast_kernel", lambda q: True)


@pytest.fixture
def model():
    return models.create(
        "llama", vocabulary=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=24, dtype="bfloat16"
    )


def kernels(fn, *arguments):
    text = str(jax.make_jaxpr(fn)(*arguments))
    return [text.count(name) for name in KERNELS]


def halves(space):
    return {name: tuple(range(max(group.least, group.size // 2))) for name, group in space.groups.items()}


def test_a_search_step_and_the_small_loss_have_the_kernel(fast, model):
    space, loss = SearchSpace.from_model(model, EXAMPLE), language_loss(model)
    variables = abstract_variables(model)
    search = Search(space, loss, optax.sgd(0.1), {"params": 0.5}, Schedule(5))
    assert kernels(search.step, jax.eval_shape(search.init, variables), BATCH, jax.random.key(0)) == [2, 2]
    structure = halves(space) | {"depth": (0,)}
    small, run = shrink(space, variables, structure), space.shrunk(loss, structure)

    def task(params, batch):
        return run(params, batch, jax.random.key(0))[0]

    assert kernels(jax.grad(task), small, BATCH) == [1, 1]
    gradients = jax.eval_shape(jax.grad(task), small, BATCH)
    assert jax.tree.map(lambda x: x.shape, gradients) == jax.tree.map(lambda x: x.shape, small)


def test_groups_and_costs_are_those_of_attention_without_it(fast, model, monkeypatch):
    variables = abstract_variables(model)
    with_it = SearchSpace.from_function(lambda params, x: model.apply(params, x), variables, EXAMPLE)
    monkeypatch.setattr(llama, "_has_fast_kernel", lambda q: False)
    without = SearchSpace.from_function(lambda params, x: model.apply(params, x), variables, EXAMPLE)
    assert with_it.groups == without.groups and "layer0/attention/heads" in with_it.groups
    assert with_it.resources(halves(with_it)) == without.resources(halves(without))
