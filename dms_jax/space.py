"""`SearchSpace`: what there is to search in a network, what it costs, and the network at other sizes.

A facade of `dms_jax.program`: everything is read off programs of the parameters; nothing is allocated, and no network
is written for it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from dms_jax import budgets, checks, explanation, groups
from dms_jax.adapters.doors import Doors
from dms_jax.adapters.source import Source
from dms_jax.budgets import Cost, Measured, Network, Sized
from dms_jax.budgets.polynomial import Variables
from dms_jax.errors import TracingError, UserError, shortened
from dms_jax.groups import Group
from dms_jax.program import checking, masking
from dms_jax.program.axes import Axis
from dms_jax.program.discovery import Choice, Discovery, Extra, discover
from dms_jax.program.exactness import Element
from dms_jax.program.frames import Program, Value, describe
from dms_jax.program.parameters import Parameters, is_array
from dms_jax.program.running import Small
from dms_jax.program.sizes import Sizes, element_at, owners
from dms_jax.reading import shown
from dms_jax.structure import Structure

_ALSO = '{"train": (fn, args)}'


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of the parameters.

    Attributes:
      path: "stage1/block0/conv1/kernel".
      shape: of the full network.
      axes: one a dimension.
      gates: (depth group, element) that it goes with: all of its uses are behind them.
      trained: whether an optimizer changes it.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    gates: frozenset[Element]
    trained: bool


class SearchSpace(Doors):
    """Groups, costs and slicing of one set of parameters. Make one with `from_function`, `from_linen`, `from_nnx`, ...

    Attributes:
      title: the network and what its MACs are counted for.
      groups: name -> `Group`, in the order of the network.
      counted: names of groups that have one ratio and one count together; most stand alone.
      leaves: path -> `Leaf`, for every array of the parameters.
      costs: {"macs": ..., "params": ...}: what a budget can bound, see `dms_jax.budgets`.
      uncounted: resources that this network does not have, with the reason.
      left: classes of axes that could be groups and are not searched, with the reason.
      fn: the inference function that was traced, `(params, *inputs)`.
      example: shapes of the inputs; MACs are those of one call with them.
      model: the model it was made of, where there is one.
      call: of a marked Linen model: keyword arguments of its inference; None otherwise.
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[Any],
        *,
        also: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]] | None = None,
        tie: Sequence[str] = (),
        unroll: Sequence[str] = (),
        choice: Choice | None = None,
        context: Callable[[], Any] | None = None,
        model: Any = None,
    ):
        self.source, self.fn, self.model = source, checks.function("fn", source.fn), model
        also = _programs(also)
        tie, unroll = checks.patterns("tie", tie), checks.patterns("unroll", unroll)
        self.call: dict[str, Any] | None = None
        self.example = jax.tree.map(_input, tuple(inputs))
        self.parameters = Parameters.of(source.params, source.trainable, source.paths, tuple(unroll))
        extras = [Extra(f"the program {name!r}", fn, args) for name, (fn, args) in also.items()]
        options: dict[str, Any] = {} if context is None else {"context": context}
        if source.train is not None and "train" not in also:
            key = jax.eval_shape(lambda: jax.random.key(0))
            options["spare"] = Extra("the network in training", source.train, (*self.example, key))
        self._found: Discovery = discover(self.parameters, self.fn, self.example, extras, choice, **options)
        self.groups: dict[str, Group] = self._found.groups
        if not self.groups:
            raise UserError(self._nothing())
        self.left = self._found.left
        self.counted = groups.counted_together(self.groups, tie)
        self._variables = Variables(self.groups, self._owned)
        self._network = self._read_network()
        self.costs, self.uncounted = self._resources()
        self._readings = masking.Readings(self._found.classes)
        self._readings.know(self.fn, self.example, self._found.staged)
        checking.check(self)

    # --- costs ---

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

        full = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.arrays(self.parameters.template))
        return Sized(self.shrunk(self.fn, kept), shrink(self, full, kept), self.example, kept)

    def _resources(self) -> tuple[dict[str, Cost], dict[str, str]]:
        found, missing = {}, {}
        for name, make in budgets.usual().items():
            try:
                cost = make(self._network)
                found |= {} if cost is None else {name: cost}
            except TracingError as error:
                missing[name] = str(error)
        return found, missing

    def with_resources(self, *resources: Callable[[Network], Cost | None]) -> SearchSpace:
        """This space with further resources to bound, or with others in the places of those of the same name.

        Args:
          *resources: `dms_jax.Resource`s, or such as `dms_jax.budgets.weights.Weights(dtype="bfloat16")`.

        Raises:
          UserError: something else, or what cannot be computed for this network.
        """
        for resource in resources:
            if not callable(resource):
                raise UserError(f"resource {resource!r} is not possible; give a `dms_jax.Resource`")
        made = {}
        for resource in resources:
            cost = resource(self._network)
            if cost is None:
                raise UserError(f"{self.source.title} has nothing that {shortened(repr(resource), 100)} counts")
            made[cost.name] = cost
        other = copy.copy(self)
        other.costs = {**self.costs, **made}
        other.__dict__.pop("smallest", None)  # it was of the resources before
        return other

    def asked(self, names: Iterable[str]) -> SearchSpace:
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

    def variable_counts(self, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
        """`[variables]` int64: what the polynomials of `costs` are evaluated at, for kept elements of every group."""
        return self._variables.counts(kept)

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

    # --- structures ---

    def kept(self, structure: Structure | Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
        """The kept elements of every group, checked.

        Raises:
          UserError: unknown groups, elements out of range, or fewer elements than must stay.
        """
        if not isinstance(structure, Structure):
            given: Any = {} if structure is None else structure  # which it checks itself
            structure = Structure(given)
        unknown = sorted(set(structure.kept) - set(self.groups))
        if unknown:
            raise UserError(
                f"the structure has group {unknown[0]!r}, which {self.source.title} does not have (its groups: "
                f"{', '.join(list(self.groups)[:4])}, ...): is it another model's?"
            )
        found = {}
        for name, group in self.groups.items():
            kept = structure.kept.get(name, tuple(range(group.size)))
            size = structure.sizes.get(name, group.size)
            if size != group.size or (kept and kept[-1] >= group.size):
                had = max(size, kept[-1] + 1 if kept else 0)
                raise UserError(
                    f"the structure's group {name!r} has {had} elements, the model's {group.size}: another size?"
                )
            if len(kept) < group.least:
                raise UserError(f"the structure keeps {len(kept)} of group {name!r}; at least {group.least} must stay")
            found[name] = kept
        return found

    def structure(self, kept: Mapping[str, Sequence[int]], model: Mapping[str, Any] | None = None) -> Structure:
        """A complete `Structure` with sizes, kinds, and resources before and after.

        Args:
          kept: kept elements of every group.
          model: {"name", "arguments"} for `dms_jax.models.create`; the example's shapes are added.
        """
        checked = self.kept(kept)
        if model is not None:
            shapes = jax.tree.leaves(self.example)
            model = {**model, "example": [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in shapes]}
        return Structure(
            kept=checked,
            sizes={name: group.size for name, group in self.groups.items()},
            kinds={name: group.kind for name, group in self.groups.items()},
            model=model,
            resources=self._before_and_after(checked),
            removed=frozenset(self._removed(checked)),
        )

    def _before_and_after(self, kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        predicted, measured = self.resources(kept), self.measured(kept)
        found = {"before": self.resources(), "after": {**predicted, **measured}}
        spreads = self.spreads(kept)
        found |= {"predicted": {name: predicted[name] for name in measured}} if measured else {}
        return found | ({"spread": spreads} if spreads else {})

    def _removed(self, kept: Mapping[str, Sequence[int]]) -> set[str]:
        """Groups that slice only parameters of removed blocks."""
        gone = [leaf for leaf in self.leaves.values() if any(i not in kept[name] for name, i in leaf.gates)]
        left = [leaf for leaf in self.leaves.values() if leaf not in gone]
        alive = {name for leaf in left for axis in leaf.axes for name in self.owners(axis)}
        alive |= {name for leaf in left for name, _ in leaf.gates}
        return {name for leaf in gone for axis in leaf.axes for name in self.owners(axis)} - alive

    def _checked_masks(self, masks: Any) -> Mapping[str, jax.Array]:
        for name, mask in checks.by_name("masks", masks, '{"stem": an array [N]}').items():
            if name not in self.groups:
                raise UserError(f"masks of {name!r}, which is no group of {self.title}: see space.groups")
            size, shape = self.groups[name].size, getattr(mask, "shape", None)
            if shape != (size,):
                raise UserError(f"the mask of {name!r} has shape {shape}; give [{size}], one number an element")
        return {name: jnp.asarray(mask) for name, mask in masks.items()}

    def gone(self, kept: Mapping[str, Sequence[int]]) -> frozenset[Element]:
        """The gates that are closed in a structure."""
        depth = self._found.classes.depth
        return frozenset((n, i) for n in depth for i in range(self.groups[n].size) if i not in set(kept[n]))

    # --- masks ---

    def masks(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, jax.Array]:
        """{group: [N]} float32 of 0 and 1 for a structure; all ones for None."""
        kept = self.kept(structure)
        return {
            name: jnp.asarray(np.isin(np.arange(group.size), kept[name]), jnp.float32)
            for name, group in self.groups.items()
        }

    def by_group(self, flat: jax.Array) -> dict[str, jax.Array]:
        """`[elements]` laid end to end -> {group: [N]}."""
        pieces = jax.lax.split(flat, [group.size for group in self.groups.values()])
        return dict(zip(self.groups, pieces, strict=True))

    def flat(self, by_group: Mapping[str, jax.Array]) -> jax.Array:
        """{group: [N]} -> `[elements]` laid end to end."""
        return jnp.concatenate([by_group[name] for name in self.groups])

    def collection(self, flat: jax.Array) -> dict[str, Any]:
        """`[elements]` laid end to end -> the nested "masks" collection of a marked Linen module."""
        return unflatten_dict(self.by_group(flat), sep="/")

    def partition(self, tree: Any) -> tuple[Any, Any]:
        """(what is trained, the rest), each with None in the other's places; `partition.combine` undoes it."""
        return self.parameters.partition(tree)

    def arrays(self, tree: Any) -> Any:
        """The tree with None for what is no array: what a state can hold."""
        return self.parameters.only(tree)

    def whole(self, tree: Any) -> Any:
        """Undo `arrays`: parameters of any structure with the leaves that are no arrays back in their places."""
        return self.parameters.called(self.parameters.arrays(tree))

    @property
    def trained(self) -> Any:
        """The tree of `arrays` with booleans: what an optimizer changes. `shrink` slices it with the parameters."""
        return self.parameters.marks

    def masked(self, fn: Callable[..., Any], *, fold: bool = True, writes: bool = True) -> Callable[..., Any]:
        """Any function of the parameters, with masks: `(params, masks, *inputs) -> outputs`.

        Every operation that runs over an axis of a group reads it times the mask; every residual branch is multiplied
        by its gate; means count kept elements, n = sum m. Masks of 0 and 1 give what the small network computes.

        Args:
          fn: `(params, *inputs)`; traced again for every new shape of its inputs.
          fold: multiply masks into parameters where that is the same and cheaper; False inserts every mask.
          writes: whether masks may go into what writes an axis. False for masks that reach 0: m relu(x) = relu(m x) has
            no derivative in m at 0 on the right-hand side.

        Raises:
          TracingError: from the function: this one ties, splits or freezes a group.
        """
        run = self._readings.masked(checks.function("fn", fn), fold=fold, writes=writes)
        return lambda params, masks, *inputs: run(params, self._checked_masks(masks), *inputs)

    def fold(self, params: Any, masks: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        """Multiply masks into the parameters of the inference function, where that is the same.

            conv(m x, W) = conv(x, m W)        m relu(a scale + bias) = relu(a (m scale) + m bias),  m >= 0

        Returns:
          (parameters of the same shapes and dtypes, the masks that remain: those of groups that are read by a
          normalisation, or between activations).
        """
        return self._readings.fold(self.fn, params, self._checked_masks(masks), self.example)

    def magnitudes(self, params: Any) -> dict[str, jax.Array]:
        """{group: [N]} sum of |w| over the trained weights that go when an element goes."""
        totals = {name: jnp.zeros((group.size,), jnp.float32) for name, group in self.groups.items()}
        for leaf, array in zip(self.leaves.values(), self.parameters.arrays(params), strict=True):
            if not leaf.trained or array is None:
                continue
            weights = jnp.abs(array).astype(jnp.float32)
            for name, element in leaf.gates:
                totals[name] = totals[name].at[element].add(jnp.sum(weights))
            for axis, term in enumerate(leaf.axes):
                others = tuple(i for i in range(weights.ndim) if i != axis)
                for name in self.owners(term):
                    at = self.element_at(term, name)
                    along = jnp.where(at < 0, 0.0, jnp.sum(weights, axis=others))
                    totals[name] = totals[name].at[at].add(along)
        return totals

    # --- the smaller network ---

    def forward(self, model: Any = None) -> Callable[..., Any]:
        """`(variables, *inputs) -> outputs`: inference of the marked Linen model, or of a clone with a structure.

        What runs: kernels of one device are used, which `fn`, the program that is read, does without.

        Raises:
          UserError: the space was made otherwise, and `fn` is the function.
        """
        network, call = self.model if model is None else model, self.call
        if call is None:
            raise UserError(f"{self.source.title} is no marked Linen model, which `forward` is of; take `space.fn`")
        return lambda variables, *inputs: network.apply(variables, *inputs, **call)

    def shrunk(self, fn: Callable[..., Any], structure: Structure | Mapping[str, Sequence[int]]) -> Callable[..., Any]:
        """Any function of the parameters at the sizes of a structure: `(small params, *inputs) -> outputs`.

        The same program run smaller: jit, grad, vmap and `jax.export` (with a symbolic batch) work on it; custom
        derivatives, remat and shardings survive.

        Args:
          fn: `(params, *inputs)`, of the full network; traced again for every new shape of its inputs.
          structure: what stays.

        Raises:
          UserError: a structure of another network; from the function: parameters of other shapes.
          TracingError: from the function: this one ties, splits or freezes a group, or needs what was removed.
        """
        kept = self.kept(structure)
        return Small(self._readings, checks.function("fn", fn), self.sizes(kept), self.gone(kept))

    def sizes(self, kept: Mapping[str, Sequence[int]]) -> Sizes:
        """The axes of the parameters under kept elements."""
        found = {}
        for atom, (name, start) in self._owned.items():
            elements = np.asarray(kept[name], np.int64) - start
            elements = elements[(elements >= 0) & (elements < atom.size)]
            if len(elements) < atom.size:
                found[atom] = elements
        return Sizes(found)

    def verify(self, params: Any, structure: Structure | Mapping[str, Sequence[int]], *inputs: Any) -> float:
        """The largest absolute difference between the masked and the small network's outputs.

        Args:
          params: of the full network.
          structure: what stays.
          *inputs: any batch size.

        Returns:
          max |masked - small| in the outputs' own unit; about 1e-6 times their size in float32. Infinity where one of
          them is not finite and the other is, or is so otherwise.
        """
        from dms_jax.shrink import difference, shrink

        self.parameters.full(params)
        jax.tree.map(_input, inputs)
        with jax.default_matmul_precision("highest"):  # on GPUs and TPUs float32 products are rounded more by default
            masked = jax.jit(self.masked(self.fn))(self.arrays(params), self.masks(structure), *inputs)
            small = jax.tree.map(lambda x: x if is_array(x) else None, shrink(self, params, structure))
            small = jax.jit(self.shrunk(self.fn, structure))(small, *inputs)
        return difference(masked, small)

    def save(
        self,
        directory: str | os.PathLike[str],
        fn: Callable[..., Any],
        params: Any,
        structure: Structure,
        *,
        loss: Callable[..., Any] | None = None,
        batch: Any = None,
    ) -> Path:
        """Write the network of a structure for `dms_jax.load`, which then needs JAX alone; see `dms_jax.saved`.

        Args:
          directory: made if need be.
          fn: `(params, *inputs)` of the full network, of inference; `space.fn` say. Inputs are those of the example,
            with any leading size where no number in the program depends on it.
          params: of the small network (`dms_jax.shrink`).
          structure: what stays.
          loss: `(params, batch, key)` of the full network: written with its derivative, to train on.
          batch: arrays or shapes that the loss is written for; of any leading size where numbers in it depend on that
            in means alone.

        Returns:
          The folder of the programs.

        Warns:
          UserWarning: a program runs with one leading size alone; the operation and its line, or what else keeps it.

        Raises:
          UserError: flatbuffers or safetensors is missing, or parameters that cannot be written.
        """
        from dms_jax import saved

        return saved.save(self, directory, fn, params, structure, loss=loss, batch=batch)

    # --- axes ---

    @property
    def _owned(self) -> Mapping[Any, tuple[str, int]]:
        return self._found.classes.owned

    @cached_property
    def leaves(self) -> dict[str, Leaf]:
        """path -> `Leaf`, in the order of the tree."""
        p, classes = self.parameters, self._found.classes
        rows = zip(p.paths, p.shapes, classes.axes, classes.gates, p.trained, strict=True)
        return {path: Leaf(path, tuple(s.shape), axes, gates, train) for path, s, axes, gates, train in rows}

    @property
    def traced(self) -> tuple[Program, dict[str, Value]]:
        """The program that was read, and path -> the value in it, of every array of the parameters."""
        return self._found.program, dict(zip(self.parameters.paths, self._found.leaves, strict=True))

    def element_at(self, axis: Axis, name: str) -> np.ndarray:
        """`[positions]`: which element of a group every position of an axis goes with, -1 for none."""
        return element_at(axis, self._owned, name)

    def owners(self, axis: Axis) -> list[str]:
        """The groups whose elements an axis is made of."""
        return owners(axis, self._owned)

    def indices(self, axis: Axis, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Which positions of an axis stay, ascending."""
        return self.sizes(kept).positions(axis)

    # --- for people ---

    def _nothing(self) -> str:
        left = "; ".join(f"{name}: {why}" for name, why in list(self._found.left.items())[:3])
        if "its being an axis of an input" in left:
            left += "; what the function makes itself, a cache say, can be made at other sizes"
        elif "because of" in left and "its being" not in left:
            left += (
                "; what gives positions a meaning, or is not known, keeps all of them: let it run over another axis, "
                "or tell what it does (`dms_jax.register_operation`)"
            )
        return f"there is nothing to search in {self.source.title}" + (f": {left}" if left else "")

    @property
    def title(self) -> str:
        """The network and what its MACs are counted for: `ResNet, one forward pass of float32[1, 224, 224, 3]`."""
        shapes = [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(self.example) if hasattr(x, "shape")]
        return f"{self.source.title}, one forward pass of {', '.join(shapes)}"

    def each(self) -> dict[str, dict[str, Any]]:
        """{group: {resource: what its last element costs in the full network}}; 0 where all elements must stay."""
        found, whole = {}, self.resources()
        full = {name: tuple(range(group.size)) for name, group in self.groups.items()}
        for name, group in self.groups.items():
            fewer = self.resources(full | {name: full[name][:-1]}) if group.size > group.least else whole
            found[name] = {key: value - fewer[key] for key, value in whole.items()}
        return found

    def summary(self) -> str:
        """A table: every group, its size, kind, and what one element of it costs; the resources reachable."""
        rows = []
        whole, plan = self.resources(), self._readings.plan_of(self.fn, self.example)
        for name, cost in self.each().items():
            group, where = self.groups[name], "parameters" if plan.folds(name) else "activations"
            rows.append(explanation.Row(name, group.kind, group.size, group.least, cost, where))
        said = {name: (cost.unit, cost.note) for name, cost in self.costs.items()}
        return explanation.table(self.title, rows, whole, self.smallest, said, {**self.left, **self.uncounted})

    def explain(self, path: str) -> str:
        """Which groups slice which axes of one parameter, and through which operations they are tied.

        Args:
          path: "stage2/block0/conv1/kernel".

        Raises:
          UserError: the network has no such parameter.
        """
        return explanation.explain(self, path)

    def ties(self, group: str, axis: Axis) -> list[str]:
        """The operations that tie a group to an axis, nearest the group's name first."""
        site = self._found.sites.get(group)
        return [] if site is None else [describe(why) for why in self._found.program.ties.path(site, axis)]

    def __repr__(self) -> str:
        elements = sum(group.size for group in self.groups.values())
        plural = "group" if len(self.groups) == 1 else "groups"
        return f"SearchSpace({self.title}: {len(self.groups)} {plural}, {elements:,} elements)"


def _input(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of one input."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)
    if isinstance(leaf, int | float | complex):
        return jax.ShapeDtypeStruct((), jnp.result_type(leaf))
    raise UserError(
        f"input {shown(leaf)} is not possible; give arrays, shapes or numbers, and bind what else the function "
        "takes (functools.partial)"
    )


def _programs(also: Any) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Other programs of the same parameters, checked."""
    given = checks.by_name("also", {} if also is None else also, _ALSO)
    for name, pair in given.items():
        if not (isinstance(pair, Sequence) and len(pair) == 2 and callable(pair[0]) and isinstance(pair[1], Sequence)):
            raise UserError(f"also {name!r}: {shown(pair)} is not possible; give a function and its inputs: {_ALSO}")
    return {name: (fn, tuple(args)) for name, (fn, args) in given.items()}
