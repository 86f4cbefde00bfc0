"""What a search costs on an accelerator, and what the smaller network is worth there.

    python -m experiments.benchmarks.accelerator [--quick] [--networks resnet50 efficientnet_b4 llama_1b]

Float32 parameters, computation in bfloat16, random weights, one batch of random inputs that lies on the device: no
loader is measured. Three steps take turns: training the full network, a search step of it, and training the network of
half the MACs (the same keep ratio everywhere, widths in multiples that suit matrix units). Shares of the peak are of
the operations of a network's MACs (forward once, backward twice, nothing recomputed) over the rate of a product of two
8192 x 8192 matrices in bfloat16 on the same device. Forward passes have parameters in bfloat16, too. Then 800 steps of
pipeline p-, ratios alone, of the networks that classify. About ten minutes on one GPU of 80 GB, most of it compilation.

What it shows: that the search is a training run in time and memory, and whether fewer MACs are less time. What it does
not: how good the smaller network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.command_line import parse
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.training.machine import machine
from dms_jax.training.progress import Progress
from experiments.benchmarks.accelerated import ALONE, CASES, QUICK_CASES, Bench, half
from experiments.benchmarks.tables import RESULTS, table, write_section
from experiments.benchmarks.timing import going_on, interleaved_seconds, spread

BUNDLE = 4
"""Steps that are waited for together, so that a call's own cost is hidden as it is in training."""
STEP, FORWARD = 3, 1
"""Times the MACs of a forward pass."""


@dataclass(frozen=True)
class Options:
    """Time searching, training and inference on an accelerator.

    Attributes:
      quick: tiny networks and few calls, to see that the benchmark runs.
      networks: which ones; empty for all.
      rounds: timed bundles of 4 calls.
    """

    quick: bool = False
    networks: tuple[str, ...] = ()
    rounds: int = 10


def main(options: Options) -> None:
    cases = QUICK_CASES if options.quick else CASES
    unknown = set(options.networks) - set(cases)
    if unknown:
        raise UserError(f"--networks {' '.join(sorted(unknown))}: there are {', '.join(cases)}")
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds}: give a whole number of at least 1")
    if not options.quick and jax.default_backend() == "cpu":
        raise UserError("JAX sees no accelerator here, and these networks are made for one; --quick runs tiny ones")
    rounds = 2 if options.quick else options.rounds
    peak = product_rate(256 if options.quick else 8192)
    names = options.networks or tuple(cases)
    with Progress("accelerator", 2 * len(names)) as progress:
        for i, name in enumerate(names):
            progress.update(2 * i, f"compiling {cases[name].title}")
            bench = Bench.of(cases[name])
            programs = bench.compiled()
            progress.update(2 * i + 1, f"timing {cases[name].title}")
            text = report(bench, programs, rounds, peak)
            title, pages = f"On an accelerator: {bench.case.title}", None if options.quick else RESULTS
            write_section(f"accelerator {name}", title, text, folder=pages, page="accelerator")
            del bench, programs
            jax.clear_caches()


def report(bench: Bench, programs: Mapping[Any, Any], rounds: int, peak: float) -> str:
    """The tables of one network."""
    columns = ["ms (least to most)", "a second", "times full", "of peak"]
    tables = (
        (["network", "step", *columns, "GB", "times full"], step_rows(bench, programs, rounds, peak)),
        (["network", "forward pass", *columns], forward_rows(bench, programs, rounds, peak)),
        (["network", "pipeline p-", "seconds"], alone_rows(bench, programs)),
    )
    where = f"`python -m experiments.benchmarks.accelerator`: {machine()}; a bfloat16 product runs at "
    where += f"{peak / 1e12:.3g} TFLOP/s."
    measured = [(header, list(rows)) for header, rows in tables]
    return "\n\n".join([where, *(table(header, rows) for header, rows in measured if rows)])


def product_rate(size: int) -> float:
    """FLOP/s of a product of two square matrices in bfloat16."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in range(2))
    call = partial(jax.jit(jnp.dot), a, b)
    return 2 * size**3 / float(np.median(interleaved_seconds({"product": call}, 20, warm=3)["product"]))


def step_rows(bench: Bench, programs: Mapping[Any, Any], rounds: int, peak: float) -> Iterator[list[str]]:
    """Rows of the three steps."""
    batch, steps = bench.batch(), bench.steps
    calls = {
        name: going_on(programs[name], begin(bench.variables(model)), batch, bench.key, times=BUNDLE)
        for name, (model, _, begin) in steps.items()
    }
    models = {name: model for name, (model, *_) in steps.items()}
    memory = {name: held(programs[name]) for name in calls}
    for name, row in timed(bench, calls, models, bench.case.batch, STEP, rounds, peak):
        yield [*row, f"{memory[name] / 1e9:.2f}", f"{memory[name] / memory['training']:.3f}"]


def timed(
    bench: Bench, calls: Mapping[str, Any], models: Mapping[str, Any], batch: int, passes: int, rounds: int, peak: float
) -> Iterator[tuple[str, list[str]]]:
    """Names of bundles of calls, timed in turn, and what all rows have: how often a second, and beside the first one.

    Args:
      bench: the case.
      calls, models: by name.
      batch: of a call.
      passes: times the MACs of a forward pass.
      rounds: of the timing.
      peak: FLOP/s.
    """
    case, first = bench.case, next(iter(calls))
    seconds = {name: x / BUNDLE for name, x in interleaved_seconds(calls, rounds, warm=2).items()}
    middle = {name: float(np.median(x)) for name, x in seconds.items()}
    for name, model in models.items():
        rate = case.samples(batch) / middle[name]
        flops = 2 * passes * batch * bench.macs(model)
        yield name, [
            f"{case.title}, batch {batch}", name, spread(1e3 * seconds[name], 2), f"{rate:,.0f} {case.unit}",
            f"{middle[name] / middle[first]:.3f}", f"{100 * flops / middle[name] / peak:.0f} %",
        ]  # fmt: skip


def held(program: Any) -> int:
    """Bytes of a program on the device: what it is given, makes and needs in between, donated buffers once."""
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes


def forward_rows(bench: Bench, programs: Mapping[Any, Any], rounds: int, peak: float) -> Iterator[list[str]]:
    """Rows of the full network's and the smaller one's forward passes."""
    models = {"full": bench.full, "half the MACs": bench.small}
    variables = {name: half(bench.variables(model)) for name, model in models.items()}
    for size in bench.case.forward:
        inputs = bench.inputs(size)
        calls = {n: partial(repeated, programs[size, model], variables[n], inputs) for n, model in models.items()}
        yield from (row for _, row in timed(bench, calls, models, size, FORWARD, rounds, peak))


def repeated(program: Callable[..., Any], *arguments: Any) -> Any:
    """Some calls in a row, one result at a time."""
    result = None
    for _ in range(BUNDLE):
        result = program(*arguments)
    return result


def alone_rows(bench: Bench, programs: Mapping[Any, Any]) -> Iterator[list[str]]:
    """The row of a whole search of the ratios alone; compilation is not in it."""
    case = bench.case
    if not case.alone:
        return
    state = jax.block_until_ready(bench.alone.init(bench.variables(bench.full)))
    call = going_on(programs[ALONE], state, bench.batch(), bench.key, times=case.alone)
    seconds = interleaved_seconds({ALONE: call}, 1)[ALONE]
    yield [f"{case.title}, batch {case.batch}", f"{case.alone} steps", f"{seconds[0]:.1f}"]


if __name__ == "__main__":
    exit_on_user_error(lambda: main(parse(Options, description=__doc__)))()
