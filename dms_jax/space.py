"""`SearchSpace`: the groups of one model, what they cost, and which parameter axes they slice.

All of it is read off the traced inference program; nothing is allocated and nothing is written by hand per model.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dms_jax import costs, explanation, groups
from dms_jax.axes import Axis, Concat, Product, atoms, resolve
from dms_jax.elements import Declaration, declared, portable
from dms_jax.errors import TracingError, UserError
from dms_jax.folding import Reads, find_reads
from dms_jax.groups import Group
from dms_jax.partition import partition
from dms_jax.structure import Structure
from dms_jax.tracing import Gate, Program, Value, control, describe, trace
from dms_jax.writing import Factor, cheapest, find_writes


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of the model's variables: its axes, and the gates it goes with (all of its uses are behind them)."""

    path: tuple[str, ...]  # with the collection first: ("params", "stage1", "block0", "conv1", "kernel")
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    gates: frozenset[Gate]


class SearchSpace:
    """Groups, costs and slicing of one model. Make one with `SearchSpace.from_model`.

    Attributes:
      model: the model it was made of.
      groups: name -> `Group`, in the order of the network.
      counted: names of groups that have one ratio and one count together; most stand alone.
      leaves: path (collection first) -> `Leaf`, for every variable of the model.
      costs: "macs" and "params" as polynomials in the counts of kept elements.
      example: the arguments it was traced with; MACs are those of one forward pass of them.
    """

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        example: Any,
        call: Mapping[str, Any],
        parts: _Parts,
        tie: Sequence[str] = (),
    ):
        self.model, self.example, self._call, self._program = model, example, call, program
        self._mask_axes = {name: value.axes[0] for value, name in parts.masks.items()}
        gates = control(program, parts.masks)
        self.groups: dict[str, Group] = groups.declare(parts.declared, {name for name, _ in gates.used})
        self._owned = groups.own(self.groups, self._mask_axes)
        self.counted = groups.counted_together(self.groups, tie)
        self.leaves = {
            leaf.path: Leaf(leaf.path, leaf.shape, value.axes, gates.gates.get(value, frozenset()))
            for value, leaf in parts.leaves.items()
        }
        self._variables = costs.Variables(self.groups, self._owned)
        params = [v for v, leaf in parts.leaves.items() if leaf.path[0] == "params"]
        self.costs = costs.polynomials(program, params, gates.gates, self._variables)
        numbers = {value: i for i, value in enumerate(params)}
        self.reads: Reads = find_reads(program, parts.masks, numbers)
        self._params = [parts.leaves[value].path for value in params]
        sizes = [math.prod(self.leaves[path].shape) for path in self._params]
        self.folds = cheapest(self.groups, self._reading(), find_writes(program, parts.masks, numbers), sizes)
        self._refuse_idle_groups()

    @staticmethod
    def from_model(model: nn.Module, *example: Any, tie: Sequence[str] = (), **call: Any) -> SearchSpace:
        """Trace the model's inference program; arrays and `jax.ShapeDtypeStruct`s do equally well.

        Args:
          model: a Linen module; modules inside that derive from `Searchable` declare the groups.
          *example: its positional arguments. MACs are counted for exactly this input: give batch 1 for MACs per image.
          tie: glob patterns on group names; the groups that one pattern matches share one ratio and one count, each
            keeping its own best elements: `"layers/*/hidden"` makes a network with the same hidden size everywhere.
          **call: keyword arguments, static. `train=False` is added where the model takes `train`.

        Raises:
          TracingError: an operation that no group may go through, or a group that slices nothing.
          UserError: a model without groups, or a pattern to tie that matches none, or groups of different sizes.
        """
        if "train" in inspect.signature(type(model).__call__).parameters:
            call.setdefault("train", False)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), example)
        with declared() as record:
            variables = jax.eval_shape(lambda key, *args: model.init(key, *args, **call), jax.random.key(0), *shapes)
        if not record:
            raise UserError(
                f"{type(model).__name__} declares no groups: derive its modules from dms_jax.Searchable and use "
                "self.elements(name, size)"
            )
        for name in record:
            if any(other.startswith(f"{name}/") for other in record):
                raise UserError(f"group {name!r} has the name of a module that declares groups; rename one of them")
        variables = {name: dict(flatten_dict(tree)) for name, tree in variables.items() if name != "masks"}
        masks = {name: jax.ShapeDtypeStruct((d.size,), jnp.float32) for name, d in record.items()}

        def forward(variables, masks, *args):
            nested = {name: unflatten_dict(tree) for name, tree in variables.items()}
            return model.apply(nested | {"masks": unflatten_dict(masks, sep="/")}, *args, **call)

        with portable():
            program = trace(jax.make_jaxpr(forward)(variables, masks, *shapes), data=len(jax.tree.leaves(shapes)))
        return SearchSpace(model, program, shapes, call, _Parts.of(program, variables, masks, record), tie)

    def apply(self, variables: Mapping[str, Any], *args: Any, model: nn.Module | None = None) -> Any:
        """Run the inference program that was traced, jitted: of this model, or of a smaller clone of it."""
        return jax.jit(self.forward(model))(variables, *args)

    def forward(self, model: nn.Module | None = None) -> Callable[..., Any]:
        """`(variables, *args) -> outputs`, the inference program that was traced, of this model or a smaller clone."""
        network = self.model if model is None else model
        return lambda variables, *args: network.apply(variables, *args, **self._call)

    # --- costs ---

    def resources(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, int]:
        """Exact resources: {"macs": multiply-adds of one forward pass of the example, "params": trainable numbers}.

        Raises:
          UserError: the structure does not fit this space.
        """
        counts = self._variables.counts(self.kept(structure))
        return {name: int(cost.exact(counts)) for name, cost in self.costs.items()}

    def variable_counts(self, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
        """`[variables]` int64: what the polynomials of `costs` are evaluated at, for kept elements of every group."""
        return self._variables.counts(kept)

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
    def smallest(self) -> dict[str, int]:
        """The smallest resources reachable: every group at its `least` elements."""
        return self.resources({name: tuple(range(group.least)) for name, group in self.groups.items()})

    # --- structures ---

    def kept(self, structure: Structure | Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
        """The kept elements of every group, checked.

        Raises:
          UserError: unknown groups, elements out of range, or fewer elements than must stay.
        """
        if not isinstance(structure, Structure):
            structure = Structure({name: tuple(kept) for name, kept in (structure or {}).items()})
        unknown = sorted(set(structure.kept) - set(self.groups))
        if unknown:
            raise UserError(
                f"the structure has group {unknown[0]!r}, which {type(self.model).__name__} does not have (its groups: "
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
            resources={"before": self.resources(), "after": self.resources(checked)},
            removed=frozenset(self._removed(checked)),
        )

    def _removed(self, kept: Mapping[str, Sequence[int]]) -> Iterable[str]:
        """Groups that slice only variables of removed blocks."""
        gone = {leaf for leaf in self.leaves.values() if any(i not in kept[name] for name, i in leaf.gates)}
        left = [leaf for leaf in self.leaves.values() if leaf not in gone]
        alive = {name for leaf in left for axis in leaf.axes for name in self.owners(axis)}
        alive |= {name for leaf in left for name, _ in leaf.gates}
        sliced = {name for leaf in gone for axis in leaf.axes for name in self.owners(axis)}
        return sliced - alive

    # --- masks ---

    def masks(self, structure: Structure | Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
        """The "masks" collection of a structure: 0/1 float32, nested by module; all ones for None."""
        kept = self.kept(structure)
        masks = {}
        for name, group in self.groups.items():
            masks[name] = jnp.asarray(np.isin(np.arange(group.size), kept[name]), jnp.float32)
        return unflatten_dict(masks, sep="/")

    def collection(self, flat: jax.Array) -> dict[str, Any]:
        """Masks `[elements]` laid end to end in the order of `groups` -> the nested "masks" collection."""
        return unflatten_dict(self.by_group(flat), sep="/")

    def by_group(self, flat: jax.Array) -> dict[str, jax.Array]:
        """`[elements]` laid end to end -> {group: [N]}."""
        pieces = jax.lax.split(flat, [group.size for group in self.groups.values()])
        return dict(zip(self.groups, pieces, strict=True))

    def flat(self, by_group: Mapping[str, jax.Array]) -> jax.Array:
        """{group: [N]} -> `[elements]` laid end to end."""
        return jnp.concatenate([by_group[name] for name in self.groups])

    def _reading(self) -> dict[str, tuple[Factor, ...]]:
        """For every group that only kernels read: those kernels."""
        return {name: tuple(Factor(*where) for where in sorted(k)) for name, k in self.reads.kernels.items()}

    def fold(self, params: Any, masks: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Multiply masks into parameters: into kernels that read the axis, or into what writes it.

            conv(m x, W) = conv(x, m W)        m relu(a scale + bias) = relu(a (m scale) + m bias),  m >= 0

        Which of them is `folds`, chosen by `writing.cheapest`.

        Args:
          params: the "params" collection, nested.
          masks: a "masks" collection, nested; groups may be missing.

        Returns:
          The folded parameters (same shapes and dtypes) and the masks that remain: those a normalisation needs, and
          those between activations. `model.apply({"params": folded, "masks": remaining})` equals
          `model.apply({"params": params, "masks": masks})`, and so do its gradients.
        """
        given: dict[Any, Any] = dict(flatten_dict(dict(masks), sep="/"))
        flat: dict[Any, Any] = dict(flatten_dict(params))
        scales: dict[Any, list[jax.Array]] = {}
        for name, factors in self.folds.items():
            if name not in given:
                continue
            mask = given.pop(name)
            gates = jax.lax.split(mask, [1] * len(mask)) if any(f.element is not None for f in factors) else ()
            for f in factors:
                path = self._params[f.leaf]
                rank = flat[path[1:]].ndim
                if f.axis is None:
                    scale = gates[f.element or 0].reshape((1,) * rank)
                else:
                    shape = [-1 if i == f.axis else 1 for i in range(rank)]
                    scale = self._spread(self.leaves[path].axes[f.axis], name, mask).reshape(shape)
                scales.setdefault(path[1:], []).append(scale)
        for path, several in scales.items():
            # the small factors with each other first: a backward pass keeps one copy of the leaf then, not one a factor
            scale = reduce(operator.mul, sorted(several, key=lambda s: s.size))
            flat[path] = flat[path] * scale.astype(flat[path].dtype)
        return unflatten_dict(flat), unflatten_dict(given, sep="/")

    def folding_reads(self) -> SearchSpace:
        """The same space, folding masks into kernels that read them alone, never into what writes the axis.

        For masks that reach 0: m relu(x) = relu(m x) has no derivative in m at 0 on the right-hand side.
        """
        space = copy.copy(self)
        space.folds = {name: factors for name, factors in self._reading().items() if name in self.folds}
        return space

    def unfolded(self) -> SearchSpace:
        """The same space with every mask on activations: the reference that folding is tested against."""
        space = copy.copy(self)
        space.folds = {}
        return space

    def partition(self, tree: Any) -> tuple[Any, Any]:
        """Variables -> what is trained and the rest, None in the other's places; `partition.combine` undoes it."""
        return partition(tree)

    def element_at(self, axis: Axis, name: str) -> np.ndarray:
        """`[positions]`: which element of a group every position of an axis goes with, -1 for none."""
        axis = resolve(axis)
        if isinstance(axis, Concat):
            return np.concatenate([self.element_at(part, name) for part in axis.parts])
        if isinstance(axis, Product):
            at = np.full(1, -1)
            for factor in axis.factors:
                at = np.maximum.outer(at, self.element_at(factor, name)).reshape(-1)
            return at
        owner, start = self._owned.get(axis, ("", 0))
        return np.arange(start, start + axis.size) if owner == name else np.full(axis.size, -1)

    def _spread(self, axis: Axis, name: str, mask: jax.Array) -> jax.Array:
        """The mask of one group as a factor for every position of an axis."""
        at = self.element_at(axis, name)
        if np.array_equal(at, np.arange(mask.shape[0])):
            return mask
        return jnp.concatenate([mask, jnp.ones((1,), mask.dtype)])[at]  # -1 takes the one at the end

    def magnitudes(self, params: Any) -> dict[str, jax.Array]:
        """{group: [N]} sum of |w| over the weights that go when an element goes."""
        flat: dict[Any, Any] = dict(flatten_dict(params))
        totals = {name: jnp.zeros((group.size,), jnp.float32) for name, group in self.groups.items()}
        for path in self._params:
            leaf, weights = self.leaves[path], jnp.abs(flat[path[1:]]).astype(jnp.float32)
            for name, element in leaf.gates:
                totals[name] = totals[name].at[element].add(jnp.sum(weights))
            for axis, term in enumerate(leaf.axes):
                others = tuple(i for i in range(weights.ndim) if i != axis)
                for name in self.owners(term):
                    at = self.element_at(term, name)
                    along = jnp.where(at < 0, 0.0, jnp.sum(weights, axis=others))
                    totals[name] = totals[name].at[at].add(along)
        return totals

    # --- slicing ---

    def indices(self, axis: Axis, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Which positions of an axis stay, ascending."""
        axis = resolve(axis)
        if isinstance(axis, Concat):
            starts = np.cumsum([0, *(part.size for part in axis.parts)])
            pieces = zip(axis.parts, starts[:-1], strict=True)
            return np.concatenate([self.indices(part, kept) + start for part, start in pieces])
        if isinstance(axis, Product):
            total = np.zeros(1, np.int64)
            for factor in axis.factors:
                total = (total[:, None] * factor.size + self.indices(factor, kept)[None, :]).reshape(-1)
            return total
        if axis not in self._owned:
            return np.arange(axis.size)
        name, start = self._owned[axis]
        elements = np.asarray(kept[name], np.int64) - start
        return elements[(elements >= 0) & (elements < axis.size)]

    # --- for people ---

    def summary(self) -> str:
        """A table: every group, its size, kind, and what one element of it costs; the resources reachable."""
        rows = []
        full = {name: tuple(range(group.size)) for name, group in self.groups.items()}
        for name, group in self.groups.items():
            fewer = self.resources(full | {name: full[name][:-1]}) if group.size > group.least else self.resources()
            cost = {key: value - fewer[key] for key, value in self.resources().items()}
            why = "gates" if group.kind == "depth" else f"activations ({self.reads.refused.get(name)})"
            where = "parameters" if name in self.folds else why
            rows.append(explanation.Row(name, group.kind, group.size, group.least, cost["macs"], cost["params"], where))
        return explanation.table(self.title, rows, self.resources(), self.smallest)

    @property
    def title(self) -> str:
        """The network and what its MACs are counted for: `ResNet, one forward pass of float32[1, 224, 224, 3]`."""
        shapes = [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(self.example)]
        return f"{type(self.model).__name__}, one forward pass of {', '.join(shapes)}"

    def explain(self, path: str) -> str:
        """Which groups slice which axes of one variable, and through which operations they are tied.

        Args:
          path: "params/stage2/block0/conv1/kernel".

        Raises:
          UserError: the model has no such variable.
        """
        leaf = self.leaves.get(tuple(path.split("/")))
        if leaf is None:
            known = ["/".join(p) for p in self.leaves]
            close = difflib.get_close_matches(path, known, n=3, cutoff=0.3)
            raise UserError(f"no variable {path!r}; the nearest of {len(known)}: {', '.join(close) or known[0]}")
        lines = [f"{path} {list(leaf.shape)}"]
        for i, axis in enumerate(leaf.axes):
            names = self.owners(axis)
            lines.append(f"  axis {i} ({axis.size}): {'not sliced' if not names else self._formula(axis)}")
            for name in names:
                lines.extend(f"    {name}: {step}" for step in self.ties(name, axis))
        gates = ", ".join(f"{name}[{i}]" for name, i in sorted(leaf.gates))
        return "\n".join([*lines, f"  goes with the gates: {gates}" if gates else "  no gate removes it"])

    def _formula(self, axis: Axis) -> str:
        axis = resolve(axis)
        if isinstance(axis, Concat):
            return " ++ ".join(self._formula(part) for part in axis.parts)
        if isinstance(axis, Product):
            return " x ".join(f"({self._formula(factor)})" for factor in axis.factors)
        if axis not in self._owned:
            return str(axis.size)
        name, start = self._owned[axis]
        whole = axis.size == self.groups[name].size
        return name if whole else f"{name}[{start}:{start + axis.size}]"

    def owners(self, axis: Axis) -> list[str]:
        """The groups whose elements an axis is made of."""
        return list(dict.fromkeys(self._owned[a][0] for a in atoms(resolve(axis)) if a in self._owned))

    def ties(self, group: str, axis: Axis) -> list[str]:
        """The operations that tie a group's mask to an axis, nearest the mask first."""
        return [describe(why) for why in self._program.ties.path(self._mask_axes[group], axis)]

    def _refuse_idle_groups(self) -> None:
        touched = {name for leaf in self.leaves.values() for axis in leaf.axes for name in self.owners(axis)}
        gated = {name for leaf in self.leaves.values() for name, _ in leaf.gates}
        for name, group in self.groups.items():
            if group.size > group.least and name not in touched | gated:
                raise TracingError(
                    f"group {name!r} slices no parameter: its mask must multiply the input of a layer that reads the "
                    "axis, or gate a block"
                )


@dataclass(frozen=True, eq=False)
class _Parts:
    """Which input of the program is what."""

    masks: dict[Value, str]
    leaves: dict[Value, Leaf]
    declared: dict[str, Declaration]

    @staticmethod
    def of(program: Program, variables: Any, masks: Any, record: dict[str, Declaration]) -> _Parts:
        paths: Iterable[Any] = jax.tree_util.tree_flatten_with_path((variables, masks))[0]
        found_masks, leaves = {}, {}
        for (path, shape), value in zip(paths, program.inputs, strict=False):
            if path[0].idx == 1:
                found_masks[value] = path[1].key
            else:
                where = (path[1].key, *path[2].key)
                leaves[value] = Leaf(where, tuple(shape.shape), value.axes, frozenset())
        return _Parts(found_masks, leaves, record)
