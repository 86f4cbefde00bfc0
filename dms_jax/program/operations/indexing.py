"""Reading and writing at computed positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dms_jax.program.operations.operation import AxesOf, Operation, Place, Refused, Scaled, fresh, out_shapes


def gather(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Embedding look-ups and indexing: whole slices keep their axes, indexed axes are frozen."""
    (operand, indices), (shape,) = ins, out_shapes(eqn)
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    batch_out = [i for i in range(len(shape)) if i not in d.offset_dims]
    axes = list(fresh(shape))
    for i, out in enumerate(batch_out):
        axes[out] = indices[i]
    for i, j in zip(d.operand_batching_dims, d.start_indices_batching_dims, strict=True):
        t.tie(operand[i], indices[j])
    gone = (*d.collapsed_slice_dims, *d.operand_batching_dims)
    sliced = [i for i in range(len(operand)) if i not in gone]
    for i, out in zip(sliced, d.offset_dims, strict=True):
        axes[out] = operand[i] if sizes[i] == operand[i].size else t.meaningful(operand[i], sizes[i])
    t.freeze(*(operand[i] for i in d.collapsed_slice_dims))
    return [tuple(axes)]


def _gather_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """A whole slice along the axis: a look-up of scaled rows. (Out of range `fill` gives what it gives.)"""
    if place is None:
        return [[(node.inputs[0], None)]]
    d = node.eqn.params["dimension_numbers"]
    gone = (*d.collapsed_slice_dims, *d.operand_batching_dims)
    sliced = [i for i in range(len(node.inputs[0].axes)) if i not in gone]
    if place not in d.offset_dims:
        raise Refused("gather")
    return [[(node.inputs[0], sliced[d.offset_dims.index(place)])]]


def _whole_slices(sizes: Any, step: Any) -> dict[str, Any]:
    """A slice of a whole axis stays whole; others have frozen axes and stay as they are."""
    whole = zip(step.ins[0].axes, step.eqn.params["slice_sizes"], strict=True)
    return {"slice_sizes": tuple(sizes.size(axis) if n == axis.size else n for axis, n in whole)}


def scatter(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    operand, indices, updates = ins
    d = eqn.params["dimension_numbers"]
    gone = (*d.inserted_window_dims, *d.operand_batching_dims)
    whole = [i for i in range(len(operand)) if i not in gone]
    for i, j in zip(whole, d.update_window_dims, strict=True):
        if operand[i].size == updates[j].size:
            t.tie(operand[i], updates[j])
        else:
            t.freeze(operand[i], updates[j])
    loose = [j for j in range(len(updates)) if j not in d.update_window_dims]
    batching = dict(zip(d.scatter_indices_batching_dims, d.operand_batching_dims, strict=True))
    for i, j in enumerate(loose):
        t.tie(updates[j], indices[i])
        if i not in batching:  # what is written at computed positions is summed or overwritten there
            t.freeze(updates[j])
    for j, i in batching.items():
        t.tie(operand[i], indices[j])
    t.freeze(*(operand[i] for i in d.inserted_window_dims))
    return [operand]


def dynamic_slice(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    (shape,) = out_shapes(eqn)
    return [tuple(a if a.size == n else t.meaningful(a, n) for a, n in zip(ins[0], shape, strict=True))]


def dynamic_update_slice(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    for whole, part in zip(ins[0], ins[1], strict=True):
        if whole.size == part.size:
            t.tie(whole, part)
        else:
            t.freeze(whole, part)
    return [ins[0]]


OPERATIONS: dict[str, Operation] = {
    "gather": Operation(gather, _whole_slices, passes=_gather_passes),
    "dynamic_slice": Operation(dynamic_slice, _whole_slices),
    "dynamic_update_slice": Operation(dynamic_update_slice),
    **{
        name: Operation(scatter)
        for name in ("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max", "scatter-sub")
    },
}
