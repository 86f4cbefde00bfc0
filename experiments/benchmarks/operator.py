"""Time, memory, exactness and gradients of the operator beside other ways to get a differentiable top-k mask.

    python -m experiments.benchmarks.operator [--quick]

A few minutes of one core. Contenders that are not installed are left out, with the command that installs them. Half
of N elements are asked for. One call is the value and the gradient, in the ratio and in the importance, of a weighted
sum of the mask; compiled, warmed up, waited for. The contenders take turns, so that a slow moment of the machine
meets all of them, and each waits until the memory of the one before is given back. A contender leaves the race, with
its reason, where its program needs more than 4 GiB, or where a call would take more than 20 s, judged by its last
size.

The first table holds the median time, (least to most), and temporary memory: what XLA plans for the program; of PyTorch
the largest tensor alone, so a lower bound. The second holds the mass error |sum m - k| and the gradients there are: "k"
where the number kept can be learned, "scores" where the importance gets a gradient, NaN where one is not a number.

What it shows: what the operator costs at every size, and what others can and cannot do. What it does not: how well a
search does with any of them (`experiments.benchmarks.frontier` compares those that can be searched with).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dms_jax.command_line import parse
from dms_jax.errors import exit_on_user_error
from dms_jax.training.machine import machine
from experiments.benchmarks import pictures
from experiments.benchmarks.command import Options
from experiments.benchmarks.contenders import CONTENDERS, RATIO, Enter
from experiments.benchmarks.rivals import absent
from experiments.benchmarks.tables import table

MEMORY_LIMIT_BYTES = 4 * 2**30
CALL_LIMIT_SECONDS = 20.0
SAMPLE_SECONDS = 0.01  # short calls are timed in bundles this long, far above the clock's and dispatch's jitter
IDLE_SECONDS = 0.005
SIZES = (100, 256, 512, 1024, 4096, 16_384, 100_000, 1_000_000, 10_000_000)
QUICK_SIZES = (100, 1024)


@dataclass
class Contender:
    """One way to make a mask, and how far it came."""

    name: str
    enter: Enter
    order: int  # time and memory grow as N^order, to judge a size before trying it
    out: str = ""  # why it left the race
    failed: str = ""  # why there is nothing at the latest size
    size: int = 0  # of the latest samples
    samples: list[float] = field(default_factory=list)  # seconds a call
    temporary_bytes: int = 0
    shown: str = ""

    def cell(self) -> str:
        if self.out or self.failed:
            return self.out or self.failed
        median, least, most = (readable_time(f(self.samples)) for f in (statistics.median, min, max))
        return f"{median} ({least} to {most}), {readable_bytes(self.temporary_bytes)}"


# --- the race ---


def contenders() -> list[Contender]:
    """All of them; those that are not installed are out already."""
    return [Contender(name, enter, order, out=absent(*needed)) for name, needed, enter, order in CONTENDERS]


def ready(contender: Contender, importance: np.ndarray, weights: np.ndarray) -> Callable[[], Any] | None:
    """Compile, call once and look at the result, or note why not."""
    size = len(importance)
    if contender.samples and not contender.out:
        growth = (size / contender.size) ** contender.order
        if (seconds := statistics.median(contender.samples) * growth) > CALL_LIMIT_SECONDS:
            contender.out = f"out: {readable_time(seconds)} a call at {size:,}"
        elif (count := contender.temporary_bytes * growth) > 4 * MEMORY_LIMIT_BYTES:
            contender.out = f"out: {readable_bytes(count)} at {size:,}"
    if contender.out:
        return None
    contender.failed = ""
    try:
        entry = contender.enter(importance, weights)
        if entry.temporary_bytes > MEMORY_LIMIT_BYTES:
            contender.out = f"out: {readable_bytes(entry.temporary_bytes)} at {size:,}"
            return None
        contender.shown = seen(entry.call(), size)
    except Exception as error:  # of any package: a solver that refuses its own numbers, say
        contender.failed = f"fails: {_sentence(error)}"
        return None
    contender.temporary_bytes, contender.size, contender.samples = entry.temporary_bytes, size, []
    return entry.call


def _sentence(error: Exception) -> str:
    """The first sentence of what it says, short enough for a table."""
    said = " ".join(line.strip() for line in str(error).splitlines() if "Error" in line or "solver" in line)
    return (said or type(error).__name__).split(". ")[0][-110:].replace("|", "/")


def seen(result: tuple[Any, Any, Any], size: int) -> str:
    """`0.5; k`: mass error, and the gradients that are there."""
    mask, *gradients = result
    error = abs(float(np.sum(np.asarray(mask), dtype=np.float64)) - size * (1 - RATIO))
    words = []
    for name, gradient in zip(("k", "scores"), gradients, strict=True):
        if gradient is not None and not np.all(np.isfinite(gradient)):
            words.append(f"{name} NaN")
        elif gradient is not None and np.any(np.asarray(gradient) != 0):
            words.append(name)
    return f"{error:.2g}; {', '.join(words) or 'none'}"


def race(entered: list[Contender], size: int, samples: int) -> None:
    """Time all contenders at one size, in turns."""
    draw = np.random.default_rng(size)
    importance, weights = (draw.normal(size=size).astype(np.float32) for _ in range(2))
    calls = [(c, call) for c in entered if (call := ready(c, importance, weights)) is not None]
    bundles = []
    for _, call in calls:
        wait_until_idle()
        call()
        bundles.append(max(1, round(SAMPLE_SECONDS / seconds_a_call(call, 1))))
    for _ in range(samples):
        for (contender, call), bundle in zip(calls, bundles, strict=True):
            wait_until_idle()
            call()
            contender.samples.append(seconds_a_call(call, bundle))


def wait_until_idle(within: float = 1.0) -> None:
    """Wait, `within` seconds at most, while threads of this process give back what the last contender took."""
    start = time.perf_counter()
    while time.perf_counter() - start < within:
        used = time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - used < 0.1 * IDLE_SECONDS:
            return


def seconds_a_call(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def readable_time(seconds: float) -> str:
    return readable(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)))


def readable_bytes(count: float) -> str:
    return readable(count, (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))


def readable(value: float, units: Sequence[tuple[str, float]]) -> str:
    unit, scale = next((u for u in units if value >= u[1]), units[-1])
    return f"{value / scale:.3g} {unit}"


def main(quick: bool = False, samples: int = 15) -> None:
    """Print the tables, and put them into RESULTS.md.

    Args:
      quick: two small sizes and three samples, printed alone, to see that it works.
      samples: bundles of calls timed of every contender at every size.
    """
    entered, sizes, samples = contenders(), QUICK_SIZES if quick else SIZES, 3 if quick else samples
    left_out = [f"{c.name} is {c.out}." for c in entered if c.out]
    entered = [c for c in entered if not c.out]
    times, facts, medians = [], [], {}
    for size in sizes:
        race(entered, size, samples)
        times.append([f"{size:,}", *(c.cell() for c in entered)])
        facts.append([f"{size:,}", *(("out" if c.out else "fails") if c.out or c.failed else c.shown for c in entered)])
        for c in entered:
            if c.size == size and not c.failed:
                medians.setdefault(c.name, {})[size] = statistics.median(c.samples)
        print(f"{size:,}: " + "; ".join(f"{c.name} {c.cell()}" for c in entered), flush=True)
    options, header = Options(quick=quick), ["N", *(c.name for c in entered)]
    parts = [
        f"`python -m experiments.benchmarks.operator` on {machine()}: forward and gradient; median "
        f"time, (least to most), "
        "temporary memory.",
        options.drawn("operator", "Time of the operator and of others", pictures.growth(medians)),
        table(header, times),
        "Mass error |sum m - k|, and the gradients that are there:",
        table(header, facts),
        " ".join(left_out),
    ]
    options.publish("operator", "The operator beside others", parts)


if __name__ == "__main__":
    exit_on_user_error(lambda: parse(main, description=__doc__))()
