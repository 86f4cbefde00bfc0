"""The differentiable top-k: rank the importance, then a sigmoid of the distance to the pruning ratio.

Source: Liu, Wang, Gao, Chen, "Differentiable Model Scaling using Differentiable Topk", ICML 2024,
arXiv 2405.07194, equations 2 and 3. This file needs JAX and nothing else of this package.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

Sizes: TypeAlias = int | Sequence[int] | np.ndarray
"""N of one group, or of every group; known while tracing."""


def ranks(importance: ArrayLike, *, segments: tuple[int, ...] | None = None) -> Array:
    """Count the elements of its group that each element is above: `rank_i = #{j : c_j < c_i}`.

    Equal importances keep the order of their indices (the earlier one ranks lower), so that all ranks differ. NaN ranks
    below everything, -inf included. One sort, O(N log N), however many groups there are.

    Args:
      importance: `[..., N]`, any real dtype, larger = keep.
      segments: sizes of groups laid end to end along the last axis, which are ranked each by itself; None: one group.

    Returns:
      `[..., N]` int32. No gradient flows to `importance`.

    Raises:
      ValueError: for a scalar, N = 0, a complex dtype, or segments that are empty or do not sum to N.
    """
    importance = _checked_importance(importance, segments)
    keys = _sort_keys(lax.stop_gradient(importance))
    total = importance.shape[-1]
    places = jnp.arange(total, dtype=jnp.int32)
    if segments is None or len(segments) == 1:
        return jnp.vectorize(lambda row: _scatter(places, jnp.argsort(row, stable=True)), signature="(n)->(n)")(keys)
    segment = of_element(segments)
    # The groups stay where they are, so position p of the sorted elements has a rank known beforehand.
    rank = (np.arange(total) - (np.cumsum(segments) - segments)[segment]).astype(np.int32)

    def one(row: Array) -> Array:
        *_, order = lax.sort((jnp.asarray(segment), row, places), num_keys=2, is_stable=True)
        return _scatter(jnp.asarray(rank), order)

    return jnp.vectorize(one, signature="(n)->(n)")(keys)


def normalize_importance(importance: ArrayLike, *, segments: tuple[int, ...] | None = None) -> Array:
    """Replace every importance by the fraction of elements below it.

    Equation 2: `c'_i = rank_i / N` with the ranks of `ranks`, so the values are 0, 1/N, ..., (N-1)/N whatever the scale
    of the importance. For N = 1, where a rank says nothing, the value is 1/2.

    The values are `rank / N` rounded to nearest, so a ratio written as j/N meets the element of rank j exactly. Above
    N = 2^24 neighboring ranks share a float32.

    Args:
      importance: `[..., N]`, any real dtype, larger = keep. Each row of the last axis is ranked by itself.
      segments: sizes of groups laid end to end along the last axis, each normalized by itself; None: one group.

    Returns:
      `[..., N]` float32 in [0, 1). No gradient flows to `importance`.

    Raises:
      ValueError: as `ranks`.
    """
    rank = ranks(importance, segments=segments)
    size = np.array([rank.shape[-1]]) if segments is None else np.asarray(segments)[of_element(segments)]
    size = size.astype(np.int32).reshape((1,) * (rank.ndim - 1) + (-1,))
    return _fraction(rank, size) + lowest_fraction(size)


def soft_mask(
    importance: ArrayLike,
    ratio: ArrayLike,
    *,
    sharpness: ArrayLike | None = None,
    segments: tuple[int, ...] | None = None,
) -> Array:
    """Mask the least important elements softly, differentiably in the pruning ratio.

    Equation 3: `m_i = sigmoid(lambda * (c'_i - a))` with c' from `normalize_importance`; its derivative is
    `dm_i/da = -lambda * m_i * (1 - m_i)`. A value is at least 1/2 exactly where `c'_i >= a`, in every dtype:
    rounding never carries a value over that line.

    >>> soft_mask(jnp.array([3.0, 1.0, 4.0, 2.0]), 0.5)     # c' = 1/2, 0, 3/4, 1/4
    Array([0.5       , 0.11920292, 0.7310586 , 0.26894143], dtype=float32)

    Args:
      importance: `[..., N]`, any real dtype, larger = keep.
      ratio: the pruning ratio a, 0 keeps all and 1 drops all; a scalar, or whatever broadcasts to
        `importance.shape[:-1]`. With segments, to `[..., groups]`: one a group.
      sharpness: lambda > 0, of the same shapes as `ratio`; None means N, and 8 for N = 1.
      segments: sizes of groups laid end to end along the last axis, each with a ratio of its own; None: one group.

    Returns:
      `[..., N]` in [0, 1], of the dtype of `importance` if a float, else float32. Computed in float32.
      Can be differentiated any number of times in `ratio` and `sharpness`; no gradient flows to `importance`.

    Raises:
      ValueError: for a scalar importance, N = 0, segments that do not sum to N, a ratio or sharpness that does not
        broadcast, or a concrete sharpness that is not above 0.
    """
    importance = _checked_importance(importance, segments)
    margin = _margin(importance, ratio, segments)
    mask = lax.logistic(_sharpness(importance, sharpness, segments) * margin).astype(_mask_dtype(importance))
    # m >= 1/2 decides what is kept, and bfloat16 rounds .4995 to .5.
    below_half = 0.5 - float(jnp.finfo(mask.dtype).eps) / 4
    sided = jnp.where(margin >= 0, mask, jnp.minimum(mask, jnp.array(below_half, mask.dtype)))
    return mask + lax.stop_gradient(sided - mask)


def hard_mask(
    importance: ArrayLike,
    ratio: ArrayLike,
    *,
    sharpness: ArrayLike | None = None,
    segments: tuple[int, ...] | None = None,
) -> Array:
    """Mask the least important elements with 0 and keep the others with 1.

    `1 if m_i >= 1/2 else 0`, with m of `soft_mask`; that is `c'_i >= a`, whatever the sharpness.

    Args:
      importance, ratio, sharpness, segments: as in `soft_mask`.

    Returns:
      `[..., N]` of zeros and ones, of the dtype that `soft_mask` returns. Its gradient is zero.

    Raises:
      ValueError: as `soft_mask`.
    """
    importance = _checked_importance(importance, segments)
    _sharpness(importance, sharpness, segments)  # it changes no side, but a bad one is an error here too
    return (_margin(importance, ratio, segments) >= 0).astype(_mask_dtype(importance))


def kept_count(mask: ArrayLike) -> Array:
    """Count the elements that a mask keeps: `k = #{i : m_i >= 1/2}`.

    Args:
      mask: `[..., N]`, soft or hard.

    Returns:
      `[...]` int32 in 0 ... N.

    Raises:
      ValueError: for a scalar.
    """
    mask = jnp.asarray(mask)
    if mask.ndim == 0:
        raise ValueError("mask is a scalar; expected [..., N], N elements along the last axis")
    return jnp.sum(mask >= 0.5, axis=-1, dtype=jnp.int32)


# --- what follows from the size of a group alone; one element has no rank, and takes the middle -----------------------


def lowest_fraction(size: Sizes) -> np.ndarray:
    """The smallest c' of groups of N elements, float32: 0, and 1/2 for one element, whose rank says nothing."""
    return np.where(np.asarray(size) == 1, 0.5, 0.0).astype(np.float32)


def usual_sharpness(size: Sizes, times: float | np.ndarray = 1.0) -> np.ndarray:
    """lambda, float32: N, or a multiple of it; 8 for one element, whose N would make the mask nearly flat."""
    return np.where(np.asarray(size) == 1, 8.0, times * np.asarray(size)).astype(np.float32)


def count_at(ratio: ArrayLike, size: Sizes) -> np.ndarray:
    """How many elements a ratio keeps: `k = #{i : c'_i >= a}`, float64; within 1e-6 of j/N it is j/N."""
    ratio, size = np.asarray(ratio, np.float64), np.asarray(size)
    return np.clip(size - np.ceil(ratio * size - lowest_fraction(size) - 1e-6), 0, size)


def ratio_for(count: ArrayLike, size: Sizes) -> np.ndarray:
    """The ratio that keeps so many elements, float64: halfway between the last one kept and the first one dropped."""
    size = np.asarray(size)
    return 1.0 - (np.asarray(count, np.float64) + 0.5 - lowest_fraction(size)) / size


def of_element(segments: Sequence[int]) -> np.ndarray:
    """`[N]` int32, the number of each element's group.

    Made here, not in the program: XLA would fold a sum over all elements while it compiles, for many seconds.
    """
    return np.repeat(np.arange(len(segments), dtype=np.int32), segments)


def _margin(importance: Array, ratio: ArrayLike, segments: tuple[int, ...] | None) -> Array:
    """c' - a, float32 `[..., N]`."""
    return normalize_importance(importance, segments=segments) - _per_row("ratio", ratio, importance, segments)


def _sharpness(importance: Array, sharpness: ArrayLike | None, segments: tuple[int, ...] | None) -> Array:
    """lambda, float32, broadcast along the elements of each group."""
    size: Sizes = importance.shape[-1] if segments is None else segments
    if sharpness is None:
        sharpness = usual_sharpness(size)
    elif not isinstance(sharpness, Tracer) and not np.all(np.asarray(sharpness) > 0):
        raise ValueError(f"sharpness {sharpness} is not above 0; give lambda > 0, or None for N = {size}")
    return _per_row("sharpness", sharpness, importance, segments)


def _per_row(name: str, value: ArrayLike, importance: Array, segments: tuple[int, ...] | None) -> Array:
    """Broadcast a scalar or a value for every row (and group) to float32 `[..., 1]` (with segments, `[..., N]`)."""
    value = jnp.asarray(value, jnp.float32)
    rows = importance.shape[:-1] if segments is None else (*importance.shape[:-1], len(segments))
    try:
        spread = jnp.broadcast_to(value, rows)
    except ValueError:
        per = "one value per row" if segments is None else "one value per group"
        raise ValueError(
            f"{name} of shape {value.shape} does not broadcast to {rows}, the leading axes of importance "
            f"{importance.shape}; give a scalar, or {per}"
        ) from None
    return spread[..., None] if segments is None else spread[..., of_element(segments)]


def _scatter(values: Array, order: Array) -> Array:
    """Undo a sort: put `values[p]` where `order[p]` says. A second sort would take as long as the first."""
    return jnp.zeros_like(values).at[order].set(values, unique_indices=True, mode="promise_in_bounds")


def _sort_keys(importance: Array) -> Array:
    """Integers in the order of the importance: NaN lowest, -0 equal to 0. They sort faster than floats."""
    if not jnp.issubdtype(importance.dtype, jnp.floating):
        return importance if importance.dtype.itemsize >= 4 else importance.astype(jnp.int32)
    wide = importance.astype(jnp.promote_types(importance.dtype, jnp.float32))
    integer = jnp.int64 if wide.dtype == jnp.float64 else jnp.int32
    lowest = jnp.array(jnp.iinfo(integer).min, integer)
    bits = lax.bitcast_convert_type(wide, integer)
    # Floats are sign and magnitude, integers two's complement: turn the order of the negative ones round.
    keys = jnp.where(bits < 0, jnp.where(bits == lowest, 0, lowest - bits - 1), bits)
    return jnp.where(jnp.isnan(wide), lowest, keys)


def _fraction(rank: Array, size: np.ndarray) -> Array:
    """rank / size as the nearest float32.

    XLA multiplies by a rounded 1 / size instead of dividing, and one unit in the last place is enough to
    lose an element at a ratio of j / N. The remainder, exact in wrapping integers, says which neighbor is
    nearest.
    """
    divisor = jnp.asarray(size)
    bits = lax.bitcast_convert_type(rank.astype(jnp.float32) / divisor.astype(jnp.float32), jnp.int32)
    significand = (bits & 0x7FFFFF) | 0x800000  # the quotient is significand * 2^-shift
    shift = 150 - (bits >> 23)
    remainder = (rank << shift) - significand * divisor
    step = (2 * remainder > divisor).astype(jnp.int32) - (2 * remainder < -divisor).astype(jnp.int32)
    return jnp.where(rank == 0, 0.0, lax.bitcast_convert_type(bits + step, jnp.float32))


def _mask_dtype(importance: Array) -> jnp.dtype:
    return importance.dtype if jnp.issubdtype(importance.dtype, jnp.floating) else jnp.dtype(jnp.float32)


def _checked_importance(importance: ArrayLike, segments: tuple[int, ...] | None = None) -> Array:
    importance = jnp.asarray(importance)
    if importance.ndim == 0:
        raise ValueError("importance is a scalar; expected [..., N], N elements along the last axis")
    total = importance.shape[-1]
    if total == 0:
        raise ValueError(f"importance of shape {importance.shape} has N = 0 elements; give at least one")
    if jnp.issubdtype(importance.dtype, jnp.complexfloating):
        raise ValueError(f"importance is {importance.dtype}, which has no order; give a real dtype, e.g. its magnitude")
    if segments is not None and any(size < 1 for size in segments):
        raise ValueError(f"segments {segments} name a group without elements; leave such groups out")
    if segments is not None and sum(segments) != total:
        raise ValueError(f"segments sum to {sum(segments)}, importance has {total} elements; give every group's size")
    return importance
