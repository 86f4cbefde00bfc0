"""Where arrays are cut, joined, padded, repeated, looked up and written."""

import jax
import jax.lax as lax
import jax.numpy as jnp

from tests.program.outsiders import Table, program

TABLE: Table = {}
WIDE = {"w": (5, 12), "o": (6, 3)}
HEADS = {"k": (5, 2, 3), "v": (5, 2, 3), "q": (5, 4, 3), "o": (4, 3, 5)}


def conv(x, kernel, stride=1, **options):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


@program(TABLE, WIDE, (4, 5), groups={"w/bundle": 6}, include=["w/bundle"], plain=False)
def gate_of_every_other_channel(p, x):
    h = x @ p["w"]
    return h[..., ::2] * jax.nn.sigmoid(h[..., 1::2]) @ p["o"]


@program(TABLE, {"w": (5, 12), "o": (12, 3)}, (4, 5), groups={"w/bundle": 6}, include=["w/bundle"], plain=False)
def rotary_pairs(p, x):
    h = x @ p["w"]
    a, b = h[..., ::2], h[..., 1::2]
    return jnp.stack([a * 0.8 - b * 0.6, a * 0.6 + b * 0.8], -1).reshape(h.shape) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (4, 5), groups={"w/part0": 3})
def rotary_halves(p, x):
    h = x @ p["w"]
    a, b = jnp.split(h, 2, -1)
    return (h * jnp.cos(1.0) + jnp.concatenate([-b, a], -1) * jnp.sin(1.0)) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (4, 5), groups={"w/part0": 4, "w/part1": 2}, plain=False)
def rolled_channels(p, x):
    return jnp.roll(x @ p["w"], 2, -1) @ p["o"]


@program(TABLE, {"a": (5, 6), "b": (5, 9), "o": (9, 3)}, (4, 5), groups={"a": 6, "b/part2": 2}, plain=False)
def padded_shortcut(p, x):
    return jax.nn.relu(jnp.pad(x @ p["a"], ((0, 0), (1, 2)), constant_values=0.7) + x @ p["b"]) @ p["o"]


@program(
    TABLE,
    {"b": (5, 9), "a": (5, 6), "o": (8, 3)},
    (4, 5),
    groups={"b/part2": 5, "b/part0": 2, "b/part1": 2},
    plain=False,
)
def padded_and_cut(p, x):
    b = lax.pad(x @ p["b"], 0.0, ((0, 0, 0), (-2, 1, 0)))
    a = lax.pad(x @ p["a"], 0.5, ((0, 0, 0), (2, -1, 0)))
    return b @ p["o"], a @ p["o"][:7]


@program(TABLE, {"w": (5, 12), "o": (6, 3)}, (2, 5), groups={"o": 6, "o#2": 3}, plain=False)
def gradient_through_slices(p, x):
    def value(x):
        h = x @ p["w"]
        return jnp.sum(h[:, :6] * jax.nn.sigmoid(h[:, 6:]) @ p["o"])

    return jax.grad(value)(x)


def attend(q, k, v):
    scores = jax.nn.softmax(jnp.einsum("bthf,bshf->bhts", q, k) / 2)
    return jnp.einsum("bhts,bshf->bthf", scores, v)


@program(TABLE, HEADS, (2, 4, 5), groups={"heads": 2, "q/heads": 2}, plain=False)
def grouped_queries_by_repeat(p, x):
    q, k, v = (jnp.einsum("btd,dhf->bthf", x, p[name]) for name in "qkv")
    return jnp.einsum("bthf,hfd->btd", attend(q, jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)), p["o"])


@program(TABLE, HEADS, (2, 4, 5), groups={"heads": 2, "q/heads": 2}, plain=False)
def grouped_queries_by_tile(p, x):
    q, k, v = (jnp.einsum("btd,dhf->bthf", x, p[name]) for name in "qkv")
    return jnp.einsum("bthf,hfd->btd", attend(q, jnp.tile(k, (1, 1, 2, 1)), jnp.tile(v, (1, 1, 2, 1))), p["o"])


@program(TABLE, {"q": (5, 2, 4), "k": (5, 2, 4), "v": (5, 2, 4), "o": (2, 4, 3)}, (2, 7, 5), groups={"heads": 2})
def cosine_attention_that_heads_compete_in(p, x):
    q, k, v = (jnp.einsum("btd,dhf->bhtf", x, p[name]) for name in "qkv")
    q, k = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
    scores = 10 * jnp.einsum("bhtf,bhsf->bhts", q, k)
    return jnp.einsum("bhtf,hfd->btd", (jax.nn.softmax(scores) * jax.nn.softmax(scores, 1)) @ v, p["o"])


@program(TABLE, {"k": (3, 3, 2, 8), "k2": (1, 1, 4, 8), "o": (8, 3)}, (2, 4, 4, 2), groups={"k2/part1": 4})
def shuffled_channels(p, x):
    h = conv(x, p["k"])
    n, a, b, c = h.shape
    h = h.reshape(n, a, b, 2, c // 2).swapaxes(3, 4).reshape(n, a, b, c)
    return jax.nn.relu(conv(h, p["k2"], feature_group_count=2)).mean((1, 2)) @ p["o"]


@program(TABLE, {"k": (3, 3, 2, 8), "k2": (3, 3, 2, 4)}, (2, 4, 4, 2), groups={"k/part2": 2})
def shuffled_pixels(p, x):
    h = conv(x, p["k"])
    n, a, b, c = h.shape
    h = h.reshape(n, a, b, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * a, 2 * b, c // 4)
    return conv(h, p["k2"])


@program(
    TABLE, {"k": (1, 1, 2, 4), "p": (36, 5), "o": (5, 3)}, (2, 5, 5, 2), groups={"p": 5, "p/part1": 9}, plain=False
)
def patches(p, x):
    h = jax.nn.relu(conv(x, p["k"]))
    h = lax.conv_general_dilated_patches(h, (3, 3), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(h @ p["p"]).mean((1, 2)) @ p["o"]


@program(TABLE, {"k": (3, 3, 2, 6), "kt": (3, 3, 4, 6), "o": (4, 3)}, (2, 4, 4, 2), groups={"k": 6, "kt": 4})
def transposed_convolution(p, x):
    h = lax.conv_transpose(jax.nn.relu(conv(x, p["k"])), p["kt"], (2, 2), "SAME", transpose_kernel=True)
    return jax.nn.relu(h).mean((1, 2)) @ p["o"]


@program(TABLE, {"k": (1, 1, 2, 6), "d": (3, 3, 1, 6), "p": (1, 1, 6, 4)}, (2, 5, 5, 2), groups={"k": 6}, plain=False)
def depthwise_dilated_convolution(p, x):
    h = conv(jax.nn.relu6(conv(x, p["k"])), p["d"], feature_group_count=6, rhs_dilation=(2, 2))
    return conv(jax.nn.relu6(h), p["p"], 2)


@program(TABLE, {"k": (3, 3, 2, 6), "o": (6, 3)}, (2, 8, 8, 2), groups={"k": 6})
def gradient_of_a_maximum_over_windows(p, x):
    def pooled(h):
        return jnp.sum(jnp.sin(lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")))

    return jnp.mean(jax.grad(pooled)(conv(x, p["k"])), (1, 2)) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (2, 4, 5), groups={"w": 6})
def sorted_across(p, x):
    h = x @ p["w"]
    ranked = jnp.take_along_axis(h, jnp.argsort(h, axis=1), axis=1)
    best, _ = lax.top_k(jnp.swapaxes(h, 1, 2), 2)
    return jnp.sort(h, axis=1) @ p["o"] + ranked @ p["o"], jnp.swapaxes(best, 1, 2) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (2, 5), groups={"w": 6})
def added_to_rows(p, x):
    h = jax.nn.relu(x @ p["w"])
    return jnp.zeros((4, h.shape[-1])).at[jnp.array([1, 1])].add(h).at[0].set(h[0]) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (2, 5, 5), groups={"w": 6})
def messages_on_a_graph(p, x):
    source, target = jnp.array([0, 1, 1, 2, 0]), jnp.array([1, 2, 0, 3, 4])
    h = jax.nn.relu(x @ p["w"])
    total = jax.vmap(lambda h: jax.ops.segment_sum(h[source], target, 5))(h)
    most = jax.vmap(lambda h: jax.ops.segment_max(h[source], target, 5))(h)
    return (total + jnp.where(jnp.isfinite(most), most, 0)) @ p["o"]


@program(TABLE, {"e": (7, 6), "w": (6, 6), "o": (6, 7)}, jnp.array([1, 2]), groups={"e#2": 6, "w": 6})
def beams(p, first):
    state, score = jnp.repeat(p["e"][first][:, None], 2, 1), jnp.zeros((2, 2))
    for _ in range(2):
        after = jax.nn.log_softmax(jnp.tanh(state @ p["w"]) @ p["o"])
        score, best = lax.top_k((score[..., None] + after).reshape(2, -1), 2)
        state = jnp.take_along_axis(state, best[..., None] // 7, 1) + p["e"][best % 7]
    return score


@program(TABLE, {"k": (3, 3, 2, 6), "of": (3, 3, 2, 2), "o": (6, 3)}, (1, 4, 4, 2), groups={"k": 6})
def deformed_samples(p, x):
    h, moved = jax.nn.relu(conv(x, p["k"])), conv(x, p["of"])[0]
    at = jnp.stack(jnp.meshgrid(jnp.arange(4.0), jnp.arange(4.0), indexing="ij"), -1) + moved
    sample = jax.vmap(lambda c: jax.scipy.ndimage.map_coordinates(c, [at[..., 0], at[..., 1]], 1), -1, -1)
    return sample(h[0]).mean((0, 1)) @ p["o"]


@program(TABLE, {"a": (2, 3), "b": (4, 5), "o": (15, 3)}, (4, 8), groups={"b": 5}, plain=False)
def kronecker_product(p, x):
    return jnp.tanh(x @ jnp.kron(p["a"], p["b"])) @ p["o"]


@program(
    TABLE, {"h1": (5, 8), "h2": (8, 30), "o": (6, 3)}, (3, 5), (3, 5), groups={"h1": 8, "h2/part1": 6}, plain=False
)
def weights_made_by_a_network(p, z, x):
    w = (jax.nn.relu(z @ p["h1"]) @ p["h2"]).reshape(3, 5, 6)
    return jax.nn.relu(jnp.einsum("bi,bio->bo", x, w)) @ p["o"]


@program(TABLE, {"a": (5, 4), "b": (5, 6), "t": (4, 6, 7), "o": (7, 3)}, (2, 5), groups={"a": 4, "b": 6, "t": 7})
def bilinear_form(p, x):
    return jnp.einsum("bi,ijk,bj->bk", x @ p["a"], p["t"], x @ p["b"]) @ p["o"]


@program(
    TABLE,
    {"i": (3, 6), "s": (3, 6), "k": (3, 3, 6, 9), "o": (9, 2)},
    (3, 5, 5, 3),
    groups={"s": 6, "k": 9},
)
def kernels_of_every_sample(p, x):
    """`jax.vmap` of a convolution moves the axes of both operands into its reshapes."""
    style = jnp.tanh(jnp.mean(x, (1, 2)) @ p["s"])
    kernels = p["k"][None] * style[:, None, None, :, None]
    kernels = kernels * lax.rsqrt(jnp.sum(kernels**2, (1, 2, 3), keepdims=True) + 1e-6)
    return jax.nn.relu(jax.vmap(conv)((x @ p["i"])[:, None], kernels)[:, 0]) @ p["o"]


@program(
    TABLE,
    {"k": (3, 3, 2, 8), "s": (5, 8), "k2": (3, 3, 8, 4), "o": (4, 3)},
    (2, 4, 4, 2),
    (2, 5),
    groups={"k": 8, "k2": 4},
)
def a_kernel_for_every_image(p, x, z):
    """Styles scale the kernel, which is normalized again; images are groups of one grouped convolution."""
    h = jax.nn.relu(conv(x, p["k"]))
    kernels = p["k2"] * (1 + z @ p["s"])[:, None, None, :, None]
    kernels = kernels * lax.rsqrt(jnp.sum(kernels**2, (1, 2, 3), keepdims=True) + 1e-3)
    h = jnp.transpose(h, (1, 2, 0, 3)).reshape(1, *h.shape[1:3], -1)
    kernels = jnp.transpose(kernels, (1, 2, 3, 0, 4)).reshape(*p["k2"].shape[:3], -1)
    y = conv(h, kernels, feature_group_count=len(x)).reshape(*h.shape[1:3], len(x), -1)
    return jax.nn.relu(y).mean((0, 1)) @ p["o"]


@program(TABLE, {"e": (5, 6), "r": (4, 6), "o": (6, 3)}, (2, 3, 5), groups={"e": 6, "r": 4})
def tokens_that_are_learned(p, x):
    """They stand beside those of the input, compete with them, and are counted with them."""
    h = jnp.concatenate([x @ p["e"], jnp.broadcast_to(p["r"], (len(x), *p["r"].shape))], 1)
    return (jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", h, h)) @ h).mean(1) @ p["o"]


@program(TABLE, {"qkv": (5, 24), "o": (8, 5)}, (2, 3, 5), groups={"qkv/heads": 2}, plain=False)
def queries_keys_and_values_end_to_end(p, x):
    """What comes after the features of queries are the heads of keys, and no more features."""
    q, k, v = (y.reshape(*x.shape[:2], 2, -1) for y in jnp.split(x @ p["qkv"], 3, -1))
    return attend(q, k, v).reshape(*x.shape[:2], -1) @ p["o"]
