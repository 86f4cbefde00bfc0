"""Inputs of a symbolic size: what stands for it while a function is read, and whether a number depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap, zip_longest
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer as Unknown
from jax.extend import core

from dms_jax.errors import UserError
from dms_jax.program.axes import Atom
from dms_jax.program.frames import Frame, Node, Program, Value, describe
from dms_jax.program.means import means
from dms_jax.program.reading import Reading
from dms_jax.program.sizes import bind
from dms_jax.program.trace import COMPARISONS

SURROGATES = (61, 67)
"""Sizes that stand for a symbolic dimension while a function is read; two, to see what depends on it."""

_SIZES = frozenset((("scan", "length"),))  # parameters that follow an axis


def standing(leaves: Sequence[Any], size: int) -> list[Any]:
    """Shapes with numbers for symbolic dimensions: the same one for the same symbol."""
    numbers: dict[str, int] = {}

    def number(n: Any) -> int:
        return n if isinstance(n, int) else numbers.setdefault(str(n), size + 12 * len(numbers))

    return [
        jax.ShapeDtypeStruct(tuple(number(n) for n in x.shape), x.dtype) if hasattr(x, "shape") else x for x in leaves
    ]


def check_symbolic(reading: Reading, other: Reading, shapes: Sequence[Sequence[Any]]) -> None:
    """Check that no number of a program depends on a symbolic size, but for that by which a mean divides.

    Args:
      reading, other: of the same function, for the two `SURROGATES`.
      shapes: of its inputs, symbolic.

    Raises:
      UserError: another number does, which cannot be known before the size is.
    """
    recounted, again = _operands_of_means(reading, shapes), _operands_of_means(other, shapes)

    def agree(a: Node | None, b: Node | None) -> bool:
        if a is None or b is None or a.name != b.name:
            return False
        if a.name not in COMPARISONS and _is_number(a):
            return True  # where it goes counts
        pairs = enumerate(zip(a.inputs, b.inputs, strict=False))
        same = (_same(x, y) or ((a, i) in recounted and (b, i) in again) for i, (x, y) in pairs)
        return (all(same) or _above_zero(a, b)) and _same_parameters(a, b)

    for a, b in zip_longest(reading.program.nodes, other.program.nodes):
        if not agree(a, b):
            raise UserError(_refusal(describe(a or b)))
    if not all(map(_same, reading.program.outputs, other.program.outputs)):
        raise UserError(_refusal("the function returns"))
    if not _same_arrays(reading.program.frame, other.program.frame, _used(reading.program)):
        raise UserError(_refusal("the function has an array with"))


def counted(reading: Reading, free: Mapping[Atom, Any]) -> dict[Atom, tuple[str, int]]:
    """The atoms whose positions a mean counts: those of groups, and those of inputs that are of another size."""
    return {**dict.fromkeys(free, ("an input", 0)), **reading.owned}


def _operands_of_means(reading: Reading, shapes: Sequence[Sequence[Any]]) -> set[tuple[Node, int]]:
    """(node, operand) of every number by which a mean divides, for inputs of these shapes."""
    owned = counted(reading, bind(reading.arguments, shapes))
    return {(mean.node, mean.operand) for mean in means(reading.program, owned)}


def _same(x: Value, y: Value) -> bool:
    return x.constant == y.constant or (x.constant != x.constant and y.constant != y.constant)  # NaN is itself


def _above_zero(a: Node, b: Node) -> bool:
    """Whether two comparisons are of a multiple of the size with zero, as in a variance: the same for every size."""
    if a.name not in COMPARISONS:
        return False
    found = [(x.constant, y.constant) for x, y in zip(a.inputs, b.inputs, strict=True)]
    one, two = SURROGATES
    return (0.0, 0.0) in found and all(x is not None and y is not None and x * two == y * one for x, y in found)


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
