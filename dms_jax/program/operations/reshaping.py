"""Reshapes: which axes are merged and split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dms_jax.program.axes import product
from dms_jax.program.operations.operation import AxesOf, Shape, fresh, out_shapes


def reshape_blocks(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions with equal products: a reshape merges and splits inside each run only."""
    blocks, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right, a, b = [], [], 1, 1
        while not (left or right) or a != b:
            if (a <= b and i < len(before)) or j == len(after):
                a, i = a * before[i], i + 1
                left.append(i - 1)
            else:
                b, j = b * after[j], j + 1
                right.append(j - 1)
        blocks.append((left, right))
    return blocks


def _order(eqn: Any, axes: int) -> Sequence[int]:
    """In which order a reshape reads the axes of its operand: `jax.vmap` of a convolution moves them in passing."""
    return range(axes) if eqn.params["dimensions"] is None else eqn.params["dimensions"]


def reshape(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    (after,) = out_shapes(eqn)
    given = [ins[0][i] for i in _order(eqn, len(ins[0]))]
    before = tuple(axis.size for axis in given)
    axes = list(fresh(after))
    if 0 in before:
        return [tuple(axes)]
    for left, right in reshape_blocks(before, after):
        real = [j for j in right if after[j] != 1]
        merged = product(given[i] for i in left)
        if len(real) == 1:
            axes[real[0]] = merged
        elif real:
            t.tie(merged, product(axes[j] for j in real))
    return [tuple(axes)]


def moved(node: Any) -> list[tuple[int, ...]]:
    order = _order(node.eqn, len(node.inputs[0].axes))
    before, after = [node.inputs[0].axes[i].size for i in order], [axis.size for axis in node.outputs[0].axes]
    found: list[tuple[int, ...]] = [()] * len(after)
    if 0 in before:
        return found
    for left, right in reshape_blocks(tuple(before), tuple(after)):
        for j in right:
            if after[j] != 1:
                found[j] = tuple(order[i] for i in left if before[i] != 1)
    return found
