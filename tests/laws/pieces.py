"""Pieces of networks, drawn and put together: every kind of fault that was found by trying has its piece.

A piece is a function `(draw, width) -> (shapes of its parameters, apply)`; `apply(params, x)` takes and gives
`[B, T, width]`. `draw` chooses one of some things.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[Sequence[Any]], Any]
Apply = Callable[[dict[str, Any], jax.Array], jax.Array]
Piece = tuple[dict[str, tuple[int, ...]], Apply]


def mlp(draw: Draw, width: int) -> Piece:
    hidden, act = draw((5, 6)), draw((jax.nn.relu, jax.nn.gelu, jnp.tanh, jax.nn.silu))
    shapes = {"up": (width, hidden), "up_bias": (hidden,), "down": (hidden, width), "down_bias": (width,)}
    return shapes, lambda p, x: act(x @ p["up"] + p["up_bias"]) @ p["down"] + p["down_bias"]


def gated(draw: Draw, width: int) -> Piece:
    """a x + gates * gammas * constants * f(x), multiplied in any order and association."""
    inner, f = draw((mlp, recurrent, dense_of_norm))(draw, width)
    kinds = [draw(tuple(FACTORS)) for _ in range(draw((1, 2, 3)))]
    order = draw(tuple(range(len(kinds) + 1)))
    from_left, subtract, trunk = draw((True, False)), draw((False, False, True)), draw((1, 1, 1.4))
    shapes = inner | {"alpha": (), "gamma": (width,), "gate": (width, 1), "se_up": (width, 3), "se_down": (3, width)}
    shapes |= {"unused": (width, 3)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        parts = [("mul", FACTORS[kind](p, x)) if kind not in DIVIDE else ("div", DIVIDE[kind]) for kind in kinds]
        parts.insert(order, ("mul", f(p, x)))
        y: Any = None
        for how, part in parts if from_left else parts[::-1]:
            if y is None:
                y = part if how == "mul" else 1.0 / part
            else:
                y = y * part if how == "mul" else y / part
        x = x if trunk == 1 else trunk * x
        return x - y if subtract else x + y

    return shapes, apply


DIVIDE = {"half": 2.0, "third": 3.0}
FACTORS: dict[str, Callable[[Any, jax.Array], Any]] = {
    "alpha": lambda p, x: p["alpha"],
    "gamma": lambda p, x: p["gamma"][None, None],
    "constant": lambda p, x: 0.1,
    "sigmoid": lambda p, x: jax.nn.sigmoid(x @ p["gate"]),
    "squeeze": lambda p, x: jax.nn.sigmoid(jax.nn.relu(jnp.mean(x, 1, keepdims=True) @ p["se_up"]) @ p["se_down"]),
    "where": lambda p, x: jnp.where(x[..., :1] * 0 + p["alpha"] > -1, 1.5, 0.5),
    "einsum": lambda p, x: jnp.einsum("bto,c->btc", jax.nn.sigmoid(x @ p["gate"]), p["gamma"]),
    **{name: lambda p, x: None for name in DIVIDE},
}


def normalized(draw: Draw, width: int) -> Piece:
    """A normalisation over features, by one of many formulas."""
    formula = NORMS[draw(tuple(NORMS))]
    return {
        "scale": (width,),
        "bias": (width,),
    }, lambda p, x: formula(x) * p["scale"][None, None] + p["bias"][None, None]


def _layer_norm(x: jax.Array) -> jax.Array:
    mean = jnp.mean(x, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.mean(jnp.square(x - mean), -1, keepdims=True) + 1e-3)


def _fast_variance(x: jax.Array) -> jax.Array:
    mean = jnp.mean(x, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) - mean**2 + 1e-3)


NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "layer": _layer_norm,
    "fast_variance": _fast_variance,
    "standardize": lambda x: jax.nn.standardize(x, axis=-1, epsilon=1e-3),
    "rms": lambda x: x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-3),
    "rms_by_hand": lambda x: x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) / x.shape[-1] + 1e-3),
    "rms_by_dot": lambda x: x / jnp.sqrt(jnp.einsum("btc,btc->bt", x, x)[..., None] * (1 / x.shape[-1]) + 1e-3),
    "l2": lambda x: x / (1e-2 + jnp.linalg.norm(x, axis=-1, keepdims=True)),
    "l2_rsqrt": lambda x: x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-3),
    "mean_by_matrix": lambda x: x - x @ jnp.full((x.shape[-1],) * 2, 1 / x.shape[-1]),
    "mean_by_ones": lambda x: x - (x @ jnp.ones((x.shape[-1], 1))) / x.shape[-1],
    "maximum": lambda x: x / (1e-2 + jnp.max(jax.lax.stop_gradient(jnp.abs(x)), -1, keepdims=True)),
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "log_softmax": lambda x: jax.nn.log_softmax(x, -1),
    "time": lambda x: _layer_norm(jnp.swapaxes(x, 1, 2)).swapaxes(1, 2),
}


def dense_of_norm(draw: Draw, width: int) -> Piece:
    shapes, norm = normalized(draw, width)
    return shapes | {"out": (width, width)}, lambda p, x: norm(p, x) @ p["out"]


def recurrent(draw: Draw, width: int) -> Piece:
    """An RNN, LSTM or GRU cell over time, in a scan or unrolled."""
    cell, loop = draw(("rnn", "lstm", "gru")), draw(("scan", "unrolled", "reverse"))
    n, gates = draw((4, 5)), {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    shapes = {"inner": (n, gates * n), "outer": (width, gates * n), "read": (n, width), "start": (n,)}

    def step(p: Any, state: Any, x: jax.Array) -> Any:
        h, c = state
        if cell == "rnn":
            h = jnp.tanh(h @ p["inner"] + x @ p["outer"])
        elif cell == "lstm":
            i, f, g, o = jnp.split(h @ p["inner"] + x @ p["outer"], 4, axis=-1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        else:
            (r, z, a), (ru, zu, au) = (jnp.split(y, 3, axis=-1) for y in (x @ p["outer"], h @ p["inner"]))
            r, z = jax.nn.sigmoid(r + ru), jax.nn.sigmoid(z + zu)
            h = (1 - z) * jnp.tanh(a + r * au) + z * h
        return (h, c), h

    def apply(p: Any, x: jax.Array) -> jax.Array:
        start = jnp.broadcast_to(p["start"], (x.shape[0], n))
        state, rows = (start, jnp.zeros_like(start)), jnp.swapaxes(x, 0, 1)
        if loop == "unrolled":
            outs = []
            for row in rows:
                state, out = step(p, state, row)
                outs.append(out)
            hidden = jnp.stack(outs)
        else:
            _, hidden = jax.lax.scan(lambda s, row: step(p, s, row), state, rows, reverse=loop == "reverse")
        return jnp.swapaxes(hidden, 0, 1) @ p["read"]

    return shapes, apply


def renormed(draw: Draw, width: int) -> Piece:
    """A dense layer under a weight or spectral norm."""
    how = draw(("columns", "rows", "spectral"))
    n = draw((5, 6))
    shapes = {"w": (width, n), "g": (n,), "g_rows": (width,), "u": (width,), "out": (n, width)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        w = p["w"]
        if how == "columns":
            w = w / jnp.linalg.norm(w, axis=0, keepdims=True) * p["g"][None]
        elif how == "rows":
            w = w * jax.lax.rsqrt(jnp.sum(w**2, axis=1, keepdims=True)) * p["g_rows"][:, None]
        else:
            v = w.T @ p["u"]
            v = v / (jnp.linalg.norm(v) + 1e-3)
            w = w / (jnp.linalg.norm(w @ v) + 1e-3)
        return x + jnp.tanh(x @ w) @ p["out"]

    return shapes, apply


def cumulative(draw: Draw, width: int) -> Piece:
    how, n = draw(tuple(CUMULATIVE)), draw((4, 6))
    return {"in": (width, n), "out": (n, width)}, lambda p, x: x + CUMULATIVE[how](jnp.tanh(x @ p["in"])) @ p["out"]


CUMULATIVE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "features": lambda x: jnp.cumsum(x, -1),
    "reverse": lambda x: jax.lax.cumsum(x, axis=2, reverse=True),
    "time": lambda x: jnp.cumsum(x, 1),
    "product": lambda x: jnp.cumprod(1 + 0.1 * x, -1),
    "maximum": lambda x: jax.lax.cummax(x, axis=2),
    "minimum": lambda x: jax.lax.cummin(x, axis=2),
    "logsumexp": lambda x: jax.lax.cumlogsumexp(x, axis=2),
    "associative": lambda x: jax.lax.associative_scan(jnp.add, x, axis=1),
}


def sized(draw: Draw, width: int) -> Piece:
    """Constants of a searched size: what dropped positions held goes, what is left keeps its values."""
    how, n = draw(tuple(SIZED)), draw((4, 6))
    return {"in": (width, n), "out": (n, width)}, lambda p, x: x + SIZED[how](x @ p["in"]) @ p["out"]


SIZED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "scale": lambda x: jnp.tanh(x / np.sqrt(x.shape[-1])),
    "table": lambda x: x + np.sin(np.arange(x.shape[-1]) + 1).astype(np.float32)[None, None],
    "iota": lambda x: x * (1 + jnp.arange(float(x.shape[-1])))[None, None],
    "one_hot": lambda x: x + jax.nn.one_hot(1, x.shape[-1])[None, None],
    "uniform": lambda x: x @ jnp.full((x.shape[-1],) * 2, 0.3),
    "identity": lambda x: jnp.tanh(x @ jnp.eye(x.shape[-1])),
    "triangle": lambda x: x @ jnp.tril(jnp.ones((x.shape[-1],) * 2)),
    "sigmoid_after": lambda x: jax.nn.sigmoid(x),
    "exponential": lambda x: jnp.exp(-x) * jnp.sum(jnp.exp(-jnp.abs(x)), -1, keepdims=True),
}


def concatenated(draw: Draw, width: int) -> Piece:
    """DenseNet: every layer reads all features before it."""
    layers, back = draw((1, 2, 3)), draw((True, False))
    shapes: dict[str, Any] = {"mix": (width + 3 * layers, width)}
    shapes |= {f"layer{i}": (width + 3 * i, 3) for i in range(layers)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        features = [x]
        for i in range(layers):
            new = jax.nn.relu(jnp.concatenate(features, -1) @ p[f"layer{i}"])
            features = [new, *features] if back else [*features, new]
        return jnp.concatenate(features, -1) @ p["mix"]

    return shapes, apply


def convolved(draw: Draw, width: int) -> Piece:
    """Convolutions over time: plain, grouped, depthwise; a GroupNorm, a channel shuffle."""
    groups, after = draw((1, 2, 4, 8)), draw(("nothing", "group_norm", "shuffle", "transposed"))
    n = 8
    shapes = {"in": (width, n), "kernel": (3, n // groups, n), "out": (n, width), "scale": (n,)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(x @ p["in"])
        y = jax.lax.conv_general_dilated(
            y, p["kernel"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=groups
        )
        if after == "group_norm":
            z = y.reshape(*y.shape[:2], 4, -1)
            z = (z - z.mean((1, 3), keepdims=True)) * jax.lax.rsqrt(z.var((1, 3), keepdims=True) + 1e-3)
            y = z.reshape(y.shape) * p["scale"][None, None]
        elif after == "shuffle":
            y = y.reshape(*y.shape[:2], 4, 2).swapaxes(2, 3).reshape(y.shape)
        elif after == "transposed":
            y = jnp.swapaxes(jnp.swapaxes(y, 1, 2), 1, 2)
        return x + y @ p["out"]

    return shapes, apply


def split(draw: Draw, width: int) -> Piece:
    """An axis cut into pieces that go different ways."""
    cut, n = draw((2, 3, 4)), 8

    def apply(p: Any, x: jax.Array) -> jax.Array:
        y = x @ p["in"]
        a, b = y[..., :cut], y[..., cut:]
        return x + jax.nn.relu(a) @ p["a"] + jnp.tanh(b) @ p["b"]

    return {"in": (width, n), "a": (cut, width), "b": (n - cut, width)}, apply


def attention(draw: Draw, width: int) -> Piece:
    heads, keys, size = draw((2, 4)), draw((1, 2)), draw((2, 3))
    causal, fused = draw((True, False)), draw((True, False))
    shapes = {"q": (width, heads, size), "k": (width, keys, size), "v": (width, keys, size), "o": (heads, size, width)}
    shapes |= {"qkv": (width, 3 * heads * size), "flat": (heads * size, width)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        if fused:
            q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(*x.shape[:2], 3, heads, size), 2, 0)
        else:
            q, k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in "qkv")
            k, v = (jnp.repeat(y, heads // keys, axis=2) for y in (k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(size)
        if causal:
            scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None], scores, -1e9)
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return x + (y.reshape(*y.shape[:2], -1) @ p["flat"] if fused else jnp.einsum("bqhd,hdc->bqc", y, p["o"]))

    return shapes, apply


def routed(draw: Draw, width: int) -> Piece:
    """A mixture of experts: all of them weighed, or rows handed out to matrices."""
    ragged, n = draw((True, False)), 5
    shapes = {"router": (width, 2), "up": (2, width, n), "down": (2, n, width)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        if ragged:
            rows = x.reshape(-1, x.shape[-1])
            sizes = jnp.array([rows.shape[0] // 2, rows.shape[0] - rows.shape[0] // 2], jnp.int32)
            hidden = jax.nn.relu(jax.lax.ragged_dot(rows, p["up"], sizes))
            return x + jax.lax.ragged_dot(hidden, p["down"], sizes).reshape(x.shape)
        weights = jax.nn.softmax(x @ p["router"])
        hidden = jax.nn.relu(jnp.einsum("btc,ecn->btne", x, p["up"]))
        return x + jnp.einsum("btne,enc,bte->btc", hidden, p["down"], weights)

    return shapes, apply


def odd(draw: Draw, width: int) -> Piece:
    """Operations that give positions a meaning: whatever they touch stays whole."""
    how, n = draw(tuple(ODD)), 6
    return {"in": (width, n), "out": (n, width)}, lambda p, x: x + ODD[how](jnp.tanh(x @ p["in"])) @ p["out"]


ODD: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sort": lambda x: jnp.sort(x, -1),
    "flip": lambda x: x[..., ::-1],
    "roll": lambda x: jnp.roll(x, 2, -1),
    "fft": lambda x: jnp.abs(jnp.fft.fft(x)),
    "take": lambda x: jnp.take(x, jnp.array([5, 4, 3, 0, 1, 2]), axis=-1),
    "halves": lambda x: jnp.concatenate([x[..., 3:], x[..., :3]], -1),
    "pairs": lambda x: x.reshape(*x.shape[:2], 3, 2)[..., ::-1].reshape(x.shape),
    "sum_of_pairs": lambda x: jnp.repeat(jnp.sum(x.reshape(*x.shape[:2], 3, 2), -1), 2, axis=-1),
    "first": lambda x: x * x[..., :1],
    "argmax": lambda x: x * (1 + jnp.argmax(x, -1, keepdims=True)),
}

PIECES: tuple[Callable[[Draw, int], Piece], ...] = (
    mlp, gated, normalized, dense_of_norm, recurrent, renormed, cumulative, sized, concatenated, convolved, split,
    attention, routed, odd,
)  # fmt: skip
