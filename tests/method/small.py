"""Networks of two groups or three, and searches over them."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import Schedule, Search, Searchable


class Toy(Searchable):
    """Two residual blocks and a hidden layer."""

    @nn.compact
    def __call__(self, x):
        depth, wide = self.elements("depth", 2), self.elements("wide", 12)
        for i in depth.kept:
            inner = self.elements(f"inner{i}", 6)
            y = inner(nn.tanh(nn.Dense(inner.size, name=f"up{i}")(x)))
            x = x + depth.gate(i) * nn.Dense(x.shape[-1], name=f"down{i}")(y)
        self.sow("intermediates", "stream", x)
        return nn.Dense(1, name="out")(wide(nn.tanh(nn.Dense(wide.size, name="in")(x))))


class Counted(Searchable):
    """With variables that are not trained."""

    @nn.compact
    def __call__(self, x):
        for name, shape in (("n", (3,)), ("m", ())):
            self.variable("stats", name, jnp.zeros, shape)
        wide = self.elements("wide", 12)
        return nn.Dense(1, name="out")(wide(nn.tanh(nn.Dense(wide.size, name="in")(x))))


X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 5)), jnp.float32)
Y = jnp.sum(X[:, :2], axis=-1, keepdims=True)
KEY = jax.random.key(0)


def loss(params, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(Toy().apply(params, x) - y)), {"metrics": {"seen": jnp.float32(1)}}


def searcher(space, **options):
    given = dict(optimizer=optax.sgd(0.01), budget={"macs": 0.4}, steps=Schedule(20, warmup=4))
    return Search(space, options.pop("loss", loss), **(given | options))


def run(search, variables, steps, batch=(X, Y)):
    """States 0 ... steps and the metrics of each step."""
    step, states, metrics = jax.jit(search.step), [search.init(variables)], []
    for _ in range(steps):
        state, report = step(states[-1], batch, KEY)
        states.append(state)
        metrics.append(report)
    return states, metrics
