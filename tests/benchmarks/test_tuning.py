"""Choosing how a strategy searches: grids are widened where their end is best, and only there."""

import dataclasses
from typing import Any

import pytest

from experiments.benchmarks import tuning
from experiments.benchmarks.settings import Settings
from experiments.benchmarks.tasks import Unit

START = Settings("dms", 0.2, 800, 100, 5.0)


class Table:
    """A contest whose scores are a function of the rate and the length."""

    def __init__(self, score):
        self.score, self.cells = score, {}

    tried = (99, 98)

    @property
    def choice(self):
        return "valid", Unit("bits")

    def fill(self, name, asked):
        self.cells |= {(settings, seed): self.score(settings) for settings, seed in asked}

    def values(self, settings, seeds, what="test"):
        assert what == "valid"
        return {seed: self.cells[settings, seed] for seed in seeds if (settings, seed) in self.cells}


def grid(*rates, lengths=(100, 200)):
    return [dataclasses.replace(START, search_steps=n, rate=rate) for n in lengths for rate in rates]


@pytest.mark.parametrize(
    ("best", "added"), [(5.0, []), (1.0, [1.25, 0.625]), (17.0, [20.0, 40.0]), (2.4, [1.25]), (9.0, [20.0])]
)
def test_rates_are_added_until_the_best_is_inside(best, added):
    table: Any = Table(lambda s: abs(s.rate - best) + s.search_steps / 100)  # the shorter search is better
    found = tuning.settle(table, "DMS", grid(2.5, 5.0, 10.0))
    assert [c.rate for c in found[6:]] == added and all(c.search_steps == 100 for c in found[6:])
    assert tuning.widened(table, grid(2.5, 5.0, 10.0)) == found
    assert abs(tuning.chosen(table, found).rate - best) == min(abs(c.rate - best) for c in found)


def test_nothing_is_added_without_scores_or_without_rates():
    empty: Any = Table(lambda s: 1.0)
    assert tuning.widened(empty, grid(2.5, 5.0)) == grid(2.5, 5.0)
    assert tuning.settle(empty, "iterative", grid(5.0)) == grid(5.0)


def test_a_strategy_keeps_its_own_rate_where_others_are_as_good():
    flat: Any = Table(lambda s: 1.0)
    candidates = tuning.at_rates(dataclasses.replace(START, rate=5.0))
    assert tuning.settle(flat, "DMS", candidates) == candidates  # nothing is gained at an end, either
    assert tuning.best(flat, candidates).rate == 5.0
