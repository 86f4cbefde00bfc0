"""Several sizes of one network in one set of weights: every smaller network is a slice of the next larger one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from dms_jax.budgets.amounts import Given
from dms_jax.errors import UserError
from dms_jax.nested import Slices, labels, position, taken
from dms_jax.partition import combine, partition
from dms_jax.program.parameters import GONE, holes_filled
from dms_jax.reading import shown
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure


@dataclass(frozen=True, eq=False)
class Family:
    """Nested networks, as `Search.structures` finds them, that share what is trained.

    Their parameters are one tree, {"weights": ..., "own": (...)}: the trained arrays of the largest network, of which
    the others have slices, and what is not trained, of every network its own. Running statistics of a BatchNorm are
    those of its inputs, which are other ones where fewer channels were summed; the statistics of the largest network
    are wrong in all others, and are small beside the weights.

    Args:
      space: of the full network.
      structures: size -> `Structure`, from the largest to the smallest. A size is what was asked for: 0.25, "2MB".

    Raises:
      UserError: no structures, one of another network, or one that keeps what the one before it does not.
    """

    space: SearchSpace
    structures: Mapping[Given, Structure]

    def __post_init__(self):
        if not isinstance(self.structures, Mapping) or not self.structures:
            raise UserError(f"structures {shown(self.structures)} are not possible; give {{0.5: structure, 0.25: ...}}")
        for structure in self.structures.values():
            if not isinstance(structure, Structure):
                raise UserError(f"structure {shown(structure)} is none; give those of one `Search.structures`")
        structures = dict(zip(labels(self.structures), self.structures.values(), strict=True))
        kept = [self.space.kept(structure) for structure in self.structures.values()]
        for size, larger, smaller in zip(list(self.structures)[1:], kept, kept[1:], strict=False):
            beyond = next((name for name in smaller if not set(smaller[name]) <= set(larger[name])), None)
            if beyond is not None:
                raise UserError(
                    f"the structure of size {size} keeps elements of group {beyond!r} that the larger one before it "
                    "does not: give those of one `Search.structures`, from the largest"
                )
        object.__setattr__(self, "structures", MappingProxyType(structures))

    @property
    def sizes(self) -> tuple[Given, ...]:
        """From the largest to the smallest."""
        return tuple(self.structures)

    @property
    def largest(self) -> Structure:
        """The structure of the largest network."""
        return next(iter(self.structures.values()))

    def init(self, params: Any) -> dict[str, Any]:
        """The parameters of all sizes, from those of the full network (`state.params` of a search)."""
        return self.within(shrink(self.space, self.space.arrays(params), self.largest))

    def within(self, large: Any) -> dict[str, Any]:
        """The parameters of all sizes, from those of the largest network."""
        return self.joined([large, *(self._cut(large, i) for i in range(1, len(self.sizes)))])

    def joined(self, trees: Sequence[Any]) -> dict[str, Any]:
        """The parameters of all sizes: what is trained of the first tree, and of every tree what is not."""
        return {"weights": partition(trees[0], self._marks[0])[0], "own": self.parts(trees)}

    def assembled(self, large: Any, others: Sequence[Any]) -> dict[str, Any]:
        """The parameters of all sizes, from those of the largest network and what is not trained of the others."""
        weights, own = partition(large, self._marks[0])
        return {"weights": weights, "own": (own, *others)}

    def parts(self, trees: Sequence[Any]) -> tuple[Any, ...]:
        """What is not trained, of the parameters of every size."""
        return tuple(partition(tree, marks)[1] for tree, marks in zip(trees, self._marks, strict=True))

    def trained(self, params: Mapping[str, Any]) -> Any:
        """Booleans like the parameters of all sizes: what an optimizer changes."""
        return {name: jax.tree.map(lambda _, yes=name == "weights": yes, tree) for name, tree in params.items()}

    def params(self, params: Mapping[str, Any], size: Given) -> Any:
        """The parameters of one size: slices, to be computed with or to be differentiated through.

        Args:
          params: of all sizes.
          size: one of `sizes`.

        Raises:
          UserError: there is no such size, or these are parameters of one size.
        """
        if not isinstance(params, Mapping) or set(params) != {"weights", "own"}:
            raise UserError("these are not the parameters of all sizes; give what `Family.init` made of the full ones")
        number = position(self.structures, size)
        large = combine(params["weights"], params["own"][0])
        if not number:
            return large
        trained, _ = partition(self._cut(large, number), self._marks[number])
        return combine(trained, params["own"][number])

    def fn(self, size: Given) -> Callable[..., Any]:
        """`(params of one size, *inputs) -> outputs`: inference of one size."""
        return self.space.shrunk(self.space.fn, list(self.structures.values())[position(self.structures, size)])

    def save(
        self,
        directory: str | os.PathLike[str],
        params: Mapping[str, Any],
        *,
        fn: Callable[..., Any] | None = None,
        loss: Callable[..., Any] | None = None,
        batch: Any = None,
    ) -> Path:
        """Write all sizes for `dms_jax.load(directory, size=0.25)`: one file of weights, a program a size.

        Args:
          directory: made if need be.
          params: of all sizes.
          fn: of the full network, of inference; None: `space.fn`.
          loss, batch: as `SearchSpace.save` takes them.

        Returns:
          The folder of the programs.

        Raises:
          UserError: as `SearchSpace.save`.
        """
        from dms_jax import saved_sizes

        trees = [self.params(params, size) for size in self.sizes]
        return saved_sizes.save(self, directory, fn or self.space.fn, trees, loss=loss, batch=batch)

    def marks(self, number: int) -> Any:
        """Booleans like the parameters of one size, by its place: what is trained."""
        return self._marks[number]

    def slices(self, number: int) -> Slices:
        """Where in the arrays of the largest network those of another one lie; whole arrays are left out."""
        return self._slices[number]

    @cached_property
    def _slices(self) -> list[Slices]:
        kept = [self.space.kept(structure) for structure in self.structures.values()]
        return [_within(self.space, kept[0], smaller) for smaller in kept]

    @cached_property
    def _marks(self) -> list[Any]:
        """Of every size the tree with booleans: what is trained."""
        return [shrink(self.space, self.space.trained, structure) for structure in self.structures.values()]

    def _cut(self, large: Any, number: int) -> Any:
        """All of the arrays of a size, sliced from the largest's."""
        paths = dict(zip(self.space.parameters.keys, self.space.parameters.paths, strict=True))
        found = self._slices[number]

        def one(keys: Any, array: Any) -> Any:
            chosen = found.get(paths[keys], {})
            return GONE if chosen is None else taken(array, chosen)

        return holes_filled(jax.tree_util.tree_map_with_path(one, large))


def _within(space: SearchSpace, larger: Mapping[str, Any], smaller: Mapping[str, Any]) -> Slices:
    large, small = space.sizes(larger), space.sizes(smaller)
    gone = space.gone(larger), space.gone(smaller)
    found: dict[str, Mapping[int, np.ndarray] | None] = {}
    for path, leaf in space.leaves.items():
        if leaf.gates & gone[0]:
            continue  # the larger network does not have it, either
        places = [(large.positions(axis), small.positions(axis)) for axis in leaf.axes]
        chosen = {i: np.searchsorted(a, b) for i, (a, b) in enumerate(places) if len(b) < len(a)}
        if leaf.gates & gone[1]:
            found[path] = None
        elif chosen:
            found[path] = chosen
    return found
