"""A function of the parameters at the sizes of a structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.errors import TracingError, UserError
from dms_jax.program.axes import resolve
from dms_jax.program.branches import Element
from dms_jax.program.evaluate import Change, Evaluator
from dms_jax.program.frames import Node, Program
from dms_jax.program.masking import Readings
from dms_jax.program.means import Mean, means
from dms_jax.program.reading import Reading
from dms_jax.program.sizes import Sizes, bind
from dms_jax.program.symbolic import SURROGATES, check_symbolic, counted, standing


class Small:
    """`(small params, *inputs) -> outputs`: a function of the full network's parameters, run smaller.

    Args:
      readings: of the space.
      fn: `(params, *inputs)`.
      sizes: of the axes of the space's parameters.
      gone: the gates that are closed.
      expected: sizes of inputs that a symbolic one must be right for, besides `SURROGATES`.
      as_full: draw the random numbers of the full network, see `Sizes`.
    """

    def __init__(
        self,
        readings: Readings,
        fn: Callable[..., Any],
        sizes: Sizes,
        gone: frozenset[Element],
        expected: tuple[int, ...] = (),
        as_full: bool = False,
    ):
        self._readings, self.fn, self._sizes, self._gone, self.expected = readings, fn, sizes, gone, expected
        self._as_full = as_full
        self.parameters = readings.classes.parameters
        self.__name__ = getattr(fn, "__name__", "small")

    def of(self, fn: Callable[..., Any]) -> Small:
        """Another function of the same parameters, at the same sizes."""
        return Small(self._readings, fn, self._sizes, self._gone, self.expected, self._as_full)

    def expecting(self, size: int | None) -> Small:
        """The same, and a symbolic size is tried at this one, too. At 1 a program may be another: it is not tried."""
        more = () if size is None or size < 2 else (size,)
        return Small(self._readings, self.fn, self._sizes, self._gone, (*self.expected, *more), self._as_full)

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct | None]:
        """Of every array of the small network; None: it is gone."""
        classes, found = self._readings.classes, []
        for shape, axes, gates in zip(self.parameters.shapes, classes.axes, classes.gates, strict=True):
            size = tuple(self._sizes.size(axis) for axis in axes)
            found.append(None if gates & self._gone else jax.ShapeDtypeStruct(size, shape.dtype))
        return found

    def __call__(self, small: Any, *args: Any) -> Any:
        arrays = self._checked(small)
        leaves, tree = jax.tree.flatten(args)
        shapes = [getattr(x, "shape", ()) for x in leaves]
        symbolic = any(not isinstance(n, int) for shape in shapes for n in shape)
        if symbolic:
            sizes = dict.fromkeys((*SURROGATES, *self.expected))
            readings = {size: self._read(tree.unflatten(standing(leaves, size))) for size in sizes}
            check_symbolic(readings, shapes)
            reading = readings[SURROGATES[0]]
        else:
            reading = self._read(args)
        evaluator = self.evaluator(reading, shapes)
        outs = evaluator.run([*arrays, *(x if hasattr(x, "shape") else jnp.asarray(x) for x in leaves)])
        return jax.tree.unflatten(reading.out_tree, outs)

    def evaluator(self, reading: Reading, shapes: Sequence[Sequence[Any]]) -> Evaluator:
        """What runs a function that was read, at these sizes."""
        owners = {owner: atom for atom, owner in reading.owned.items()}
        classes = self._readings.classes
        kept = {owners[classes.owned[atom]]: positions for atom, positions in self._sizes.kept.items()}
        sizes = Sizes(kept, bind(reading.arguments, shapes), self._as_full)
        reading.check(self._gone)
        stays = reading.stays(self._gone)

        def recount(program: Program, masks: Any = None) -> dict[Node, Change]:
            return {mean.node: _recounted(mean, sizes) for mean in means(program, counted(reading, sizes.free))}

        wanted = self._wanted(reading) if self._gone else None
        evaluator = Evaluator(reading.program, sizes, stays, recount(reading.program), wanted, rebuild=recount)
        for number in reading.leaves.values():
            if classes.gates[number] & self._gone and evaluator.live.inputs[number]:
                name, element = sorted(classes.gates[number] & self._gone)[0]
                raise TracingError(
                    f"this function needs {self.parameters.paths[number]}, which went with element {element} of group "
                    f"{name!r}"
                )
        return evaluator

    def _wanted(self, reading: Reading) -> list[bool]:
        """New values of leaves that are gone are not wanted."""
        gates = self._readings.classes.gates
        return [leaf is None or not gates[leaf] & self._gone for leaf in reading.state]

    def _read(self, args: Sequence[Any]) -> Reading:
        return self._readings.read(self.fn, args)

    def _checked(self, small: Any) -> list[Any]:
        arrays = self.parameters.arrays(small)
        for path, array, shape in zip(self.parameters.paths, arrays, self.shapes, strict=True):
            found = None if array is None else tuple(getattr(array, "shape", ()))
            if shape is None:
                if array is not None:
                    raise UserError(f"{path} went with a removed block; these are parameters of another structure")
            elif found != tuple(shape.shape):
                what = "is missing" if found is None else f"has shape {found}"
                raise UserError(f"{path} {what}; this structure's has {tuple(shape.shape)} (see dms_jax.shrink)")
        return arrays


def _recounted(mean: Mean, sizes: Sizes) -> Change:
    """sum / N divides by the new N."""

    def change(ins: list[Any]) -> list[Any]:
        size: Any = 1
        for axis in mean.axes:
            size = size * sizes.size(resolve(axis))
        if isinstance(size, int) and size == mean.size:
            return ins
        out, by = list(ins), jnp.asarray(ins[mean.operand])
        number = mean.of(jnp.asarray(size, by.dtype))
        out[mean.operand] = jnp.broadcast_to(1 / number if mean.inverse else number, by.shape)
        return out

    return change
