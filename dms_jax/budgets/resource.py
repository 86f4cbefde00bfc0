"""What can be bounded: the protocol of a resource, and what one is made from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dms_jax.budgets.polynomial import Variables
from dms_jax.errors import UserError, one_line
from dms_jax.program.axes import Axis
from dms_jax.program.frames import Program, Value
from dms_jax.program.symbolic import resized


class Cost(Protocol):
    """One number of one network that a budget can bound.

    Attributes:
      name: as in a budget, {"macs": 0.5}.
      unit: for people, and what an amount is read in (see `amounts`).
      full: that of the full network.
      stepped: whether more elements of what is there may cost the same, as in a table.
      note: what else there is to say of it in `SearchSpace.summary`; often "".
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def full(self) -> int | float: ...

    @property
    def stepped(self) -> bool: ...

    @property
    def note(self) -> str: ...

    def exact(self, counts: np.ndarray) -> np.ndarray:
        """Values `[...]`, integers of what is counted, at counts `[..., variables]` (see `polynomial.Variables`)."""
        ...

    def fraction(self, counts: jax.Array) -> jax.Array:
        """The share of the full network's at real counts `[variables]`, float32, differentiable."""
        ...


class Sized(NamedTuple):
    """The network of a structure, to be compiled and measured.

    Attributes:
      fn: `(params, *inputs) -> outputs`, of inference.
      params: shapes and dtypes of its parameters, a tree of `jax.ShapeDtypeStruct`.
      inputs: shapes and dtypes of the example.
      kept: kept elements of every group.
    """

    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    kept: Mapping[str, Sequence[int]]

    def batched(self, batch: int | None) -> Sized:
        """With another batch: the leading size of the first input, wherever an input has it; None: the example's."""
        return self if batch is None else self._replace(inputs=resized(self.inputs, batch))


@contextlib.contextmanager
def deployable(name: str, batch: int | None, dtype: str | None = None) -> Iterator[None]:
    """Within it, what fails is the batch or the dtype that is asked for, where one is.

    Args:
      name: of the resource, for errors.
      batch, dtype: as asked for; None: those of the example.

    Raises:
      UserError: it does not run, or not in the memory that there is.
    """
    try:
        yield
    except Exception as error:
        asked = [*([f"a batch of {batch:,}"] if batch else []), *([dtype] if dtype else [])]
        if isinstance(error, UserError) or not asked:
            raise
        what = " or ".join(["batch"] * bool(batch) + ["dtype"] * bool(dtype))
        raise UserError(
            f"this network does not run at {' in '.join(asked)} ({type(error).__name__}: {one_line(error, 200)}); give "
            f"another {what} of {name}, or none for the example's"
        ) from error


@dataclass(frozen=True, eq=False)
class Network:
    """What a resource is computed from.

    Attributes:
      program: the traced inference program.
      variables: counts of kept elements.
      behind: of every value that reaches an output, the gates that all of its ways there go through.
      parameters: values of trained parameters -> the gates that they go with.
      arrays: values of all arrays, trained or not -> (gates, dtype).
      groups: name -> size.
      least: name -> how many must stay.
      at: the network of a structure, from kept elements of every group.
    """

    program: Program
    variables: Variables
    behind: Mapping[Value, frozenset[tuple[str, int]]]
    parameters: Mapping[Value, frozenset[tuple[str, int]]]
    arrays: Mapping[Value, tuple[frozenset[tuple[str, int]], Any]]
    groups: Mapping[str, int]
    least: Mapping[str, int]
    at: Callable[[Mapping[str, Sequence[int]]], Sized]

    def axes(self) -> Sequence[tuple[Axis, ...]]:
        """Of all trained parameters."""
        return [value.axes for value in self.parameters]
