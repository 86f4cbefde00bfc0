"""Loops, choices, residual branches and experts."""

import jax
import jax.lax as lax
import jax.numpy as jnp

from tests.program.outsiders import Table, program

TABLE: Table = {}
WIDE = {"w": (5, 6), "o": (6, 3)}
LAYERS = {"e": (5, 6), "l": {"a": (3, 6, 7), "b": (3, 7, 6), "g": (3,)}, "o": (6, 3)}


# --- loops and choices ---


@program(TABLE, {"w": (5, 6), "a": (6, 7), "b": (7, 6), "o": (6, 3)}, (2, 5), groups={"w": 6, "a": 7}, backward=False)
def adaptive_steps(p, x):
    def step(carry):
        h, t, dt = carry
        first = jnp.tanh(h @ p["a"]) @ p["b"]
        second = jnp.tanh((h + dt * first) @ p["a"]) @ p["b"]
        error = jnp.max(jnp.abs(first - second))
        return h + dt * (first + second) / 2, t + dt, jnp.clip(dt / (1 + error), 0.1, 0.5)

    return lax.while_loop(lambda carry: carry[1] < 1, step, (x @ p["w"], 0.0, 0.3))[0] @ p["o"]


@program(
    TABLE,
    {"w": (5, 6), "h": (6, 40), "o": (40, 3), "f": (3, 8), "f2": (8, 3)},
    (2, 5),
    (2, 3),
    groups={"w": 6, "h": 40, "f": 8},
)
def choice_whose_dearer_branch_changes(p, x, y):
    h = jnp.tanh(x @ p["w"])
    return lax.cond(jnp.sum(x) > 0, lambda: jnp.tanh(h @ p["h"]) @ p["o"], lambda: jnp.tanh(y @ p["f"]) @ p["f2"])


@program(
    TABLE,
    {"w": (5, 6), "a": (6, 4), "b": (6, 8), "c": (8, 4), "o": (4, 3)},
    (2, 5),
    groups={"w": 6, "a": 4, "b": 8},
)
def switch_with_products(p, x):
    ways = [lambda h: h @ p["a"], lambda h: jax.nn.relu(h @ p["b"]) @ p["c"], lambda h: jnp.tanh(h) @ p["a"]]
    return lax.switch(jnp.int32(jnp.sum(x)) % 3, ways, x @ p["w"]) @ p["o"]


@program(TABLE, WIDE, (2, 5), groups={"w": 6})
def mapped_over_channels(p, x):
    """Nothing is carried from one channel to the next."""
    return lax.map(lambda w: jnp.tanh(x @ w), p["w"].T).T @ p["o"]


@program(TABLE, WIDE, (2, 5), groups={"w": 6}, plain=False)
def channels_with_a_name(p, x):
    h = jax.vmap(lambda w: (x @ w) * (1 + lax.axis_index("c")), 1, 1, axis_name="c")(p["w"])
    return jax.vmap(lambda c: c - lax.pmean(c, "c"), 1, 1, axis_name="c")(h) @ p["o"]


@program(TABLE, {"q": (5, 6), "k": (5, 6), "v": (5, 7), "o": (7, 3)}, (2, 4, 5), groups={"k": 6, "v": 7})
def cache_of_keys_and_values(p, x):
    length = x.shape[1]

    def step(carry, x_t):
        keys, values, t = carry
        keys = lax.dynamic_update_slice_in_dim(keys, (x_t @ p["k"])[:, None], t, 1)
        values = lax.dynamic_update_slice_in_dim(values, (x_t @ p["v"])[:, None], t, 1)
        scores = jnp.einsum("bd,btd->bt", x_t @ p["q"], keys)
        scores = jax.nn.softmax(jnp.where(jnp.arange(length) <= t, scores, -1e9))
        return (keys, values, t + 1), jnp.einsum("bt,btd->bd", scores, values)

    empty = [jnp.zeros((len(x), length, p[name].shape[1])) for name in "kv"]
    return lax.scan(step, (*empty, 0), jnp.swapaxes(x, 0, 1))[1] @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 4), "t": (4, 4)}, (2, 7, 5), groups={"w": 6, "o": 4})
def paths_through_a_chain(p, x):
    e = jnp.tanh(x @ p["w"]) @ p["o"]
    total = lax.fori_loop(1, 7, lambda t, a: jax.nn.logsumexp(a[:, :, None] + p["t"], 1) + e[:, t], e[:, 0])
    best = lax.fori_loop(1, 7, lambda t, a: jnp.max(a[:, :, None] + p["t"], 1) + e[:, t], e[:, 0])
    return jax.nn.logsumexp(total, -1) - jnp.max(best, -1)


@program(
    TABLE,
    {"w": (5, 8), "dt": (8, 8), "B": (8, 4), "C": (8, 4), "A": (8, 4), "D": (8,), "o": (8, 3)},
    (2, 4, 5),
    groups={"w": 8, "B": 4},
)
def selective_state_space(p, x):
    u = jax.nn.silu(x @ p["w"])
    dt, b, c = jax.nn.softplus(u @ p["dt"]), u @ p["B"], u @ p["C"]
    decay, drive = jnp.exp(-dt[..., None] * jnp.exp(p["A"])), dt[..., None] * b[..., None, :] * u[..., None]
    _, h = lax.associative_scan(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (decay, drive), axis=1)
    return (jnp.einsum("btdn,btn->btd", h, c) + p["D"] * u) @ p["o"]


@program(TABLE, {"wi": (5, 24), "wh": (6, 24), "b": (24,), "o": (6, 3)}, (2, 4, 5), groups={"wi/part0": 6})
def lstm_by_hand(p, x):
    def step(carry, x_t):
        h, s = carry
        i, g, f, o = jnp.split(x_t @ p["wi"] + h @ p["wh"] + p["b"], 4, -1)
        s = jax.nn.sigmoid(f + 1) * s + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(s)
        return (h, s), h

    zero = jnp.zeros((2, p["wh"].shape[0]))
    return lax.scan(step, (zero, zero), x.swapaxes(0, 1))[1] @ p["o"]


@program(
    TABLE, {"w": (5, 3, 4), "t": (3, 2, 4, 4), "o": (8, 3)}, (2, 5), groups={"heads": 3, "w": 4, "t/heads": 2},
    plain=False,
)  # fmt: skip
def capsules_with_routing(p, x):
    def squash(s):
        squared = jnp.sum(s * s, -1, keepdims=True)
        return squared / (1 + squared) * s / jnp.sqrt(squared + 1e-6)

    votes = jnp.einsum("bcd,cjde->bcje", squash(jnp.einsum("bi,icd->bcd", x, p["w"])), p["t"])

    def route(_, b):
        v = squash(jnp.einsum("bcj,bcje->bje", jax.nn.softmax(b, 2), votes))
        return b + jnp.einsum("bcje,bje->bcj", votes, v)

    b = lax.fori_loop(0, 2, route, jnp.zeros(votes.shape[:3]))
    return squash(jnp.einsum("bcj,bcje->bje", jax.nn.softmax(b, 2), votes)).reshape(2, -1) @ p["o"]


# --- branches ---


@program(TABLE, LAYERS, (2, 5), groups={"e": 6, "l": 7, "l/depth": 3})
def gates_of_layers_in_a_loop(p, x):
    def layer(h, p):
        return h - p["g"] * (jnp.tanh(h @ p["a"]) @ p["b"]), None

    return lax.scan(layer, x @ p["e"], p["l"], reverse=True)[0] @ p["o"]


@program(TABLE, LAYERS, (2, 5), groups={"e": 6, "l": 7})
def loop_that_keeps_what_every_layer_gives(p, x):
    def layer(h, p):
        h = h + jnp.tanh(h @ p["a"]) @ p["b"] * p["g"]
        return h, h.mean(-1)

    h, means = lax.scan(layer, x @ p["e"], p["l"])
    return h @ p["o"], means.sum(0)


@program(
    TABLE,
    {"w": (5, 6), "a": (6, 4), "b": (4, 6), "s1": (6, 2), "s2": (2, 6), "z": (), "c": (6, 4), "d": (4, 6), "o": (6, 3)},
    (2, 4, 5),
    groups={"w": 6, "a": 4, "s1": 2, "c": 4, "depth": 2},
)
def squeezed_and_rezeroed_branches(p, x):
    h = x @ p["w"]
    f = jax.nn.relu(h @ p["a"]) @ p["b"]
    h = h + jax.nn.sigmoid(jax.nn.relu(f.mean(1, keepdims=True) @ p["s1"]) @ p["s2"]) * f
    return (h - p["z"] * (jnp.tanh(h @ p["c"]) @ p["d"])) @ p["o"]


@program(
    TABLE,
    {"e": (5, 6), "a": (6, 7), "b": (7, 6), "s": (4, 6), "o": (6, 3)},
    (2, 5),
    groups={"e": 6, "a": 7, "depth": 3},
)
def one_block_three_times(p, x):
    h = x @ p["e"]
    for i in range(3):
        h = h + jnp.tanh((h + p["s"][i]) @ p["a"]) @ p["b"]
        h = h * lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6)
    return h @ p["o"]


@program(
    TABLE,
    {"w": (5, 6), "a": (6, 7), "b": (7, 6), "c": (6, 4), "d": (4, 6), "o": (6, 3)},
    (2, 5),
    groups={"w": 6, "a": 7, "c": 4, "depth": 2},
)
def multiples_of_the_trunk(p, x):
    """Deep networks weigh their trunk; one of a choice leaves it as it is."""
    h = x @ p["w"]
    h = jax.nn.standardize(1.4 * h + jax.nn.relu(h @ p["a"]) @ p["b"], axis=-1, epsilon=1e-2)
    h = lax.cond(jnp.sum(x) < 9, lambda h: 0.5 * h + 0.5 * jnp.tanh(h @ p["c"]) @ p["d"], lambda h: h, h)
    return h @ p["o"]


# --- experts ---

EXPERTS = {"r": (5, 3), "e1": (3, 5, 7), "e2": (3, 7, 6), "o": (6, 2)}


@program(TABLE, EXPERTS, (8, 5), groups={"heads": 3, "e1": 7, "e2": 6}, plain=False)
def experts_by_capacity(p, x):
    g = jax.nn.softmax(x @ p["r"])
    chosen = jax.nn.one_hot(jnp.argmax(g, -1), 3)
    place = ((jnp.cumsum(chosen, 0) - 1) * chosen).sum(-1).astype(int)
    sent = chosen[..., None] * jax.nn.one_hot(place, 4)[:, None]
    y = jnp.einsum("ech,ehd->ecd", jax.nn.relu(jnp.einsum("tec,td,edh->ech", sent, x, p["e1"])), p["e2"])
    return jnp.einsum("tec,ecd->td", sent * g.max(-1)[:, None, None], y) @ p["o"]


@program(TABLE, EXPERTS, (8, 5), groups={"e1#2": 7, "e2#2": 6})
def experts_by_sorted_rows(p, x):
    g, i = lax.top_k(jax.nn.softmax(x @ p["r"]), 1)
    order, rows = jnp.argsort(i[:, 0]), jnp.bincount(i[:, 0], length=3)
    y = lax.ragged_dot(jax.nn.relu(lax.ragged_dot(x[order], p["e1"], rows)), p["e2"], rows)
    return y[jnp.argsort(order)] * g @ p["o"]


@program(TABLE, {"g": (4, 6), "g2": (6, 5), "d": (5, 6), "d2": (6, 1)}, (3, 4), (3, 5), groups={"g": 6, "d": 6})
def two_networks_and_a_gradient_penalty(p, z, x):
    def critic(x):
        return jax.nn.leaky_relu(x @ p["d"]) @ p["d2"]

    made = jax.nn.relu(z @ p["g"]) @ p["g2"]
    return critic(made), critic(x), jnp.mean(jax.vmap(jax.grad(lambda x: critic(x)[0]))(x) ** 2)


# --- what others solve, and what nobody reads ---


@program(TABLE, WIDE, (4, 5), groups={"w/heads": 6})
def a_system_for_every_channel(p, x):
    """As state-space models have it: (1 - dt A / 2)^-1 of every channel."""
    step = jax.nn.softplus(x @ p["w"])[..., None, None] * jnp.array([[-1.0, 0.3], [0.2, -2.0]])
    one = jnp.broadcast_to(jnp.eye(2), step.shape)
    return jnp.linalg.solve(one - step / 2, one + step / 2)[..., 0, 1] @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def a_solver_of_ones_own(p, x):
    """Its matrix mixes the channels, and what it computes is not what is differentiated."""
    h = x @ p["w"]

    def mixed(v):
        return v * (1 + h**2) + 0.1 * v.mean(-1, keepdims=True)

    def solve(matvec, b):
        v = b / (1 + h**2)
        for _ in range(2):
            v = v + (b - matvec(v)) / (1 + h**2)
        return v

    return lax.custom_linear_solve(mixed, h, solve, transpose_solve=solve) @ p["o"]


@program(TABLE, WIDE, (4, 5), groups={"w": 6})
def statistics_that_nobody_reads(p, x):
    """Logged somewhere else, in a function of its own: the largest channel, the first one, a median."""

    @jax.jit
    def layer(x):
        h = jnp.tanh(x @ p["w"])
        return h, {"largest": jnp.argmax(h, -1), "median": jnp.median(h)}

    h, log = layer(x)
    mask = jnp.tril(jnp.ones((len(h[..., 0]),) * 2))
    log["first"] = h[:, 0]
    return mask @ h @ p["o"]


# --- systems of equations ---


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (4, 5), groups={"w": 6})
def three_diagonals(p, x):
    """Neighboring rows are coupled, whatever their channels."""
    h, ones = x @ p["w"], jnp.ones(4)
    return jnp.tanh(lax.linalg.tridiagonal_solve(0.3 * ones, 2 * ones, -0.4 * ones, h)) @ p["o"]


@program(TABLE, {"w": (5, 6), "o": (6, 3)}, (4, 5), groups={"w": 6}, backward=False)
def similarities_solved(p, x):
    """JAX has no derivative of such products."""
    h = jnp.tanh(x @ p["w"])
    gram = lax.linalg.symmetric_product(h, jnp.eye(4), alpha=1.0, beta=2.0)
    return jnp.linalg.solve(gram, h) @ p["o"]


@program(TABLE, {"w": (5, 6), "a": (6, 7), "b": (7, 6), "o": (6, 3)}, (4, 5), groups={"w": 6, "a": 7}, backward=False)
def loops_that_end_on_their_own(p, x):
    """Every example has its own number of rounds: `jax.vmap` goes on until the last has ended."""

    def rounds(h, n):
        return lax.while_loop(lambda c: c[1] < n, lambda c: (jnp.tanh(c[0] @ p["a"]) @ p["b"], c[1] + 1), (h, 0))[0]

    return jax.vmap(rounds, in_axes=(1, 0))((x @ p["w"]).T, jnp.arange(4)) @ p["o"]
