"""What is measured: medians that settle, clocks that jump, repetitions that cancel what a call costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_jax import UserError
from dms_jax.budgets import timing


class Clock:
    """Seconds that pass while something runs, and none elsewhere."""

    def __init__(self, monkeypatch):
        self.time = 1000.0
        monkeypatch.setattr(timing, "now", lambda: self.time)

    def running(self, durations):
        rest = iter(durations)

        def once():
            self.time += next(rest)

        return once


def rng_of(seed):
    return np.random.default_rng(seed)


@settings(max_examples=40, deadline=None)
@given(
    base=st.floats(1e-5, 0.5),
    noise=st.floats(0, 0.05),
    busy=st.floats(0, 0.4),
    seed=st.integers(0, 2**16),
)
def test_what_else_runs_now_and_then_does_not_count(base, noise, busy, seed):
    """Noise that only adds, and bursts of a second network: a few percent of it are left."""
    with pytest.MonkeyPatch.context() as patch:
        clock, rng = Clock(patch), rng_of(seed)

        def durations():
            while True:
                yield base * (1 + rng.exponential(noise)) * (2 if rng.uniform() < busy else 1)

        try:
            ms, spread = timing.settled(clock.running(durations()), 1.0, "it")
        except UserError as error:  # slow calls come one a round: bursts are in some of them
            assert "no median of the latency of it settles" in str(error) and base > 0.02 and busy > 0.05
            return
        assert 1000 * base * (1 - 1e-6) <= ms
        if base < 0.02:
            assert ms <= 1000 * base * (1 + 1.5 * noise + 1e-6) and spread <= 1000 * base * (noise + 0.2)


@settings(max_examples=30, deadline=None)
@given(base=st.floats(1e-4, 1e-2), jumps=st.floats(0, 0.1), far=st.floats(-100, 100), seed=st.integers(0, 2**16))
def test_a_clock_that_is_set_now_and_then_does_not_count(base, jumps, far, seed):
    with pytest.MonkeyPatch.context() as patch:
        clock, rng = Clock(patch), rng_of(seed)

        def durations():
            while True:
                yield base * rng.uniform(1, 1.02) + (far if rng.uniform() < jumps else 0.0)

        try:
            ms, _ = timing.settled(clock.running(durations()), 1.0, "it")
        except UserError as error:
            assert jumps > 0.02 and ("the clock of this machine jumps" in str(error) or far > 0), error
        else:
            assert 1000 * base * 0.999 <= ms <= 1000 * base * 1.03


def test_a_clock_that_stands_is_refused(monkeypatch):
    clock = Clock(monkeypatch)
    with pytest.raises(UserError, match="the clock of this machine jumps: .* of it took no time"):
        timing.settled(clock.running(iter(lambda: 0.0, None)), 1.0, "it")


def test_no_median_is_said_with_its_spread(monkeypatch):
    clock, rng = Clock(monkeypatch), rng_of(0)
    durations = (float(x) for x in iter(lambda: rng.lognormal(-1, 1.5), None))
    with pytest.raises(UserError, match=r"settles: \S+ ms with a spread of \S+ ms after \d+ calls"):
        timing.settled(clock.running(durations), 1.0, "it")


def test_quiet_machines_are_soon_done(monkeypatch):
    clock = Clock(monkeypatch)
    assert timing.settled(clock.running(iter(lambda: 0.003, None)), 100.0, "it") == (pytest.approx(3.0), 0.0)
    assert clock.time - 1000 < 0.003 * timing.CALLS * (timing.FEWEST + 2)


def test_repetitions_are_all_computed_and_calls_cancel():
    shapes = {n: [jax.ShapeDtypeStruct((n, n), jnp.float32)] * 2 for n in (64, 512)}
    small, large = (timing.repeated(lambda a, b: [a @ b], shapes[n]) for n in (64, 512))
    assert 30 * small < large < 1000  # 512 times the multiply-adds


def test_what_follows_a_product_is_computed_too():
    shapes = [jax.ShapeDtypeStruct((2**18,), jnp.float32)]
    bare = timing.repeated(lambda x: [x + 1], shapes)
    longer = timing.repeated(lambda x: [jnp.sin(jnp.cos(jnp.sin(jnp.cos(x))))], shapes)
    assert longer > 2 * bare


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    dtype=st.sampled_from(["float32", "bfloat16", "int32", "complex64"]),
)
def test_no_repetition_is_the_one_before_however_small_the_arrays(sizes, dtype):
    """What is the same in all of them is computed once, by a compiler that sees it."""
    arrays = tuple(jnp.zeros((n, n), dtype) for n in sizes)
    run = timing.repetitions(lambda *arrays: [x + 1 for x in arrays])
    _, once = run(1, arrays, *arrays)
    _, twice = run(2, arrays, *arrays)
    largest = max(sizes)
    moved = [bool(jnp.any(a != b)) for a, b in zip(once, twice, strict=True)]
    assert moved == [n == largest or n * n >= timing.SMALL for n in sizes]


def test_one_process_agrees_with_itself():
    assert timing.agreed(lambda: [1.5, 2.0], 2) == [1.5, 2.0]


@settings(max_examples=30, deadline=None)
@given(
    times=st.lists(st.floats(1e-3, 0.1), min_size=3, max_size=3),
    compiling=st.floats(0, 20),
)
def test_a_network_has_the_time_of_the_middle_compilation(times, compiling):
    with pytest.MonkeyPatch.context() as patch:
        clock, made = Clock(patch), []

        def compiled(fn, arrays):
            clock.time += compiling
            took = times[len(made)]
            made.append(clock.running(iter(lambda: took, None)))
            return lambda *arrays: made[times.index(took)]()

        patch.setattr(timing, "compiled", compiled)
        ms, spread = timing.calls(lambda: (), (), 3.0, "it")
    known = times[: len(made)]
    assert len(made) == 3 or compiling * len(made) + sum(known) >= timing.COMPILING * 3.0 - 6
    assert ms == pytest.approx(1000 * np.median(known))
    assert spread == pytest.approx(1000 * (max(known) - min(known)) / 2, abs=1e-6)
