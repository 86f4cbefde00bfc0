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


def test_what_lies_beside_parameters_passes_and_a_layer_of_its_name_is_sliced(space, variables, structure, small):
    tree = {**variables, "masks": jnp.ones(3)}
    shrunk = dms_jax.shrink(space, tree, structure)
    assert shrunk.pop("masks") is tree["masks"]
    chex.assert_trees_all_equal(shrunk, small)


def test_a_tree_of_parameters_alone(space, variables, structure, small):
    chex.assert_trees_all_equal(dms_jax.shrink(space, variables["params"], structure), small["params"])


LABELS = {"block0": "fast", "block1": "slow", "masks": "slow"}


def kernels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path), params)


OPTIMIZERS = {
    **{
        name: getattr(optax, name)(1e-2)
        for name in (
            "adabelief", "adadelta", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "fromage",
            "lars", "lamb", "lion", "nadam", "nadamw", "novograd", "optimistic_adam_v2", "radam",
            "rmsprop", "rprop", "sign_sgd", "sgd", "yogi", "adafactor", "lbfgs",
        )
        if hasattr(optax, name)
    },
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "nesterov": optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "centered": optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "bfloat16": optax.adam(1e-2, mu_dtype=jnp.bfloat16),
    "flattened": optax.flatten(optax.adam(1e-2)),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-4), optax.adamw(1e-2)),
    "schedule": optax.adam(optax.cosine_decay_schedule(1e-2, 10)),
    "multi": optax.multi_transform(
        {"fast": optax.adam(1e-2), "slow": optax.sgd(1e-2, momentum=0.9)},
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: LABELS[path[0].key], params),
    ),
    "masked": optax.masked(optax.adam(1e-2), kernels),
    "frozen": optax.chain(optax.adam(1e-2), optax.masked(optax.set_to_zero(), kernels)),
    "average": optax.chain(optax.sgd(1e-2), optax.ema(0.9)),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "skipping": optax.apply_if_finite(optax.rmsprop(1e-2), 3),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-2),
    "prodigy": optax.contrib.prodigy(),
    "muon": optax.contrib.muon(1e-2),
    "sam": optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3), sync_period=2),
    "plateau": optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
}  # fmt: skip

OF_EVERYTHING = {
    "chain", "lbfgs", "novograd", "lars", "lamb", "fromage", "adafactor", "prodigy", "muon", "sam",
    "plateau", "frozen",
}  # fmt: skip
"""Optimizers whose updates are of norms or maxima of whole leaves, or of random draws: other leaves, other updates."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_states(name, space, variables, structure, small):
    """The sliced state fits the smaller parameters: its tree and shapes are those of a new one, and it steps."""
    optimizer, params = OPTIMIZERS[name], variables["params"]
    grads = jax.tree.map(lambda x: x * 0.1, params)
    given = {"value": jnp.float32(1), "grad": grads, "value_fn": lambda p: optax.tree.norm(p) ** 2 / 20}
    given = {"lbfgs": given, "plateau": {"value": jnp.float32(1)}}.get(name, {})
    _, state = jax.jit(lambda state: optimizer.update(grads, state, params, **given))(optimizer.init(params))
    shrunk = dms_jax.shrink(space, state, structure)
    new = optimizer.init(small["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(shrunk, new)
    small_grads = dms_jax.shrink(space, grads, structure)
    if name == "lbfgs":
        given |= {"grad": small_grads}
    updates, _ = jax.jit(lambda state: optimizer.update(small_grads, state, small["params"], **given))(shrunk)
    chex.assert_tree_all_finite(updates)
    if name not in OF_EVERYTHING:
        expected, _ = jax.jit(lambda state: optimizer.update(grads, state, params))(state)
        chex.assert_trees_all_close(updates, dms_jax.shrink(space, expected, structure), atol=FLOAT32_ROUNDING)


def plain(params, x):
    return jnp.tanh(x @ params["up"] + params["bias"][None]) @ params["down"]


@pytest.fixture(scope="module")
def matrices():
    params = {"up": jnp.ones((5, 12)), "bias": jnp.ones(12), "down": jnp.ones((12, 4))}
    return SearchSpace.from_function(plain, params, X), params


@pytest.mark.parametrize("kept", [(0, 2, 3, 5, 7, 8, 10), (1, 4)])
@pytest.mark.parametrize("name", ["sm3", "factored", "flattened"])
def test_states_of_other_shapes(name, kept, matrices):
    """What is kept along single axes is sliced where the optimizer would keep it along the same ones."""
    space, params = matrices
    optimizer = {
        "sm3": optax.sm3(1e-2),
        "factored": optax.adafactor(1e-2, min_dim_size_to_factor=2, momentum=0.9),
        "flattened": optax.flatten(optax.adam(1e-2)),
    }[name]
    grads = jax.tree.map(lambda x: x * 0.1, params)
    _, state = jax.jit(lambda state: optimizer.update(grads, state, params))(optimizer.init(params))
    structure = space.structure({"up": kept})
    if name == "factored" and len(kept) < 5:
        with pytest.raises(UserError, match=r"v_row.* moment of down, .*start this optimizer anew"):
            dms_jax.shrink(space, state, structure)
        return
    small = dms_jax.shrink(space, params, structure)
    shrunk = dms_jax.shrink(space, state, structure)
    chex.assert_trees_all_equal_shapes_and_dtypes(shrunk, optimizer.init(small))
    updates, _ = jax.jit(lambda state: optimizer.update(dms_jax.shrink(space, grads, structure), state, small))(shrunk)
    chex.assert_tree_all_finite(updates)


def test_a_state_of_what_is_trained_alone():
    """Optimizers of NNX and Equinox hold nothing for what is not trained; a layer's name in a tree is no collection."""
    params = {
        "first": {"kernel": jnp.ones((5, 6)), "bias": jnp.ones(6)},
        "norm": {"scale": jnp.ones(6), "mean": jnp.ones(6)},
        "head": {"kernel": jnp.ones((6, 3)), "bias": jnp.ones(3)},
    }

    def net(params, x):
        y = x @ params["first"]["kernel"] + params["first"]["bias"][None] - params["norm"]["mean"][None]
        return (y * params["norm"]["scale"][None]) @ params["head"]["kernel"] + params["head"]["bias"][None]

    space = SearchSpace.from_function(net, params, X, trainable=lambda path: path != "norm/mean")
    structure = space.structure({"first": (1, 4)})
    trained = params | {"norm": {"scale": params["norm"]["scale"]}}
    shrunk = dms_jax.shrink(space, optax.adam(1e-2).init(trained), structure)
    small = dms_jax.shrink(space, trained, structure)
    chex.assert_trees_all_equal_shapes_and_dtypes(shrunk, optax.adam(1e-2).init(small))
    assert small["first"]["kernel"].shape == (5, 2) and small["head"]["kernel"].shape == (2, 3)
    assert small["norm"]["scale"].shape == (2,)


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
    with pytest.raises(UserError, match=r"params/block1/up/kernel has shape \(5, 7\); the network's .* has \(5, 6\)"):
        dms_jax.shrink(space, wrong, structure)


def test_another_models_structure(space, variables):
    with pytest.raises(UserError, match="is it another model's"):
        dms_jax.shrink(space, variables, dms_jax.Structure({"stem": (0,)}))


def test_shrinking_inside_jit(space, variables, structure, small):
    chex.assert_trees_all_equal(jax.jit(lambda v: dms_jax.shrink(space, v, structure))(variables), small)


def test_keeping_everything_changes_nothing(space, variables):
    chex.assert_trees_all_equal(dms_jax.shrink(space, variables, space.structure({})), variables)
