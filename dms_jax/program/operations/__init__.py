"""ONE entry a primitive: its axes, its size elsewhere, which axes it runs over, how a factor passes it, what it costs.

Operations that run other programs (jit, scan, cond, custom derivatives, ...) are read in `trace.py` and `loops.py`, and
run at other sizes in `nested.py`.
"""

from __future__ import annotations

from typing import Any

from dms_jax import checks
from dms_jax.errors import UserError
from dms_jax.program.operations import attention, devices, elementwise, indexing, products, reductions, shapes
from dms_jax.program.operations.operation import (
    ApplyRule,
    AxesOf,
    AxesRule,
    Operation,
    PassesRule,
    Place,
    Read,
    ReadsRule,
    Refused,
    ResizeRule,
    Scaled,
    fresh,
    unknown,
)
from dms_jax.reading import shown

OPERATIONS: dict[str, Operation] = {
    name: operation
    for room in (elementwise, shapes, reductions, indexing, products, attention, devices)
    for name, operation in room.OPERATIONS.items()
}


def register_operation(
    primitive: Any,
    axes: AxesRule,
    *,
    resize: ResizeRule | None = None,
    reads: ReadsRule | None = None,
    passes: PassesRule | None = None,
    apply: ApplyRule | None = None,
) -> None:
    """Tell the engine of a primitive that it does not know, or tell it otherwise: a Pallas kernel, say.

    Args:
      primitive: a JAX primitive, or its name. (A Pallas kernel is the primitive `pallas_call`; put it behind a
        primitive of your own, or look at `eqn.params` to tell kernels apart.)
      axes, resize, reads, passes, apply: as `Operation` has them.

    Raises:
      UserError: something else than a primitive, or than functions.
    """
    name = getattr(primitive, "name", primitive)
    if not isinstance(name, str) or not name:
        raise UserError(f"primitive {shown(primitive)} is not possible; give a JAX primitive, or its name")
    rules = {"axes": axes, "resize": resize, "reads": reads, "passes": passes, "apply": apply}
    for what, rule in rules.items():
        if rule is not None or what == "axes":
            checks.function(f"{what} of {name}", rule)
    OPERATIONS[name] = Operation(axes, resize, reads, passes, apply)


__all__ = [
    "AxesOf",
    "OPERATIONS",
    "Operation",
    "Place",
    "Read",
    "Refused",
    "Scaled",
    "fresh",
    "register_operation",
    "unknown",
]
