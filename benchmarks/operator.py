"""Time and memory of the operator beside other ways to get a differentiable top-k mask.

    python -m benchmarks.operator [--quick]

One call is the value and the gradient, in the ratio, of a weighted sum of the mask; jitted, warmed up, waited
for. The contenders take turns, so that a slow moment of the machine meets all of them. A cell holds the
median time, (least to most), and the temporary memory XLA plans for the program. A contender leaves the race
where its program needs more than 4 GiB, or where a call would take more than 20 s, judged by its last size.

The last column is the median of pairwise ranks over that of `soft_mask`.
"""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import tyro
from jax import Array

from dms_jax.topk import soft_mask

Mask = Callable[[Array, Array], Array]

MEMORY_LIMIT_BYTES = 4 * 2**30
CALL_LIMIT_SECONDS = 20.0
SAMPLE_SECONDS = 0.01  # short calls are timed in bundles this long, far above the clock's and dispatch's jitter
SIZES = (100, 256, 512, 1024, 4096, 16_384, 100_000, 1_000_000, 10_000_000)
QUICK_SIZES = (100, 256, 1024, 4096)


@dataclass
class Contender:
    """One way to make a mask, and how far it came."""

    name: str
    mask: Mask | None
    order: int  # time grows as N^order, to judge a size before trying it
    out: str = ""  # why it left the race
    size: int = 0  # of the latest samples
    samples: list[float] = field(default_factory=list)  # seconds a call
    temporary_bytes: int = 0

    def cell(self) -> str:
        if self.out:
            return self.out
        median, least, most = (readable_time(f(self.samples)) for f in (statistics.median, min, max))
        return f"{median} ({least} to {most}), {readable_bytes(self.temporary_bytes)}"


def pairwise_mask(importance: Array, ratio: Array) -> Array:
    """The same mask by the definition: c' counts, for every element, the elements below it."""
    size = importance.shape[0]
    index = jnp.arange(size)
    below = importance[None, :] < importance[:, None]
    tied_before = (importance[None, :] == importance[:, None]) & (index[None, :] < index[:, None])
    rank = jnp.sum(below | tied_before, axis=1, dtype=jnp.int32)
    return jax.nn.sigmoid(size * (jax.lax.stop_gradient(rank) / size - ratio))


def ott_mask() -> Mask | None:
    """Entropic optimal transport gives soft ranks; the same sigmoid makes a mask of them."""
    try:
        from ott.tools import soft_sort  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    def mask(importance: Array, ratio: Array) -> Array:
        ranks = soft_sort.ranks(importance)
        return jax.nn.sigmoid(ranks - importance.shape[0] * ratio)

    return mask


def jaxopt_mask() -> Mask | None:
    """The point of {0 <= m <= 1, sum m = k} nearest to the importance, differentiated implicitly."""
    try:
        from jaxopt.projection import projection_box_section  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    def mask(importance: Array, ratio: Array) -> Array:
        zeros, ones = jnp.zeros_like(importance), jnp.ones_like(importance)
        return projection_box_section(importance, (zeros, ones, ones, importance.shape[0] * (1 - ratio)))

    return mask


def program(mask: Mask) -> Callable:
    return jax.jit(jax.value_and_grad(lambda ratio, importance, weights: weights @ mask(importance, ratio)))


def enter(contender: Contender, size: int, arguments: tuple[Array, ...]) -> Callable[[], object] | None:
    """Compile and warm up for this size, or note why not."""
    if contender.mask is None:
        contender.out = "not installed"
    elif contender.samples and not contender.out:
        predicted = statistics.median(contender.samples) * (size / contender.size) ** contender.order
        if predicted > CALL_LIMIT_SECONDS:
            contender.out = f"out: {readable_time(predicted)} a call at {size:,}"
    if contender.out or contender.mask is None:
        return None
    compiled = program(contender.mask).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    contender.temporary_bytes = memory.temp_size_in_bytes if memory is not None else 0
    if contender.temporary_bytes > MEMORY_LIMIT_BYTES:
        contender.out = f"out: {readable_bytes(contender.temporary_bytes)} at {size:,}"
        return None
    contender.size, contender.samples = size, []
    jax.block_until_ready(compiled(*arguments))
    return lambda: jax.block_until_ready(compiled(*arguments))


def seconds_a_call(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def race(contenders: list[Contender], size: int, samples: int) -> None:
    """Time all contenders at one size, in turns."""
    keys = jax.random.split(jax.random.key(size))
    arguments = (jnp.float32(0.5), *(jax.random.normal(key, (size,)) for key in keys))
    calls = [(c, call) for c in contenders if (call := enter(c, size, arguments)) is not None]
    bundles = [max(1, round(SAMPLE_SECONDS / seconds_a_call(call, 1))) for _, call in calls]
    for _ in range(samples):
        for (contender, call), bundle in zip(calls, bundles, strict=True):
            contender.samples.append(seconds_a_call(call, bundle))


def speedup(ours: Contender, pairwise: Contender) -> str:
    if pairwise.out:
        return "-"
    return f"{statistics.median(pairwise.samples) / statistics.median(ours.samples):.1f}"


def readable_time(seconds: float) -> str:
    return readable(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)))


def readable_bytes(count: float) -> str:
    return readable(count, (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))


def readable(value: float, units: tuple[tuple[str, float], ...]) -> str:
    unit, scale = next((u for u in units if value >= u[1]), units[-1])
    return f"{value / scale:.3g} {unit}"


def main(quick: bool = False, samples: int = 15) -> None:
    """Print the table.

    Args:
      quick: Sizes up to 4,096 and five samples, to see that it works.
      samples: Bundles of calls timed of every contender at every size.
    """
    sizes, samples = (QUICK_SIZES, 5) if quick else (SIZES, samples)
    contenders = [
        Contender("soft_mask", soft_mask, order=1),
        Contender("pairwise ranks", pairwise_mask, order=2),
        Contender("ott-jax", ott_mask(), order=2),
        Contender("jaxopt", jaxopt_mask(), order=1),
    ]
    device = jax.devices()[0].device_kind
    print(f"JAX {jax.__version__} on {device}, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| N | " + " | ".join(c.name for c in contenders) + " | pairwise / soft_mask |")
    print("|---:|" + "---|" * len(contenders) + "---:|")
    for size in sizes:
        race(contenders, size, samples)
        cells = [c.cell() for c in contenders]
        print(f"| {size:,} | " + " | ".join(cells) + f" | {speedup(*contenders[:2])} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"\nPeak memory of the whole process: {readable_bytes(peak)}.")


if __name__ == "__main__":
    tyro.cli(main)
