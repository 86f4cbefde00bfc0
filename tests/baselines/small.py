"""A network with blocks, tied groups and a hidden layer, and what strategies see of it."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import Limits, Searchable
from dms_jax.method.strategy import Context

LIMITS = Limits(freeze=("inner3",), min_size={"wide": 5})


class Toy(Searchable):
    """Five residual blocks and a hidden layer."""

    @nn.compact
    def __call__(self, x):
        depth, wide = self.elements("depth", 5), self.elements("wide", 40)
        for i in depth.kept:
            inner = self.elements(f"inner{i}", 16)
            y = inner(nn.relu(nn.Dense(inner.size, name=f"up{i}")(x)))
            x = x + depth.gate(i) * nn.Dense(x.shape[-1], name=f"down{i}")(y)
        return nn.Dense(1, name="out")(wide(nn.relu(nn.Dense(wide.size, name="in")(x))))


X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 6)), jnp.float32)
Y = jnp.sin(2 * X[:, :1]) * X[:, 1:2]
KEY = jax.random.key(0)


def loss(params, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(Toy().apply(params, x) - y))


def context(layout, key=None, seed=1, goal=0.5):
    c = jnp.asarray(np.random.default_rng(seed).exponential(size=len(layout.of_element)), jnp.float32)
    return Context(c, {"macs": jnp.float32(goal)}, key, jnp.zeros(len(layout.size), bool))


def at_drawn_scores(strategy, layout):
    """Masks of a soft top-k at drawn scores and ratios, {group: [N]}, and of every group its scores and its k."""
    draw = np.random.default_rng(5)
    score = jnp.asarray(draw.normal(size=len(layout.of_element)), jnp.float32)
    a = jnp.asarray(draw.uniform(0.1, 0.6, len(layout.first)), jnp.float32)
    masks = layout.space.by_group(strategy.masks(layout, {"ratio": a, "score": score}, context(layout)))
    groups = enumerate(layout.space.by_group(score).items())
    return masks, {name: (s, len(s) * (1 - a[layout.ratio[i]])) for i, (name, s) in groups}
