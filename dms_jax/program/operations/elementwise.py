"""Operations on equal positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from dms_jax.program.axes import Axis
from dms_jax.program.operations.operation import (
    AxesOf,
    Operation,
    Place,
    Refused,
    Scaled,
    all_terms,
    any_factor,
    fresh,
    is_zero,
    out_shapes,
    same,
    same_axes,
)

NAMES = """abs acos acosh and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
    cos cosh digamma eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
    integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to min ne nextafter not or polygamma polynomial
    one_minus_square log2 mulhi population_count pow real regularized_incomplete_beta rem round rsqrt shard_alike
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient tan tanh threefry2x32
    xor zeta random_clone random_fold_in pvary pcast pbroadcast unreduced_psum xla_metadata_value to_edtype from_edtype
    zeros_like""".split()

SCALED = """copy copy_p reduce_precision neg name dms_name sharding_constraint mesh_cast reshard
    layout_constraint relayout reduced_vary_cast vary_unreduced_cast""".split()
"""m f(x) = f(m x)."""


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
    """Operand i becomes result i."""
    return list(ins)


def bitcast(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """The same positions; where the width changes, a last axis of bytes comes or goes."""
    (shape,) = out_shapes(eqn)
    common = min(len(shape), len(ins[0]))
    t.freeze(*ins[0][common:])
    axes = (*ins[0][:common], *fresh(shape[common:]))
    t.freeze(*axes[common:])
    return [axes]


def _sharding(sizes: Any, step: Any) -> dict[str, Any]:
    """A dimension that its devices no longer divide is left free."""
    from jax.sharding import NamedSharding, PartitionSpec

    sharding = step.eqn.params["sharding"]
    if not isinstance(sharding, NamedSharding):
        return {}
    shape = sizes.shape(step.ins[0])
    spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]

    def parts(entry: Any) -> int:
        total = 1
        for name in (entry,) if isinstance(entry, str) else tuple(entry):
            total *= sharding.mesh.shape[name]
        return total

    fits = [
        e is None or e is PartitionSpec.UNCONSTRAINED or n % parts(e) == 0 for e, n in zip(spec, shape, strict=True)
    ]
    kept = PartitionSpec(*(e if fit else None for e, fit in zip(spec, fits, strict=True)))
    return {"sharding": NamedSharding(sharding.mesh, kept)}


def _converted(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """m cast(x) = cast(m x), unless integers or truth values are on the way."""
    dtypes = (node.eqn.invars[0].aval.dtype, node.eqn.params["new_dtype"])
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        raise Refused("a cast to or from integers")
    return same_axes(node, place, holds)


def _maximum(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """max(x, 0), which a positive factor passes."""
    terms = [v for v in node.inputs if not is_zero(v)]
    if len(terms) != 1:
        raise Refused("max")
    return [[(terms[0], same(terms[0], node.outputs[0], place))]]


def _numerator(node: Any, place: Place, holds: Any) -> list[Scaled]:
    if node.inputs[0].constant is not None:
        raise Refused("div")
    return same_axes(node, place, holds)


def _chosen(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """m where(p, x, y) = where(p, m x, m y)."""
    return [[(v, same(v, node.outputs[0], place)) for v in node.inputs[1:] if not is_zero(v)]]


OPERATIONS: dict[str, Operation] = {
    **{name: Operation(elementwise) for name in NAMES},
    **{name: Operation(elementwise, passes=same_axes) for name in SCALED},
    "convert_element_type": Operation(elementwise, passes=_converted),
    "sharding_constraint": Operation(elementwise, resize=_sharding, passes=same_axes),
    "add": Operation(elementwise, passes=all_terms),
    "add_any": Operation(elementwise, passes=all_terms),
    "sub": Operation(elementwise, passes=all_terms),
    "mul": Operation(elementwise, passes=any_factor),
    "div": Operation(elementwise, passes=_numerator),
    "max": Operation(elementwise, passes=_maximum),
    "select_n": Operation(elementwise, passes=_chosen),
    "bitcast_convert_type": Operation(bitcast),
    "optimization_barrier": Operation(each_alone),
    "tie": Operation(lambda t, eqn, ins: [ins[1]]),  # its result waits for the first operand, and is the second
    "stage": Operation(elementwise, passes=same_axes),
    "device_put": Operation(each_alone),
}
