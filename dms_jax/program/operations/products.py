"""Matrix products, convolutions and Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dms_jax.program.axes import Axis, product
from dms_jax.program.operations.operation import (
    AxesOf,
    Operation,
    Place,
    Read,
    Refused,
    Scaled,
    fresh,
    kept_axes,
    out_shapes,
    unknown,
)


def dot_general(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """MACs = batch x contracted x free x free."""
    left, right = ins
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    for i, j in (*zip(lc, rc, strict=True), *zip(lb, rb, strict=True)):
        t.tie(left[i], right[j])
    out = (*(left[i] for i in lb), *kept_axes(left, (*lb, *lc)), *kept_axes(right, (*rb, *rc)))
    t.multiply_adds((*out, *(left[i] for i in lc)))
    return [out]


def _dot_reads(node: Any) -> list[Read]:
    (lc, rc), _ = node.eqn.params["dimension_numbers"]
    return [Read(((0, i), (1, j))) for i, j in zip(lc, rc, strict=True)]


def _dot_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    found: list[Scaled] = []
    contracted, _ = node.eqn.params["dimension_numbers"]
    for side, value in enumerate(node.inputs):
        free = [i for i in range(len(value.axes)) if i not in contracted[side]]
        places: list[Place] = [i for i in free if dot_place(node, side, i) == place] if place is not None else [None]
        for where in places:
            found.append([(value, where)])
    if not found:
        raise Refused("a product")
    return found


def dot_place(node: Any, side: int, axis: int) -> int:
    """Where a free or batch axis of one operand stands in the result of a `dot_general`."""
    contracted, batch = node.eqn.params["dimension_numbers"]
    if axis in batch[side]:
        return batch[side].index(axis)
    free = [i for i in range(len(node.inputs[side].axes)) if i not in (*contracted[side], *batch[side])]
    left = len(node.inputs[0].axes) - len(contracted[0])  # batch and free axes of the first operand
    return (len(batch[0]) if side == 0 else left) + free.index(axis)


def ragged_dot(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Rows in groups, every group with a matrix of its own: MACs = batch x rows x contracted x columns."""
    d = eqn.params["ragged_dot_dimension_numbers"]
    (lc, rc), (lb, rb) = d.dot_dimension_numbers
    left, right = ins[0], ins[1]
    ragged, stacked = tuple(d.lhs_ragged_dimensions), tuple(d.rhs_group_dimensions)
    if any(i in lb for i in ragged):  # groups along the batch
        t.cost_unknown()
        return unknown(t, eqn, ins)
    for i, j in (*zip(lc, rc, strict=True), *zip(lb, rb, strict=True)):
        t.tie(left[i], right[j])
    if any(i in lc for i in ragged):  # groups along the contraction: a matrix for each, as in gradients
        t.cost_unknown()
        groups = fresh(out_shapes(eqn)[0][:1])
        t.freeze(*(left[i] for i in ragged), *groups, *(axis for v in ins[2:] for axis in v))
        return [(*groups, *(left[i] for i in lb), *kept_axes(left, (*lb, *lc)), *kept_axes(right, (*rb, *rc)))]
    t.freeze(*(left[i] for i in ragged), *(right[j] for j in stacked), *(axis for v in ins[2:] for axis in v))
    out = (*(left[i] for i in lb), *kept_axes(left, (*lb, *lc)), *kept_axes(right, (*rb, *rc, *stacked)))
    t.multiply_adds((*out, *(left[i] for i in lc)))
    return [out]


def _ragged_reads(node: Any) -> list[Read]:
    (lc, rc), _ = node.eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return [Read(((0, i), (1, j))) for i, j in zip(lc, rc, strict=True)]


def convolution(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """MACs = batch x output positions x kernel positions x (input features of a kernel) x output features.

    With G feature groups the input features are G x i, the output features and the kernel's are G x o, and the kernel's
    own input axis is i: one rule for ordinary (G = 1), grouped and depthwise (i = 1) convolutions. With G batch groups
    (gradients of grouped ones) the batch is G x b and the output features are G x o.
    """
    (x, kernel), (shape,) = ins, out_shapes(eqn)
    p = eqn.params
    spec, groups, batches = p["dimension_numbers"], p["feature_group_count"], p["batch_group_count"]
    (n_in, c_in, *space_in), (c_out, c_k, *space_k) = spec.lhs_spec, spec.rhs_spec
    n_out, features, *space_out = spec.out_spec
    out: list[Axis] = list(fresh(shape))
    if groups == 1:
        t.tie(x[c_in], kernel[c_k])
    else:
        bundle, o = fresh((groups, kernel[c_out].size // groups))
        t.tie(x[c_in], product((bundle, kernel[c_k])))
        t.tie(kernel[c_out], product((bundle, o)))
    if batches == 1:
        out[n_out] = x[n_in]
    else:
        bundle, o = fresh((batches, kernel[c_out].size // batches))
        t.tie(x[n_in], product((bundle, out[n_out])))
        t.tie(kernel[c_out], product((bundle, o)))
    out[features] = kernel[c_out]
    t.freeze(*(out[i] for i in space_out), *(x[i] for i in space_in), *(kernel[i] for i in space_k))
    # a transposed convolution (dilated input) multiplies once an input position, not once an output position
    dilated = p["lhs_dilation"]
    places = [x[i] if d > 1 else out[o] for i, o, d in zip(space_in, space_out, dilated, strict=True)]
    t.multiply_adds((out[n_out], *places, *(kernel[i] for i in space_k), kernel[c_k], out[features]))
    return [tuple(out)]


def _convolution_resize(sizes: Any, step: Any) -> dict[str, Any]:
    p = step.eqn.params
    spec, changed = p["dimension_numbers"], {}
    x, kernel = step.ins
    if p["feature_group_count"] != 1:
        changed["feature_group_count"] = _ratio(sizes, x.axes[spec.lhs_spec[1]], kernel.axes[spec.rhs_spec[1]])
    if p["batch_group_count"] != 1:
        changed["batch_group_count"] = _ratio(sizes, x.axes[spec.lhs_spec[0]], step.outs[0].axes[spec.out_spec[0]])
    return changed


def _ratio(sizes: Any, whole: Axis, part: Axis) -> Any:
    return sizes.size(whole) // sizes.size(part)


def _convolution_reads(node: Any) -> list[Read]:
    spec = node.eqn.params["dimension_numbers"]
    return [Read(((1, spec.rhs_spec[1]), (0, spec.lhs_spec[1])))]


def _convolution_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    p = node.eqn.params
    spec = p["dimension_numbers"]
    if place is None:
        return [[(v, None)] for v in node.inputs]
    features = node.inputs[1].axes[spec.rhs_spec[0]].size
    if place != spec.out_spec[1] or p["feature_group_count"] not in (1, features) or p["batch_group_count"] != 1:
        raise Refused("a convolution")
    if p["feature_group_count"] != 1 and node.inputs[0].axes[spec.lhs_spec[1]].size == features:  # depthwise
        return [[(node.inputs[1], spec.rhs_spec[0])], [(node.inputs[0], spec.lhs_spec[1])]]
    return [[(node.inputs[1], spec.rhs_spec[0])]]


def fft(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Transformed axes are frozen; others pass."""
    (shape,) = out_shapes(eqn)
    first = len(shape) - len(eqn.params["fft_lengths"])
    last = fresh(shape[first:])
    t.freeze(*ins[0][first:], *last)
    return [(*ins[0][:first], *last)]


def _fft_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    return [[(node.inputs[0], place)]]


def matrices(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Decompositions: the last two axes of the first operand, and of results, are frozen; others are a batch."""
    return _batched(t, eqn, ins, len(ins[0]) - 2)


def vectors(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """The same of an operation on vectors."""
    return _batched(t, eqn, ins, len(ins[0]) - 1)


def _batched(t: Any, eqn: Any, ins: Sequence[AxesOf], batch: int) -> list[AxesOf]:
    outs = [(*ins[0][:batch], *fresh(shape[batch:])) for shape in out_shapes(eqn)]
    for axes in (*ins, *outs):
        for a, b in zip(ins[0][:batch], axes, strict=False):
            t.tie(a, b)
        t.freeze(*axes[batch:])
    return outs


def triangular_solve(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """a x = b, or x a = b: the axis of b that no matrix is solved for passes."""
    a, b = ins
    free = len(b) - (1 if eqn.params["left_side"] else 2)
    for one, other in zip(a[:-2], b[:-2], strict=True):
        t.tie(one, other)
    t.freeze(*a[-2:], b[len(b) - 1 if free == len(b) - 2 else len(b) - 2])
    return [b]


def tridiagonal_solve(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """a x = b of three diagonals: neighbors are told by their places; the last axis of b passes."""
    *diagonals, b = ins
    for diagonal in diagonals:
        for one, other in zip(diagonal[:-1], b[:-2], strict=True):
            t.tie(one, other)
        t.freeze(diagonal[-1])
    t.freeze(b[-2])
    return [b]


def symmetric_product(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """alpha a a^T + beta c: MACs = batch x rows x rows x columns."""
    a, c = ins
    for i, axis in enumerate(c):
        t.tie(axis, a[min(i, len(a) - 2)])
    t.multiply_adds((*a[:-1], a[-2], a[-1]))
    return [c]


_DECOMPOSITIONS = """cholesky cholesky_update lu qr svd eigh eig schur hessenberg tridiagonal geqrf geqp3 ormqr
    householder_product""".split()

OPERATIONS: dict[str, Operation] = {
    "dot_general": Operation(dot_general, reads=_dot_reads, passes=_dot_passes),
    "ragged_dot_general": Operation(ragged_dot, reads=_ragged_reads),
    "ragged_dot": Operation(ragged_dot, reads=_ragged_reads),
    "conv_general_dilated": Operation(
        convolution, _convolution_resize, reads=_convolution_reads, passes=_convolution_passes
    ),
    "fft": Operation(fft, passes=_fft_passes),
    "triangular_solve": Operation(triangular_solve),
    "tridiagonal_solve": Operation(tridiagonal_solve),
    "symmetric_product": Operation(symmetric_product, reads=lambda node: [Read(((0, len(node.inputs[0].axes) - 1),))]),
    "lu_pivots_to_permutation": Operation(vectors),
    **{name: Operation(matrices) for name in _DECOMPOSITIONS},
}
