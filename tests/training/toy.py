"""A tiny model with everything a resume can get wrong: moments, a schedule, noise, batches by step.

Run as a program it is a resumable training run: `python toy.py DIRECTORY STEPS SECONDS_A_STEP`.
"""

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax.errors import exit_on_user_error
from dms_jax.training import Checkpoints, InterruptFlag, MetricsWriter, Progress, run_phase

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 100)))
KEY_SEED = 7


class State(NamedTuple):
    params: Any
    moments: Any
    half: jax.Array  # bfloat16
    empty: jax.Array  # no elements


def init() -> State:
    params = {"w/1": jax.random.normal(jax.random.key(0), (4, 3)), "b.1": jnp.zeros(3)}
    return State(params, OPTIMIZER.init(params), jnp.ones((2, 2), jnp.bfloat16), jnp.zeros((0, 5)))


def _step(state: State, batch: dict[str, jax.Array], key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    def loss_of(params):
        noise = 0.1 * jax.random.normal(key, batch["x"].shape)
        y = jnp.tanh((batch["x"] + noise) @ params["w/1"] + params["b.1"][None])
        return jnp.mean((y - batch["y"]) ** 2)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    updates, moments = OPTIMIZER.update(gradient, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    half = state.half * 0.99 + loss.astype(jnp.bfloat16)
    return State(params, moments, half, state.empty), {"loss": loss, "norm": optax.tree.norm(gradient)}


step = jax.jit(_step, donate_argnums=0)


def batch_of(i: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(i)
    return {
        "x": draw.normal(size=(16, 4)).astype(np.float32),
        "y": draw.normal(size=(16, 3)).astype(np.float32),
    }


def train(directory: Path, steps: int, *, batches=batch_of, step=step, **options: Any) -> State:
    """One command: begins, or goes on from the newest checkpoint."""
    options = {"log_every": 4} | options
    with Checkpoints(directory / "checkpoints", report=print) as checkpoints:
        restored = checkpoints.restore(init())
        start, state, position = 0, init(), 0
        if restored is not None:
            start, state, position = restored.step, restored.state, restored.meta["metrics_position"]
        with (
            MetricsWriter(directory, resume_at=position, tensorboard=False) as writer,
            Progress("toy", steps, start) as progress,
        ):
            return run_phase(
                "toy", step, state, batches, jax.random.key(KEY_SEED), steps=steps, start=start,
                writer=writer, progress=progress, checkpoints=checkpoints, **options,
            )  # fmt: skip


@exit_on_user_error
def main() -> None:
    directory, steps, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def batches(i: int) -> dict[str, np.ndarray]:
        time.sleep(pause)
        return batch_of(i)

    with InterruptFlag() as interrupt:
        state = train(
            directory, steps, batches=batches, interrupt=interrupt, log_every=1, checkpoint_every=3,
            on_log=lambda step, values, _: print(step, flush=True),
        )  # fmt: skip
    np.savez(directory / "last.npz", *jax.tree.leaves(jax.tree.map(lambda x: np.asarray(x, np.float32), state)))


if __name__ == "__main__":
    main()
