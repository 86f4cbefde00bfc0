"""What the network of a structure costs: exact numbers, and fractions with derivatives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from dms_jax import budgets
from dms_jax.budgets import Cost, Measured, Network, Sized
from dms_jax.budgets.polynomial import Variables
from dms_jax.errors import TracingError, UserError, shortened
from dms_jax.space.grouped import Found
from dms_jax.space.programs import Programs
from dms_jax.structure import Structure


class Priced(Programs):
    """The resources of a space.

    Attributes:
      costs: {"macs": ..., "params": ...}: what a budget can bound, see `dms_jax.budgets`.
      uncounted: resources that this network does not have, with the reason.
    """

    def __init__(self, found: Found):
        super().__init__(found)
        self._variables = Variables(self.groups, self._owned)
        self._network = self._read_network()
        self._added: tuple[Callable[[Network], Cost | None], ...] = ()
        self.costs, self.uncounted = self._resources()

    def _read_network(self) -> Network:
        rows = zip(
            self._found.leaves, self._found.classes.gates, self.parameters.shapes, self.parameters.trained, strict=True
        )
        arrays, trained = {}, {}
        for value, gates, shape, train in rows:
            arrays[value] = gates, shape.dtype
            if train:
                trained[value] = gates
        sizes, least = ({n: getattr(group, what) for n, group in self.groups.items()} for what in ("size", "least"))
        program, behind = self._found.program, self._found.behind
        return Network(program, self._variables, behind, trained, arrays, sizes, least, self._sized)

    def _sized(self, kept: Mapping[str, Sequence[int]]) -> Sized:
        from dms_jax.shrink import shrink

        space: Any = self  # the `SearchSpace` that this is a layer of
        full = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.arrays(self.parameters.template))
        return Sized(self.shrunk(self.fn, kept), shrink(space, full, kept), self.example, kept)

    def _resources(self) -> tuple[dict[str, Cost], dict[str, str]]:
        found, missing = {}, {}
        for name, make in budgets.usual().items():
            try:
                cost = make(self._network)
                found |= {} if cost is None else {name: cost}
            except TracingError as error:
                missing[name] = str(error)
        return found, missing

    def with_resources(self, *resources: Callable[[Network], Cost | None]) -> Self:
        """This space with further resources to bound, or with others in the places of those of the same name.

        Args:
          *resources: `dms_jax.Resource`s, or such as `dms_jax.budgets.weights.Weights(dtype="bfloat16")`.

        Raises:
          UserError: something else, or what cannot be computed for this network.
        """
        for resource in resources:
            if not callable(resource) or isinstance(resource, type):
                raise UserError(f"resource {resource!r} is not possible; give a `dms_jax.Resource`")
        made = {}
        for resource in resources:
            cost = resource(self._network)
            if cost is None:
                raise UserError(f"{self.source.title} has nothing that {shortened(repr(resource), 100)} counts")
            if not all(callable(getattr(cost, name, None)) for name in ("exact", "fraction")):
                raise UserError(
                    f"{shortened(repr(resource), 100)} gives {shortened(repr(cost), 60)}, no resource; give a "
                    "`dms_jax.Resource`"
                )
            made[cost.name] = cost
        other = copy.copy(self)
        other.costs, other._added = {**self.costs, **made}, (*self._added, *resources)
        other.__dict__.pop("smallest", None)  # it was of the resources before
        return other

    def asked(self, names: Iterable[str]) -> Self:
        """This space with those resources of `dms_jax.budgets` that it does not have until a budget names them."""
        wanted, usual = set(names) - set(self.costs), budgets.usual()
        makers = [make for name, make in budgets.makers().items() if name in wanted and name not in usual]
        return self.with_resources(*makers) if makers else self

    def resources(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
        """Exact resources: {"macs": multiply-adds of one call with the example, "params": trainable numbers, ...}.

        Those that are measured are measured for the full network alone, and predicted for others (see `measured`).

        Raises:
          UserError: the structure does not fit this space.
        """
        counts = self._variables.counts(self.kept(structure))
        return {name: np.asarray(cost.exact(counts)).item() for name, cost in self.costs.items()}

    def measured(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
        """Those of `resources` that can be measured, measured: slow, but once for structures of the same sizes.

        Raises:
          UserError: the structure does not fit this space.
        """
        kept = self.kept(structure)
        return {name: cost.measure(kept) for name, cost in self.costs.items() if isinstance(cost, Measured)}

    def spreads(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, float]:
        """Of those of `measured` that are another number every time: half the range of the middle half of them."""
        kept = self.kept(structure)
        found = {name: cost.spread(kept) for name, cost in self.costs.items() if isinstance(cost, Measured)}
        return {name: spread for name, spread in found.items() if spread is not None}

    @property
    def variable_sizes(self) -> np.ndarray:
        """`[variables]` int64: what every variable of `costs` counts in the full network; the first is 1."""
        return self._variables.sizes

    def element_variables(self, group: str) -> np.ndarray:
        """`[N]` int32: which variable of `costs` counts each element of a group."""
        return self._variables.of_elements[group]

    def fractions(self, masks: jax.Array) -> dict[str, jax.Array]:
        """Resources as fractions of the full network's, from masks `[elements]` laid end to end; differentiable.

        r = sum over cost terms of coefficient x kept counts (METHOD, "Resource loss"), each count the sum of a mask.
        """
        counts = self._variables.soft_counts(masks)
        return {name: cost.fraction(counts) for name, cost in self.costs.items()}

    @cached_property
    def smallest(self) -> dict[str, Any]:
        """The smallest resources reachable: every group at its `least` elements."""
        return self.resources({name: tuple(range(group.least)) for name, group in self.groups.items()})

    def each(self) -> dict[str, dict[str, Any]]:
        """{group: {resource: what its last element costs in the full network}}; 0 where all elements must stay."""
        found, whole = {}, self.resources()
        full = {name: tuple(range(group.size)) for name, group in self.groups.items()}
        for name, group in self.groups.items():
            fewer = self.resources(full | {name: full[name][:-1]}) if group.size > group.least else whole
            found[name] = {key: value - fewer[key] for key, value in whole.items()}
        return found

    def _before_and_after(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        predicted, measured = self.resources(kept), self.measured(kept)
        found = {"before": self.resources(), "after": {**predicted, **measured}}
        spreads = self.spreads(kept)
        found |= {"predicted": {name: predicted[name] for name in measured}} if measured else {}
        return found | ({"spread": spreads} if spreads else {})
