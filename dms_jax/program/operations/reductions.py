"""Reductions, cumulative operations, sorting and windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dms_jax.program.operations.operation import (
    AxesOf,
    Operation,
    Place,
    Read,
    Refused,
    Scaled,
    kept_axes,
    out_shapes,
)


def reduce(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [kept_axes(ins[0], eqn.params["axes"])] * len(eqn.outvars)


def reduce_position(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """argmax: the result is a position, which another network numbers otherwise."""
    t.freeze(*(ins[0][i] for i in eqn.params["axes"]))
    return [kept_axes(ins[0], eqn.params["axes"])] * len(eqn.outvars)


def reduce_any(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """A reduction by a function of the user's: what is neutral to it is not known."""
    operands = ins[: len(ins) // 2]
    for other in operands[1:]:
        for a, b in zip(operands[0], other, strict=True):
            t.tie(a, b)
    t.freeze(*(operands[0][i] for i in eqn.params["dimensions"]))
    return [kept_axes(operands[0], eqn.params["dimensions"])] * len(eqn.outvars)


def _over_axes(how: str) -> Callable[[Any], list[Read]]:
    return lambda node: [Read(((0, i),), how) for i in node.eqn.params["axes"]]


def _along_axis(how: str) -> Callable[[Any], list[Read]]:
    return lambda node: [Read(((0, node.eqn.params["axis"]),), how)]


def _sum_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    if place is None:
        return [[(node.inputs[0], None)]]
    kept = [i for i in range(len(node.inputs[0].axes)) if i not in node.eqn.params["axes"]]
    return [[(node.inputs[0], kept[place])]]


def cumulative(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    return [ins[0]]


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
    shape = out_shapes(eqn)[0]
    sizes = eqn.params["window_dimensions"]
    operands = ins[: len(eqn.outvars)]
    axes = [
        axis if n == 1 and axis.size == size and not any(moved) else t.meaningful(axis, size)
        for axis, size, n, moved in zip(operands[0], shape, sizes, eqn.params["padding"], strict=True)
    ]
    return [tuple(axes)] * len(eqn.outvars)


def _window_passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    if place is not None and node.eqn.params["window_dimensions"][place] != 1:
        raise Refused("a window over the axis")
    return [[(node.inputs[0], place)]]


def scatter_window(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """The gradient of a maximum over windows: the source's positions go back to those of the operand."""
    source, operand = ins[0], ins[-1]
    for a, b, n in zip(source, operand, eqn.params["window_dimensions"], strict=True):
        if n == 1 and a.size == b.size:
            t.tie(a, b)
        else:
            t.freeze(a, b)
    return [operand]


def gather_window(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """The tangent of a maximum over windows: positions of the operand to those of its windows."""
    shape, sizes = out_shapes(eqn)[0], eqn.params["window_dimensions"]
    axes = tuple(
        axis if n == 1 and axis.size == size else t.meaningful(axis, size)
        for axis, size, n in zip(ins[-1], shape, sizes, strict=True)
    )
    for other in ins[:-1]:
        for a, b in zip(other, ins[-1], strict=True):
            t.tie(a, b)
    return [axes]


OPERATIONS: dict[str, Operation] = {
    "reduce_sum": Operation(reduce, reads=_over_axes("sum"), passes=_sum_passes),
    "reduce_max": Operation(reduce, reads=_over_axes("maximum")),
    "reduce_min": Operation(reduce, reads=_over_axes("minimum")),
    "reduce_prod": Operation(reduce, reads=_over_axes("product")),
    "reduce_and": Operation(reduce, reads=_over_axes("and")),
    "reduce_or": Operation(reduce, reads=_over_axes("or")),
    "reduce_xor": Operation(reduce, reads=_over_axes("or")),
    "argmax": Operation(reduce_position),
    "argmin": Operation(reduce_position),
    "reduce": Operation(reduce_any),
    "cumsum": Operation(cumulative, reads=_along_axis("sum")),
    "cumprod": Operation(cumulative, reads=_along_axis("product")),
    "cummax": Operation(cumulative, reads=_along_axis("running maximum")),
    "cummin": Operation(cumulative, reads=_along_axis("running minimum")),
    "cumlogsumexp": Operation(cumulative, reads=_along_axis("logsumexp")),
    "sort": Operation(sort),
    "top_k": Operation(top_k),
    "approx_top_k": Operation(top_k),
    "reduce_window_sum": Operation(window, passes=_window_passes),
    "reduce_window_max": Operation(window, passes=_window_passes),
    "reduce_window_min": Operation(window, passes=_window_passes),
    "reduce_window": Operation(window),
    "select_and_scatter_add": Operation(scatter_window),
    "select_and_gather_add": Operation(gather_window),
}
