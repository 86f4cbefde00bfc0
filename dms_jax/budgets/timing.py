"""Milliseconds, measured: of calls of a compiled program, and of a piece among repetitions of itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from dms_jax.errors import UserError

CALLS = 5
"""Of a round, of which the fastest counts, as what else runs on a machine only ever adds; more where rounds differ."""

FEWEST, MOST = 8, 100_000
"""Rounds at least, calls at most."""

SETTLED, NEARLY, NOISY = 0.02, 0.05, 0.2
"""Spread of rounds, as a share of their median: at which measuring ends, ends when time is over, and is in vain."""

LONGER, LONGEST = 4, 20
"""Times the seconds that are meant: where rounds have not settled, and before it is said that they do not."""

COMPILATIONS, COMPILING = 3, 5
"""Of a network, of which the middle one counts, and times its seconds after which no other one begins.

On a CPU one program takes up to a fifth more or less from one compilation to the next, for as long as it lives, and
whoever deploys it compiles it anew.
"""

PIECE = 0.004
"""Seconds of repetitions that a piece is timed over, about."""

PATIENCE = 40
"""Times that repetitions are called at most, until twice as many take as long as is possible (`TWICE`)."""

TWICE = (1.6, 2.03)
"""Twice as many take twice as long, less what a call costs: at most a fifth, as repetitions are many."""

SMALL = 2**12
"""Entries of arrays that may be the same in every repetition, beside larger ones: little is made of them alone."""

now = time.perf_counter
"""Seconds."""


def spread(rounds: Sequence[float]) -> float:
    """Half the range of the middle half."""
    ordered = sorted(rounds)
    return (ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4]) / 2


def settled(once: Callable[[], Any], seconds: float, what: str) -> tuple[float, float]:
    """Median milliseconds of rounds, each the fastest of some calls, and their spread.

    Rounds that do not agree get longer: where a call in ten is undisturbed, the fastest of fifty is.

    Args:
      once: a call, result awaited. It was called before, so that nothing is compiled or allocated.
      seconds: how long to measure, about; less where rounds agree, up to 20 times as long where they do not.
      what: is called, for errors.

    Returns:
      Milliseconds, and half the range of the middle half of the rounds.

    Raises:
      UserError: a clock that jumps, or rounds that do not agree.
    """
    rounds: list[float] = []
    made = lost = 0
    began = now()
    tried = [t for _ in range(3) if (t := _timed(once)) > 0]
    calls = max(1, min(CALLS, int(0.1 / min(tried, default=0.1))))
    while True:
        times = [_timed(once) for _ in range(calls)]
        good = [t for t in times if t > 0]
        made, lost = made + len(times), lost + len(times) - len(good)
        if lost > max(3, made / 5):
            raise UserError(f"the clock of this machine jumps: {lost} of {made} calls of {what} took no time; mend it")
        rounds += [1000 * min(good)] if good else []
        if len(rounds) < FEWEST:
            continue
        share, took = spread(rounds) / median(rounds), now() - began
        enough = share <= (SETTLED if took <= seconds else NEARLY if took <= LONGER * seconds else NOISY)
        if enough or took > LONGEST * seconds or made > MOST:
            break
        if len(rounds) == 2 * FEWEST:  # rounds of twice as many calls
            rounds, calls = [min(pair) for pair in zip(rounds[::2], rounds[1::2], strict=True)], 2 * calls
    if not spread(rounds) <= NOISY * median(rounds):
        raise UserError(
            f"no median of the latency of {what} settles: {median(rounds):.4g} ms with a spread of "
            f"{spread(rounds):.2g} ms after {made} calls; let nothing else run on this machine, or give more seconds"
        )
    return median(rounds), spread(rounds)


def _timed(once: Callable[[], Any]) -> float:
    """Seconds of a call; 0 where the clock says nothing that can be."""
    start = now()
    jax.block_until_ready(once())
    took = now() - start
    return took if math.isfinite(took) and took > 0 else 0.0


def calls(fn: Callable[..., Any], arguments: Any, seconds: float, what: str) -> tuple[float, float]:
    """`settled` for a function, compiled a few times for the first device of this process and called with zeros.

    Args:
      fn: `(*arguments) -> arrays`.
      arguments: shapes and dtypes.
      seconds, what: as `settled` takes them, all compilations together.

    Returns:
      The median of the compilations, milliseconds; and what is larger, the spread of calls or that of compilations.
    """
    arrays = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tuple(arguments))
    found, alive, began = [], [], now()
    while len(found) < COMPILATIONS and (not found or now() - began < COMPILING * seconds):
        program = compiled(fn, arrays)
        alive.append(program)  # else the next one may get its place in memory, and its time
        jax.block_until_ready(program(*arrays))
        found.append(settled(lambda program=program: program(*arrays), seconds / COMPILATIONS, what))
    times = [ms for ms, _ in found]
    return median(times), max(spread(times), median(of_calls for _, of_calls in found))


def compiled(fn: Callable[..., Any], arrays: Sequence[Any]) -> Callable[..., Any]:
    """A program of its own for a function, whatever was compiled before."""
    return jax.jit(lambda *arrays: fn(*arrays)).lower(*arrays).compile()


def repeated(fn: Callable[..., Sequence[Any]], shapes: Sequence[jax.ShapeDtypeStruct]) -> float:
    """Milliseconds of a piece: the difference of 2 N and N repetitions in one program, by N.

    What a call costs, and what a loop costs to begin, is in both. Every repetition changes an entry of what the next
    one reads, so that none is left out, and what it makes is there when it ends.

    Args:
      fn: of arrays, to arrays.
      shapes: of the arrays it is given.

    Returns:
      Milliseconds, at least 0.
    """

    arrays = [jnp.zeros(x.shape, x.dtype) for x in shapes]
    outs = jax.eval_shape(lambda *arrays: tuple(fn(*arrays)), *arrays)
    made = tuple(jnp.zeros(x.shape, x.dtype) for x in outs)
    program = jax.jit(repetitions(fn)).lower(jnp.int32(1), made, *arrays).compile()

    def once(number: int) -> float:
        return _timed(lambda: program(jnp.int32(number), made, *arrays))

    once(1)
    number = 1
    while (took := once(number)) < PIECE / 2 and number < 2**20:
        number = max(2 * number, min(int(number * PIECE / max(took, 1e-6)), 16 * number))
    best = [math.inf, math.inf]
    for tried in range(1, PATIENCE + 1):
        for i in (0, 1):
            best[i] = min(best[i], once((1 + i) * number) or math.inf)
        if tried >= CALLS and TWICE[0] < best[1] / best[0] < TWICE[1]:
            return 1000 * (best[1] - best[0]) / number
    if not math.isfinite(best[1]):
        raise UserError("the clock of this machine jumps: no repetition of a piece took any time; mend it")
    return 1000 * best[1] / (2 * number)  # something else runs all the time: a call is in it


def repetitions(fn: Callable[..., Sequence[Any]]) -> Callable[..., Any]:
    """`(number, made, *arrays) -> arrays, made`: a piece so many times, each from an entry of what the last one made.

    Large arrays are different every time, and the largest one however small it is: a compiler moves out of a loop what
    is the same in all of its repetitions.
    """

    def run(number: Any, made: Any, *arrays: Any) -> Any:
        least = min(SMALL, max((x.size for x in arrays if _numeric(x)), default=0))

        def body(_: Any, carried: Any) -> Any:
            arrays, _ = carried
            outs = tuple(fn(*arrays))
            seen = next((jnp.real(x[(0,) * x.ndim]) for x in outs if x.size), jnp.zeros(()))
            return tuple(_moved(x, seen) if _numeric(x) and x.size >= least else x for x in arrays), outs

        return lax.fori_loop(0, number, body, (arrays, made))

    return run


def _numeric(x: Any) -> bool:
    return bool(x.size) and jnp.issubdtype(x.dtype, jnp.number)


def _moved(x: Any, seen: Any) -> Any:
    """An array with one entry that depends on what was seen."""
    entry = jnp.where(seen > 0, jnp.ones((), x.dtype), jnp.zeros((), x.dtype))
    return lax.dynamic_update_slice(x, entry.reshape((1,) * x.ndim), (0,) * x.ndim)


def agreed(action: Callable[[], Sequence[float]], many: int) -> list[float]:
    """Run something on process 0 and return its numbers in all processes, who call this together.

    Args:
      action: gives `many` numbers.

    Raises:
      UserError: `action` raised one, on process 0; others say so.
    """
    if jax.process_count() == 1:
        return list(action())
    found, error = np.full(many, np.nan), None
    if jax.process_index() == 0:
        try:
            found = np.asarray(action(), np.float64)
        except Exception as caught:  # nobody is left waiting
            error = caught
    words = np.asarray(multihost_utils.broadcast_one_to_all(found.view(np.uint32)))
    numbers = words.astype(np.uint32).view(np.float64)
    if error is not None:
        raise error
    if np.isnan(numbers).any():
        raise UserError("process 0 could not measure; it says why")
    return [float(x) for x in numbers]
