"""Networks that choose or gather: mixtures of experts and a graph network, of Linen modules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.networks.linen_building import build
from tests.networks.network import Network, vectors


class DenseExperts(nn.Module):
    """Every expert sees every token; a softmax weighs them."""

    experts: int = 3
    hidden: int = 12

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        y = nn.LayerNorm()(x)
        weights = nn.softmax(nn.Dense(self.experts, name="router")(y))
        up, down = _expert_kernels(self, x.shape[-1])
        h = nn.gelu(jnp.einsum("btd,edh->bteh", y, up))
        h = nn.Dropout(0.1, deterministic=deterministic)(h)
        x = x + jnp.einsum("bteh,ehd,bte->btd", h, down, weights)
        return nn.Dense(5)(x)


class RoutedExperts(nn.Module):
    """Every token goes to the expert with the highest score, by one-hot dispatch without capacity."""

    experts: int = 3
    hidden: int = 12

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        y = nn.LayerNorm()(x)
        scores = nn.softmax(nn.Dense(self.experts, name="router")(y))
        chosen = jax.nn.one_hot(jnp.argmax(scores, axis=-1), self.experts)
        up, down = _expert_kernels(self, x.shape[-1])
        h = nn.relu(jnp.einsum("btd,bte,edh->bteh", y, chosen, up))
        h = nn.Dropout(0.1, deterministic=deterministic)(h)
        y = jnp.einsum("bteh,ehd->bted", h, down)
        x = x + jnp.sum(y * (chosen * scores)[..., None], axis=2)
        return nn.Dense(5)(x)


class GraphNetwork(nn.Module):
    """Messages along edges are summed at their receivers; nodes are averaged at the end."""

    hidden: int = 12

    @nn.compact
    def __call__(self, nodes, senders, receivers, deterministic: bool = True):
        x = nn.Dense(8)(nodes)
        for _ in range(2):
            pairs = jnp.concatenate([x[senders], x[receivers]], axis=-1)
            messages = nn.relu(nn.Dense(self.hidden)(pairs))
            received = jax.ops.segment_sum(messages, receivers, num_segments=x.shape[0])
            update = nn.Dense(8)(jnp.concatenate([x, received], axis=-1))
            x = x + nn.Dropout(0.1, deterministic=deterministic)(nn.relu(update))
        return nn.Dense(3)(x.mean(0))


def _expert_kernels(module: DenseExperts | RoutedExperts, width: int):
    init = nn.initializers.lecun_normal(batch_axis=(0,))
    up = module.param("up", init, (module.experts, width, module.hidden))
    return up, module.param("down", init, (module.experts, module.hidden, width))


TRAIN = {"deterministic": False}


def dense_experts() -> Network:
    return build("dense_experts", DenseExperts(), vectors(2, 5, 8), train=TRAIN)


def routed_experts() -> Network:
    return build("routed_experts", RoutedExperts(), vectors(2, 5, 8), train=TRAIN)


def graph() -> Network:
    senders = np.array([0, 1, 2, 3, 4, 0, 2], np.int32)
    receivers = np.array([1, 2, 3, 4, 0, 2, 4], np.int32)
    return build("graph", GraphNetwork(), vectors(5, 6), senders, receivers, train=TRAIN)
