"""The laws of the design, each a function of a `Case`: a space, parameters, inputs. Every test of a law calls these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import dms_jax
from dms_jax import SearchSpace, Structure
from tests.counting import flat_masks, multiply_adds, random_structure
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.networks.network import Network

Kept = Mapping[str, tuple[int, ...]]


@dataclass(eq=False)
class Case:
    """A network to state laws about.

    Attributes:
      fn: `(params, *inputs) -> outputs`.
      space: of `fn`.
      params: random ones.
      inputs: arrays.
      train: `(params, *inputs, key) -> (outputs, state)`; None: there is none.
    """

    fn: Callable[..., Any]
    space: SearchSpace
    params: Any
    inputs: tuple[Any, ...]
    train: Callable[..., Any] | None = None
    _masked: dict[Any, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> list[Any]:
        return self.space.parameters.arrays(self.params)

    def jitted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`(arrays of the parameters, *args)`, compiled: trees of some frameworks hold what is no array."""
        return jax.jit(lambda arrays, *args: function(self.space.parameters.tree(arrays), *args))

    def masked(self, fold: bool = True) -> Callable[..., Any]:
        if fold not in self._masked:
            self._masked[fold] = self.jitted(self.space.masked(self.fn, fold=fold))
        return self._masked[fold]

    def small(self, kept: Any) -> list[Any]:
        """The arrays of the smaller network's parameters."""
        return self.space.parameters.arrays(dms_jax.shrink(self.space, self.params, kept))


def case_of(network: Network, **options: Any) -> Case:
    """A network of the catalogue; its training program is one that the space knows."""
    key, made = jax.random.key(0), network.train
    train: Callable[..., Any] | None = None
    if made is not None:

        def step(params: Any, *args: Any) -> Any:
            return made(params, *args[:-1], key=args[-1])

        train = step
        options["also"] = {"train": (train, (*network.inputs, key))}
    space = SearchSpace.from_function(
        network.fn, network.params, *network.inputs, trainable=network.trainable, paths=network.paths, **options
    )
    return Case(network.fn, space, network.params, network.inputs, train)


def least(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Every group at its least: no block is left that can go."""
    return {name: tuple(range(group.size - group.least, group.size)) for name, group in space.groups.items()}


def some(space: SearchSpace, seeds: Sequence[int] = (0,)) -> list[dict[str, tuple[int, ...]]]:
    """Random structures, and the least."""
    return [*(random_structure(space.groups, seed) for seed in seeds), least(space)]


def close(found: Any, expected: Any, tolerance: float) -> None:
    """Two trees of arrays are equal, to a tolerance relative to the largest number of the second."""
    a, b = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    scale = max(
        (float(np.max(np.abs(_numbers(x)), initial=0.0, where=np.isfinite(_numbers(x)))) for x in b), default=0.0
    )
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        x, y = _numbers(x), _numbers(y)
        there = np.isfinite(y)  # a norm of nothing is not finite in either
        np.testing.assert_array_equal(there, np.isfinite(x))
        worst = float(np.max(np.abs(x[there] - y[there]), initial=0.0))
        assert worst <= tolerance * max(scale, 1e-2), f"{worst} of {scale}"


def _numbers(x: Any) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


# --- 1 ---


def masked_is_shrunk(case: Case, kept: Kept) -> None:
    """What masks of zeros and ones compute, the smaller network computes."""
    masked = case.masked()(case.arrays, case.space.masks(kept), *case.inputs)
    small = case.jitted(case.space.shrunk(case.fn, kept))(case.small(kept), *case.inputs)
    close(small, masked, FLOAT32_LOGITS)


def masked_training_is_shrunk(case: Case, kept: Kept) -> None:
    """Outputs and new state of the training program, and gradients of what is kept."""
    space, train = case.space, case.train or case.fn
    args = (*case.inputs, jax.random.key(1)) if case.train else case.inputs
    masks, masked = space.masks(kept), space.masked(train)
    whole, small = case.arrays, case.small(kept)
    with mock.patch("jax.random.bernoulli", _all):  # dropout draws other numbers for other shapes
        grads, found = _gradients(case, lambda params, *args: masked(params, masks, *args))(
            *parted(space, whole), *args
        )
        small_grads, found_small = _gradients(case, space.shrunk(train, kept))(*parted(space, small), *args)
    sliced = dms_jax.shrink(space, _filled(space.parameters, grads), kept)
    close(small_grads, space.parameters.arrays(sliced), 10 * FLOAT32_GRADIENTS)
    if case.train is None:
        close(found_small, found, FLOAT32_LOGITS)
        return
    close(found_small[0], found[0], FLOAT32_LOGITS)
    state, state_small = (_by_path(tree) for tree in (found[1], found_small[1]))
    keys = [jax.tree_util.keystr(keys) for keys in space.parameters.keys]
    new = [state.get(key, old) for key, old in zip(keys, whole, strict=True)]
    sliced = space.parameters.arrays(dms_jax.shrink(space, space.parameters.tree(new), kept))
    for key, array in zip(keys, sliced, strict=True):
        assert (key in state_small) == (key in state and array is not None)
        if key in state_small:
            close(state_small[key], array, FLOAT32_LOGITS)


def _all(key: Any, p: Any = 0.5, shape: Any = None, **options: Any) -> jax.Array:
    """`jax.random.bernoulli` that drops nothing."""
    return jnp.ones(jnp.shape(p) if shape is None else shape, bool)


def _gradients(case: Case, function: Callable[..., Any]) -> Callable[..., Any]:
    """(trained arrays, the rest, *args) -> (gradients of a smooth number, what the function gave)."""

    def loss(trained: Any, rest: Any, *args: Any) -> Any:
        found = function(case.space.parameters.tree(joined(trained, rest)), *args)
        return smooth(found[0] if case.train else found), found

    return jax.jit(jax.grad(loss, has_aux=True))


def parted(space: SearchSpace, arrays: Any) -> tuple[list[Any], list[Any]]:
    """Arrays that are trained and those that are not, with None in the others' places."""
    known = list(zip(arrays, space.parameters.trained, strict=True))
    return [x if t else None for x, t in known], [None if t else x for x, t in known]


def joined(trained: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
    return [r if t is None else t for t, r in zip(trained, rest, strict=True)]


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def smooth(outputs: Any) -> jax.Array:
    """A number that every output has a part in."""
    return sum(
        (jnp.mean(jnp.sin(x.astype(jnp.float32) + 0.3)) for x in jax.tree.leaves(outputs) if _inexact(x)),
        start=jnp.zeros(()),
    )


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


# --- 2 ---


def costs_are_counted(case: Case, kept: Kept, shared: bool = False) -> None:
    """The polynomials at these counts are a count on the small program's own jaxpr, and the sum of its leaves.

    What several branches read, and nothing else, stays and counts when all of them are gone: `shared` allows for that.
    """
    space = case.space
    shapes = space.parameters.tree(space.parameters.shapes)
    small = space.parameters.arrays(dms_jax.shrink(space, shapes, kept))
    run = space.shrunk(case.fn, kept)
    said = space.resources(kept)
    trained = zip(small, space.parameters.trained, strict=True)
    assert said["params"] == sum(prod(x.shape) for x, train in trained if train and x is not None)
    assert said["weights"] == sum(prod(x.shape) * x.dtype.itemsize for x in small if x is not None)
    if "macs" in said:
        program = case_program(space, run)
        counted = multiply_adds(program, small, *case.inputs)
        if shared and space.gone(space.kept(kept)):
            assert counted <= said["macs"] <= multiply_adds(program, small, *case.inputs, dead=True)
        else:
            assert said["macs"] == counted


def case_program(space: SearchSpace, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda arrays, *args: function(space.parameters.tree(arrays), *args)


# --- 4 ---


def masks_of_one_change_nothing(case: Case) -> None:
    """Under masks of one a program computes what it does without, to the bit."""
    found = case.masked()(case.arrays, case.space.masks(), *case.inputs)
    close(found, case.jitted(case.fn)(case.arrays, *case.inputs), 0.0)


# --- 8 ---


def folded_is_inserted(case: Case, seed: int = 0, tolerance: float = 2) -> None:
    """Values and gradients, of parameters and masks, by soft masks in parameters and by masks at what reads them.

    `tolerance` is in units of what gradients of one loss by two programs differ by.
    """
    space = case.space
    masks = space.by_group(flat_masks(space, seed))

    def step(fold: bool) -> Any:
        masked = space.masked(case.fn, fold=fold)

        def loss(trained: Any, masks: Any, rest: Any, *inputs: Any) -> Any:
            outputs = masked(space.parameters.tree(joined(trained, rest)), masks, *inputs)
            return smooth(outputs), outputs

        trained, rest = parted(space, case.arrays)
        (_, outputs), slopes = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
            trained, masks, rest, *case.inputs
        )
        return outputs, slopes  # the loss is a mean in which outputs cancel: it has no scale of its own

    (folded, (params_f, masks_f)), (inserted, (params_i, masks_i)) = step(True), step(False)
    close(folded, inserted, FLOAT32_GRADIENTS)
    close(params_f, params_i, tolerance * FLOAT32_GRADIENTS)
    close(masks_f, masks_i, tolerance * FLOAT32_GRADIENTS)


# --- 9 ---


def gradient_is_shrunk(case: Case, kept: Kept) -> None:
    """The gradient of the full loss, shrunk, is the gradient of the shrunk loss."""
    space = case.space

    def gradient_of(function: Callable[..., Any]) -> Callable[..., Any]:
        def gradient(params: Any, *inputs: Any) -> Any:
            trained, rest = parted(space, space.parameters.arrays(params))
            tree = space.parameters.tree
            found = jax.grad(lambda t: smooth(function(tree(joined(t, rest)), *inputs)))(trained)
            return _filled(space.parameters, found)

        return gradient

    transformed = space.shrunk(gradient_of(case.fn), kept)
    direct = gradient_of(space.shrunk(case.fn, kept))
    found, expected = (
        case.jitted(lambda params, *inputs, f=f: space.parameters.arrays(f(params, *inputs)))(
            case.small(kept), *case.inputs
        )
        for f in (transformed, direct)
    )
    close(found, expected, FLOAT32_GRADIENTS)


def _filled(parameters: Any, arrays: Sequence[Any]) -> Any:
    """A tree of arrays alone: what a function may return."""
    rest = iter(arrays)
    return jax.tree.map(lambda leaf: next(rest) if hasattr(leaf, "shape") else None, parameters.template)


def slices_of_slices(case: Case, seed: int = 0) -> None:
    """Of a smaller network within a larger one: its parameters are slices of the larger's, to the last leaf."""
    draw, larger = np.random.default_rng(seed), random_structure(case.space.groups, seed, keep=0.7)
    smaller = {}
    for name, elements in larger.items():
        count = int(draw.integers(case.space.groups[name].least, len(elements) + 1))
        smaller[name] = tuple(sorted(draw.choice(elements, count, replace=False).tolist()))
    arrays = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), case.space.arrays(case.params)
    )
    family = dms_jax.Family(case.space, {0.5: Structure(larger), 0.25: Structure(smaller)})
    params = family.init(arrays)
    for size, kept in ((0.5, larger), (0.25, smaller)):
        found, expected = family.params(params, size), dms_jax.shrink(case.space, arrays, kept)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.array_equal(_numbers(a), _numbers(b))


def blocks_stay(space: SearchSpace, kept: Kept) -> dict[str, tuple[int, ...]]:
    """A structure without removed blocks."""
    full = {name: tuple(range(group.size)) for name, group in space.groups.items()}
    return {name: full[name] if space.groups[name].kind == "depth" else kept[name] for name in full}


def hold(case: Case, seeds: Sequence[int] = (0,), differentiable: bool = True) -> None:
    """Laws 1, 2 and 8, for random structures and the least."""
    for kept in some(case.space, seeds):
        costs_are_counted(case, kept, shared=True)
        masked_is_shrunk(case, kept)
    if differentiable:
        folded_is_inserted(case)
