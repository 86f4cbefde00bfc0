"""Several sizes trained together: the mean of their losses, each weight with the gradients of all that have it."""

# Linen's `apply` gives a value or a tuple:
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Family, Searchable, SearchSpace, UserError, shrink
from dms_jax.training import supervised
from dms_jax.training.distillation import TEACHER, Distillation, forward_kl
from dms_jax.training.joint import Lessons, joint_loss, of_weights
from tests.counting import random_variables
from tests.helpers import FLOAT32_GRADIENTS

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(DRAW.normal(size=(32, 5)), jnp.float32),
}
BATCH["label"] = jnp.argmax(BATCH["image"][:, :3], axis=-1)


class Net(Searchable):
    """A removable block and a hidden layer, each with a BatchNorm."""

    @nn.compact
    def __call__(self, x, train=False):
        depth, wide, inner = self.elements("depth", 1), self.elements("wide", 8), self.elements("inner", 6)
        x = wide(nn.relu(nn.BatchNorm(not train, momentum=0.5, name="norm")(nn.Dense(wide.size, name="in")(x))))
        for i in depth.kept:
            y = nn.BatchNorm(not train, momentum=0.5, name="inside")(nn.Dense(inner.size, name="up")(x))
            x = x + depth.gate(i) * wide(nn.Dense(wide.size, name="down")(inner(nn.relu(y))))
        return nn.Dense(3, name="out")(x)


STRUCTURES = {
    0.8: {"depth": (0,), "wide": (0, 1, 2, 4, 5, 7), "inner": (1, 2, 3, 4)},
    0.6: {"depth": (0,), "wide": (0, 1, 4, 5, 7), "inner": (1, 3)},
    0.4: {"depth": (), "wide": (0, 4, 5), "inner": (1, 3)},
    0.2: {"depth": (), "wide": (5,), "inner": (3,)},
}
LOSS = supervised.classification_loss(Net())


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_model(Net(), jnp.ones((1, 5)))


@pytest.fixture(scope="module")
def variables(space):
    return random_variables(space)


def family_of(space, *sizes):
    return Family(space, {size: space.structure(STRUCTURES[size]) for size in sizes})


def alone(space, variables, size, loss=LOSS, batch=BATCH):
    """Loss, gradient embedded in the largest network's arrays of the full one, and new statistics, of one size."""
    structure = STRUCTURES[size]
    small = shrink(space, variables, structure)

    def value(params, stats):
        return space.shrunk(loss, structure)({"params": params, "batch_stats": stats}, batch, KEY)

    (found, more), slope = jax.value_and_grad(value, has_aux=True)(small["params"], small.get("batch_stats", {}))
    # of the full network's masks: where a gradient belongs, by an engine that knows no slices of slices
    zeros = jax.tree.map(jnp.zeros_like, variables["params"])
    where = jax.vjp(lambda p: shrink(space, {**variables, "params": p}, structure)["params"], zeros)[1]
    return found, where(slope)[0], more["state"]["batch_stats"]


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=FLOAT32_GRADIENTS * max(float(jnp.max(jnp.abs(y))), 1))


@pytest.mark.parametrize("sizes", [(0.8,), (0.8, 0.2), (0.8, 0.4, 0.2)])
def test_loss_gradient_and_statistics_are_those_of_each_alone(space, variables, sizes):
    family = family_of(space, *sizes)
    params = family.init(variables)
    loss = joint_loss(family, LOSS)

    def value(weights):
        return loss({**params, "weights": weights}, BATCH, KEY)

    (found, more), slope = jax.jit(jax.value_and_grad(value, has_aux=True))(params["weights"])
    each = [alone(space, variables, size) for size in sizes]
    close(found, sum(one[0] for one in each) / len(each))
    mean = jax.tree.map(lambda *g: sum(g) / len(each), *(one[1] for one in each))
    close(slope["params"], shrink(space, {**variables, "params": mean}, STRUCTURES[0.8])["params"])
    for new, (_, _, stats) in zip(more["state"]["own"], each, strict=True):
        close(new["batch_stats"], stats)
    if len(sizes) > 1:
        assert more["metrics"]["loss_largest"] == each[0][0]
        close(more["metrics"]["loss_smallest"], each[-1][0])
    assert "accuracy" in more["metrics"]


def test_of_those_between_one_is_drawn_and_its_statistics_alone_move(space, variables):
    family = family_of(space, 0.8, 0.6, 0.4, 0.2)
    params, loss = family.init(variables), jax.jit(joint_loss(family, LOSS))
    values = {size: alone(space, variables, size)[0] for size in family.sizes}
    drawn = []
    for seed in range(40):
        found, more = loss(params, BATCH, jax.random.key(seed))
        moved = [
            any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
            for x, y in zip(more["state"]["own"], params["own"], strict=True)
        ]
        assert moved[0] and moved[3] and moved[1] != moved[2]
        drawn.append(0.6 if moved[1] else 0.4)
        close(found, (values[0.8] + values[0.2] + values[drawn[-1]]) / 3)
    assert 8 < drawn.count(0.6) < 32


def test_training_is_one_program_and_every_size_gets_better(space, variables):
    family = family_of(space, 0.8, 0.6, 0.4, 0.2)
    params, optimizer = family.init(variables), optax.adam(3e-2)
    loss = joint_loss(family, LOSS)
    before = {size: alone(space, variables, size)[0] for size in family.sizes}
    trained = family.trained(params)
    state = supervised.init(params, optimizer, trained=trained, average=True)
    traced = []

    def counted(*args):
        traced.append(1)
        return supervised.make_step(loss, optimizer, trained=trained, average=0.9)(*args)

    step = jax.jit(counted, donate_argnums=0)
    for i in range(60):
        state, metrics = step(state, BATCH, jax.random.fold_in(KEY, i))
    assert len(traced) == 1 and np.isfinite(metrics["loss"])
    for size in family.sizes:
        small = family.params(state.averaged, size)
        after = space.shrunk(LOSS, STRUCTURES[size])(small, BATCH, KEY)[0]
        assert after < before[size] * (1.0 if size == 0.2 else 0.7)  # of one feature not much can be asked
        logits = family.fn(size)(small, BATCH["image"])
        own = space.shrunk(space.fn, STRUCTURES[size])(small, BATCH["image"])
        assert np.array_equal(logits, own)


def train_logits(params, batch, key=None):
    return Net().apply(params, batch["image"], train=True, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("how", ["in_batch", "mixed"])
def test_smaller_networks_learn_from_the_largest_ones_answers_and_it_from_the_data(space, variables, how):
    """And no gradient reaches the largest through its answers."""
    family, distillation = family_of(space, 0.8, 0.2), Distillation(0.7, 2.0)
    if how == "in_batch":
        lessons = Lessons.in_batch(train_logits, supervised.classification_loss(Net(), distillation))
    else:
        lessons = Lessons.mixed(train_logits, LOSS, distillation)
    params = family.init(variables)
    loss = joint_loss(family, LOSS, lessons)

    def value(weights):
        return loss({**params, "weights": weights}, BATCH, KEY)[0]

    found, slope = jax.value_and_grad(value)(params["weights"])
    answers = space.shrunk(train_logits, STRUCTURES[0.8])(shrink(space, variables, STRUCTURES[0.8]), BATCH, KEY)

    def pupil(params, batch, key):
        task = LOSS(params, batch, key)
        return 0.3 * task[0] + 0.7 * jnp.mean(forward_kl(answers, train_logits(params, batch), 2.0)), task[1]

    large, small = alone(space, variables, 0.8), alone(space, variables, 0.2, loss=pupil)
    close(found, (large[0] + small[0]) / 2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, large[1], small[1])
    close(slope["params"], shrink(space, {**variables, "params": mean}, STRUCTURES[0.8])["params"])


def test_a_teacher_from_elsewhere_still_teaches_the_largest(space, variables):
    """Its answers are in the batch; those that the smaller networks get take their place."""
    family, distilled = family_of(space, 0.8, 0.2), supervised.classification_loss(Net(), Distillation(1.0))
    batch = {**BATCH, TEACHER: jnp.zeros((32, 3))}
    params = family.init(variables)
    _, more = joint_loss(family, distilled, Lessons.in_batch(train_logits, distilled))(params, batch, KEY)
    answers = space.shrunk(train_logits, STRUCTURES[0.8])(shrink(space, variables, STRUCTURES[0.8]), BATCH, KEY)
    close(more["metrics"]["loss_largest"], alone(space, variables, 0.8, distilled, batch)[0])
    taught = alone(space, variables, 0.2, distilled, {**BATCH, TEACHER: answers})
    close(more["metrics"]["loss_smallest"], taught[0])


def heads(tree):
    """Labels of parameters, by their paths in the tree of one network."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "head" if path[1].key == "out" else "body", tree)


@pytest.mark.parametrize("labels", ["by path", "a tree"])
def test_an_optimizer_sees_the_tree_of_one_network(space, variables, labels):
    """With schedules of its own for some parameters, as in any other training."""
    family = family_of(space, 0.8, 0.2)
    params = family.init(variables)
    trained = family.trained(params)
    given = heads if labels == "by path" else heads(params["weights"])
    kinds = {"head": optax.sgd(0.1), "body": optax.set_to_zero()}
    optimizer = of_weights(optax.chain(optax.adam(1e-3), optax.multi_transform(kinds, given)))
    step = jax.jit(supervised.make_step(joint_loss(family, LOSS), optimizer, trained=trained))
    state, _ = step(supervised.init(params, optimizer, trained=trained), BATCH, KEY)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.params["weights"], params["weights"])["params"]
    assert {name for name, leaves in moved.items() if any(jax.tree.leaves(leaves))} == {"out"}


def test_what_is_no_family_is_refused_in_one_line(space, variables):
    found = {size: space.structure(structure) for size, structure in STRUCTURES.items()}
    with pytest.raises(UserError, match="structures .* are not possible"):
        Family(space, {})
    with pytest.raises(UserError, match=r"size 0.8 keeps elements of group 'depth' that the larger one before it"):
        Family(space, {0.2: found[0.2], 0.8: found[0.8]})
    family = family_of(space, 0.8, 0.2)
    with pytest.raises(UserError, match=r"size 0.3 is not there; there are 0.8, 0.2"):
        family.params(family.init(variables), 0.3)
    assert jax.tree.structure(family.params(family.init(variables), "0.2")) == jax.tree.structure(
        shrink(space, variables, found[0.2])
    )
