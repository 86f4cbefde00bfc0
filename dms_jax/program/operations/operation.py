"""What the engine knows of one primitive, and what its entries are written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from dms_jax.program.axes import UNIT, Atom, Axis

Shape: TypeAlias = tuple[int, ...]
AxesOf: TypeAlias = tuple[Axis, ...]
Place: TypeAlias = int | None  # the axis that a factor lies along; None: the whole array is scaled by a scalar
Scaled: TypeAlias = list[tuple[Any, Place]]  # operands (values of the program) to scale together


class Read(NamedTuple):
    """One axis that an operation runs over: dropped positions must be neutral there.

    Attributes:
      sides: (operand, axis of it); where there are two (the operands of a product), either may bear the mask.
      how: what is neutral: "sum" (0), "product" (1), "maximum" (the lowest value), "minimum", "running
        maximum", "running minimum", "and", "or", "logsumexp".
    """

    sides: tuple[tuple[int, int], ...]
    how: str = "sum"


class Refused(Exception):
    """A factor meets an operation that it does not pass, or numbers are asked for that it cannot give again."""


AxesRule: TypeAlias = Callable[[Any, Any, Sequence[AxesOf]], list[AxesOf]]
ResizeRule: TypeAlias = Callable[[Any, Any], dict[str, Any]]
ReadsRule: TypeAlias = Callable[[Any], list[Read]]
PassesRule: TypeAlias = Callable[[Any, Place, Callable[[Any, int], bool]], list[Scaled]]
ApplyRule: TypeAlias = Callable[[Any, Any, list[Any]], list[Any] | None]


@dataclass(frozen=True)
class Operation:
    """One primitive.

    Attributes:
      axes: `(t, eqn, ins) -> outs`, axes of the operands to axes of the results. `t` is the `Tracer`: the rule says
        `t.tie(a, b)` where positions are the same, `t.freeze(axis, ...)` where nothing may be taken out, and
        `t.multiply_adds(axes)` for a matrix product.
      resize: `(sizes, step) -> {name: value}`, parameters of the equation that depend on sizes, at others. None: the
        same parameters serve operands of any size.
      reads: `node -> [Read]`, the axes that it runs over. None: none.
      passes: `(node, place, holds) -> [[(operand, place)]]`, the ways in which a positive factor on the result comes
        from factors on operands, each way a list of operands to scale together; raises `Refused`. None: it does not.
      apply: `(sizes, step, arrays) -> results or None`, where binding the primitive with other parameters will not do.
    """

    axes: AxesRule
    resize: ResizeRule | None = None
    reads: ReadsRule | None = None
    passes: PassesRule | None = None
    apply: ApplyRule | None = None


def fresh(shape: Sequence[int]) -> AxesOf:
    """Axes nobody has looked into."""
    return tuple(Atom(n) if n != 1 else UNIT for n in shape)


def out_shapes(eqn: Any) -> list[Shape]:
    return [tuple(var.aval.shape) for var in eqn.outvars]


def kept_axes(axes: AxesOf, reduced: Sequence[int]) -> AxesOf:
    return tuple(axis for i, axis in enumerate(axes) if i not in reduced)


def unknown(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Nothing is known: no group may reach any axis of it."""
    outs = [fresh(shape) for shape in out_shapes(eqn)]
    for axes in (*ins, *outs):
        t.freeze(*axes)
    return outs


# --- factors -------------------------------------------------------------------------------------------------------


def same_axes(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """The one operand, at the same place."""
    return [[(node.inputs[0], same(node.inputs[0], node.outputs[0], place))]]


def all_terms(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """m (x + y) = m x + m y: every term that is not 0."""
    return [[(v, same(v, node.outputs[0], place)) for v in node.inputs if not is_zero(v)]]


def any_factor(node: Any, place: Place, holds: Any) -> list[Scaled]:
    """m (x y) = (m x) y = x (m y)."""
    found: list[Scaled] = [[(v, place)] for v in node.inputs if has_axis(v, node.outputs[0], place)]
    if not found:
        raise Refused("no operand has the axis")
    return found


def moves(moved: Callable[[Any], list[tuple[int, ...]] | None]) -> PassesRule:
    """For an operation that only moves axes; `moved(node)` gives the operand axes that each result axis is made of.

    An axis n x n has the factor m_i m_j at (i, j): where it is merged or split, neither n has its own factor alone.
    """

    def passes(node: Any, place: Place, holds: Any) -> list[Scaled]:
        value = node.inputs[0]
        if place is None:
            return [[(value, None)]]
        sources = moved(node)
        if sources is None:
            raise Refused(node.name)
        held = [i for i in sources[place] if holds(value, i)] if len(sources[place]) > 1 else list(sources[place])
        others = [j for j, axes in enumerate(sources) if j != place and held and held[0] in axes]
        if len(held) != 1 or any(holds(node.outputs[0], j) for j in others):
            raise Refused("an axis that is new, or made of several that have the group")
        return [[(value, held[0])]]

    return passes


def is_zero(value: Any) -> bool:
    return value.constant is not None and float(value.constant) == 0


def has_axis(value: Any, out: Any, place: Place) -> bool:
    if value.constant is not None:
        return False
    return place is None or (len(value.axes) == len(out.axes) and value.axes[place].size == out.axes[place].size)


def same(value: Any, out: Any, place: Place) -> Place:
    if not has_axis(value, out, place):
        raise Refused("an operand without the axis")
    return place
