"""Which steps of a program are needed, once branches are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from jax.extend import core

from dms_jax.program.branches import Element, reach
from dms_jax.program.frames import Frame, Node, Program, Step
from dms_jax.program.loops import scan_counts

Stays: TypeAlias = Mapping[Node, tuple[int, Element]]


_WHOLE = (
    "scan",
    "while",
    "cond",
    "shard_map",
    "custom_linear_solve",
    "linear_call",
)  # their frames have other operands


class Live:
    """Which steps are needed for the outputs that are wanted, once branches are removed.

    What goes is what reaches outputs through removed branches alone, each of them by itself; what several removed
    branches share stays, as the costs have it (`budgets`).
    """

    def __init__(self, program: Program, stays: Stays, wanted: Sequence[bool] | None = None):
        self._stays, self._needed, self._outputs = stays, set(), {}
        outs = program.frame.outs
        unwanted = [] if wanted is None else [i for i, want in enumerate(wanted) if not want]
        marks = {node: (1 - operand, {element}) for node, (operand, element) in stays.items()}
        self._through = reach(program, marks, unwanted) if stays else {}
        self.inputs = self._frame(program.frame, [True] * len(outs) if wanted is None else list(wanted))

    def needs(self, step: Step) -> bool:
        return id(step) in self._needed

    def outputs(self, frame: Frame) -> list[bool]:
        """Which outputs of a frame inside are computed."""
        return self._outputs.get(id(frame), [True] * len(frame.outs))

    def _frame(self, frame: Frame, wanted: list[bool]) -> list[bool]:
        """Marks the steps of a frame; which of its arguments they need."""
        self._outputs[id(frame)] = wanted
        need = {
            var
            for var, want in zip(frame.jaxpr.outvars, wanted, strict=True)
            if want and not isinstance(var, core.Literal)
        }
        for step in reversed(frame.steps):
            outs = [
                var in need or self._through.get(value) == frozenset()
                for var, value in zip(step.eqn.outvars, step.outs, strict=True)
            ]
            if not any(outs) and not step.eqn.effects:
                continue
            self._needed.add(id(step))
            stays = None if step.node is None else self._stays.get(step.node, (None, None))[0]
            if stays is not None:
                ins = [i == stays for i in range(len(step.ins))]
            elif step.frames and step.eqn.primitive.name not in _WHOLE:
                ins = self._frame(step.frames[0], outs)
            else:
                ins = self._whole(step)
            need |= {
                var for var, n in zip(step.eqn.invars, ins, strict=True) if n and not isinstance(var, core.Literal)
            }
        return [var in need for var in frame.jaxpr.invars]

    def _whole(self, step: Step) -> list[bool]:
        """A loop, a choice or a shard runs as a whole, but for operands that no part of it needs."""
        needed = [self._frame(frame, [True] * len(frame.outs)) for frame in step.frames]
        if step.eqn.primitive.name == "cond":
            return [True, *(any(flags) for flags in zip(*needed, strict=True))]
        if step.eqn.primitive.name == "scan":
            n, c = scan_counts(step.eqn.params)
            (flags,) = needed
            return [flag or n <= i < n + c for i, flag in enumerate(flags)]
        return [True] * len(step.ins)
