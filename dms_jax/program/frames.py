"""A program that was read: frames of steps as they are nested, and the same laid flat as nodes over values."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dms_jax.program.axes import Axis, Ties
from dms_jax.program.operations import OPERATIONS, AxesOf, Operation
from dms_jax.program.reasons import Boundary

_NOT_THE_USERS = ("jax", "jaxlib", "flax", "equinox", "keras", "haiku", "optax", "numpy", "scipy", "einops", "chex")
_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OURS = (_HERE + "models" + os.sep,)  # networks of the zoo are a user's, as far as messages go


SAME = frozenset(
    "alias convert_element_type copy copy_p dms_name layout_constraint mesh_cast name pcast pvary reshard "
    "sharding_constraint".split()
)
"""What gives the array that it takes, cast or placed elsewhere at most."""

MOVED = SAME | frozenset("transpose reshape squeeze broadcast_in_dim scan_row".split())
"""What gives the numbers that it takes, at other places."""

PIECES = MOVED | {"split", "slice"}
"""The same, or some of them."""


@dataclass(eq=False, slots=True)
class Value:
    """One array of the program.

    Attributes:
      axes: one a dimension.
      constant: its value where all of it is one known number.
      fixed: whether it is made of constants alone, the same in every call.
      array: the constant, where it is one that was made in Python.
    """

    axes: AxesOf
    constant: float | None = None
    fixed: bool = False
    array: Any = None


@dataclass(eq=False, slots=True)
class Node:
    """One operation. `name` is the primitive's, or "alias" where a value enters or leaves a nested program."""

    name: str
    inputs: list[Value]
    outputs: list[Value]
    eqn: Any = None
    callers: tuple[Any, ...] = ()  # the calls it is nested in, outermost first

    @property
    def in_loop(self) -> bool:
        return any(eqn.primitive.name in ("scan", "while") for eqn in self.callers)

    @property
    def transposed(self) -> bool:
        """Whether it is on the way back of a derivative; what is computed again there is not."""
        back = False
        for eqn in (*self.callers, self.eqn):
            for part in eqn.source_info.name_stack.stack:  # a scope has any name that its user likes
                if type(part).__name__ == "Transform":
                    back = back or part.name == "transpose"
                elif part.name == "rematted_computation":
                    back = False
        return back

    @property
    def operation(self) -> Operation | None:
        return OPERATIONS.get(self.name)


@dataclass(eq=False, slots=True)
class Step:
    """One equation of a frame: its values, the node it is (None: a call), and the frames of the programs it runs.

    `shards` are the `shard_map`s that a call is nested in, outermost first: what it traces later is traced in them.
    """

    eqn: Any
    ins: list[Value]
    outs: list[Value]
    node: Node | None
    frames: list[Frame]
    derivative: Any = None
    shards: tuple[Any, ...] = ()


@dataclass(eq=False, slots=True)
class Frame:
    """One run of one jaxpr."""

    jaxpr: Any
    const_arrays: Sequence[Any]
    consts: list[Value]
    args: list[Value]
    steps: list[Step] = field(default_factory=list)
    outs: list[Value] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class ProductTerm:
    """One matrix product: multiply-adds = the product of the axes' sizes."""

    axes: AxesOf
    node: Node


@dataclass(eq=False, slots=True)
class Alternatives:
    """Products of which one list runs; each may hold alternatives of its own."""

    branches: list[list[ProductTerm | Alternatives]]


@dataclass(eq=False, slots=True)
class Scan:
    """A loop over rows: which axis the rows are, and what is carried."""

    step: Step
    rows: Axis
    carried_in: list[Value]
    carried_out: list[Value]
    stacked: list[Value]


@dataclass(eq=False)
class Program:
    """A traced function.

    Attributes:
      inputs, outputs: its values, in order.
      nodes: all operations, laid flat, in the order in which they run.
      products: all matrix products; of a choice, those of the branch that is the most expensive at full size.
      work: the same, with all branches of choices.
      uncounted: why multiply-adds cannot be counted, where they cannot.
      marks: nodes that name a group, or a gate of one.
      scans: all loops over rows.
      whole: whether nothing was left out that no output needs.
      ties: of its axes; programs of the same parameters share it.
      ahead: what it is the derivative of, where a user wrote that.
      frame: the outermost frame.
    """

    inputs: list[Value]
    ties: Ties
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    products: list[ProductTerm] = field(default_factory=list)
    work: list[ProductTerm | Alternatives] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)
    whole: bool = True
    ahead: Program | None = None
    frame: Frame = field(init=False)

    @property
    def marks(self) -> list[Node]:
        return [node for node in self.nodes if node.name == "dms_name"]


def describe(why: Any) -> str:
    """What tied or froze an axis, for people: `dot_general at models/resnet.py:41 (Bottleneck.__call__)`."""
    if isinstance(why, Boundary | str):
        return str(why)
    name = why.eqn.primitive.name
    for eqn in (why.eqn, *reversed(why.callers)):  # what JAX itself jits (sort, fft, ...) knows no line of the model
        traceback = eqn.source_info.traceback
        for frame in traceback.frames if traceback is not None else ():
            file = frame.file_name
            if file.startswith(_OURS) or not file.startswith((_HERE, *_libraries(), "<")):
                short = os.path.join(*file.split(os.sep)[-2:])
                return f"{name} at {short}:{frame.line_num} ({frame.function_name})"
    # a layer of a framework, called by the framework: no line of the user's, but a name that may be
    scopes = (str(getattr(eqn.source_info, "name_stack", "")) for eqn in (why.eqn, *reversed(why.callers)))
    scope = next((scope for scope in scopes if scope), "")
    return f"{name} in {scope}" if scope else str(name)


def describe_call(step: Step) -> str:
    """The same, of an operation that runs other programs: what they hold knows the calls around it."""
    inside = [step.frames[0]]
    while inside:
        for inner in inside.pop().steps:
            if inner.node is not None and step.eqn in inner.node.callers:
                callers = inner.node.callers
                return describe(Node("", [], [], step.eqn, callers[: callers.index(step.eqn)]))
            inside += inner.frames
    return describe(Node("", [], [], step.eqn))


def _libraries() -> tuple[str, ...]:
    """Folders of the frameworks that are loaded: no line of theirs is the user's."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _NOT_THE_USERS]
    return tuple(os.path.dirname(file) + os.sep for file in files if file)
