"""The laws of a search, over every family: one compilation, stopped and resumed, many devices, and its budget."""

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Schedule, Search, SearchSpace, models
from dms_jax.detection import detection_loss
from dms_jax.elements import portable
from dms_jax.training import make_mesh, place, shard_batch, supervised
from dms_jax.training.language import language_loss
from tests.counting import random_variables
from tests.helpers import FLOAT32_GRADIENTS
from tests.models.small import CLASSES, NETWORKS, SIZE, images, largest
from tests.moved import moved_by

LLAMA = models.create("llama", vocabulary=64, width=16, layers=3, heads=4, kv_heads=2, head_dim=4, hidden=24)
STEPS, STOP, BUDGET, KEY = 6, 3, 0.4, jax.random.key(0)

families = pytest.mark.parametrize("name", [*NETWORKS, "llama"])
# The others are made of the same blocks: basic ones, depthwise ones without a squeeze, attention without dropped paths.
compiled = pytest.mark.parametrize(
    "name", ["resnet_bottleneck", "efficientnet", "deit_distilled", "swin", "llama", "yolov8"]
)


class Case(NamedTuple):
    """A search of a family, where it starts, and a batch of eight."""

    search: Search
    variables: Any
    batch: dict[str, Any]


WIDE = ("resnet_bottleneck", "efficientnet", "yolov8")
"""BatchNorm over few numbers makes differences of rounding as large as one likes: of these devices are compared in
float64, with parameters of float32."""


@cache
def case(name: str, dtype: Any = jnp.float32) -> Case:
    rng = np.random.default_rng(0)
    if name == "llama":
        space = SearchSpace.from_model(LLAMA, jax.ShapeDtypeStruct((1, 8), jnp.int32))
        loss, batch = language_loss(LLAMA), {"tokens": rng.integers(0, 64, (8, 9), dtype=np.int32)}
    else:
        model = NETWORKS[name].clone(dtype=dtype)
        space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), dtype))
        image, label = np.asarray(images(8), dtype), rng.integers(0, CLASSES, 8, dtype=np.int32)
        loss, batch = supervised.classification_loss(model), {"image": image, "label": label}
        if name == "yolov8":
            corner = rng.uniform(0, 12, (8, 2, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(9, 20, (8, 2, 2))], -1).astype(np.float32)
            classes = np.stack([label, np.where(label % 2, -1, label)], 1).astype(np.int32)
            loss, batch = detection_loss(model), {"image": image, "boxes": boxes, "classes": classes}
    # plain gradient descent, also of the ratios: Adam makes a whole step of a gradient that is but rounding
    search = Search(
        space, loss, optax.sgd(0.01), {"macs": BUDGET}, Schedule(STEPS, warmup=1), strategy=moved_by(optax.sgd(1e-3))
    )
    return Case(search, random_variables(space), batch)


@cache
def step_of(name: str) -> Any:
    """The jitted step, which may be traced once on one device, whatever test asks."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(case(name).search.step, n=1), donate_argnums=0)


@compiled
def test_one_compilation_and_stopped_is_never_stopped(name):
    search, variables, batch = case(name)
    step = step_of(name)
    state, stopped = search.init(jax.tree.map(jnp.copy, variables)), None
    with portable():  # the form of depthwise convolutions that compiles fast
        for i in range(STEPS):
            if i == STOP:
                stopped = jax.tree.map(np.array, state)
            state, metrics = step(state, batch, KEY)
        resumed = jax.tree.map(jnp.asarray, stopped)
        for _ in range(STOP, STEPS):
            resumed, _ = step(resumed, batch, KEY)
    assert np.isfinite(metrics["loss"])
    chex.assert_trees_all_equal(resumed, state)


@compiled
def test_eight_devices_are_one(name):
    with jax.enable_x64(name in WIDE):
        eight_devices_are_one(name, *case(name, jnp.float64 if name in WIDE else jnp.float32))


def eight_devices_are_one(name, search, variables, batch):
    space = search.space

    def run(step, state, batch):
        losses = []
        for _ in range(2):
            state, metrics = step(state, batch, KEY)
            losses.append(float(metrics["loss"]))
        return losses, jax.tree.map(np.asarray, (*space.partition(state.params), state.importance, state.ratios))

    mesh, start = make_mesh(jax.devices()[:8]), search.init(variables)
    with portable():
        eight = run(jax.jit(search.step), place(jax.tree.map(jnp.copy, start), mesh), shard_batch(batch, mesh))
        one = run(jax.jit(search.step) if name in WIDE else step_of(name), jax.tree.map(jnp.copy, start), batch)
    tolerance = (1 if name in WIDE else 10) * FLOAT32_GRADIENTS
    np.testing.assert_allclose(eight[0], one[0], rtol=tolerance)
    for expected, found in zip(one[1], eight[1], strict=True):
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
            assert largest(a - b) <= tolerance * largest(expected)


@families
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_structure_lands_on_its_budget(name, share):
    """From any ratios: never above, and nothing more fits."""
    search = case(name).search
    space, rng = search.space, np.random.default_rng(7)
    low, high = space.smallest["macs"], space.resources()["macs"]
    search = Search(space, search.loss, None, {"macs": int(low + share * (high - low))}, Schedule(STEPS))
    state = search.init(case(name).variables)
    ratios = jnp.asarray(rng.uniform(0, 1, state.ratios.shape), jnp.float32)
    ranking = {name: jnp.asarray(rng.exponential(size=c.shape), jnp.float32) for name, c in state.importance.items()}
    structure = search.structure(dataclasses.replace(state, ratios=ratios, importance=ranking))
    kept, most = space.kept(structure), search.targets["macs"]
    assert space.resources(structure)["macs"] <= most
    for group, indices in kept.items():
        for other in set(range(space.groups[group].size)) - set(np.asarray(indices).tolist()):
            more = {**kept, group: tuple(sorted((*(int(i) for i in indices), other)))}
            assert space.resources(more)["macs"] > most, f"{other} of {group} fits"
