"""Functions of the parameters of a space: with masks, folded into them, and at the sizes of a structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from dms_jax import checks
from dms_jax.errors import TracingError, UserError
from dms_jax.program import masking
from dms_jax.program.candidates import unread
from dms_jax.program.exactness import Plan
from dms_jax.program.running import Small
from dms_jax.space.grouped import Found, Grouped
from dms_jax.structure import Structure


class Programs(Grouped):
    """Any function of the parameters, masked and run smaller.

    Attributes:
      fn: the inference function that was traced, `(params, *inputs)`.
      model: the model it was made of, where there is one.
      call: of a marked Linen model: keyword arguments of its inference; None otherwise.
    """

    def __init__(self, found: Found):
        super().__init__(found)
        self.fn, self.model = found.source.fn, found.model
        self.call: dict[str, Any] | None = None
        self._readings = masking.Readings(self._found.classes)
        self._readings.know(self.fn, self.example, self._found.staged)

    def knows(self, fn: Callable[..., Any], args: Sequence[Any]) -> bool:
        """Whether a function of the parameters tells nothing new: of axes, of ties, of what cannot be taken out.

        Args:
          fn: `(params, *args)`, read as `masked` reads it.
          args: of it, arrays or shapes.
        """
        try:
            reading = self._readings.read(checks.function("fn", fn), args)
        except TracingError:
            return False
        idle = unread(self.parameters, [reading.program], reading.leaves)
        loops = all(operand >= 0 for operand, _ in reading.row_sums.values())
        return self._found.idle <= set(idle) and not reading.elsewhere and loops

    def plan(self, fn: Callable[..., Any], args: Sequence[Any], *, writes: bool = True) -> Plan:
        """Where the masks of a function act, which `masked` then looks up.

        Args:
          fn, writes: as in `masked`.
          args: of `fn`, arrays or shapes.

        Raises:
          TracingError: this one ties, splits or freezes a group.
        """
        return self._readings.plan(checks.function("fn", fn), args, True, writes).plan

    def masked(self, fn: Callable[..., Any], *, fold: bool = True, writes: bool = True) -> Callable[..., Any]:
        """Any function of the parameters, with masks: `(params, masks, *inputs) -> outputs`.

        Every operation that runs over an axis of a group reads it times the mask; every residual branch is multiplied
        by its gate; means count kept elements, n = sum m. Masks of 0 and 1 give what the small network computes.

        Args:
          fn: `(params, *inputs)`; traced again for every new shape of its inputs.
          fold: multiply masks into parameters where that is the same and cheaper; False inserts every mask.
          writes: whether masks may go into what writes an axis. False for masks that reach 0: m relu(x) = relu(m x) has
            no derivative in m at 0 on the right-hand side.

        Raises:
          TracingError: from the function: this one ties, splits or freezes a group.
        """
        run = self._readings.masked(checks.function("fn", fn), fold=fold, writes=writes)
        return lambda params, masks, *inputs: run(params, self._checked_masks(masks), *inputs)

    def fold(self, params: Any, masks: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        """Multiply masks into the parameters of the inference function, where that is the same.

            conv(m x, W) = conv(x, m W)        m relu(a scale + bias) = relu(a (m scale) + m bias),  m >= 0

        Returns:
          (parameters of the same shapes and dtypes, the masks that remain: those of groups that are read by a
          normalisation, or between activations).
        """
        return self._readings.fold(self.fn, params, self._checked_masks(masks), self.example)

    def forward(self, model: Any = None) -> Callable[..., Any]:
        """`(variables, *inputs) -> outputs`: inference of the marked Linen model, or of a clone with a structure.

        What runs: kernels of one device are used, which `fn`, the program that is read, does without.

        Raises:
          UserError: the space was made otherwise, and `fn` is the function.
        """
        network, call = self.model if model is None else model, self.call
        if call is None:
            raise UserError(f"{self.source.title} is no marked Linen model, which `forward` is of; take `space.fn`")
        return lambda variables, *inputs: network.apply(variables, *inputs, **call)

    def shrunk(self, fn: Callable[..., Any], structure: Structure | Mapping[str, Sequence[int]]) -> Callable[..., Any]:
        """Any function of the parameters at the sizes of a structure: `(small params, *inputs) -> outputs`.

        The same program run smaller: jit, grad, vmap and `jax.export` (with a symbolic batch) work on it; custom
        derivatives, remat and shardings survive.

        Args:
          fn: `(params, *inputs)`, of the full network; traced again for every new shape of its inputs.
          structure: what stays.

        Raises:
          UserError: a structure of another network; from the function: parameters of other shapes.
          TracingError: from the function: this one ties, splits or freezes a group, or needs what was removed.
        """
        return self._small(fn, structure, as_full=False)

    def _small(
        self, fn: Callable[..., Any], structure: Structure | Mapping[str, Sequence[int]], as_full: bool
    ) -> Small:
        """`shrunk`; with `as_full` it draws the full network's random numbers, and can be compared with it."""
        kept = self.kept(structure)
        small = (self.sizes(kept), self.gone(kept))
        return Small(self._readings, checks.function("fn", fn), *small, as_full=as_full)
