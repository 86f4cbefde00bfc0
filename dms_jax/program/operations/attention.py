"""cuDNN's fused attention, which `jax.nn.dot_product_attention` runs on GPUs: one primitive forward, one backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dms_jax.program.axes import product
from dms_jax.program.operations.operation import AxesOf, Operation, fresh, unknown

FORWARD, BACKWARD = "dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper"


def heads_and_positions(eqn: Any) -> tuple[int, int]:
    """Which axes are these: 1 and 2 in the layout [B, N, T, H], 2 and 1 in [B, T, N, H]."""
    return (1, 2) if eqn.params["layout"] == 1 else (2, 1)


def forward(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """softmax(q k^T) v: q `[B, T, N, H]`, k and v `[B, S, K, H]`, N = K G; then residuals `[B, N, T]`.

    Heads go along; positions and the features of a head, which the kernel takes eight at a time, do not.
    """
    query, key, value, bias, *more = ins
    if any(axis.size for axes in more for axis in axes):  # lengths, segments, pages
        return unknown(t, eqn, ins)
    heads, positions = heads_and_positions(eqn)
    t.tie(query[0], key[0])
    for i in (0, positions, heads, 3):
        t.tie(key[i], value[i])
    t.freeze(query[positions], key[positions], query[3], key[3])
    t.tie(query[3], key[3])
    alike = query[heads].size // key[heads].size
    t.tie(query[heads], product((key[heads], *fresh((alike,)))))
    scores = (query[0], query[heads], query[positions], key[positions])
    for ours, theirs in zip(scores, bias, strict=False):
        if len(bias) == len(scores) and ours.size == theirs.size:
            t.tie(ours, theirs)
    t.multiply_adds((*scores, query[3]))
    t.multiply_adds((*scores, value[3]))
    return [query, (query[0], query[heads], query[positions])][: len(eqn.outvars)]


def backward(t: Any, eqn: Any, ins: Sequence[AxesOf]) -> list[AxesOf]:
    """The derivatives, each with the axes of what it is the derivative to."""
    return list(ins[: len(eqn.outvars)])


OPERATIONS = {FORWARD: Operation(forward), BACKWARD: Operation(backward)}
