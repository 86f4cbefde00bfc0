"""Networks of plain JAX: residual branches and normalizations by hand."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.networks.network import Network, plain, vectors


def _mlp(x, p):
    return jax.nn.gelu(x @ p["up"] + p["up_bias"]) @ p["down"] + p["down_bias"]


def _mlp_shapes(width: int, hidden: int) -> dict[str, Any]:
    return {"up": (width, hidden), "up_bias": (hidden,), "down": (hidden, width), "down_bias": (width,)}


def rezero() -> Network:
    """Every branch is multiplied by a scalar of its own."""

    def plain_rezero(params, x):
        x = x @ params["stem"]
        for layer in params["layers"]:
            x = x + layer["alpha"] * _mlp(x, layer)
        return x @ params["head"]

    layers = [_mlp_shapes(8, 12) | {"alpha": ()} for _ in range(3)]
    return plain(plain_rezero, {"stem": (6, 8), "layers": layers, "head": (8, 4)}, vectors(3, 6))


def layer_scale() -> Network:
    """A branch times a vector, and times a gate of the input: x + gate * gamma * y."""

    def plain_layer_scale(params, x):
        x = x @ params["stem"]
        for layer in params["layers"]:
            gate = jax.nn.sigmoid(x @ layer["gate"])
            x = x + gate * layer["gamma"] * _mlp(x, layer)
        return x @ params["head"]

    layers = [_mlp_shapes(8, 12) | {"gamma": (8,), "gate": (8, 1)} for _ in range(2)]
    return plain(plain_layer_scale, {"stem": (6, 8), "layers": layers, "head": (8, 4)}, vectors(3, 6))


def rms_norm() -> Network:
    def plain_rms_norm(params, x):
        x = x @ params["stem"]
        for layer in params["layers"]:
            y = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * layer["scale"]
            x = x + _mlp(y, layer)
        x = x / jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
        return x @ params["head"]

    layers = [_mlp_shapes(8, 12) | {"scale": (8,)} for _ in range(2)]
    return plain(plain_rms_norm, {"stem": (6, 8), "layers": layers, "head": (8, 4)}, vectors(3, 6))


def weight_norm() -> Network:
    """Columns of kernels have the norms `gamma`."""

    def dense(x, p):
        norm = jnp.sqrt(jnp.sum(p["direction"] ** 2, axis=0, keepdims=True))
        return x @ (p["direction"] / norm * p["gamma"]) + p["bias"]

    def plain_weight_norm(params, x):
        *hidden, last = params
        for layer in hidden:
            x = jnp.tanh(dense(x, layer))
        return dense(x, last)

    sizes = [(6, 10), (10, 8), (8, 4)]
    return plain(
        plain_weight_norm, [{"direction": size, "gamma": size[1:], "bias": size[1:]} for size in sizes], vectors(3, 6)
    )


def spectral_norm() -> Network:
    """Kernels are divided by an estimate of their largest singular value: one step from a vector of parameters."""

    def plain_spectral_norm(params, x):
        for index, layer in enumerate(params):
            w = layer["kernel"]
            v = w.T @ layer["u"]
            v = v / jnp.linalg.norm(v)
            u = w @ v
            sigma = jnp.vdot(u / jnp.linalg.norm(u), w @ v)
            x = x @ (w / sigma) + layer["bias"]
            x = jax.nn.leaky_relu(x) if index < len(params) - 1 else x
        return x

    sizes = [(6, 10), (10, 8), (8, 4)]
    return plain(
        plain_spectral_norm, [{"kernel": size, "u": size[:1], "bias": size[1:]} for size in sizes], vectors(3, 6)
    )


def l2_features() -> Network:
    """Features of length one against prototypes of length one."""

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def plain_l2_features(params, x):
        h = jax.nn.relu(x @ params["first"] + params["bias"])
        return 10 * unit(h @ params["second"]) @ unit(params["prototypes"]).T

    shapes = {"first": (6, 12), "bias": (12,), "second": (12, 8), "prototypes": (4, 8)}
    return plain(plain_l2_features, shapes, vectors(3, 6))


def mean_by_dot() -> Network:
    """Centers features by a mean that is a product with a constant vector."""

    def plain_mean_by_dot(params, x):
        h = x @ params["first"] + params["bias"]
        mean = h @ jnp.full((h.shape[-1],), 1 / h.shape[-1])
        return jax.nn.relu(h - mean[:, None]) @ params["second"]

    return plain(plain_mean_by_dot, {"first": (6, 12), "bias": (12,), "second": (12, 4)}, vectors(3, 6))


def auxiliary_head() -> Network:
    """Training adds a second head, after the first hidden layer, and dropout."""

    def hidden(x, p):
        return jax.nn.relu(x @ p["kernel"] + p["bias"])

    def plain_auxiliary_head(params, x):
        return hidden(hidden(x, params["first"]), params["second"]) @ params["head"]

    def train(params, x, key):
        h = hidden(x, params["first"])
        auxiliary = jnp.tanh(h @ params["auxiliary"]["kernel"]) @ params["auxiliary"]["head"]
        h = hidden(h, params["second"])
        h = jnp.where(jax.random.bernoulli(key, 0.8, h.shape), h / 0.8, 0)
        return (h @ params["head"], auxiliary), {}

    shapes = {
        "first": {"kernel": (6, 12), "bias": (12,)},
        "second": {"kernel": (12, 8), "bias": (8,)},
        "head": (8, 4),
        "auxiliary": {"kernel": (12, 10), "head": (10, 4)},
    }
    return plain(plain_auxiliary_head, shapes, vectors(3, 6), train=train)
