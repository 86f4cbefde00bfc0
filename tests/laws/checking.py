"""The laws of the design, each a function of a `Case`: a space, parameters, inputs. Every test of a law calls these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dms_jax
from dms_jax import SearchSpace
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
    key, train = jax.random.key(0), None
    if network.train is not None:

        def train(params: Any, *args: Any) -> Any:
            return network.train(params, *args[:-1], key=args[-1])

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
    """Two trees of arrays are equal, to a tolerance relative to the largest number of each; NaN nowhere."""
    a, b = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    scale = max((float(np.max(np.abs(_numbers(x)), initial=0.0)) for x in b), default=0.0)
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        x, y = _numbers(x), _numbers(y)
        assert np.all(np.isfinite(y)) and np.all(np.isfinite(x))
        worst = float(np.max(np.abs(x - y), initial=0.0))
        assert worst <= tolerance * max(scale, 1e-3), f"{worst} of {scale}"


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


def masked_training_is_shrunk(case: Case, kept: Kept, key: Any = None) -> None:
    """Outputs and new state of the training program, and gradients of what is kept."""
    space, train = case.space, case.train or case.fn
    args = (*case.inputs, jax.random.key(1) if key is None else key) if case.train else case.inputs

    def step(function: Callable[..., Any]) -> Callable[..., Any]:
        """(gradients of trained arrays, (outputs, state)) of the smooth sum of the outputs."""

        def loss(trained: Any, rest: Any, *args: Any) -> Any:
            arrays = [r if t is None else t for t, r in zip(trained, rest, strict=True)]
            found = function(space.parameters.tree(arrays), *args)
            outputs = found[0] if case.train else found
            return smooth(outputs), found

        return jax.jit(jax.grad(loss, has_aux=True))

    def parted(arrays: Any) -> tuple[list[Any], list[Any]]:
        known = list(zip(arrays, space.parameters.trained, strict=True))
        return [x if t else None for x, t in known], [None if t else x for x, t in known]

    masks = space.masks(kept)
    masked = space.masked(train)
    grads, found = step(lambda p, *a: masked(p, masks, *a))(*parted(case.arrays), *args)
    small_grads, small = step(space.shrunk(train, kept))(*parted(case.small(kept)), *args)
    expected = space.parameters.arrays(dms_jax.shrink(space, space.parameters.tree(grads), kept))
    close(small_grads, expected, 10 * FLOAT32_GRADIENTS)
    if case.train is None:
        close(small, found, FLOAT32_LOGITS)
        return
    close(small[0], found[0], FLOAT32_LOGITS)
    state = _state(space, found[1])
    state_small = _state(space, small[1])
    alive = dict(zip(space.parameters.keys, case.small(kept), strict=True))
    sliced = dict(
        zip(
            space.parameters.keys,
            space.parameters.arrays(
                dms_jax.shrink(space, space.parameters.tree([state.get(k) for k in space.parameters.keys]), kept)
            ),
            strict=True,
        )
    )
    for keys in state:
        if alive[keys] is not None:
            close(state_small[keys], sliced[keys], FLOAT32_LOGITS)


def _state(space: SearchSpace, tree: Any) -> dict[Any, Any]:
    known = {jax.tree_util.keystr(keys): keys for keys in space.parameters.keys}
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {known[jax.tree_util.keystr(keys)]: leaf for keys, leaf in found if leaf is not None}


def smooth(outputs: Any) -> jax.Array:
    """A number that every output has a part in."""
    return sum(
        (jnp.mean(jnp.sin(x.astype(jnp.float32) + 0.3)) for x in jax.tree.leaves(outputs) if _inexact(x)),
        start=jnp.zeros(()),
    )


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


# --- 2 ---


def costs_are_counted(case: Case, kept: Kept) -> None:
    """The polynomials at these counts are a count on the small program's own jaxpr, and the sum of its leaves."""
    space = case.space
    small = jax.eval_shape(lambda arrays: space.parameters.arrays(dms_jax.shrink(space, space.parameters.tree(arrays), kept)), case.arrays)
    run = space.shrunk(case.fn, kept)
    said = space.resources(kept)
    trained = zip(small, space.parameters.trained, strict=True)
    assert said["params"] == sum(prod(x.shape) for x, train in trained if train and x is not None)
    if "macs" in said:
        counted = multiply_adds(lambda arrays, *args: run(space.parameters.tree(arrays), *args), small, *case.inputs)
        assert said["macs"] == counted


# --- 8 ---


def folded_is_inserted(case: Case, seed: int = 0) -> None:
    """Values and gradients, of parameters and masks, by soft masks in parameters and by masks at what reads them."""
    space = case.space
    masks = space.by_group(flat_masks(space, seed))

    def step(fold: bool) -> Any:
        masked = space.masked(case.fn, fold=fold)

        def loss(trained: Any, masks: Any, rest: Any, *inputs: Any) -> Any:
            arrays = [r if t is None else t for t, r in zip(trained, rest, strict=True)]
            return smooth(masked(space.parameters.tree(arrays), masks, *inputs))

        known = list(zip(case.arrays, space.parameters.trained, strict=True))
        trained, rest = [x if t else None for x, t in known], [None if t else x for x, t in known]
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(trained, masks, rest, *case.inputs)

    (folded, (params_f, masks_f)), (inserted, (params_i, masks_i)) = step(True), step(False)
    close(folded, inserted, FLOAT32_GRADIENTS)
    close(params_f, params_i, 2 * FLOAT32_GRADIENTS)
    close(masks_f, masks_i, 2 * FLOAT32_GRADIENTS)


# --- 9 ---


def gradient_is_shrunk(case: Case, kept: Kept) -> None:
    """The gradient of the full loss, shrunk, is the gradient of the shrunk loss."""
    space = case.space

    def loss(params: Any, *inputs: Any) -> Any:
        return smooth(case.fn(params, *inputs))

    def gradient(params: Any, *inputs: Any) -> Any:
        arrays = space.parameters.arrays(params)
        trained = [x if t else None for x, t in zip(arrays, space.parameters.trained, strict=True)]

        def of(trained: Any) -> Any:
            whole = [a if t is None else t for t, a in zip(trained, arrays, strict=True)]
            return loss(space.parameters.tree(whole), *inputs)

        return space.parameters.tree(jax.grad(of)(trained))

    small = case.small(kept)
    found = case.jitted(lambda p, *a: space.parameters.arrays(space.shrunk(gradient, kept)(p, *a)))(small, *case.inputs)
    run = space.shrunk(loss, kept)

    def direct(arrays: Any, *inputs: Any) -> Any:
        trained = [x if t else None for x, t in zip(arrays, space.parameters.trained, strict=True)]

        def of(trained: Any) -> Any:
            whole = [a if t is None else t for t, a in zip(trained, arrays, strict=True)]
            return run(space.parameters.tree(whole), *inputs)

        return jax.grad(of)(trained)

    expected = jax.jit(direct)(small, *case.inputs)
    close(found, expected, FLOAT32_GRADIENTS)


def all_laws(case: Case, seeds: Sequence[int] = (0,), gradients: bool = True) -> None:
    """Laws 1, 2 and 8, and 9 where asked."""
    for kept in some(case.space, seeds):
        costs_are_counted(case, kept)
        masked_is_shrunk(case, kept)
    folded_is_inserted(case)
    if gradients:
        gradient_is_shrunk(case, some(case.space, seeds)[0])
