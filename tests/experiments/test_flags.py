"""Flags of resources: options without a budget."""

import pytest

from dms_jax import UserError
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.memory import Memory
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
