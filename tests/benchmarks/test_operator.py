"""The operator's benchmark: a race of small sizes, and what it reads off a result."""

import numpy as np

from experiments.benchmarks import operator
from experiments.benchmarks.contenders import Entry
from experiments.benchmarks.operator import Contender


def test_the_race_of_small_sizes_prints_both_tables(capsys):
    operator.main(quick=True)
    shown = capsys.readouterr().out
    assert "| 1,024 |" in shown and "Mass error" in shown
    assert "0.5; k |" in shown  # ranks have no gradient to scores; sigmoids of them sum to k + 1/2


def test_what_is_seen_of_a_result():
    mask = np.array([0.0, 0.5, 1.0, 1.0])
    assert operator.seen((mask, np.float32(3.0), None), 4) == "0.5; k"
    assert operator.seen((mask, np.float32(np.nan), np.zeros(4)), 4) == "0.5; k NaN"
    assert operator.seen((mask, None, np.ones(4)), 4) == "0.5; scores"


def test_a_contender_leaves_before_a_call_that_would_take_too_long():
    def enter(importance, weights):
        raise AssertionError("must not be tried")

    slow = Contender("slow", enter, order=2, size=10, samples=[1.0])
    assert operator.ready(slow, np.zeros(100, np.float32), np.zeros(100, np.float32)) is None
    assert slow.out == "out: 100 s a call at 100"


def test_a_contender_leaves_before_a_call_that_needs_too_much_memory():
    def enter(importance, weights):
        return Entry(lambda: (_ for _ in ()).throw(AssertionError("must not be called")), 2**33)

    large = Contender("large", enter, order=2)
    assert operator.ready(large, np.zeros(10, np.float32), np.zeros(10, np.float32)) is None
    assert large.out == "out: 8 GiB at 10"


def test_a_failure_at_one_size_does_not_end_the_race():
    def enter(importance, weights):
        def call():
            if len(importance) == 10:
                raise ValueError("the solver gave up")
            return np.ones(20), np.float32(1.0), None

        return Entry(call, 8)

    contender = Contender("fragile", enter, order=1)
    assert operator.ready(contender, np.zeros(10, np.float32), np.zeros(10, np.float32)) is None
    assert contender.cell() == "fails: the solver gave up"
    assert operator.ready(contender, np.zeros(20, np.float32), np.zeros(20, np.float32)) is not None
    assert contender.shown == "10; k"
