"""Random draws, and what devices say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dms_jax.program.operations.elementwise import elementwise
from dms_jax.program.operations.operation import AxesOf, Operation, Read, Refused, fresh, kept_axes, out_shapes


def draws(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """One draw a key: leading axes are those of batched keys, the others are new and loose."""
    (shape,) = out_shapes(eqn)
    return [(*ins[0], *fresh(shape[len(ins[0]) :]))]


def _drawn_shape(sizes: Any, step: Any) -> dict[str, Any]:
    return {"shape": sizes.shape(step.outs[0])[len(step.ins[0].axes) :]}


def _drawn(sizes: Any, step: Any, arrays: list[Any]) -> list[Any] | None:
    """A draw by a key that is always the same is a constant: it is drawn as ever, and kept positions stay.

    Random features of a kernel, say: parameters have learned to live with those. Other draws are new in every call:
    they are drawn as ever where the network is to be compared with the full one (`Sizes.as_full`).
    """
    out, first = step.outs[-1], 0 if len(step.outs) > 1 else len(step.ins[0].axes)
    cut = [i for i, axis in enumerate(out.axes) if i >= first and sizes.touched(axis)]
    if not cut or not (sizes.as_full or all(value.fixed for value in step.ins)):
        return None
    whole = tuple(sizes.whole.size(axis) for axis in out.axes[first:])
    found = step.eqn.primitive.bind(*arrays, **{**step.eqn.params, "shape": whole})
    *state, drawn = found if step.eqn.primitive.multiple_results else (found,)
    for i in cut:
        drawn = drawn[(slice(None),) * i + (sizes.positions(out.axes[i]),)]
    return [*state, drawn]


def _gamma(sizes: Any, step: Any, arrays: list[Any]) -> list[Any] | None:
    """One draw a position, numbered in row-major order: with those that are gone in their places.

    Leading axes are those of batched keys, each of which has a numbering of its own.
    """
    out, first = step.outs[0], len(step.ins[0].axes)
    cut = [i for i, axis in enumerate(out.axes) if i >= first and sizes.touched(axis)]
    if not cut or not (sizes.as_full or step.ins[0].fixed):
        return None
    places = [sizes.positions(a) if i in cut else np.arange(sizes.size(a)) for i, a in enumerate(out.axes)]
    whole = [(sizes.whole if i in cut else sizes).size(axis) for i, axis in enumerate(out.axes)]
    shape = jnp.ones(whole, arrays[1].dtype).at[jnp.ix_(*places)].set(arrays[1])
    return [step.eqn.primitive.bind(arrays[0], shape, **step.eqn.params)[jnp.ix_(*places)]]


def _without_a_key(sizes: Any, step: Any, arrays: list[Any]) -> list[Any] | None:
    """No key says which numbers these are: nothing can draw them again."""
    if sizes.as_full:
        raise Refused(
            "draws other numbers in every call, so that what comes of them cannot be compared; draw them by a key "
            "(`jax.random`)"
        )
    return None


def seeds(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Key data of another width: a last axis of words comes or goes."""
    (shape,) = out_shapes(eqn)
    common = min(len(shape), len(ins[0]))
    t.freeze(*ins[0][common:])
    last = fresh(shape[common:])
    t.freeze(*last)
    return [(*ins[0][:common], *last)]


def split_keys(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """New keys in rows, which a loop over layers may take one each."""
    (shape,) = out_shapes(eqn)
    return [(*ins[0], *fresh(shape[len(ins[0]) :]))]


def bit_generator(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    state, shape = ins[0], out_shapes(eqn)[1]
    t.freeze(*state)
    return [state, fresh(shape)]


def _bits_shape(sizes: Any, step: Any) -> dict[str, Any]:
    return {"shape": sizes.shape(step.outs[1])}


def collective(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """Over named axes positions stay; a number among `axes` is an axis of the operand that is reduced."""
    gone = _positional(eqn)
    return [kept_axes(axes, gone) for axes in ins]


def _positional(eqn: Any) -> list[int]:
    return [axis for axis in eqn.params.get("axes", ()) if isinstance(axis, int)]


def _collective_reads(how: str) -> Any:
    return lambda node: [Read(((k, axis),), how) for k in range(len(node.inputs)) for axis in _positional(node.eqn)]


def gathered(name: str) -> Any:
    """all_gather and its like: one axis is made, or lengthened, of what the devices have."""

    def axes(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
        outs = []
        for operand, shape in zip(ins, out_shapes(eqn), strict=True):
            along = eqn.params[name]
            new = list(operand)
            if len(shape) > len(operand):
                new.insert(along, fresh((shape[along],))[0])
            elif len(shape) < len(operand):
                t.freeze(new.pop(along))
            else:
                t.freeze(new[along])
                new[along] = fresh((shape[along],))[0]
            if len(shape) >= len(operand):
                t.freeze(new[along])
            outs.append(tuple(new))
        return outs

    return axes


def all_to_all(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    outs, moved = [], (eqn.params["split_axis"], eqn.params["concat_axis"])
    for operand, shape in zip(ins, out_shapes(eqn), strict=True):
        t.frozen_at(operand, moved)
        new = fresh(shape)
        t.freeze(*(new[i] for i in moved))
        outs.append(tuple(new[i] if i in moved else axis for i, axis in enumerate(operand)))
    return outs


def nothing(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """The number of a device: a scalar."""
    return [fresh(shape) for shape in out_shapes(eqn)]


OPERATIONS: dict[str, Operation] = {
    "random_bits": Operation(draws, _drawn_shape, apply=_drawn),
    "random_gamma": Operation(elementwise, apply=_gamma),
    "random_seed": Operation(seeds),
    "random_wrap": Operation(seeds),
    "random_unwrap": Operation(seeds),
    "random_split": Operation(split_keys, _drawn_shape, apply=_drawn),
    "rng_bit_generator": Operation(bit_generator, _bits_shape, apply=_drawn),
    "rng_uniform": Operation(
        lambda t, eqn, ins: [fresh(out_shapes(eqn)[0])],
        lambda s, x: {"shape": s.shape(x.outs[0])},
        apply=_without_a_key,
    ),
    **{
        name: Operation(collective, reads=_collective_reads("sum"))
        for name in ("psum", "psum2", "psum_invariant", "pmean", "psum_scatter_invariant")
    },
    "pmax": Operation(collective, reads=_collective_reads("maximum")),
    "pmin": Operation(collective, reads=_collective_reads("minimum")),
    "ppermute": Operation(collective),
    "all_gather": Operation(gathered("all_gather_dimension")),
    "all_gather_invariant": Operation(gathered("all_gather_dimension")),
    "reduce_scatter": Operation(gathered("scatter_dimension")),
    "all_to_all": Operation(all_to_all),
    "axis_index": Operation(nothing),
    "axis_size": Operation(nothing),
    "platform_index": Operation(nothing),
    "create_token": Operation(nothing),
    "after_all": Operation(nothing),
    # what looks on and gives nothing back looks at the smaller network's arrays there
    **{name: Operation(nothing) for name in ("debug_callback", "debug_print", "inspect_sharding", "check", "dce_sink")},
}
