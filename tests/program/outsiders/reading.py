"""What runs over a searched axis: norms, softmax, extremes, positions that a network computes with."""

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np

from tests.program.outsiders import Table, program

TABLE: Table = {}
WIDE = {"w": (5, 6), "o": (6, 3)}


@program(TABLE, WIDE, (2, 5), groups={"w": 6}, scale=60.0)
def softmax_of_loud_channels(p, x):
    """exp(x - max x) would overflow at dropped channels, where x is above all that is kept."""
    h = x @ p["w"]
    e = jnp.exp(h - h.max(-1, keepdims=True))
    return (jax.nn.softmax(h) + e / e.sum(-1, keepdims=True) + h - jax.nn.logsumexp(h, -1, keepdims=True)) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def the_largest_channel_stands_out(p, x):
    """What is read is compared with what it was read from: equal to the bit."""
    h = x @ p["w"]
    return jnp.where(h == h.max(-1, keepdims=True), h, 0.1 * h) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def between_the_least_and_the_largest(p, x):
    h = x @ p["w"]
    return (h - h.min(-1, keepdims=True)) / (1e-2 + jnp.ptp(h, -1, keepdims=True)) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def every_norm(p, x):
    h = x @ p["w"]
    orders = (1, 2, 3, jnp.inf, -jnp.inf)
    return h * (1 + sum(jnp.linalg.norm(h, order, axis=-1, keepdims=True) for order in orders)) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def forbidden_channels(p, x):
    """-inf along the axis itself, as masks of attention have it."""
    h = x @ p["w"]
    h = jnp.where(h > 0, h, -jnp.inf)
    top = jnp.max(h, -1, keepdims=True)
    return jnp.where(jnp.isfinite(h), jnp.exp(h - jnp.where(jnp.isfinite(top), top, 0)), 0) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def power_norm_and_standard_deviation(p, x):
    h = x @ p["w"]
    h = h / jnp.sum(jnp.abs(h) ** 3, -1, keepdims=True) ** (1 / 3)
    return h / (h.std(-1, keepdims=True) + 0.1) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def everything_cumulative(p, x):
    h = x @ p["w"]
    sums = jnp.cumsum(h, -1) + lax.cummax(h, axis=1) + lax.cumlogsumexp(h, axis=1, reverse=True)
    return (sums + jnp.cumprod(1 + 0.1 * h, -1)) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def own_batch_statistics(p, x):
    """A product side by side over channels that leaves nothing else: no attention heads."""
    h = x @ p["w"]
    mean = jnp.ones(len(h)) @ h / len(h)
    return (h - mean) / jnp.sqrt(jnp.einsum("bc,bc->c", h, h) / len(h) - mean**2 + 0.1) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def counts_and_truths(p, x):
    h = x @ p["w"]
    h = jnp.where(jnp.any(h > 1.5, -1, keepdims=True), h, -h) * jnp.all(h > -2, -1, keepdims=True)
    return h / (1 + jnp.count_nonzero(h > 0, -1, keepdims=True)) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def entropy(p, x):
    q = jax.nn.softmax(x @ p["w"])
    return -jnp.sum(q * jnp.log(q + 1e-9), -1), (q * jax.nn.log_softmax(x @ p["w"])) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def threshold_by_iteration(p, x):
    h = x @ p["w"]
    t = jnp.mean(h, -1, keepdims=True)
    for _ in range(3):
        s = h > t
        t = (jnp.sum(jnp.where(s, h, 0), -1, keepdims=True) - 1) / jnp.maximum(jnp.sum(s, -1, keepdims=True), 1)
    return jax.nn.relu(h - t) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w/part0": 5, "o": 6}, plain=False)
def numbers_of_positions(p, x):
    h = x @ p["w"]
    d = h.shape[-1]
    h = h / jnp.sqrt(d) + jnp.arange(d) / d + jnp.linspace(0, 1, d) + jax.nn.one_hot(2, d)
    return h @ (jnp.eye(d) + jnp.tri(d)) * np.sin(np.arange(d)) @ p["o"] * d


@program(TABLE, WIDE, (4, 5), groups={"w": 6}, plain=False)
def unbiased_variance(p, x):
    """It divides by N - 1, a number like any other: masked and small network have the same."""
    h = x @ p["w"]
    return h * jnp.var(h, -1, ddof=1, keepdims=True) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6}, plain=False)
def noise_that_is_always_the_same(p, x):
    h = x @ p["w"]
    first, second = jax.random.split(jax.random.key(0))
    drop = jax.random.bernoulli(first, 0.7, h.shape)
    rows = jax.vmap(lambda key: jax.random.normal(key, (4,)))(jax.random.split(second, h.shape[-1])).T
    return (h * drop * jax.random.gamma(second, 2.0, h.shape[-1:]) + rows) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (12, 3)}, (4, 5), groups={"w": 6, "o": 12}, plain=False)
def random_features_of_a_kernel(p, x):
    h = x @ p["w"]
    return jnp.cos(h @ jax.random.normal(jax.random.PRNGKey(0), (h.shape[-1], 12))) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def casts_on_the_way(p, x):
    """A factor does not pass a cast to integers or truth values."""
    h = (3 * (x @ p["w"])).astype(jnp.int32).astype(jnp.float32)
    return h @ p["o"], (h**2) @ p["o"], jnp.tanh(h) @ p["o"].astype(bool).astype(jnp.float32)


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def gram_matrices(p, x):
    h = jnp.tanh(x @ p["w"])
    lower = jnp.linalg.cholesky(h @ h.T + jnp.eye(len(x)))
    return jax.scipy.linalg.solve_triangular(lower, h, lower=True) @ p["o"], jnp.sum((h.T @ h) ** 2)


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def neighbours(p, x):
    h = x @ p["w"]
    _, near = lax.top_k(-jnp.sum((h[:, None] - h[None]) ** 2, -1), 2)
    return jnp.mean(h[near], 1) @ p["o"]


@program(TABLE, {"r": (5, 6), "i": (5, 6), "o": (6, 3)}, (2, 5), groups={"r": 6})
def complex_numbers(p, x):
    z = lax.complex(x @ p["r"], x @ p["i"])
    z = z * jnp.conj(z) + z**2
    return jnp.real(z @ (p["o"] + 0j)) + jnp.abs(z) @ p["o"]


@program(TABLE, WIDE, (2, 8, 5), groups={"w": 6})
def filter_in_frequencies(p, x):
    h = jnp.fft.rfft(x @ p["w"], axis=1) * jnp.exp(1j * jnp.arange(5))[:, None]
    return jnp.fft.irfft(h, n=8, axis=1) @ p["o"]


@program(TABLE, {"v": (5, 6), "g": (6,), "v2": (6, 3), "g2": (3,)}, (2, 5), groups={"v": 6})
def weight_norm(p, x):
    def normed(v, g):
        return g * v / jnp.linalg.norm(v, axis=0, keepdims=True)

    return jax.nn.relu(x @ normed(p["v"], p["g"])) @ normed(p["v2"], p["g2"])


@program(TABLE, {"w": (5, 6), "u": (6,), "o": (6, 3)}, (2, 5), groups={"w": 6})
def spectral_norm(p, x):
    u = p["u"]
    for _ in range(2):
        v = p["w"] @ u
        v = v / (jnp.linalg.norm(v) + 1e-6)
        u = v @ p["w"]
        u = u / (jnp.linalg.norm(u) + 1e-6)
    return jnp.tanh(x @ (p["w"] / (v @ p["w"] @ u))) @ p["o"]


@program(TABLE, {"w": (5, 6), "a": (5, 4), "b": (4, 6), "o": (6, 3)}, (2, 5), groups={"a": 4, "b": 6})
def low_rank_adapter(p, x):
    return jax.nn.relu(x @ (p["w"] + 0.5 * p["a"] @ p["b"])) @ p["o"]


@program(TABLE, {"w": (5, 6)}, (2, 5), groups={"w": 6})
def tied_to_its_own_transpose(p, x):
    return jnp.tanh(x @ p["w"]) @ p["w"].T + x @ (p["w"] @ p["w"].T)
