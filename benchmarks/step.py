"""What a search step costs beside a training step of the same network, optimizer and batch.

    python -m benchmarks.step [--quick]

Three steps are compiled, with donated states, and called in turn in one process:
plain: trains the network without masks; folded: the search as it runs; unfolded: the search with every mask on
activations. Times are medians with the least and the most; memory is what XLA's own analysis calls temporary.
Expected: folded at most 1.05 times plain in time and 1.02 times in memory; tracing resnet152 takes at most 5 s.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks.masked import inserted
from benchmarks.timing import going_on, interleaved_seconds, spread
from dms_jax import Search, SearchSpace, models
from dms_jax.data import batches, digits
from dms_jax.training.machine import machine


@dataclass(frozen=True)
class Options:
    """Time search steps against training steps.

    Attributes:
      quick: a small network and few calls, to see that the benchmark runs.
      rounds: timed calls of each step; 0 takes what suits the network.
    """

    quick: bool = False
    rounds: int = 0


@dataclass(frozen=True)
class Case:
    """One network on one batch of digits."""

    network: str
    resolution: int
    batch_size: int
    rounds: int


CASES = (Case("resnet56", 8, 64, 60), Case("resnet50", 64, 16, 25))
QUICK_CASES = (Case("resnet20", 8, 16, 5),)


def main(options: Options) -> None:
    print(f"Machine: {machine()}  \nCommand: `python -m benchmarks.step {' '.join(sys.argv[1:])}`\n")
    print("| network | step | time, ms (least to most) | times plain | temporary memory, MB | times plain |")
    print("|---|---|---|---|---|---|")
    for case in QUICK_CASES if options.quick else CASES:
        print("\n".join(compare(case, options.rounds or case.rounds)), flush=True)
    network, resolution = ("resnet20", 8) if options.quick else ("resnet152", 224)
    seconds = trace_seconds(network, resolution, times=3)
    print(f"\n`SearchSpace.from_model`, {network} at {resolution} px: {spread(seconds, 2)} s")


def compare(case: Case, rounds: int) -> list[str]:
    """Compile, warm up and time the steps of one case; returns rows of the table."""
    bench = Bench.of(case)
    compiled = {name: jitted.lower(state, bench.batch, bench.key).compile() for name, (jitted, state) in bench.steps()}
    calls = {name: going_on(compiled[name], state, bench.batch, bench.key) for name, (_, state) in bench.steps()}
    interleaved_seconds(calls, rounds=3)  # warm-up
    seconds = interleaved_seconds(calls, rounds)
    memory = {name: step.memory_analysis().temp_size_in_bytes for name, step in compiled.items()}
    title = f"{case.network}, {case.resolution} px, batch {case.batch_size}"
    return [
        f"| {title} | {name} | {spread(1e3 * seconds[name], 2)} "
        f"| {np.median(seconds[name]) / np.median(seconds['plain']):.3f} "
        f"| {memory[name] / 1e6:.1f} | {memory[name] / memory['plain']:.3f} |"
        for name in calls
    ]


def trace_seconds(network: str, resolution: int, times: int) -> np.ndarray:
    """Seconds to make a search space, every time of a new model."""
    seconds = []
    for _ in range(times):
        jax.clear_caches()
        model = models.create(network)
        start = time.perf_counter()
        SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32))
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


@dataclass(frozen=True, eq=False)
class Bench:
    """A network, its optimizer and a batch: all that the three steps share."""

    model: Any
    space: SearchSpace
    variables: dict[str, Any]
    batch: dict[str, jax.Array]
    key: jax.Array
    optimizer: optax.GradientTransformation

    @staticmethod
    def of(case: Case) -> Bench:
        model = models.create(case.network, num_classes=digits.CLASSES)
        batch = batches(digits.load(case.resolution).train, case.batch_size, seed=0)(0)
        image = jax.ShapeDtypeStruct((1, *batch["image"].shape[1:]), jnp.float32)
        variables = jax.jit(lambda key: model.init(key, jnp.zeros(image.shape)))(jax.random.key(0))
        variables = {name: tree for name, tree in variables.items() if name != "masks"}
        return Bench(
            model=model,
            space=SearchSpace.from_model(model, image),
            variables=variables,
            batch=jax.tree.map(jnp.asarray, batch),
            key=jax.random.key(1),
            optimizer=optax.sgd(optax.cosine_decay_schedule(0.01, 10_000), momentum=0.9, nesterov=True),
        )

    def steps(self) -> list[tuple[str, tuple[Any, Any]]]:
        """(name, (jitted step, its first state)), every state with buffers of its own."""
        variables = jax.tree.map(jnp.copy, self.variables)
        plain = (variables, self.optimizer.init(variables["params"]))
        made: list[tuple[str, tuple[Any, Any]]] = [("plain", (jax.jit(self.plain, donate_argnums=0), plain))]
        folded = Search(self.space, self.loss, self.optimizer, {"macs": 0.25}, steps=10_000)
        for name, search in (("folded", folded), ("unfolded", inserted(folded))):
            made.append((name, (jax.jit(search.step, donate_argnums=0), search.init(self.variables))))
        return made

    def loss(self, params: Any, batch: Any, key: jax.Array):
        """Cross-entropy, with BatchNorm's new statistics."""
        logits, changed = self.model.apply(params, batch["image"], train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, {"state": changed}

    def plain(self, state: tuple[dict[str, Any], Any], batch: Any, key: jax.Array):
        """One training step without masks."""
        variables, opt_state = state
        model_state = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params):
            return self.loss({"params": params, **model_state}, batch, key)

        (value, more), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = self.optimizer.update(gradient, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return ({**variables, **more["state"], "params": params}, opt_state), {"loss": value}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
