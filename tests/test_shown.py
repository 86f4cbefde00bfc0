"""What public objects print: one useful line, whatever they hold."""

import jax
import jax.numpy as jnp
import optax
import pytest

import dms_jax
from dms_jax.structure import Structure


def network(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


PARAMS = {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 2))}
SPACE = dms_jax.SearchSpace.from_function(network, PARAMS, jnp.ones((1, 4)))
SEARCH = dms_jax.Search(SPACE, lambda p, x, k: jnp.mean(network(p, x)), optax.sgd(0.1), {"macs": 0.5}, steps=20)

SHOWN = {
    "SearchSpace(network, one forward pass of float32[1, 4]: 1 group, 8 elements)": SPACE,
    "Structure(a 3/8)": SPACE.structure({"a": range(3)}),
    "Structure(all kept)": Structure({}),
    "Structure(a 1/?, b 1/?, c 1/?, d 1/?, e 1/?, f 1/?, and 2 more)": Structure({c: (0,) for c in "abcdefgh"}),
    "Group(name='a', size=8, kind='width', least=1)": SPACE.groups["a"],
    "Limits(freeze=(), min_size={}, divisible_by={})": dms_jax.Limits(),
    "Schedule(steps=20, warmup=0, decay=0.8, refine=0.2)": dms_jax.Schedule(20),
    "Importance(taylor, decay=0.99)": dms_jax.Importance(),
    "SearchState(step=0, params: 48 numbers, ratios: 1 number, importance: 8 numbers, opt_state: 0 numbers, "
    "ratio_opt_state: 7 numbers)": SEARCH.init(PARAMS),
    "Task(network, 48 numbers in params, options: budget)": dms_jax.Task(
        network, PARAMS, lambda p, b, k: 0.0, [1], options={"budget": {"macs": 0.5}}
    ),
}


@pytest.mark.parametrize("line", SHOWN)
def test_objects_are_shown_in_one_line(line):
    assert repr(SHOWN[line]) == line


def test_a_search_says_of_what_it_is():
    line = repr(SEARCH)
    assert line.startswith("Search(space=SearchSpace(network, ") and "budget={'macs': 0.5}" in line
    assert "DMS(" in line and "Schedule(steps=20" in line and "\n" not in line and "0x" not in line


def test_a_state_is_shown_while_it_is_traced():
    seen = []
    jax.make_jaxpr(lambda state: seen.append(repr(state)) or state.step)(SEARCH.init(PARAMS))
    assert "params: 48 numbers" in seen[0] and "\n" not in seen[0]
