"""What every JAX operation does to axes: one rule a primitive, from operand axes to result axes.

A rule is called as `rule(t, eqn, ins)`; `t` is the `Tracer` (ties, freezing, products), `ins` holds the axes of every
operand. It ties what has equal positions, freezes what gives positions a meaning, reports matrix products, and returns
the axes of every result. Operations that run other programs (jit, scan, cond, ...) are in `tracing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from dms_jax.axes import UNIT, Atom, Axis, concat, product

Shape: TypeAlias = tuple[int, ...]
AxesOf: TypeAlias = tuple[Axis, ...]
Rule: TypeAlias = Callable[[Any, Any, Sequence[AxesOf]], list[AxesOf]]

ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne
    neg nextafter not or polygamma population_count pow real reduce_precision regularized_incomplete_beta rem round
    rsqrt select_n shard_alike sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    sqrt square stop_gradient sub tan tanh xor zeta clz name random_wrap random_unwrap""".split()
)


def fresh(shape: Shape) -> AxesOf:
    return tuple(Atom(n) if n != 1 else UNIT for n in shape)


def out_shapes(eqn: Any) -> list[Shape]:
    return [tuple(var.aval.shape) for var in eqn.outvars]


def elementwise(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Equal positions of all operands; scalars and size-1 axes say nothing."""
    (shape,) = set(out_shapes(eqn))
    axes: list[Axis] = []
    for i, size in enumerate(shape):
        alike = [operand[i] for operand in ins if len(operand) == len(shape) and operand[i].size == size]
        for other in alike[1:]:
            t.tie(alike[0], other)
        axes.append(alike[0] if alike else fresh((size,))[0])
    return [tuple(axes)] * len(eqn.outvars)


def each_alone(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Operand i becomes result i (optimization_barrier, device_put)."""
    return list(ins)


def no_rule(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Nothing is known: no group may reach any axis of it."""
    outs = [fresh(shape) for shape in out_shapes(eqn)]
    for axes in (*ins, *outs):
        t.freeze(*axes)
    return outs


# --- shapes ------------------------------------------------------------------------------------------------


def broadcast_in_dim(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    (shape,) = out_shapes(eqn)
    axes = list(fresh(shape))
    for source, target in zip(ins[0], eqn.params["broadcast_dimensions"], strict=True):
        if source.size == shape[target]:
            axes[target] = source
    return [tuple(axes)]


def transpose(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [tuple(ins[0][i] for i in eqn.params["permutation"])]


def squeeze(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [tuple(axis for i, axis in enumerate(ins[0]) if i not in eqn.params["dimensions"])]


def reshape_blocks(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions with equal products: a reshape merges and splits inside each run only."""
    blocks, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right, a, b = [], [], 1, 1
        while not (left or right) or a != b:
            if (a <= b and i < len(before)) or j == len(after):
                a, i = a * before[i], i + 1
                left.append(i - 1)
            else:
                b, j = b * after[j], j + 1
                right.append(j - 1)
        blocks.append((left, right))
    return blocks


def reshape(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    (after,) = out_shapes(eqn)
    before = tuple(axis.size for axis in ins[0])
    axes = list(fresh(after))
    if 0 in before:
        return [tuple(axes)]
    for left, right in reshape_blocks(before, after):
        real = [j for j in right if after[j] != 1]
        merged = product(ins[0][i] for i in left)
        if len(real) == 1:
            axes[real[0]] = merged
        elif real:
            t.tie(merged, product(axes[j] for j in real))
    return [tuple(axes)]


def concatenate(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    along = eqn.params["dimension"]
    axes = list(ins[0])
    for other in ins[1:]:
        for i, axis in enumerate(other):
            if i != along:
                t.tie(axes[i], axis)
    axes[along] = concat(end_to_end(t, [operand[along] for operand in ins]))
    return [tuple(axes)]


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
    return [_kept(ins[0], (along,))] * len(eqn.outvars)


def tile(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """n positions repeated r times are r x n, the copies being the slower factor."""
    return [tuple(product((*fresh((r,)), axis)) for axis, r in zip(ins[0], eqn.params["reps"], strict=True))]


def piece(t: Any, axis: Axis, start: int, stop: int, stride: int = 1) -> Axis:
    """Positions [start:stop:stride] of an axis."""
    if (start, stop, stride) == (0, axis.size, 1):
        return axis
    cut = Atom(len(range(start, stop, stride)))
    if stride != 1:
        t.freeze(axis, cut)
        return cut
    if cut.size == 1:  # one chosen position: it must not be taken out, and its size-1 axis ties to nothing
        t.freeze(cut)
    t.tie(axis, concat((Atom(start), cut, Atom(axis.size - stop))))
    return UNIT if cut.size == 1 else cut


def slice_(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    p = eqn.params
    strides = p["strides"] or (1,) * len(ins[0])
    bounds = zip(ins[0], p["start_indices"], p["limit_indices"], strides, strict=True)
    return [tuple(piece(t, axis, *bound) for axis, *bound in bounds)]


def split(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    along, start, outs = eqn.params["axis"], 0, []
    for size in eqn.params["sizes"]:
        part = piece(t, ins[0][along], start, start + size)
        outs.append((*ins[0][:along], part, *ins[0][along + 1 :]))
        start += size
    return outs


def pad(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    axes = []
    for axis, (low, high, interior) in zip(ins[0], eqn.params["padding_config"], strict=True):
        if interior:
            axis = t.meaningful(axis, axis.size + interior * max(axis.size - 1, 0))
        axis = piece(t, axis, max(-low, 0), axis.size - max(-high, 0))
        if low > 0 or high > 0:
            before, after = Atom(max(low, 0)), Atom(max(high, 0))
            t.freeze(before, after)  # the padding is there in the small network too
            axis = concat(end_to_end(t, (before, axis, after)))
        axes.append(axis)
    return [tuple(axes)]


def rev(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [t.frozen_at(ins[0], eqn.params["dimensions"])]


def iota(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [t.frozen_at(fresh(out_shapes(eqn)[0]), (eqn.params["dimension"],))]


# --- reductions, scans, sorting, windows ---------------------------------------------------------------------


def _kept(axes: AxesOf, reduced: Sequence[int]) -> AxesOf:
    return tuple(axis for i, axis in enumerate(axes) if i not in reduced)


def reduce_sum(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Dropped elements are zeros: they add nothing."""
    return [_kept(ins[0], eqn.params["axes"])]


def reduce_other(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Maximum, product, argmax, ...: a zero is not neutral, so no element may go from a reduced axis."""
    t.freeze(*(ins[0][i] for i in eqn.params["axes"]))
    return [_kept(ins[0], eqn.params["axes"])] * len(eqn.outvars)


def cumulative_sum(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [ins[0]]


def cumulative_other(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [t.frozen_at(ins[0], (eqn.params["axis"],))]


def sort(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    for other in ins[1:]:
        for a, b in zip(ins[0], other, strict=True):
            t.tie(a, b)
    return [t.frozen_at(operand, (eqn.params["dimension"],)) for operand in ins]


def top_k(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    along = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1)) % len(ins[0])
    axes = list(ins[0])
    axes[along] = t.meaningful(axes[along], out_shapes(eqn)[0][along])
    return [tuple(axes)] * len(eqn.outvars)


def window(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    (shape,) = out_shapes(eqn)
    sizes = eqn.params["window_dimensions"]
    axes = [
        axis if n == 1 and axis.size == size else t.meaningful(axis, size)
        for axis, size, n in zip(ins[0], shape, sizes, strict=True)
    ]
    return [tuple(axes)]


# --- indexing --------------------------------------------------------------------------------------------------


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
    for i, j in enumerate(loose):
        t.tie(updates[j], indices[i])
    for i, j in zip(d.operand_batching_dims, d.scatter_indices_batching_dims, strict=True):
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


# --- products ----------------------------------------------------------------------------------------------------


def dot_general(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """MACs = batch x contracted x free x free."""
    left, right = ins
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    for i, j in (*zip(lc, rc, strict=True), *zip(lb, rb, strict=True)):
        t.tie(left[i], right[j])
    out = (*(left[i] for i in lb), *_kept(left, (*lb, *lc)), *_kept(right, (*rb, *rc)))
    t.multiply_adds((*out, *(left[i] for i in lc)))
    return [out]


def convolution(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """MACs = batch x output positions x kernel positions x (input features of a kernel) x output features.

    With G feature groups the input features are G x i, the output features and the kernel's are G x o, and the kernel's
    own input axis is i: one rule for ordinary (G = 1), grouped and depthwise (i = 1) convolutions.
    """
    (x, kernel), (shape,) = ins, out_shapes(eqn)
    spec, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    if eqn.params["batch_group_count"] != 1:
        return no_rule(t, eqn, ins)
    (n_in, c_in, *space_in), (c_out, c_k, *space_k) = spec.lhs_spec, spec.rhs_spec
    n_out, features, *space_out = spec.out_spec
    out: list[Axis] = list(fresh(shape))
    out[n_out] = x[n_in]
    if groups == 1:
        t.tie(x[c_in], kernel[c_k])
        out[features] = kernel[c_out]
    else:
        bundle, o = fresh((groups, kernel[c_out].size // groups))
        t.tie(x[c_in], product((bundle, kernel[c_k])))
        t.tie(kernel[c_out], product((bundle, o)))
        out[features] = kernel[c_out]
    t.freeze(*(out[i] for i in space_out), *(x[i] for i in space_in), *(kernel[i] for i in space_k))
    # a transposed convolution (dilated input) multiplies once an input position, not once an output position
    dilated = eqn.params["lhs_dilation"]
    places = [x[i] if d > 1 else out[o] for i, o, d in zip(space_in, space_out, dilated, strict=True)]
    t.multiply_adds((x[n_in], *places, *(kernel[i] for i in space_k), kernel[c_k], out[features]))
    return [tuple(out)]


def _table() -> dict[str, Rule]:
    named: dict[str, Rule] = {
        "broadcast_in_dim": broadcast_in_dim,
        "transpose": transpose,
        "squeeze": squeeze,
        "reshape": reshape,
        "concatenate": concatenate,
        "stack": stack,
        "unstack": unstack,
        "tile": tile,
        "slice": slice_,
        "split": split,
        "pad": pad,
        "rev": rev,
        "iota": iota,
        "reduce_sum": reduce_sum,
        "cumsum": cumulative_sum,
        "sort": sort,
        "top_k": top_k,
        "approx_top_k": top_k,
        "gather": gather,
        "dynamic_slice": dynamic_slice,
        "dynamic_update_slice": dynamic_update_slice,
        "dot_general": dot_general,
        "conv_general_dilated": convolution,
        "optimization_barrier": each_alone,
        "device_put": each_alone,
    }
    families: list[tuple[str, Rule]] = [
        ("reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin", reduce_other),
        ("cummax cummin cumprod cumlogsumexp", cumulative_other),
        ("reduce_window_sum reduce_window_max reduce_window_min reduce_window", window),
        ("scatter scatter-add scatter-mul scatter-min scatter-max scatter-sub", scatter),
        (" ".join(ELEMENTWISE), elementwise),
    ]
    return named | {name: rule for names, rule in families for name in names.split()}


RULES: dict[str, Rule] = _table()
