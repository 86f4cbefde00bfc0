"""Bytes of the network as it is deployed: every array of the parameters, what is not trained included."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import checks
from dms_jax.budgets.polynomial import Polynomial, add
from dms_jax.budgets.resource import Cost, Network
from dms_jax.errors import UserError

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Weights:
    """Bytes of all arrays.

    Args:
      dtype: of floating-point arrays when deployed; None: the dtype that each has.
      factor: bytes of arrays of two or more axes when quantised, as a share of their bytes at that dtype: 0.25 for 8 of
        32 bits, 0.28125 with a 16-bit scale for every 16 of them.

    Raises:
      UserError: another dtype, or a factor outside (0, 1].
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "Deployed dtype, for --weights.", "default": "that of each"}
    )
    factor: float = field(
        default=1.0,
        metadata={"help": "Size of a quantised kernel as a share of its bytes at that dtype, for --weights."},
    )

    def __post_init__(self):
        if self.dtype not in (None, *_DTYPES):
            raise UserError(f"dtype {self.dtype!r} of weights is not possible; give one of {', '.join(_DTYPES)}")
        checks.number("factor of weights", self.factor, "(0, 1]")

    def __call__(self, network: Network) -> Cost:
        """Bytes as a polynomial, in parts of a byte where the factor is a fraction."""
        bytes_of = {value: self._each(dtype, len(value.axes)) for value, (_, dtype) in network.arrays.items()}
        parts = lcm(*(each.denominator for each in bytes_of.values()))
        terms = add(
            {monomial: coefficient * int(bytes_of[value] * parts) for monomial, coefficient in term.items()}
            for value, (gates, _) in network.arrays.items()
            for term in [network.variables.term(value.axes, gates)]
        )
        return Bytes("weights", Polynomial.of("weights", "bytes", terms, network.variables.sizes), parts)

    def _each(self, dtype: Any, axes: int) -> Fraction:
        """Bytes of one number of an array."""
        floating = jnp.issubdtype(dtype, jnp.floating)
        size = Fraction((jnp.dtype(self.dtype) if floating and self.dtype else dtype).itemsize)
        return size * (Fraction(repr(float(self.factor))) if floating and axes >= 2 else 1)


@dataclass(frozen=True, eq=False)
class Bytes:
    """A polynomial in parts of a byte, rounded up to whole bytes."""

    name: str
    polynomial: Polynomial
    parts: int
    unit: str = "bytes"
    note: str = ""
    stepped: bool = False

    @property
    def full(self) -> int:
        """The bytes of the full network."""
        return -(-self.polynomial.full // self.parts)

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Whole bytes at integer counts `[..., variables]`."""
        return -(-self.polynomial.exact(counts) // self.parts)

    def fraction(self, counts: jax.Array) -> jax.Array:
        """The share of the full network's bytes, differentiable."""
        return self.polynomial.fraction(counts)


resource = Weights()
