"""Networks of plain JAX: features that are shared, split, grouped, shuffled or accumulated."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.networks.network import Network, images, plain, vectors


def _conv(x, kernel, strides=1, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def cumulative_sum() -> Network:
    """Sums over time, and over features."""

    def plain_cumulative_sum(params, x):
        h = jnp.tanh(x @ params["first"] + params["bias"])
        h = jnp.cumsum(h, axis=1) / jnp.arange(1, h.shape[1] + 1)[None, :, None]
        return jnp.cumsum(h @ params["second"], axis=-1) @ params["third"]

    shapes = {"first": (6, 12), "bias": (12,), "second": (12, 8), "third": (8, 4)}
    return plain(plain_cumulative_sum, shapes, vectors(2, 5, 6))


def sigmoid_after() -> Network:
    """Hidden features that are not zero where what enters them is."""

    def plain_sigmoid_after(params, x):
        h = jax.nn.sigmoid(x @ params["first"] + params["bias"])
        h = jnp.exp(-h @ params["second"]) + 1
        return h @ params["third"]

    shapes = {"first": (6, 12), "bias": (12,), "second": (12, 8), "third": (8, 4)}
    return plain(plain_sigmoid_after, shapes, vectors(3, 6))


def tied_autoencoder() -> Network:
    """The decoder's kernels are the encoder's, transposed."""

    def plain_tied_autoencoder(params, x):
        for kernel, bias in zip(params["kernels"], params["encode"], strict=True):
            x = jnp.tanh(x @ kernel + bias)
        for kernel, bias in zip(params["kernels"][::-1], params["decode"], strict=True):
            x = x @ kernel.T + bias
        return x

    shapes = {"kernels": [(6, 12), (12, 5)], "encode": [(12,), (5,)], "decode": [(12,), (6,)]}
    return plain(plain_tied_autoencoder, shapes, vectors(3, 6))


def channel_shuffle() -> Network:
    """Grouped pointwise convolutions with their groups interleaved in between."""

    def plain_channel_shuffle(params, x):
        x = jax.nn.relu(_conv(x, params["stem"]) + params["bias"])
        y = jax.nn.relu(_conv(x, params["first"], groups=3) + params["first_bias"])
        b, h, w, c = y.shape
        y = y.reshape(b, h, w, 3, c // 3).swapaxes(3, 4).reshape(b, h, w, c)
        x = x + _conv(y, params["second"], groups=3)
        return x.mean((1, 2)) @ params["head"]

    shapes = {
        "stem": (3, 3, 3, 12), "bias": (12,), "first": (1, 1, 4, 24), "first_bias": (24,), "second": (1, 1, 8, 12),
        "head": (12, 4),
    }  # fmt: skip
    return plain(plain_channel_shuffle, shapes, images(2, 6))


def grouped_convolution() -> Network:
    """A grouped convolution, then a group normalization."""

    def plain_grouped_convolution(params, x):
        x = jax.nn.relu(_conv(x, params["stem"]) + params["bias"])
        y = _conv(x, params["grouped"], groups=4)
        groups = y.reshape(*y.shape[:-1], 2, y.shape[-1] // 2)
        mean = groups.mean((1, 2, 4), keepdims=True)
        variance = groups.var((1, 2, 4), keepdims=True)
        y = ((groups - mean) / jnp.sqrt(variance + 1e-5)).reshape(y.shape)
        y = jax.nn.relu(y * params["scale"] + params["offset"])
        return y.mean((1, 2)) @ params["head"]

    shapes = {
        "stem": (3, 3, 3, 8), "bias": (8,), "grouped": (3, 3, 2, 16), "scale": (16,), "offset": (16,), "head": (16, 4)
    }  # fmt: skip
    return plain(plain_grouped_convolution, shapes, images(2, 6))


def dense_concatenation() -> Network:
    """Every layer reads what all before it wrote."""

    def plain_dense_concatenation(params, x):
        x = _conv(x, params["stem"])
        for layer in params["layers"]:
            y = jax.nn.relu(x * layer["scale"] + layer["offset"])
            x = jnp.concatenate([x, _conv(y, layer["kernel"])], axis=-1)
        return jax.nn.relu(x).mean((1, 2)) @ params["head"]

    widths = (6, 11, 16)
    layers = [{"scale": (n,), "offset": (n,), "kernel": (3, 3, n, 5)} for n in widths]
    return plain(plain_dense_concatenation, {"stem": (3, 3, 3, 6), "layers": layers, "head": (21, 4)}, images(2, 6))


def uneven_split() -> Network:
    """One projection that is cut into a gated half, its gate and a rest of another size."""

    def plain_uneven_split(params, x):
        h = x @ params["in"] + params["bias"]
        value, gate, rest = jnp.split(h, [8, 16], axis=-1)
        return (value * jax.nn.sigmoid(gate)) @ params["out"] + jnp.tanh(rest) @ params["more"]

    shapes = {"in": (6, 21), "bias": (21,), "out": (8, 4), "more": (5, 4)}
    return plain(plain_uneven_split, shapes, vectors(3, 6))


def pixel_shuffle() -> Network:
    """Twice the resolution: groups of four channels become squares of pixels."""

    def plain_pixel_shuffle(params, x):
        x = jax.nn.relu(_conv(x, params["first"]) + params["bias"])
        x = _conv(x, params["second"])
        b, h, w, c = x.shape
        x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
        return _conv(jax.nn.relu(x), params["third"])

    shapes = {"first": (3, 3, 3, 8), "bias": (8,), "second": (3, 3, 8, 24), "third": (3, 3, 6, 2)}
    return plain(plain_pixel_shuffle, shapes, images(2, 4))


def ragged_dot() -> Network:
    """Rows are sorted by expert; every expert multiplies its own."""

    def plain_ragged_dot(params, x):
        chosen = jnp.argmax(x @ params["router"], axis=-1)
        order = jnp.argsort(chosen)
        sizes = jnp.bincount(chosen, length=params["up"].shape[0]).astype(jnp.int32)
        h = jax.nn.relu(jax.lax.ragged_dot(x[order], params["up"], sizes))
        y = jax.lax.ragged_dot(h, params["down"], sizes)
        return (x + y[jnp.argsort(order)]) @ params["head"]

    shapes = {"router": (6, 3), "up": (3, 6, 12), "down": (3, 12, 6), "head": (6, 4)}
    return plain(plain_ragged_dot, shapes, vectors(8, 6))


def grouped_query() -> Network:
    """Causal attention with two heads of queries for every head of keys, and rotary positions."""

    def rotate(x):
        half = x.shape[-1] // 2
        angles = np.arange(x.shape[1])[:, None] / 100 ** (np.arange(half) / half)
        sin, cos = np.sin(angles)[None, :, None].astype(x.dtype), np.cos(angles)[None, :, None].astype(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def plain_grouped_query(params, x):
        x = x @ params["stem"]
        for layer in params["layers"]:
            normed = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * layer["scale"]
            q = rotate(jnp.einsum("btd,dhk->bthk", normed, layer["query"]))
            k = rotate(jnp.einsum("btd,dhk->bthk", normed, layer["key"]))
            v = jnp.einsum("btd,dhk->bthk", normed, layer["value"])
            q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
            scores = jnp.einsum("bthgk,bshk->bhgts", q, k) / np.sqrt(q.shape[-1])
            mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
            y = jnp.einsum("bhgts,bshk->bthgk", weights, v)
            x = x + jnp.einsum("bthk,hkd->btd", y.reshape(*y.shape[:2], -1, y.shape[-1]), layer["out"])
        return x @ params["head"]

    layer = {"scale": (12,), "query": (12, 4, 6), "key": (12, 2, 6), "value": (12, 2, 6), "out": (4, 6, 12)}
    return plain(plain_grouped_query, {"stem": (6, 12), "layers": [layer] * 2, "head": (12, 4)}, vectors(2, 5, 6))
