"""`shrink` on every kind of tree that training keeps: variables, optimizer states, moving averages, shapes."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict, freeze
from flax.training.train_state import TrainState

import dms_jax
from dms_jax import Searchable, SearchSpace, UserError
from tests.counting import random_variables
from tests.helpers import FLOAT32_ROUNDING


class Block(Searchable):
    @nn.compact
    def __call__(self, x):
        mid = self.elements("mid", 6)
        y = nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(mid.size, name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(mid(nn.relu(y))) * self.param("alpha", nn.initializers.ones, ())


class Model(Searchable):
    @nn.compact
    def __call__(self, x):
        depth = self.elements("depth", 2)
        for i in depth.kept:
            x = x + depth.gate(i) * Block(name=f"block{i}")(x)
        return nn.Dense(3, name="masks")(x)  # a layer may be called what a collection is called


X = np.linspace(-1, 1, 10).reshape(2, 5).astype(np.float32)


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(Model(), X)


@pytest.fixture(scope="module")
def structure(space):
    return space.structure({"depth": (1,), "block1/mid": (0, 2, 5)})


@pytest.fixture(scope="module")
def variables(space):
    return random_variables(space)


@pytest.fixture(scope="module")
def small(space, variables, structure):
    return dms_jax.shrink(space, variables, structure)


def test_values(variables, small):
    params, old = small["params"], variables["params"]
    assert set(params) == {"block1", "masks"} and set(small["batch_stats"]) == {"block1"}
    kept = np.array([0, 2, 5])
    np.testing.assert_array_equal(params["block1"]["up"]["kernel"], old["block1"]["up"]["kernel"][:, kept])
    np.testing.assert_array_equal(params["block1"]["down"]["kernel"], old["block1"]["down"]["kernel"][kept])
    np.testing.assert_array_equal(params["block1"]["down"]["bias"], old["block1"]["down"]["bias"])
    np.testing.assert_array_equal(
        small["batch_stats"]["block1"]["norm"]["var"], variables["batch_stats"]["block1"]["norm"]["var"][kept]
    )
    assert params["block1"]["alpha"] == old["block1"]["alpha"]


def test_masks_are_dropped_and_a_layer_of_that_name_is_not(space, variables, structure, small):
    with_masks = dms_jax.shrink(space, {**variables, "masks": space.masks()}, structure)
    chex.assert_trees_all_equal(with_masks, small)


def test_a_tree_of_parameters_alone(space, variables, structure, small):
    chex.assert_trees_all_equal(dms_jax.shrink(space, variables["params"], structure), small["params"])


LABELS = {"block0": "fast", "block1": "slow", "masks": "slow"}
OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-4), optax.adamw(1e-2)),
    "schedule": optax.adam(optax.cosine_decay_schedule(1e-2, 10)),
    "multi": optax.multi_transform(
        {"fast": optax.adam(1e-2), "slow": optax.sgd(1e-2, momentum=0.9)},
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: LABELS[path[0].key], params),
    ),
    "masked": optax.masked(
        optax.adam(1e-2), lambda params: jax.tree_util.tree_map_with_path(lambda p, _: "kernel" in str(p), params)
    ),
    "average": optax.chain(optax.sgd(1e-2), optax.ema(0.9)),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "skipping": optax.apply_if_finite(optax.rmsprop(1e-2), 3),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_states(name, space, variables, structure, small):
    """The sliced state fits the smaller parameters: its tree and shapes are those of a new one, and it steps."""
    optimizer, params = OPTIMIZERS[name], variables["params"]
    grads = jax.tree.map(lambda x: x * 0.1, params)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    shrunk = dms_jax.shrink(space, state, structure)
    chex.assert_trees_all_equal_shapes_and_dtypes(shrunk, optimizer.init(small["params"]))
    small_grads = dms_jax.shrink(space, grads, structure)
    updates, _ = optimizer.update(small_grads, shrunk, small["params"])
    if name != "chain":  # a global norm is of everything
        expected, _ = optimizer.update(grads, state, params)
        chex.assert_trees_all_close(updates, dms_jax.shrink(space, expected, structure), atol=FLOAT32_ROUNDING)


def test_a_train_state(space, variables, structure, small):
    state = TrainState.create(apply_fn=Model().apply, params=variables["params"], tx=optax.adam(1e-2))
    shrunk = dms_jax.shrink(space, state, structure)
    assert isinstance(shrunk, TrainState) and shrunk.step == 0
    chex.assert_trees_all_equal(shrunk.params, small["params"])
    chex.assert_trees_all_equal_shapes(shrunk.opt_state, optax.adam(1e-2).init(small["params"]))


def test_averages_counts_and_keys_pass(space, variables, structure, small):
    tree = {"ema": variables, "step": jnp.int32(7), "key": jax.random.key(3), "other": [1.5, None, np.ones(3)]}
    shrunk = dms_jax.shrink(space, tree, structure)
    chex.assert_trees_all_equal(shrunk["ema"], small)
    assert shrunk["step"] == 7 and shrunk["other"][:2] == [1.5, None] and shrunk["key"] is tree["key"]


def test_shapes_numpy_and_frozen_dictionaries(space, variables, structure, small):
    shapes = jax.eval_shape(lambda: variables)
    shrunk = dms_jax.shrink(space, shapes, structure)
    chex.assert_trees_all_equal_shapes_and_dtypes(shrunk, small)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shrunk))
    arrays = dms_jax.shrink(space, jax.tree.map(np.asarray, variables), structure)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(arrays))
    chex.assert_trees_all_equal(arrays, small)
    frozen = dms_jax.shrink(space, freeze(variables), structure)
    assert isinstance(frozen, FrozenDict)
    chex.assert_trees_all_equal(frozen.unfreeze(), small)


def test_scalars_in_the_place_of_parameters_pass_unless_their_block_goes(space, variables, structure):
    tree = jax.tree.map(lambda _: jnp.zeros(()), variables["params"])
    shrunk = dms_jax.shrink(space, tree, structure)
    assert set(shrunk) == {"block1", "masks"}
    assert shrunk["block1"]["up"]["kernel"].shape == ()


def test_wrong_shapes_are_errors(space, variables, structure):
    wrong = jax.tree.map(lambda x: x, variables)
    wrong["params"]["block1"]["up"]["kernel"] = jnp.ones((5, 7))
    with pytest.raises(UserError, match=r"params/block1/up/kernel has shape \(5, 7\); the model's .* has \(5, 6\)"):
        dms_jax.shrink(space, wrong, structure)


def test_another_models_structure(space, variables):
    with pytest.raises(UserError, match="is it another model's"):
        dms_jax.shrink(space, variables, dms_jax.Structure({"stem": (0,)}))


def test_shrinking_inside_jit(space, variables, structure, small):
    chex.assert_trees_all_equal(jax.jit(lambda v: dms_jax.shrink(space, v, structure))(variables), small)


def test_keeping_everything_changes_nothing(space, variables):
    chex.assert_trees_all_equal(dms_jax.shrink(space, variables, space.structure({})), variables)
