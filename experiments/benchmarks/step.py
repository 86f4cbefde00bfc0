"""What a search step costs beside a training step of the same network, optimizer and batch.

    python -m experiments.benchmarks.step [--quick]

Three steps are compiled, with donated states, and called in turn in one process:
plain: trains the network without masks; folded: the search as it runs; unfolded: the search with every mask on
activations. Times are medians with the least and the most; how many times plain is the median of the ratios within a
round, with its interval of 95 %: what else the machine does falls on both steps of a round alike. Memory is what XLA's
own analysis calls temporary. Expected: folded at most 1.02 times plain in time and 1.04 times in memory; tracing
resnet152 takes at most 5 s.
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

from dms_jax import Search, SearchSpace, models
from dms_jax.command_line import parse
from dms_jax.data import batches, digits
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.loss import outcome
from dms_jax.partition import combine, merged
from dms_jax.training.machine import machine
from experiments.benchmarks.masked import inserted
from experiments.benchmarks.stock import STOCK, Stock, cross_entropy
from experiments.benchmarks.timing import going_on, interleaved_seconds, paired_ratio, spread


@dataclass(frozen=True)
class Options:
    """Time search steps against training steps.

    Attributes:
      quick: a small network and few calls, to see that the benchmark runs.
      rounds: timed calls of each step, at least 6; 0 takes what suits the network.
    """

    quick: bool = False
    rounds: int = 0


@dataclass(frozen=True)
class Case:
    """One network: of the zoo on a batch of digits, or a stock one (see `experiments.benchmarks.stock`) as it comes."""

    network: str
    rounds: int
    resolution: int = 0
    batch_size: int = 0


LEAST_ROUNDS = 6
"""Fewer have no interval of 95 %."""
CASES = (
    Case("resnet56", 60, 8, 64),
    Case("resnet50", 25, 64, 16),
    Case("nnx_vit", 40),
    Case("nnx_vit_128", 14),
    Case("keras_mobilenet_v2", 25),
    Case("llama_bytes", 15),
)
QUICK_CASES = (Case("resnet20", LEAST_ROUNDS, 8, 16),)


def main(options: Options) -> None:
    if options.rounds and options.rounds < LEAST_ROUNDS:
        raise UserError(f"--rounds={options.rounds}: give at least {LEAST_ROUNDS}, or 0 for what suits the network")
    print(f"Machine: {machine()}  \nCommand: `python -m experiments.benchmarks.step {' '.join(sys.argv[1:])}`\n")
    print("| network | step | time, ms (least to most) | times plain (95 %) | temporary memory, MB | times plain |")
    print("|---|---|---|---|---|---|")
    for case in QUICK_CASES if options.quick else CASES:
        print("\n".join(compare(case, options.rounds or case.rounds)), flush=True)
    network, resolution = ("resnet20", 8) if options.quick else ("resnet152", 224)
    seconds = trace_seconds(network, resolution, times=3)
    print(f"\n`SearchSpace.from_model`, {network} at {resolution} px: {spread(seconds, 2)} s")


def compare(case: Case, rounds: int) -> list[str]:
    """Compile, warm up and time the steps of one case; returns rows of the table."""
    bench = Bench.of(case)
    steps, batch = bench.steps(), (bench.batch, bench.key)
    compiled: dict[str, Any] = {}
    for name, (step, state) in steps.items():
        compiled[name] = jax.jit(step, donate_argnums=0).lower(state, *batch).compile()
    calls = {name: going_on(compiled[name], state, *batch) for name, (_, state) in steps.items()}
    seconds = interleaved_seconds(calls, rounds, warm=3)
    memory = {name: step.memory_analysis().temp_size_in_bytes for name, step in compiled.items()}
    return [
        f"| {bench.title} | {name} | {spread(1e3 * seconds[name], 2)} "
        f"| {ratio(seconds[name], seconds['plain'])} "
        f"| {memory[name] / 1e6:.1f} | {memory[name] / memory['plain']:.3f} |"
        for name in calls
    ]


def ratio(seconds: np.ndarray, plain: np.ndarray) -> str:
    """`1.003 (0.998 to 1.009)`."""
    if seconds is plain:
        return "1"
    middle, least, most = paired_ratio(seconds, plain)
    return f"{middle:.3f} ({least:.3f} to {most:.3f})"


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

    title: str
    space: SearchSpace
    params: Any
    loss: Any
    batch: Any
    key: jax.Array
    optimizer: optax.GradientTransformation

    @staticmethod
    def of(case: Case) -> Bench:
        made = STOCK[case.network]() if case.network in STOCK else zoo(case)
        rate = optax.cosine_decay_schedule(0.01, 10_000)
        optimizer = optax.sgd(rate, momentum=0.9, nesterov=True)
        params = made.space.arrays(made.params)
        return Bench(made.title, made.space, params, made.loss, made.batch, jax.random.key(1), optimizer)

    def steps(self) -> dict[str, tuple[Any, Any]]:
        """Name -> step, and its first state, every state with buffers of its own."""
        params = jax.tree.map(jnp.copy, self.params)
        plain = (params, self.optimizer.init(self.space.partition(params)[0]))
        folded = Search(self.space, self.loss, self.optimizer, {"macs": 0.25}, steps=10_000)
        searches = {"folded": folded, "unfolded": inserted(folded)}
        return {"plain": (self.plain, plain), **{name: (s.step, s.init(self.params)) for name, s in searches.items()}}

    def plain(self, state: tuple[Any, Any], batch: Any, key: jax.Array):
        """One training step without masks."""
        params, opt_state = state
        trained, rest = self.space.partition(params)
        task = outcome(self.loss)
        (value, (changed, _)), gradient = jax.value_and_grad(
            lambda trained: task(self.space.whole(combine(trained, rest)), batch, key), has_aux=True
        )(trained)
        updates, opt_state = self.optimizer.update(gradient, opt_state, trained)
        params = combine(optax.apply_updates(trained, updates), merged(rest, changed))
        return (params, opt_state), {"loss": value}


def zoo(case: Case) -> Stock:
    """A network of the zoo on a batch of digits, with BatchNorm's new statistics."""
    model = models.create(case.network, num_classes=digits.CLASSES)
    batch = jax.tree.map(jnp.asarray, batches(digits.load(case.resolution).train, case.batch_size, seed=0)(0))
    image = jax.ShapeDtypeStruct((1, *batch["image"].shape[1:]), jnp.float32)
    params = jax.jit(lambda key: model.init(key, jnp.zeros(image.shape)))(jax.random.key(0))

    def loss(params: Any, batch: Any, key: jax.Array):
        logits, changed = model.apply(params, batch["image"], train=True, mutable=["batch_stats"])
        return cross_entropy(logits, batch["label"]), {"state": changed}

    title = f"{case.network}, {case.resolution} px, batch {case.batch_size}"
    return Stock(title, SearchSpace.from_model(model, image), params, loss, batch)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(parse(Options, description=__doc__)))()
