"""Programs that give back new values of what is not trained: (params, inference, training, what is trained)."""

import jax
import jax.lax as lax
import jax.numpy as jnp

WIDE = {"w": (5, 6), "o": (6, 3)}


def plain(p, x):
    return jnp.tanh(x @ p["w"]) @ p["o"]


def student(p, x):
    return plain(p["student"], x)


def taught(p, x):
    """A teacher whose weights follow the student's."""
    wanted = plain(lax.stop_gradient(p["teacher"]), x)
    new = jax.tree.map(lambda old, now: 0.9 * old + 0.1 * now, p["teacher"], p["student"])
    return student(p, x) - wanted, {"teacher": new}


def queued(p, x):
    """Contrast with a queue of earlier features, which these join."""
    h = jnp.tanh(x @ p["w"])
    h = h / jnp.linalg.norm(h, axis=-1, keepdims=True)
    queue = lax.dynamic_update_slice_in_dim(p["queue"], h.T, p["at"], 1)
    return (h @ p["queue"], h @ p["o"]), {"queue": queue, "at": (p["at"] + 4) % 8}


def quantized(p, x):
    """A straight-through estimate: no residual branch, though it is written as one."""
    h = x @ p["w"]
    near = jax.nn.one_hot(jnp.argmin(((h[:, None] - p["code"][None]) ** 2).sum(-1), -1), 7)
    return (h + lax.stop_gradient(near @ p["code"] - h)) @ p["o"], h, near


def quantizing(p, x):
    y, h, near = quantized(p, x)
    count, total = 0.9 * p["count"] + 0.1 * near.sum(0), 0.9 * p["total"] + 0.1 * near.T @ h
    return y, {"count": count, "total": total, "code": total / (1 + count[:, None] ** 2)}


def whitened(p, x):
    return jnp.tanh(x @ p["w"] @ p["mix"]) @ p["o"]


def whitening(p, x):
    h = x @ p["w"]
    h = h - h.mean(0, keepdims=True)
    return whitened(p, x), {"mix": 0.9 * p["mix"] + 0.1 * h.T @ h / len(x)}


STATES = {
    "teacher": ({"student": WIDE, "teacher": WIDE}, student, taught, lambda path: path.startswith("student")),
    "queue": (WIDE | {"queue": (6, 8)}, plain, queued, lambda path: path in "wo"),
    "codes": (
        WIDE | {"code": (7, 6), "count": (7,), "total": (7, 6)},
        lambda p, x: quantized(p, x)[0],
        quantizing,
        lambda path: path in "wo",
    ),
    "whitening": (WIDE | {"mix": (6, 6)}, whitened, whitening, lambda path: path != "mix"),
}
