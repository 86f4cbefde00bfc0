"""Operations that move, merge, split, cut and repeat axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.program.axes import UNIT, Atom, Axis, concat, product
from dms_jax.program.operations.operation import (
    AxesOf,
    Operation,
    Place,
    Refused,
    Scaled,
    fresh,
    is_zero,
    kept_axes,
    moves,
    out_shapes,
)
from dms_jax.program.operations.reshaping import moved, reshape


def broadcast_in_dim(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    (shape,) = out_shapes(eqn)
    axes = list(fresh(shape))
    for source, target in zip(ins[0], eqn.params["broadcast_dimensions"], strict=True):
        if source.size == shape[target]:
            axes[target] = source
    return [tuple(axes)]


def _broadcast_moved(node: Any) -> list[tuple[int, ...]]:
    source, out = node.inputs[0], node.outputs[0]
    at = {j: i for i, j in enumerate(node.eqn.params["broadcast_dimensions"])}
    return [(at[j],) if j in at and source.axes[at[j]].size == axis.size else () for j, axis in enumerate(out.axes)]


def transpose(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [tuple(ins[0][i] for i in eqn.params["permutation"])]


def squeeze(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [kept_axes(ins[0], eqn.params["dimensions"])]


def _squeeze_moved(node: Any) -> list[tuple[int, ...]]:
    return [(i,) for i in range(len(node.inputs[0].axes)) if i not in node.eqn.params["dimensions"]]


def _result_shape(name: str) -> Any:
    def resize(sizes: Any, step: Any) -> dict[str, Any]:
        return {name: sizes.shape(step.outs[0]), "sharding": None}

    return resize


def concatenate(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    along = eqn.params["dimension"]
    axes = list(ins[0])
    for other in ins[1:]:
        for i, axis in enumerate(other):
            if i != along:
                t.tie(axes[i], axis)
    axes[along] = concat(end_to_end(t, [operand[along] for operand in ins]))
    return [tuple(axes)]


def _concatenate_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """All pieces, but along the axis itself those alone that have the group; each must be one whole piece of it."""
    along = node.eqn.params["dimension"]
    if place == along:
        held = [v for v in node.inputs if holds(v, along)]
        return [[(v, along) for v in held]]
    return [[(v, place) for v in node.inputs if not is_zero(v)]]


def end_to_end(t: Any, parts: Sequence[Axis]) -> list[Axis]:
    """Parts of a longer axis; one of size 1 is one of its positions, which cannot go: all size-1 axes are alike."""
    named = [Atom(1) if part is UNIT else part for part in parts]
    t.freeze(*(new for new, part in zip(named, parts, strict=True) if part is UNIT))
    return named


def stack(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    for other in ins[1:]:
        for a, b in zip(ins[0], other, strict=True):
            t.tie(a, b)
    axes, along = list(ins[0]), eqn.params["axis"]
    axes.insert(along, t.meaningful(UNIT, len(ins)))
    return [tuple(axes)]


def unstack(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    along = eqn.params["axis"]
    t.freeze(ins[0][along])
    return [kept_axes(ins[0], (along,))] * len(eqn.outvars)


def tile(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """n positions repeated r times are r x n, the copies being the slower factor."""
    copies = fresh(eqn.params["reps"])
    return [tuple(product((r, axis)) for r, axis in zip(copies, ins[0], strict=True))]


def _tile_resize(sizes: Any, step: Any) -> dict[str, Any]:
    pairs = zip(step.outs[0].axes, step.ins[0].axes, strict=True)
    return {"reps": tuple(sizes.size(out) // sizes.size(axis) for out, axis in pairs)}


def runs(t: Any, size: int) -> Axis:
    """Places in a run of so many, which have a meaning."""
    (places,) = fresh((size,))
    t.freeze(places)
    return places


def piece(t: Any, axis: Axis, start: int, stop: int, stride: int = 1) -> Axis:
    """Positions [start:stop:stride] of an axis."""
    if (start, stop, stride) == (0, axis.size, 1):
        return axis
    cut = Atom(len(range(start, stop, stride)))
    if stride != 1:
        every = start < stride and cut.size * stride == axis.size  # one of each run of so many
        t.tie(axis, product((cut, runs(t, stride)))) if every and cut.size > 1 else t.freeze(axis, cut)
        return UNIT if cut.size == 1 else cut
    if cut.size == 1:  # one chosen position: it must not be taken out, and its size-1 axis ties to nothing
        t.freeze(cut)
    t.tie(axis, concat((Atom(start), cut, Atom(axis.size - stop))))
    return UNIT if cut.size == 1 else cut


def slice_(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    p = eqn.params
    strides = p["strides"] or (1,) * len(ins[0])
    bounds = zip(ins[0], p["start_indices"], p["limit_indices"], strides, strict=True)
    return [tuple(piece(t, axis, *bound) for axis, *bound in bounds)]


def _slice_resize(sizes: Any, step: Any) -> dict[str, Any]:
    p = step.eqn.params
    strides = p["strides"] or (1,) * len(step.ins[0].axes)
    bounds = [
        sizes.bounds(axis, start, stop) if stride == 1 or not sizes.touched(axis) else (start, sizes.size(axis))
        for axis, start, stop, stride in zip(
            step.ins[0].axes, p["start_indices"], p["limit_indices"], strides, strict=True
        )
    ]
    return {"start_indices": tuple(a for a, _ in bounds), "limit_indices": tuple(b for _, b in bounds)}


def _slice_moved(node: Any) -> list[tuple[int, ...]]:
    """Every axis but those that are cut: a mask has an element for all of their positions."""
    pairs = zip(node.inputs[0].axes, node.outputs[0].axes, strict=True)
    return [(i,) if source.size == axis.size else () for i, (source, axis) in enumerate(pairs)]


def split(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    along, start, outs = eqn.params["axis"], 0, []
    for size in eqn.params["sizes"]:
        part = piece(t, ins[0][along], start, start + size)
        outs.append((*ins[0][:along], part, *ins[0][along + 1 :]))
        start += size
    return outs


def _split_resize(sizes: Any, step: Any) -> dict[str, Any]:
    along, start, parts = step.eqn.params["axis"], 0, []
    for size in step.eqn.params["sizes"]:
        low, high = sizes.bounds(step.ins[0].axes[along], start, start + size)
        parts.append(high - low)
        start += size
    return {"sizes": tuple(parts)}


def pad(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Padding is a constant: of it, too, go the positions that go from what it stands beside."""
    axes = []
    for axis, config in zip(ins[0], eqn.params["padding_config"], strict=True):
        low, high, interior = map(int, config)
        if interior and low >= 0 and high >= 0 and low + high == interior:  # what undoes x[low :: interior + 1]
            axes.append(product((axis, runs(t, interior + 1))))
            continue
        if interior:
            axis = t.meaningful(axis, axis.size + interior * max(axis.size - 1, 0))
        axis = piece(t, axis, max(-low, 0), axis.size - max(-high, 0))
        if low > 0 or high > 0:
            before, after = Atom(max(low, 0)), Atom(max(high, 0))
            axis = concat(end_to_end(t, (before, axis, after)))
        axes.append(axis)
    return [tuple(axes)]


def _pad_resize(sizes: Any, step: Any) -> dict[str, Any]:
    config = []
    places = zip(step.ins[0].axes, step.outs[0].axes, step.eqn.params["padding_config"], strict=True)
    for axis, out, (low, high, interior) in places:
        before, after = low, high
        if low < 0 or high < 0:  # what is cut away
            start, stop = sizes.bounds(axis, max(-low, 0), axis.size - max(-high, 0))
            before = -start if low < 0 else low
            after = stop - sizes.size(axis) if high < 0 else high
        if (low > 0 or high > 0) and not interior and sizes.touched(out):
            start, stop = sizes.bounds(out, max(low, 0), out.size - max(high, 0))
            before = start if low > 0 else before
            after = sizes.size(out) - stop if high > 0 else after
        config.append((before, after, interior))
    return {"padding_config": tuple(config)}


def _pad_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """Zeros stay zeros; along an axis that is itself padded the factor would be of another length."""
    if not is_zero(node.inputs[1]) or (place is not None and node.eqn.params["padding_config"][place] != (0, 0, 0)):
        raise Refused("pad")
    return [[(node.inputs[0], place)]]


def rev(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [t.frozen_at(ins[0], eqn.params["dimensions"])]


def iota(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [fresh(out_shapes(eqn)[0])]


def _iota_apply(sizes: Any, step: Any, arrays: list[Any]) -> list[Any]:
    """Kept positions keep their numbers."""
    p, (out,) = step.eqn.params, step.outs
    along, shape = p["dimension"], sizes.shape(out)
    if sizes.touched(out.axes[along]):
        numbers = jnp.asarray(sizes.positions(out.axes[along]), p["dtype"])
        return [jax.lax.broadcast_in_dim(numbers, shape, (along,))]
    return [jax.lax.broadcasted_iota(p["dtype"], shape, along)]


OPERATIONS: dict[str, Operation] = {
    "broadcast_in_dim": Operation(broadcast_in_dim, _result_shape("shape"), passes=moves(_broadcast_moved)),
    "transpose": Operation(transpose, passes=moves(lambda node: [(i,) for i in node.eqn.params["permutation"]])),
    "squeeze": Operation(squeeze, passes=moves(_squeeze_moved)),
    "reshape": Operation(reshape, _result_shape("new_sizes"), passes=moves(moved)),
    "concatenate": Operation(concatenate, passes=_concatenate_passes),
    "stack": Operation(stack),
    "unstack": Operation(unstack),
    "tile": Operation(tile, _tile_resize),
    "slice": Operation(slice_, _slice_resize, passes=moves(_slice_moved)),
    "split": Operation(split, _split_resize),
    "pad": Operation(pad, _pad_resize, passes=_pad_passes),
    "rev": Operation(rev),
    "iota": Operation(iota, apply=_iota_apply),
    "empty": Operation(iota, _result_shape("shape")),
}
