"""Inputs of a symbolic size: what stands for it while a function is read, and whether a number depends on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap, zip_longest
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer as Unknown
from jax.extend import core

from dms_jax.errors import UserError
from dms_jax.program.axes import Atom, Axis
from dms_jax.program.frames import Frame, Node, Program, Value, describe
from dms_jax.program.means import Mean, means
from dms_jax.program.reading import Reading
from dms_jax.program.sizes import Sizes, bind
from dms_jax.program.trace import COMPARISONS

SURROGATES = (61, 67, 2, 3, 1024)
"""Sizes that stand for a symbolic dimension while a function is read: the program of the first, and others to see what
depends on it. Small and large, even and odd ones, since Python may decide by them: `min(len(x), 16)`, `len(x) % 8`."""

_SIZES = frozenset((("scan", "length"),))  # parameters that follow an axis


def leading(inputs: Any) -> int | None:
    """The leading size of the first array of a tree that has axes, or None: the size of a batch."""
    return next((x.shape[0] for x in jax.tree.leaves(inputs) if getattr(x, "shape", ())), None)


def resized(inputs: Any, size: Any) -> Any:
    """A tree of shapes with another leading size wherever an array has `leading`."""
    first = leading(inputs)

    def one(x: Any) -> Any:
        shape = getattr(x, "shape", ())
        return jax.ShapeDtypeStruct((size, *shape[1:]), x.dtype) if shape and shape[0] == first else x

    return jax.tree.map(one, inputs)


def standing(leaves: Sequence[Any], size: int) -> list[Any]:
    """Shapes with numbers for symbolic dimensions: the same one for the same symbol."""
    numbers: dict[str, int] = {}

    def number(n: Any) -> int:
        return n if isinstance(n, int) else numbers.setdefault(str(n), size + 12 * len(numbers))

    return [
        jax.ShapeDtypeStruct(tuple(number(n) for n in x.shape), x.dtype) if hasattr(x, "shape") else x for x in leaves
    ]


def check_symbolic(readings: Mapping[int, Reading], shapes: Sequence[Sequence[Any]]) -> None:
    """Check that no number of a program depends on a symbolic size, but for that by which a mean divides.

    Args:
      readings: of the same function, for sizes that stand for the first symbol; the first is the one to run.
      shapes: of its inputs, symbolic.

    Raises:
      UserError: another number does, or an array that does not follow the inputs, or what the function does.
    """
    (size, reading), *others = readings.items()
    owned = counted(reading, bind(reading.arguments, shapes))
    divided = {(mean.node, mean.operand): mean for mean in means(reading.program, owned)}
    for number, other in others:
        found = [tuple(axis.size for axis in value.axes) for value in other.arguments]
        pair = _Pair(divided, Sizes({}, bind(reading.arguments, found)), size, number)
        for a, b in zip_longest(reading.program.nodes, other.program.nodes):
            if not pair.agree(a, b):
                raise UserError(_refusal(describe(a or b)))
        if not all(map(pair.same, reading.program.outputs, other.program.outputs)):
            raise UserError(_refusal("the function returns"))
        if not _same_arrays(reading.program.frame, other.program.frame, _used(reading.program)):
            raise UserError(_refusal("the function has an array with"))


@dataclass(frozen=True)
class _Pair:
    """Two readings of one function, for two sizes.

    Attributes:
      divided: (node, operand) of the first -> the mean whose number it is.
      sizes: of the first, were it read as the second.
      one, two: what stands for the first symbol.
    """

    divided: Mapping[tuple[Node, int], Mean]
    sizes: Sizes
    one: int
    two: int

    def agree(self, a: Node | None, b: Node | None) -> bool:
        """Whether an operation of the first, run at the size of the second, is the second's."""
        if a is None or b is None or a.name != b.name or not self._follow(a, b):
            return False
        if a.name not in COMPARISONS and _is_number(a):
            return True  # where it goes counts
        pairs = enumerate(zip(a.inputs, b.inputs, strict=False))
        same = (self.same(x, y) or self._divides(a, i, y) for i, (x, y) in pairs)
        return (all(same) or self._above_zero(a, b)) and _same_parameters(a, b)

    def same(self, x: Value, y: Value) -> bool:
        """Whether a value is the same number for both sizes, or none for both."""
        return x.constant == y.constant or (x.constant != x.constant and y.constant != y.constant)  # NaN is itself

    def _follow(self, a: Node, b: Node) -> bool:
        """Whether the axes of the first have the second's sizes; one that comes from a size alone has its own."""
        values = zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=False)
        return all(self._axes(x) == self._axes(y, whole=True) for x, y in values)

    def _axes(self, value: Value, *, whole: bool = False) -> list[int]:
        return [axis.size if whole else self._size(axis) for axis in value.axes]

    def _size(self, axis: Axis) -> int:
        return self.sizes.size(axis)

    def _divides(self, a: Node, operand: int, y: Value) -> bool:
        """Whether a number is that of a mean, and at the other size that of its new count."""
        mean = self.divided.get((a, operand))
        if mean is None or not y.constant:
            return False
        count = mean.of(math.prod(map(self._size, mean.axes)))
        return math.isclose(1 / y.constant if mean.inverse else y.constant, count, rel_tol=1e-5)

    def _above_zero(self, a: Node, b: Node) -> bool:
        """Whether two comparisons are of a multiple of the size with zero, as in a variance: the same for every one."""
        if a.name not in COMPARISONS:
            return False
        found = [(x.constant, y.constant) for x, y in zip(a.inputs, b.inputs, strict=True)]
        multiples = (x is not None and y is not None and x * self.two == y * self.one for x, y in found)
        return (0.0, 0.0) in found and all(multiples)


def counted(reading: Reading, free: Mapping[Atom, Any]) -> dict[Atom, tuple[str, int]]:
    """The atoms whose positions a mean counts: those of groups, and those of inputs that are of another size."""
    return {**dict.fromkeys(free, ("an input", 0)), **reading.owned}


def _same_parameters(a: Node, b: Node) -> bool:
    """Whether numbers among the parameters of an operation agree, such as an exponent; shapes follow axes."""
    if a.eqn is None or b.eqn is None or a.name == "alias":
        return True
    pairs = ((key, value, b.eqn.params.get(key)) for key, value in a.eqn.params.items() if (a.name, key) not in _SIZES)
    numbers = ((x, y) for _, x, y in pairs if isinstance(x, int | float) and isinstance(y, int | float))
    return all(x == y or (x != x and y != y) for x, y in numbers)


def _is_number(node: Node) -> bool:
    """Whether a number is made of numbers."""
    return bool(node.outputs) and all(value.constant is not None for value in node.outputs)


def _used(program: Program) -> set[Value]:
    """What more than numbers are made of."""
    return {*program.outputs, *(value for node in program.nodes if not _is_number(node) for value in node.inputs)}


def _same_arrays(one: Frame, two: Frame, used: set[Value]) -> bool:
    """Whether the constant arrays of two frames, and of those inside, agree where they are used."""
    consts = zip(one.consts, one.const_arrays, two.const_arrays, strict=True)
    if not all(_same_array(x, y) for value, x, y in consts if value in used):
        return False
    for a, b in zip(one.steps, two.steps, strict=True):
        atoms = zip(a.eqn.invars, b.eqn.invars, a.ins, strict=True)
        literals = ((x.val, y.val) for x, y, at in atoms if isinstance(x, core.Literal) and at.constant is None)
        if not all(starmap(_same_array, literals)):
            return False
        if not all(_same_arrays(*frames, used) for frames in zip(a.frames, b.frames, strict=True)):
            return False
    return True


def _same_array(x: Any, y: Any) -> bool:
    """Whether two arrays agree; where they are of different sizes, in their first position, for they are uniform."""
    if x is y:
        return True
    if isinstance(x, Unknown) or isinstance(y, Unknown) or np.ndim(x) != np.ndim(y):
        return False
    if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    part = tuple(slice(None) if n == m else slice(1) for n, m in zip(np.shape(x), np.shape(y), strict=True))
    a, b = np.asarray(x)[part], np.asarray(y)[part]
    return a.tobytes() == b.tobytes()


def _refusal(what: str) -> str:
    tail = "" if what.startswith("the function") else " computes with"
    return f"{what}{tail} a number that depends on a size of the inputs, which can therefore not be symbolic"
