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
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dms_jax.baselines.capped_simplex import capped_simplex
from dms_jax.command_line import parse
from dms_jax.errors import exit_on_user_error
from dms_jax.topk import soft_mask
from dms_jax.training.machine import machine
from experiments.benchmarks import pictures
from experiments.benchmarks.command import PICTURES, QUICK
from experiments.benchmarks.rivals import absent
from experiments.benchmarks.tables import table, write_section

Mask = Callable[[Array, Array], Array]
"""(importance `[N]`, ratio) -> mask `[N]`."""

RATIO = 0.5
MEMORY_LIMIT_BYTES = 4 * 2**30
CALL_LIMIT_SECONDS = 20.0
SAMPLE_SECONDS = 0.01  # short calls are timed in bundles this long, far above the clock's and dispatch's jitter
IDLE_SECONDS = 0.005
SIZES = (100, 256, 512, 1024, 4096, 16_384, 100_000, 1_000_000, 10_000_000)
QUICK_SIZES = (100, 1024)


@dataclass(frozen=True)
class Entry:
    """A contender at one size.

    Attributes:
      call: does the work and waits for it; (mask, gradient in the ratio, gradient in the importance), None for none.
      temporary_bytes: that a call needs.
    """

    call: Callable[[], tuple[Any, Any, Any]]
    temporary_bytes: int


class Enter(Protocol):
    """Makes a contender ready for inputs `[N]`; calls nothing."""

    def __call__(self, importance: np.ndarray, weights: np.ndarray) -> Entry: ...


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


# --- contenders in JAX ---


def pairwise_mask(importance: Array, ratio: Array) -> Array:
    """The same mask by the definition: c' counts, for every element, the elements below it."""
    size = importance.shape[0]
    index = jnp.arange(size)
    below = importance[None, :] < importance[:, None]
    tied_before = (importance[None, :] == importance[:, None]) & (index[None, :] < index[:, None])
    rank = jnp.sum(below | tied_before, axis=1, dtype=jnp.int32)
    return jax.nn.sigmoid(size * (jax.lax.stop_gradient(rank) / size - ratio))


def simplex_mask(importance: Array, ratio: Array) -> Array:
    """Our own capped simplex, a rival strategy of the search."""
    return capped_simplex(importance, importance.shape[0] * (1 - ratio))


def jaxopt_mask(importance: Array, ratio: Array) -> Array:
    """The point of {0 <= m <= 1, sum m = k} nearest to the importance, differentiated implicitly."""
    from jaxopt.projection import projection_box_section  # pyright: ignore[reportMissingImports]

    zeros, ones = jnp.zeros_like(importance), jnp.ones_like(importance)
    return projection_box_section(importance, (zeros, ones, ones, importance.shape[0] * (1 - ratio)))


def ott_mask(importance: Array, ratio: Array) -> Array:
    """OTT's own soft top-k mask by entropic optimal transport, with its defaults; k is fixed."""
    from ott.tools import soft_sort  # pyright: ignore[reportMissingImports]

    return soft_sort.topk_mask(importance, k=_fixed(importance))


def ott_unrolled_mask(importance: Array, ratio: Array) -> Array:
    """The same, differentiated through Sinkhorn's iterations instead of implicitly: the implicit solver may fail."""
    from ott.tools import soft_sort  # pyright: ignore[reportMissingImports]

    return soft_sort.topk_mask(importance, k=_fixed(importance), implicit_diff=None)


def softjax_mask(importance: Array, ratio: Array, method: str) -> Array:
    """The sum of softjax's soft indices of the top k, with its defaults; k is fixed."""
    import softjax  # pyright: ignore[reportMissingImports]

    _, index = softjax.top_k(importance, _fixed(importance), method=method)
    return jnp.sum(index, axis=0)


def _fixed(importance: Array) -> int:
    return round(importance.shape[0] * (1 - RATIO))


def in_jax(mask: Mask) -> Enter:
    """A contender of a function in JAX."""

    def enter(importance: np.ndarray, weights: np.ndarray) -> Entry:
        def weighted(ratio: Array, importance: Array) -> tuple[Array, Array]:
            m = mask(importance, ratio)
            return jnp.asarray(weights) @ m, m

        arguments = (jnp.float32(RATIO), jnp.asarray(importance))
        with jax.numpy_rank_promotion("allow"):  # other packages broadcast as they like
            program = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True)).lower(*arguments).compile()
        memory = program.memory_analysis()

        def call() -> tuple[Any, Any, Any]:
            (_, m), gradients = jax.block_until_ready(program(*arguments))
            return m, *gradients

        return Entry(call, memory.temp_size_in_bytes if memory is not None else 0)

    return enter


# --- contenders in PyTorch ---


def in_torch(importance: np.ndarray, weights: np.ndarray) -> Entry:
    """Pairwise ranks in eager PyTorch, one thread: the published form of the operator, written afresh."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    c, w, size = torch.from_numpy(importance), torch.from_numpy(weights), len(importance)
    ratio = torch.tensor(RATIO, requires_grad=True)

    def call() -> tuple[Any, Any, Any]:
        rank = (c[:, None] > c[None, :]).sum(1)
        m = torch.sigmoid(size * (rank / size - ratio))
        (gradient,) = torch.autograd.grad(w @ m, ratio)
        return m.detach().numpy(), gradient.numpy(), None

    return Entry(call, size * size)  # a byte a pair


# --- the race ---


def contenders() -> list[Contender]:
    """All of them; those that are not installed are out already."""
    found = [
        Contender("soft_mask", in_jax(soft_mask), 1),
        Contender("pairwise ranks", in_jax(pairwise_mask), 2),
        Contender("capped simplex", in_jax(simplex_mask), 1),
    ]
    for name, modules, enter, order in (
        ("PyTorch pairwise", ("torch",), in_torch, 2),
        ("jaxopt capped simplex", ("jaxopt",), in_jax(jaxopt_mask), 1),
        ("ott-jax topk_mask", ("ott",), in_jax(ott_mask), 1),
        ("ott-jax topk_mask, unrolled", ("ott",), in_jax(ott_unrolled_mask), 1),
        ("softjax softsort", ("softjax",), in_jax(partial(softjax_mask, method="softsort")), 2),
        ("softjax neuralsort", ("softjax",), in_jax(partial(softjax_mask, method="neuralsort")), 2),
    ):
        found.append(Contender(name, enter, order, out=absent(*modules)))
    return found


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
    folder = QUICK if quick else PICTURES
    picture = pictures.save(pictures.growth(medians), folder / "operator.svg")
    header = ["N", *(c.name for c in entered)]
    parts = [
        f"`python -m experiments.benchmarks.operator` on {machine()}: forward and gradient; median "
        f"time, (least to most), "
        "temporary memory.",
        f"![Time of the operator and of others](../../../{picture})",
        table(header, times),
        "Mass error |sum m - k|, and the gradients that are there:",
        table(header, facts),
        " ".join(left_out),
    ]
    write_section("operator", "The operator beside others", "\n\n".join(filter(None, parts)), quick=quick)


if __name__ == "__main__":
    exit_on_user_error(lambda: parse(main, description=__doc__))()
