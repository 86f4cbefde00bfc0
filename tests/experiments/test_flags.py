"""Flags of resources: options without a budget."""

import pytest

from dms_jax import UserError
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.memory import Memory
from dms_jax.training.sizes import Sizes
from experiments.flags import Budgets


@pytest.mark.parametrize("name", ["latency", "memory"])
def test_options_of_what_no_budget_names_are_refused_wherever_it_is_named(name):
    """A task can name it, too; what is measured for minutes is not measured for nothing."""
    asked = Budgets(**{f"{name}_batch": 2})
    with pytest.raises(UserError, match=f"--{name}-batch is of a budget that is not given; give --{name}"):
        asked.resources({"macs": 0.5})
    assert asked.resources({name: 0.5}) == ({"latency": Latency, "memory": Memory}[name](batch=2),)


def test_options_of_what_every_space_has_need_no_budget():
    assert len(Budgets(weights_factor=0.5).resources({"macs": 0.5})) == 1
    assert Budgets().resources({}) == ()


def test_several_sizes_are_a_budget_of_the_smallest_one():
    asked = Budgets(sizes=(0.25, 0.5, 0.1), sizes_of="params", weights="2MB")
    assert asked.amounts == {"weights": "2MB", "params": 0.1}
    assert asked.family == Sizes({size: {"params": size} for size in (0.5, 0.25, 0.1)})
    assert asked.amounts_of_sizes(asked.amounts) == {"weights": "2MB", "params": (0.5, 0.25, 0.1)}
    same = Budgets(sizes=(0.1, 0.5, 0.25), sizes_of="params", weights="2MB")
    assert asked.identity(asked.amounts) == same.identity(same.amounts)
    assert Budgets(sizes=(0.5, 0.25), sizes_apart=True).family == Sizes(
        {0.5: {"macs": 0.5}, 0.25: {"macs": 0.25}}, together=False
    )
    assert Budgets(macs=0.5).family is None and "sizes" not in Budgets(macs=0.5).identity({"macs": 0.5})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(sizes=(0.5,)), "give two or more fractions"),
        (dict(sizes=(0.5, 0.5)), "each once"),
        (dict(sizes=(0.5, 2.0)), r"in \(0, 1\]"),
        (dict(sizes=(0.5, float("nan"))), "not possible"),
        (dict(sizes=(0.5, 0.25), macs=0.1), "--macs and --sizes are one budget"),
        (dict(sizes_apart=True), "are of several sizes"),
        (dict(sizes_of="params"), "are of several sizes"),
    ],
)
def test_sizes_that_are_none_are_refused_in_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        _ = Budgets(**flags).amounts, Budgets(**flags).family
