"""Law 7: a search over a mesh of eight devices is that of one device, to rounding."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dms_jax import Schedule, Search, Searchable, SearchSpace
from tests.counting import random_variables
from tests.helpers import FLOAT32_GRADIENTS


class Net(Searchable):
    @nn.compact
    def __call__(self, x, *, train=False):
        a, depth = self.elements("a", 8), self.elements("depth", 2)
        x = nn.Conv(a.size, (3, 3), name="stem")(x)
        for i in depth.kept:
            mid = self.elements(f"mid{i}", 6)
            y = nn.Conv(mid.size, (3, 3), name=f"conv{i}")(a(x))
            y = mid(nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm{i}")(y)))
            x = x + depth.gate(i) * nn.Conv(a.size, (1, 1), name=f"out{i}")(y)
        return nn.Dense(3, name="head")(a(jnp.mean(x, axis=(1, 2))))


def loss(variables, batch, key):
    x, labels = batch
    logits, changed = Net().apply(variables, x, train=True, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), {"state": changed}


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices; tests/conftest.py makes them of the CPU")
def test_eight_devices_are_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 6, 6, 3)), jnp.float32)
    space = SearchSpace.from_model(Net(), x[:1])
    search = Search(space, loss, optax.sgd(0.05, momentum=0.9), {"macs": 0.4, "params": 0.5}, Schedule(9, warmup=3))
    batch, key = (x, jnp.arange(16) % 3), jax.random.key(0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, rows = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), ("data",)))
    step = jax.jit(search.step, donate_argnums=0)
    one = jax.device_put(search.init(random_variables(space)), jax.devices()[0])
    many = jax.device_put(search.init(random_variables(space)), everywhere)
    sharded = jax.device_put(batch, rows)
    assert len(sharded[0].sharding.device_set) == 8
    for _ in range(9):
        one, metrics_one = step(one, batch, key)
        many, metrics_many = step(many, sharded, key)
    chex.assert_trees_all_close(metrics_one, metrics_many, rtol=1e-3, atol=FLOAT32_GRADIENTS)
    chex.assert_trees_all_close(jax.device_get(one), jax.device_get(many), rtol=1e-3, atol=10 * FLOAT32_GRADIENTS)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(many))
    assert search.structure(one) == search.structure(many)
