"""What `summary` and `explain` print, to the letter: people read it, and a change should be one that was meant."""

import re

import jax
import jax.numpy as jnp
import pytest

from dms_jax import SearchSpace

SUMMARY = """\
network, one forward pass of float32[1, 4]
group         kind   elements  least  MACs each  params each  weights each  mask on
------------  -----  --------  -----  ---------  -----------  ------------  ----------
in            width         8      1         71           71           284  parameters
blocks/0      width        16      1         16           16            64  parameters
blocks/1      width        16      1         16           16            64  parameters
blocks/depth  depth         2      0        256          256        1.02 k  parameters
4 groups, 42 elements
macs: 7 (7) to 568 (568)
params: 7 (7) to 568 (568)
weights: 28 (28) to 2,272 (2.27 k)"""

EXPLAINED = {
    "blocks/0/down": """\
blocks/0/down [16, 8]
  axis 0 (16): blocks/0
  axis 1 (8): in
  goes with the gates: blocks/depth[0]""",
    "out": """\
out [8, 3]
  axis 0 (8): in
    in: add at tests/test_summary.py:LINE (network)
    in: dot_general at tests/test_summary.py:LINE (network)
  axis 1 (3): not sliced, because of its being an axis of an output of the network
  no gate removes it""",
}


def network(params, x):
    x = jax.nn.relu(x @ params["in"])
    for block in params["blocks"]:
        x = x + jax.nn.relu(x @ block["up"]) @ block["down"]
    return x @ params["out"]


@pytest.fixture(scope="module")
def space():
    block = {"up": jnp.ones((8, 16)), "down": jnp.ones((16, 8))}
    params = {"in": jnp.ones((4, 8)), "blocks": [block, block], "out": jnp.ones((8, 3))}
    return SearchSpace.from_function(network, params, jnp.ones((1, 4)))


def test_a_summary_to_the_letter(space):
    assert space.summary() == SUMMARY


@pytest.mark.parametrize("path", EXPLAINED)
def test_an_explanation_to_the_letter(space, path):
    found = re.sub(r"at \S*(test_summary.py):\d+", r"at tests/\1:LINE", space.explain(path))
    assert found == EXPLAINED[path]
