"""The laws of the design over every model of the zoo; hypothesis draws the structures."""

# Linen's `apply` gives a value or a tuple, options come as dictionaries, and some arguments are wrong on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from functools import cache

import chex
import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dms_jax
from dms_jax import Limits, Schedule, Search, Searchable, SearchSpace, models
from dms_jax.method import projection
from dms_jax.method.problem import smallest
from dms_jax.models.resnet import Bottleneck, ResNet
from tests.counting import (
    folded,
    multiply_adds,
    numbers,
    random_structure,
    random_variables,
    shapes,
    structures,
)
from tests.helpers import FLOAT32_LOGITS
from tests.laws.checking import Case, folded_is_inserted

# One network of every kind of block: the others of a family repeat its blocks, wider or more often, and take minutes;
# their sizes are tested elsewhere.
ZOO = (
    "resnet18", "resnet50", "resnet20", "mobilenet_v2", "efficientnet_b0", "vit_tiny_patch16_224",
    "deit_tiny_distilled", "swin_tiny", "llama", "yolov8n",
)  # fmt: skip
TINY = dict(blocks=(2, 2), widths=(4, 6), stem=5, num_classes=3)


@cache
def space_of(name: str) -> SearchSpace:
    if name == "tiny":  # bottlenecks at the smallest size that has everything
        return SearchSpace.from_model(ResNet(block=Bottleneck, small_images=True, **TINY), images(name))
    return SearchSpace.from_model(models.create(name, **arguments(name)), images(name))


def arguments(name: str) -> dict:
    if name == "llama":
        return dict(vocabulary=11, width=8, layers=2, heads=4, kv_heads=2, hidden=12)
    if name.startswith(("vit", "deit")):
        return dict(image_size=32)
    return {"num_classes": 10} if name in ("resnet20", "resnet32", "resnet56") else {}


def images(name: str, batch: int = 1) -> jax.Array:
    if name.startswith("llama"):
        return jnp.asarray(np.random.default_rng(0).integers(0, 11, size=(batch, 16)), jnp.int32)
    side = 8 if name in ("tiny", "resnet20", "resnet32", "resnet56") else 224 if name.startswith("swin") else 32
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, side, side, 3)), jnp.float32)


@pytest.mark.parametrize("family", models.FAMILIES, ids=lambda family: family.__name__.rsplit(".")[-1])
def test_no_family_is_forgotten(family):
    assert set(ZOO) & set(family.MODELS)


# --- 1: masked == shrunk ---------------------------------------------------------------------------------------


@cache
def full_of(name: str):
    """A space, variables, a batch of two and its largest logit."""
    space, x = space_of(name), images(name, 2)
    variables = random_variables(space)
    return space, variables, x, float(jnp.max(jnp.abs(jax.jit(space.fn)(variables, x))))


def difference(name: str, kept) -> float:
    space, variables, x, largest = full_of(name)
    return dms_jax.verify(space, variables, space.structure(kept), x) / largest


@hypothesis.settings(max_examples=4)
@hypothesis.given(st.data())
def test_masked_is_shrunk_for_any_structure(data):
    kept = data.draw(structures(space_of("tiny").groups))
    assert difference("tiny", kept) < FLOAT32_LOGITS


def test_masked_is_shrunk_at_full_width():
    assert difference("resnet18", random_structure(space_of("resnet18").groups, 1, 0.3)) < FLOAT32_LOGITS


# --- 1 and 2 of the zoo: variables are those of the smaller network, and costs a count of its own program ----------


@pytest.mark.parametrize("name", ZOO)
def test_variables_and_resources_are_those_of_the_smaller_network(name):
    """Shapes, types and names, abstractly; for the least structure, the full one and others."""
    space = space_of(name)
    variables = jax.eval_shape(space.model.init, jax.random.key(0), images(name))
    least = {group.name: tuple(range(group.least)) for group in space.groups.values()}
    for kept in ({}, least, random_structure(space.groups, 2), random_structure(space.groups, 3, keep=0.05)):
        structure = space.structure(kept)
        small = space.model.clone(structure=structure)
        made = jax.eval_shape(small.init, jax.random.key(0), images(name))
        assert shapes(dms_jax.shrink(space, variables, structure)) == shapes(made)
        counted = {"macs": multiply_adds(small.apply, made, images(name)), "params": numbers(made["params"])}
        assert counted.items() <= space.resources(kept).items()


@pytest.mark.parametrize("name", ["tiny", "resnet20"])
def test_fractions_of_hard_masks_are_exact_resources(name):
    space = space_of(name)
    fractions = jax.jit(space.fractions)
    for seed in range(3):
        kept = random_structure(space.groups, seed)
        flags = jnp.concatenate(
            [jnp.isin(jnp.arange(g.size), jnp.array(kept[n], int)) for n, g in space.groups.items()]
        )
        full = space.resources()
        for resource, value in fractions(flags.astype(jnp.float32)).items():
            np.testing.assert_allclose(value, space.resources(kept)[resource] / full[resource], rtol=1e-5)


class Products(Searchable):
    """Only products, without padding and without biases: XLA counts exactly their multiply-adds, twice."""

    @nn.compact
    def __call__(self, x):
        a, b, c = self.elements("a", 8), self.elements("b", 6), self.elements("c", 5)
        y = nn.Conv(a.size, (3, 3), padding="VALID", use_bias=False, name="one")(x)
        y = nn.Conv(b.size, (2, 2), 2, padding="VALID", use_bias=False, name="two")(a(y))
        y = nn.DenseGeneral(c.size, axis=(1, 2, 3), use_bias=False, name="three")(b(y))
        return nn.Dense(4, use_bias=False, name="four")(c(y))


# at size 1 XLA makes products into elementwise multiplications
@pytest.mark.parametrize("sizes", [(8, 6, 5), (3, 4, 2), (2, 6, 3)])
def test_multiply_adds_are_half_of_xlas_flops(sizes):
    x = jnp.ones((2, 8, 8, 3))
    space = SearchSpace.from_model(Products(), x)
    kept = {name: tuple(range(n)) for name, n in zip("abc", sizes, strict=True)}
    small = Products().clone(structure=space.structure(kept))
    variables = jax.eval_shape(small.init, jax.random.key(0), x)
    analysis = jax.jit(small.apply).lower(variables, x).compile().cost_analysis()
    assert analysis is not None and space.resources(kept)["macs"] * 2 == analysis["flops"]


# --- 3: never above the budget, and as near below it as one step allows -----------------------------------------


LIMITS = (
    Limits(),
    Limits(freeze=("stem",), min_size={"*": 2}),
    Limits(divisible_by={"*mid*": 4}, min_size={"stage2/*": 3}),
    Limits(freeze=("stage1/*",), divisible_by={"stem": 8, "s*": 2}),
)


def importances(space, rng, kind):
    """With ties, zeros, NaN or infinities."""
    for group in space.groups.values():
        c = rng.exponential(size=group.size).astype(np.float32)
        if kind in ("nan", "inf"):
            c[rng.uniform(size=group.size) < 0.3] = float(kind)
        yield group.name, {"ties": np.round(c), "zeros": np.zeros_like(c)}.get(kind, c)


@pytest.mark.parametrize("name", ["tiny", "resnet20", "resnet50"])
def test_projection_never_exceeds_its_budget_and_nothing_more_fits(name):
    space = space_of(name)

    @hypothesis.settings(max_examples=40 if name == "tiny" else 8)
    @hypothesis.given(
        seed=st.integers(0, 2**16),
        kind=st.sampled_from(["any", "ties", "zeros", "nan", "inf"]),
        limits=st.sampled_from(LIMITS),
        middle=st.floats(-0.2, 1.0),
        spread=st.sampled_from([0.0, 0.2, 2.0]),
        on=st.sampled_from([("macs",), ("params",), ("macs", "params")]),
        at=st.floats(0, 1),
    )
    def holds(seed, kind, limits, middle, spread, on, at):
        rng = np.random.default_rng(seed)
        ranking = dict(importances(space, rng, kind))
        ratios = {group: float(middle + spread * rng.normal()) for group in space.groups}
        most = {name: tuple(range(numbers[-1])) for name, numbers in limits.counts(space).items()}
        low, high = smallest(space, limits, list(space.costs)), space.resources(most)
        budget = {r: int(low[r] + at * (high[r] - low[r])) for r in on}
        kept = projection.project(space, ratios, ranking, budget, limits)
        now, allowed = space.resources(kept), limits.counts(space)
        assert all(now[r] <= most for r, most in budget.items())
        for group, indices in kept.items():
            assert len(indices) in allowed[group]
            clean = np.where(np.isnan(ranking[group]), -np.inf, ranking[group])
            best = np.argsort(clean, kind="stable")[::-1].tolist()
            assert set(indices) == set(best[: len(indices)])
            more = allowed[group][allowed[group] > len(indices)]
            if len(more):
                then = space.resources({**kept, group: tuple(sorted(best[: more[0]]))})
                assert any(then[r] > most for r, most in budget.items()), f"one more step of {group} fits"

    holds()


# --- 4: a search of zero strength changes nothing ---------------------------------------------------------------


def test_an_open_search_is_the_supernet():
    """The start is the supernet to 2 %: ones, but 0.982 for a group of one. Once the importance is known every group's
    weakest mask is 0.982; in a random network, where weak elements are not yet small, 20 groups add up to 5 %."""
    space = space_of("resnet20")
    variables, x = random_variables(space), images("resnet20", 4)
    search = Search(space, lambda *_: jnp.zeros(()), None, {"macs": 1.0}, Schedule(10))
    state, apply = search.init(variables), jax.jit(space.model.apply)
    full = apply(variables, x)
    masks_of, magnitudes = jax.jit(search.masks), jax.jit(space.magnitudes)(variables)
    for told, tolerance in ((state.importance, 0.02), (magnitudes, 0.05)):
        masks = masks_of(state.replace(importance=told))
        assert min(float(jnp.min(mask)) for mask in masks.values()) > 0.98
        logits = apply({**variables, "masks": space.collection(space.flat(masks))}, x)
        assert float(jnp.linalg.norm(logits - full)) <= tolerance * float(jnp.linalg.norm(full))


# --- 5: one compilation per search -------------------------------------------------------------------------------


def test_one_compilation_through_all_phases_with_donated_state():
    space = space_of("tiny")

    def loss(variables, batch, key):
        x, labels = batch
        logits, changed = space.model.apply(variables, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), {"state": changed}

    search = Search(
        space, loss, optax.sgd(0.05, momentum=0.9), {"macs": 0.3, "params": 0.5}, Schedule(12, warmup=3, refine=0.4)
    )
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(search.step, n=1), donate_argnums=0)
    state, key = search.init(random_variables(space)), jax.random.key(0)
    batch = (images("tiny", 4), jnp.arange(4) % 3)
    for i in range(12):
        before = state
        state, metrics = step(state, batch, key)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "the old state is still there"
        assert int(state.step) == i + 1
    chex.assert_tree_all_finite((state, metrics))
    structure = search.structure(state)
    now = structure.resources["after"]
    assert all(now[name] <= most for name, most in search.targets.items())


# --- 8: folded == inserted -----------------------------------------------------------------------------------------


def test_folded_is_inserted_in_training():
    space = space_of("tiny")
    variables, x = random_variables(space), images("tiny", 2)

    def train(variables, x):
        return space.model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    folded_is_inserted(Case(train, space, variables, (x,)))


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith(("resnet", "mobilenet", "efficientnet"))])
def test_every_mask_of_a_convolutional_network_folds(name):
    space = space_of(name)
    assert folded(space) == set(space.groups)
