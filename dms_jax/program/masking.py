"""Functions of the parameters with masks: read once for every shape of their arguments, then run with them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import TracingError
from dms_jax.program.axes import Atom, Axis, Concat, resolve
from dms_jax.program.bounds import bounded
from dms_jax.program.evaluate import Change, Evaluator
from dms_jax.program.exactness import Factor, Insertion, Plan, plan
from dms_jax.program.frames import Node, Program, Value, describe
from dms_jax.program.means import Mean
from dms_jax.program.reading import Classes, Reading, read
from dms_jax.program.sizes import Sizes, elements_at
from dms_jax.program.staging import Staged, stage

Masks = Mapping[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Masked:
    """A function, read, and how its masks come to where they are read."""

    reading: Reading
    plan: Plan


class Readings:
    """Functions of the parameters of one space, each read once for every shape of its arguments."""

    def __init__(self, classes: Classes):
        self.classes = classes
        self._staged: dict[Any, Staged] = {}
        self._read: dict[Any, Reading] = {}
        self._plans: dict[Any, Plan] = {}
        self._derivatives: dict[Program, Plan] = {}

    def read(self, fn: Callable[..., Any], args: Sequence[Any]) -> Reading:
        """`fn`, traced on the classes."""
        key = self._key(fn, args)
        if key not in self._read:
            staged = self._staged.pop(key, None) or stage(self.classes.parameters, fn, args, self.classes.context)
            self._read[key] = read(self.classes, staged)
        return self._read[key]

    def know(self, fn: Callable[..., Any], args: Sequence[Any], staged: Staged) -> None:
        """A function that was traced already."""
        self._staged[self._key(fn, args)] = staged

    def _key(self, fn: Any, args: Sequence[Any]) -> Any:
        leaves, tree = jax.tree.flatten(tuple(args))
        shapes = tuple((tuple(x.shape), str(x.dtype)) if hasattr(x, "shape") else repr(x) for x in leaves)
        # numbers computed at another precision are another program
        return fn, tree, shapes, jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]

    def plan(self, fn: Callable[..., Any], args: Sequence[Any], fold: bool, writes: bool) -> Masked:
        key = (self._key(fn, args), fold, writes)
        reading = self.read(fn, args)
        if key not in self._plans:
            trained = self.classes.parameters.trained
            self._plans[key] = plan(
                reading.program, reading.owned, reading.leaves, trained, reading.gates, writes=writes, fold=fold
            )
        return Masked(reading, self._plans[key])

    def plan_of(self, fn: Callable[..., Any], args: Sequence[Any]) -> Plan:
        """How the masks of a function act."""
        return self.plan(fn, args, True, True).plan

    def masked(self, fn: Callable[..., Any], *, fold: bool, writes: bool) -> Callable[..., Any]:
        """`(params, masks, *args) -> outputs`."""

        def run(params: Any, masks: Masks, *args: Any) -> Any:
            found = self.plan(fn, args, fold, writes)
            arrays = multiplied(found, self.classes.parameters.full(params), masks)
            arguments = [x if hasattr(x, "shape") else jnp.asarray(x) for x in jax.tree.leaves(args)]
            reading = found.reading
            reading.check(element for element in reading.elsewhere if element[0] in masks)
            rows = {step: masks[name] for step, name in reading.rows.items() if name in masks}

            def rebuild(program: Program, masks: Masks) -> dict[Node, Change]:
                if program is not reading.program:
                    return _changes(self._inserted(reading, program), masks)
                changes = _changes(found, masks)
                _gate_rows(evaluator, reading, changes)
                return changes

            evaluator = Evaluator(reading.program, Sizes({}), rows=rows, rebuild=rebuild, masks=dict(masks))
            evaluator.changes = rebuild(reading.program, masks)
            return jax.tree.unflatten(reading.out_tree, evaluator.run([*arrays, *arguments]))

        return run

    def _inserted(self, reading: Reading, program: Program) -> Masked:
        """The program of a custom derivative, with every mask inserted where it is read."""
        if program not in self._derivatives:
            self._derivatives[program] = plan(program, reading.owned, {}, (), {}, fold=False)
        return Masked(reading, self._derivatives[program])

    def fold(
        self, fn: Callable[..., Any], params: Any, masks: Masks, args: Sequence[Any]
    ) -> tuple[Any, dict[str, Any]]:
        """(parameters with masks multiplied in, the masks that cannot be)."""
        found = self.plan(fn, args, True, True)
        folded = {name: mask for name, mask in masks.items() if found.plan.folds(name)}
        arrays = multiplied(found, self.classes.parameters.full(params), folded)
        rest = {name: mask for name, mask in masks.items() if name not in folded}
        return self.classes.parameters.tree(arrays), rest


def multiplied(found: Masked, arrays: Sequence[Any], masks: Masks) -> list[Any]:
    """The parameters, with the masks multiplied in that the plan has there."""
    values = {leaf: value for value, leaf in found.reading.leaves.items()}
    scales: dict[int, list[jax.Array]] = {}
    for name, factors in found.plan.factors.items():
        if name not in masks:
            continue
        mask = masks[name]
        gates = jax.lax.split(mask, [1] * mask.shape[0]) if any(f.element is not None for f in factors) else ()
        for f in factors:
            scales.setdefault(f.leaf, []).append(_scale(found.reading, values[f.leaf], f, name, mask, gates))
    out = list(arrays)
    for leaf, several in scales.items():
        # the small factors with each other first: a backward pass keeps one copy of the leaf then, not one a factor
        scale = reduce(operator.mul, sorted(several, key=lambda s: s.size))
        out[leaf] = out[leaf] * scale.astype(out[leaf].dtype)
    return out


def _scale(reading: Reading, value: Value, f: Factor, name: str, mask: jax.Array, gates: Sequence[Any]) -> jax.Array:
    rank = len(value.axes)
    if f.axis is None:
        return gates[f.element or 0].reshape((1,) * rank)
    return spread(reading.owned, value.axes[f.axis], name, mask).reshape(
        [-1 if i == f.axis else 1 for i in range(rank)]
    )


def spread(owned: Mapping[Atom, tuple[str, int]], axis: Axis, name: str, mask: jax.Array) -> jax.Array:
    """The mask of one group as a factor for every position of an axis: of n x n, m_i m_j at (i, j)."""
    every = elements_at(axis, owned, name)
    if np.array_equal(every, np.arange(mask.shape[0])[None]):
        return mask
    padded = jnp.concatenate([mask, jnp.ones((1,), mask.dtype)])  # -1 takes the one at the end
    return reduce(operator.mul, [padded[at] for at in every])


def _changes(found: Masked, masks: Masks) -> dict[Node, Change]:
    changes: dict[Node, list[Change]] = {}
    owned = found.reading.owned
    for name, insertions in found.plan.insertions.items():
        for insertion in insertions if name in masks else ():
            value = insertion.node.inputs[insertion.operand]
            mask = spread(owned, value.axes[insertion.axis], name, masks[name])
            changes.setdefault(insertion.node, []).append(_inserted(insertion, mask))
    for (name, element), sums in found.plan.gates.items():
        for node, operand in sums if name in masks else ():
            changes.setdefault(node, []).append(_gated(operand, masks[name][element]))
    for mean in found.plan.means:
        share = reduce(operator.mul, [_share(owned, axis, masks) for axis in mean.axes])
        if not isinstance(share, float):
            changes.setdefault(mean.node, []).append(_counted(mean, share))
    return {node: _composed(several) for node, several in changes.items()}


def _composed(several: Sequence[Change]) -> Change:
    def change(ins: list[Any]) -> list[Any]:
        for one in several:
            ins = one(ins)
        return ins

    return change


def _gated(operand: int, gate: jax.Array) -> Change:
    def change(ins: list[Any]) -> list[Any]:
        out = list(ins)
        out[operand] = ins[operand] * gate.astype(ins[operand].dtype)
        return out

    return change


def _gate_rows(evaluator: Evaluator, reading: Reading, changes: dict[Node, Change]) -> None:
    """Branches in loops over layers: the gate of the layer that is running."""
    for node, (operand, step) in reading.row_sums.items():
        if step not in evaluator.rows:
            continue
        if operand < 0:
            raise TracingError(
                f"group {reading.rows[step]!r}: a layer of the loop at {describe(node)} is not a residual branch in "
                "this function, so that it cannot be masked"
            )
        before = changes.get(node, lambda ins: ins)

        def change(ins: list[Any], operand: int = operand, step: int = step, before: Change = before) -> list[Any]:
            out = list(before(ins))
            out[operand] = out[operand] * evaluator.row_masks[step].astype(out[operand].dtype)
            return out

        changes[node] = change


def _share(owned: Mapping[Atom, tuple[str, int]], axis: Axis, masks: Masks) -> Any:
    """How much of an axis the masks keep; the float 1.0 where they say nothing of it."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        name, start = owned.get(axis, ("", 0))
        return jnp.sum(masks[name][start : start + axis.size]) / axis.size if name in masks else 1.0
    if isinstance(axis, Concat):
        shares = [_share(owned, part, masks) for part in axis.parts]
        if all(isinstance(share, float) for share in shares):
            return 1.0
        return sum(share * part.size for share, part in zip(shares, axis.parts, strict=True)) / axis.size
    return reduce(operator.mul, [_share(owned, factor, masks) for factor in axis.factors])


def _counted(mean: Mean, share: jax.Array) -> Change:
    """sum / N becomes sum / n, n = sum m."""

    def change(ins: list[Any]) -> list[Any]:
        out = list(ins)
        by = jnp.asarray(ins[mean.operand])
        out[mean.operand] = (by / share if mean.inverse else by * share).astype(by.dtype)
        return out

    return change


def _inserted(insertion: Insertion, mask: jax.Array) -> Change:
    def change(ins: list[Any]) -> list[Any]:
        out = list(ins)
        x = jnp.asarray(ins[insertion.operand])
        if insertion.how != "bounded":
            out[insertion.operand] = neutral(x, mask, insertion.axis, insertion.how)
        elif jnp.issubdtype(x.dtype, jnp.floating):
            out[insertion.operand] = bounded(x, ins[1], mask, insertion.axis)
        return out

    return change


def neutral(x: jax.Array, mask: jax.Array, axis: int, how: str) -> jax.Array:
    """`x` as an operation has to read it: at a mask of 0 what is neutral to it, at 1 as it is, between linear.

    Args:
      x: any array.
      mask: `[n]` in [0, 1], n the size of the axis.
      axis: of `x`.
      how: "sum": m x; "product": m x + 1 - m; "maximum": x - (1 - m) (x - l), l the least finite one along the
        axis, -inf at 0; "minimum" likewise; "logsumexp": x + log m; "and", "or". "running" ones have a result at what
        is dropped, too: there infinity is the largest number, as what reads it multiplies by 0. At a mask of 1 all are
        x to the bit: a network may compare what it reads with what came out.
    """
    m = mask.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return _neutral_integers(x, m >= 0.5, axis, how)
    m = m.astype(x.dtype)
    if how == "sum":
        return x * m
    if how == "product":
        return m * x + (1 - m)
    if how == "logsumexp":
        there = m > 0
        return jnp.where(there, x + jnp.log(jnp.where(there, m, 1)), jnp.finfo(x.dtype).min / 2)
    maximum = how.endswith("maximum")
    least = _extreme(x, axis, maximum)
    never = jnp.finfo(x.dtype).max / 2 if how.startswith("running") else jnp.inf
    never = -never if maximum else never  # not even where all that is kept is the least
    there = m > 0  # 0 times infinity is in neither branch, and in neither derivative
    above = jnp.where(there & jnp.isfinite(x), x - least, 0)
    # one product, which is rounded alike wherever it is computed again
    return jnp.where(there, x - (1 - m) * above, jnp.asarray(never, x.dtype))


def _extreme(x: jax.Array, axis: int, least: bool) -> jax.Array:
    """The least or the largest finite number along an axis; 0 where there is none. A constant to derivatives."""
    x = jax.lax.stop_gradient(x)
    found = jnp.isfinite(x)
    reduced = (jnp.min if least else jnp.max)(jnp.where(found, x, jnp.inf if least else -jnp.inf), axis, keepdims=True)
    return jnp.where(jnp.isfinite(reduced), reduced, 0)


def _neutral_integers(x: jax.Array, there: jax.Array, axis: int, how: str) -> jax.Array:
    if how in ("sum", "or"):
        return jnp.where(there, x, jnp.zeros((), x.dtype))
    if how in ("product", "and"):
        return jnp.where(there, x, jnp.ones((), x.dtype) if how == "product" else ~jnp.zeros((), x.dtype))
    least = (jnp.min if how.endswith("maximum") else jnp.max)(x, axis=axis, keepdims=True)
    return jnp.where(there, x, least)
