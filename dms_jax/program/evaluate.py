"""A program run again: at other sizes, with masks where they are read, without removed branches.

Every equation whose axes have not changed is bound as it stands, so custom derivatives, remat policies, shardings and
kernels survive. Others are bound with the parameters that `operations` gives them at their new sizes; nested programs
are rebuilt around their frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from dms_jax.errors import MOST_CHARACTERS, TracingError, UserError, one_line
from dms_jax.program.derivatives import Closed, vjp_rules
from dms_jax.program.frames import Frame, Node, Program, Step, Value, describe
from dms_jax.program.live import Live, Stays
from dms_jax.program.nested import Nested
from dms_jax.program.operations import OPERATIONS, Refused
from dms_jax.program.sizes import Sizes

_CHEAP = frozenset({"square", "integer_pow", "mul", "abs"})  # of what is kept anyway
Change = Callable[[list[Any]], list[Any]]


class Evaluator(Nested):
    """Runs the frames of one program.

    Args:
      program: the program.
      sizes: of its axes.
      stays: nodes of residual sums whose branch is removed -> the number of the operand that stays, and the gate.
      changes: node -> a function from its operands to other operands (masks, counts of kept elements).
      wanted: which outputs are needed; None: all.
      rows: id of the step of a loop over layers -> the mask of its rows.
      rebuild: `(program, masks) -> changes`, for the programs of custom derivatives, and for masks to differentiate by.
      masks: {group: mask} that `changes` were made of.
    """

    def __init__(
        self,
        program: Program,
        sizes: Sizes,
        stays: Stays | None = None,
        changes: Mapping[Node, Change] | None = None,
        wanted: Sequence[bool] | None = None,
        rows: Mapping[int, Any] | None = None,
        rebuild: Callable[[Program, Any], dict[Node, Change]] | None = None,
        masks: Any = None,
    ):
        self.program, self.sizes = program, sizes
        self.stays = {} if stays is None else stays
        self.changes = {} if changes is None else changes
        self.rows = rows or {}  # id of a scan's step -> (mask of its rows, nodes inside whose branch it gates)
        self.rebuild, self.masks = rebuild, {} if masks is None else masks
        self.row_masks: dict[int, Any] = {}  # id of a scan's step -> the mask of the row that is running
        self.live = Live(program, self.stays, wanted)
        self._touched: dict[int, bool] = {}

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs for arrays of all inputs; None stands for inputs and outputs that nothing needs."""
        return self.frame(self.program.frame, arrays)

    def frame(self, frame: Frame, arrays: Sequence[Any]) -> list[Any]:
        env: dict[Any, Any] = {}
        jaxpr = frame.jaxpr
        for var, value, array in zip(jaxpr.constvars, frame.consts, frame.const_arrays, strict=True):
            env[var] = lambda value=value, array=array: self.constant(value, array)
        env.update(zip(jaxpr.invars, arrays, strict=True))

        def read(atom: Any, value: Value | None = None) -> Any:
            if isinstance(atom, core.Literal):
                return self.constant(value, atom.val) if value is not None and np.ndim(atom.val) else atom.val
            found = env.get(atom)
            if callable(found) and atom in constvars:
                found = env[atom] = found()
            return found

        constvars, made = set(jaxpr.constvars), dict[Any, Step]()
        for step in frame.steps:
            if not self.live.needs(step):
                continue
            made.update((var, step) for var in step.eqn.outvars)
            source = self._again(made, step)
            if source is not None:
                outs = self._recomputed(source, step, [read(atom) for atom in source.eqn.invars])
            else:
                ins = [read(atom, value) for atom, value in zip(step.eqn.invars, step.ins, strict=True)]
                outs = self.step(step, ins)
            env.update(zip(step.eqn.outvars, outs, strict=True))
        return [read(atom, value) for atom, value in zip(jaxpr.outvars, frame.outs, strict=True)]

    def _again(self, made: Mapping[Any, Step], step: Step) -> Step | None:
        """What makes the one operand of a sum that is masked, if it is cheap enough to be made twice."""
        if step.node is None or step.node not in self.changes or step.node.name != "reduce_sum":
            return None
        operand = step.eqn.invars[0]
        source = None if isinstance(operand, core.Literal) else made.get(operand)
        if source is None or source.node is None or source.node.name not in _CHEAP or source.node in self.changes:
            return None
        return None if any(isinstance(atom, core.Literal) for atom in source.eqn.invars) else source

    def _recomputed(self, source: Step, step: Step, ins: list[Any]) -> list[Any]:
        """A masked sum whose summands a backward pass makes again.

        The derivative by the mask needs them, that of the sum alone does not: the squares of a normalization would be
        kept for it, as large as the activations.
        """
        return jax.checkpoint(lambda *ins: self.step(step, self.step(source, list(ins))))(*ins)

    def step(self, step: Step, ins: list[Any]) -> list[Any]:
        try:
            return self._step(step, ins)
        except UserError:
            raise
        except (TypeError, ValueError, NotImplementedError) as error:
            where = describe(step.node) if step.node is not None else describe(Node("", [], [], step.eqn))
            raise TracingError(f"{where} cannot run at these sizes: {one_line(error, MOST_CHARACTERS)}") from error

    def _step(self, step: Step, ins: list[Any]) -> list[Any]:
        node = step.node
        if node is not None:
            if node in self.stays:
                return [ins[self.stays[node][0]]]
            if node in self.changes:
                ins = self.changes[node](ins)
        if not self.touched(step) and all(x is not None for x in ins):  # a loop may take what no part of it needs
            return bind_equation(step.eqn, ins)
        if node is None:
            rebuild = getattr(self, f"_{step.eqn.primitive.name}", None)
            return rebuild(step, ins) if rebuild else self.frame(step.frames[0], ins)
        operation = OPERATIONS.get(node.name)
        if operation is None:  # no group reaches it: only what is around it has changed
            return bind_equation(step.eqn, ins)
        if operation.apply is not None:
            try:
                found = operation.apply(self.sizes, step, ins)
            except Refused as why:
                raise TracingError(f"{describe(node)} {why}") from None
            if found is not None:
                return found
        changed = operation.resize(self.sizes, step) if operation.resize is not None else {}
        return bind_equation(step.eqn, ins, **changed)

    def touched(self, step: Step) -> bool:
        """Whether a step is anything else than it was: its sizes, or something inside."""
        key = id(step)
        if key not in self._touched:
            axes = [axis for value in (*step.ins, *step.outs) for axis in value.axes]
            self._touched[key] = (
                any(self.sizes.changed(axis) for axis in axes)
                or key in self.rows
                or isinstance(step.derivative, Closed)  # to refuse it
                or any(self._inside(frame) for frame in step.frames)
                or self._changed_back(step)
            )
        return self._touched[key]

    def _inside(self, frame: Frame) -> bool:
        if any(self.sizes.changed(axis) for value in frame.consts for axis in value.axes):
            return True
        for step in frame.steps:
            if step.node is not None and (step.node in self.changes or step.node in self.stays):
                return True
            if self.touched(step):
                return True
        return False

    def constant(self, value: Value, array: Any) -> Any:
        """A constant array at its new size: kept positions; along an axis of free size it has to be uniform."""
        for i, axis in enumerate(value.axes):
            if self.sizes.touched(axis):
                array = jnp.take(array, self.sizes.positions(axis), axis=i)
        shape = self.sizes.shape(value)
        for i, (new, old) in enumerate(zip(shape, np.shape(array), strict=True)):
            if new is old or (isinstance(new, int) and new == old):
                continue
            with jax.ensure_compile_time_eval():
                one = jax.lax.slice_in_dim(jnp.asarray(array), 0, 1, axis=i)
            if isinstance(array, Tracer) or not np.array_equal(np.broadcast_to(one, np.shape(array)), array):
                raise TracingError(
                    f"a constant array of shape {np.shape(array)} varies along an axis of {old} positions that is to "
                    f"have {new}: its values depend on the size of the inputs; trace the function at that size"
                )
            array = jnp.broadcast_to(one, tuple(new if i == j else n for j, n in enumerate(np.shape(array))))
        return array

    def under(self, masks: Any) -> Evaluator:
        """This evaluator with other masks of the same groups, so that they can be differentiated by."""
        if not masks or self.rebuild is None:
            return self
        other = copy.copy(self)
        other.masks, other.changes = masks, self.rebuild(self.program, masks)
        return other

    def of(self, program: Program, masks: Any) -> Evaluator:
        """An evaluator of a derivative's program, at the same sizes and with the same masks."""
        changes = {} if self.rebuild is None else self.rebuild(program, masks or self.masks)
        return Evaluator(program, self.sizes, changes=changes, rebuild=self.rebuild, masks=masks or self.masks)

    def _changed_back(self, step: Step) -> bool:
        """Whether masks act on the way back of a custom derivative."""
        if not self.masks or self.rebuild is None or step.eqn.primitive.name != "custom_vjp_call":
            return False
        rules = vjp_rules(step, self.program.ties)
        return not isinstance(rules, Closed) and bool(self.rebuild(rules.backward, self.masks))

    def _removed_inside(self, step: Step) -> bool:
        """Whether a branch is removed inside: then the derivative is that of what is left."""
        return any(s.node in self.stays for frame in step.frames for s in _steps(frame) if s.node is not None)

    def _changed_inside(self, step: Step) -> bool:
        """Whether masks or counts act inside."""
        return any(s.node in self.changes for frame in step.frames for s in _steps(frame) if s.node is not None)


def _steps(frame: Frame) -> Iterator[Step]:
    """All steps of a frame and of those inside."""
    for step in frame.steps:
        yield step
        for inner in step.frames:
            yield from _steps(inner)


def bind_equation(eqn: Any, ins: Sequence[Any], **changed: Any) -> list[Any]:
    """The equation as it stands, with some of its parameters changed."""
    found = eqn.primitive.get_bind_params({**eqn.params, **changed})
    functions, params = found if isinstance(found, tuple) else ((), found)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *ins, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
