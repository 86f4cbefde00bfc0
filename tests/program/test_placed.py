"""Arrays that are named, copied, cast or placed on devices are the same: residual sums and folds see through that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

import dms_jax
from dms_jax import SearchSpace
from tests.helpers import FLOAT32_ROUNDING
from tests.laws.checking import Case, hold
from tests.program.outsiders import normal, numbers

DEVICE = NamedSharding(jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,)), PartitionSpec())
PLACED = {
    "nothing": lambda x: x,
    "named": lambda x: checkpoint_name(x, "stream"),
    "copied": lambda x: jnp.array(x, copy=True),
    "cast": lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
    "sharded": lambda x: jax.lax.with_sharding_constraint(x, DEVICE),
    "called": jax.jit(lambda x: x),
}
SHAPES = {"stem": (5, 8), "one": {"up": (8, 6), "down": (6, 8)}, "two": {"up": (8, 6), "down": (6, 8)}, "head": (8, 3)}


@pytest.mark.parametrize("place", [*PLACED.values(), lambda x: dms_jax.name(x, "stream")], ids=[*PLACED, "group"])
def test_branches_side_by_side(place):
    """Attention and MLP of one normalized stream, which is placed between the two sums."""

    def network(params, x):
        stream = x @ params["stem"]
        normed = jnp.tanh(stream)
        for name in ("one", "two"):
            stream = place(stream + jax.nn.relu(normed @ params[name]["up"]) @ params[name]["down"])
        return stream @ params["head"]

    params, x = numbers(SHAPES), normal((4, 5), 7)
    space = SearchSpace.from_function(network, params, x)
    assert [group.size for group in space.groups.values() if group.kind == "depth"] == [2]
    if place is not PLACED["cast"]:  # a mask rounds otherwise
        hold(Case(network, space, params, (x,)))


@pytest.mark.parametrize("place", PLACED.values(), ids=PLACED)
def test_a_mask_goes_into_a_parameter(place):
    def network(params, x):
        return jnp.tanh(x @ place(params["up"])) @ place(params["down"])

    params, x = numbers({"up": (5, 8), "down": (8, 3)}), normal((64, 5), 7)
    space = SearchSpace.from_function(network, params, x)
    assert space.plan(network, (x,)).folds("up")
    assert space.verify(params, {"up": (0, 3)}, x) < 10 * FLOAT32_ROUNDING * float(np.abs(network(params, x)).max())
