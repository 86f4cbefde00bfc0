"""The differentiable top-k: rank the importance, then a sigmoid of the distance to the pruning ratio.

Source: Liu, Wang, Gao, Chen, "Differentiable Model Scaling using Differentiable Topk", ICML 2024,
arXiv 2405.07194, equations 2 and 3. This file needs JAX and nothing else of this package.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

SINGLE_FRACTION = 0.5
"""c' of an element that is alone in its group: its rank says nothing."""

SINGLE_SHARPNESS = 8.0
"""Default sharpness of a group of one, whose N would make the mask nearly flat."""


def normalize_importance(importance: ArrayLike) -> Array:
    """Replace every importance by the fraction of elements below it.

    Equation 2: `c'_i = rank_i / N` with `rank_i = #{j : c_j < c_i}`, so the values are 0, 1/N, ..., (N-1)/N
    whatever the scale of the importance. Equal importances keep the order of their indices (the earlier one
    ranks lower), so that all ranks differ. NaN ranks below everything, -inf included. For N = 1, where a rank
    says nothing, the value is 1/2.

    Takes O(N log N) time and O(N) memory. The values are `rank / N` rounded to nearest, so a ratio written as
    j/N meets the element of rank j exactly. Above N = 2^24 neighbouring ranks share a float32.

    Args:
      importance: `[..., N]`, any real dtype, larger = keep. Each row of the last axis is ranked by itself.

    Returns:
      `[..., N]` float32 in [0, 1). No gradient flows to `importance`.

    Raises:
      ValueError: for a scalar, N = 0 or a complex dtype.
    """
    importance = _checked_importance(importance)
    size = importance.shape[-1]
    if size == 1:
        return jnp.full(importance.shape, SINGLE_FRACTION, jnp.float32)
    ranks = jnp.vectorize(_ranks, signature="(n)->(n)")(_sort_keys(lax.stop_gradient(importance)))
    return _fraction(ranks, size)


def normalize_segments(importance: ArrayLike, sizes: tuple[int, ...]) -> Array:
    """Normalize many groups laid end to end with one sort.

    The same values as `normalize_importance` of every group by itself, for the cost of a few operations
    however many groups there are.

    Args:
      importance: `[E]`, any real dtype, the groups one after the other.
      sizes: the number of elements of each group; they sum to E.

    Returns:
      `[E]` float32 in [0, 1). No gradient flows to `importance`.

    Raises:
      ValueError: if `importance` is not a vector, a size is below 1, or the sizes do not sum to E.
    """
    importance = _checked_importance(importance)
    _check_sizes(importance, sizes)
    total = importance.shape[0]
    # Only shapes enter here: evaluated once while tracing, so a step pays for the sort and the scatter alone.
    with jax.ensure_compile_time_eval():
        group_size = jnp.array(sizes, jnp.int32)
        segment = jnp.repeat(jnp.arange(len(sizes)), group_size, total_repeat_length=total)
        size = group_size[segment]
        first = (jnp.cumsum(group_size) - group_size)[segment]
        fraction = jnp.where(size == 1, SINGLE_FRACTION, _fraction(jnp.arange(total) - first, size))
    keys = _sort_keys(lax.stop_gradient(importance))
    _, _, order = lax.sort((segment, keys, jnp.arange(total)), num_keys=2, is_stable=True)
    # The groups stay where they are, so position p of the sorted elements has a rank known beforehand.
    return _scatter(fraction, order)


def soft_mask(importance: ArrayLike, ratio: ArrayLike, *, sharpness: ArrayLike | None = None) -> Array:
    """Mask the least important elements softly, differentiably in the pruning ratio.

    Equation 3: `m_i = sigmoid(lambda * (c'_i - a))` with c' from `normalize_importance`; its derivative is
    `dm_i/da = -lambda * m_i * (1 - m_i)`. A value is at least 1/2 exactly where `c'_i >= a`, in every dtype:
    rounding never carries a value over that line.

    >>> soft_mask(jnp.array([3.0, 1.0, 4.0, 2.0]), 0.5)     # c' = 1/2, 0, 3/4, 1/4
    Array([0.5       , 0.11920292, 0.7310586 , 0.26894143], dtype=float32)

    Args:
      importance: `[..., N]`, any real dtype, larger = keep.
      ratio: the pruning ratio a, 0 keeps all and 1 drops all; a scalar, or whatever broadcasts to
        `importance.shape[:-1]`.
      sharpness: lambda > 0, of the same shapes as `ratio`; None means N, and 8 for N = 1.

    Returns:
      `[..., N]` in [0, 1], of the dtype of `importance` if a float, else float32. Computed in float32.
      Can be differentiated any number of times in `ratio` and `sharpness`; no gradient flows to `importance`.

    Raises:
      ValueError: for a scalar importance, N = 0, a ratio or sharpness that does not broadcast, or a concrete
        sharpness that is not above 0.
    """
    importance = _checked_importance(importance)
    margin = _margin(importance, ratio)
    mask = lax.logistic(_sharpness(importance, sharpness) * margin).astype(_mask_dtype(importance))
    # m >= 1/2 decides what is kept, and bfloat16 rounds .4995 to .5.
    below_half = 0.5 - float(jnp.finfo(mask.dtype).eps) / 4
    sided = jnp.where(margin >= 0, mask, jnp.minimum(mask, jnp.array(below_half, mask.dtype)))
    return mask + lax.stop_gradient(sided - mask)


def hard_mask(importance: ArrayLike, ratio: ArrayLike, *, sharpness: ArrayLike | None = None) -> Array:
    """Mask the least important elements with 0 and keep the others with 1.

    `1 if m_i >= 1/2 else 0`, with m of `soft_mask`; that is `c'_i >= a`, whatever the sharpness.

    Args:
      importance: as in `soft_mask`.
      ratio: as in `soft_mask`.
      sharpness: as in `soft_mask`.

    Returns:
      `[..., N]` of zeros and ones, of the dtype that `soft_mask` returns. Its gradient is zero.

    Raises:
      ValueError: as `soft_mask`.
    """
    importance = _checked_importance(importance)
    _sharpness(importance, sharpness)  # it changes no side, but a bad one is an error here too
    return (_margin(importance, ratio) >= 0).astype(_mask_dtype(importance))


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


def _margin(importance: Array, ratio: ArrayLike) -> Array:
    """c' - a, float32 `[..., N]`."""
    return normalize_importance(importance) - _per_row("ratio", ratio, importance)


def _sharpness(importance: Array, sharpness: ArrayLike | None) -> Array:
    """lambda, float32 `[..., 1]`."""
    size = importance.shape[-1]
    if sharpness is None:
        sharpness = SINGLE_SHARPNESS if size == 1 else float(size)
    elif not isinstance(sharpness, Tracer) and not bool(jnp.all(jnp.asarray(sharpness) > 0)):
        raise ValueError(f"sharpness {sharpness} is not above 0; give lambda > 0, or None for N = {size}")
    return _per_row("sharpness", sharpness, importance)


def _per_row(name: str, value: ArrayLike, importance: Array) -> Array:
    """Broadcast a scalar or per-row value to float32 `[..., 1]`."""
    value = jnp.asarray(value, jnp.float32)
    rows = importance.shape[:-1]
    try:
        return jnp.broadcast_to(value, rows)[..., None]
    except ValueError:
        raise ValueError(
            f"{name} of shape {value.shape} does not broadcast to {rows}, the leading axes of importance "
            f"{importance.shape}; give a scalar, or one value per row"
        ) from None


def _ranks(keys: Array) -> Array:
    """`[N]` int32: the position of every element in the stable order of its key."""
    order = jnp.argsort(keys, stable=True)
    return _scatter(jnp.arange(keys.shape[0], dtype=jnp.int32), order)


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


def _fraction(rank: Array, size: ArrayLike) -> Array:
    """rank / size as the nearest float32.

    XLA multiplies by a rounded 1 / size instead of dividing, and one unit in the last place is enough to
    lose an element at a ratio of j / N. The remainder, exact in wrapping integers, says which neighbour is
    nearest.
    """
    size = jnp.asarray(size, jnp.int32)
    rank = rank.astype(jnp.int32)
    bits = lax.bitcast_convert_type(rank.astype(jnp.float32) / size.astype(jnp.float32), jnp.int32)
    significand = (bits & 0x7FFFFF) | 0x800000  # the quotient is significand * 2^-shift
    shift = 150 - (bits >> 23)
    remainder = (rank << shift) - significand * size
    step = (2 * remainder > size).astype(jnp.int32) - (2 * remainder < -size).astype(jnp.int32)
    return jnp.where(rank == 0, 0.0, lax.bitcast_convert_type(bits + step, jnp.float32))


def _mask_dtype(importance: Array) -> jnp.dtype:
    return importance.dtype if jnp.issubdtype(importance.dtype, jnp.floating) else jnp.dtype(jnp.float32)


def _checked_importance(importance: ArrayLike) -> Array:
    importance = jnp.asarray(importance)
    if importance.ndim == 0:
        raise ValueError("importance is a scalar; expected [..., N], N elements along the last axis")
    if importance.shape[-1] == 0:
        raise ValueError(f"importance of shape {importance.shape} has N = 0 elements; give at least one")
    if jnp.issubdtype(importance.dtype, jnp.complexfloating):
        raise ValueError(f"importance is {importance.dtype}, which has no order; give a real dtype, e.g. its magnitude")
    return importance


def _check_sizes(importance: Array, sizes: tuple[int, ...]) -> None:
    if importance.ndim != 1:
        raise ValueError(f"importance of shape {importance.shape} is not a vector; lay the groups end to end as [E]")
    if any(size < 1 for size in sizes):
        raise ValueError(f"sizes {sizes} name a group without elements; leave such groups out")
    if sum(sizes) != importance.shape[0]:
        raise ValueError(
            f"sizes sum to {sum(sizes)}, importance has {importance.shape[0]} elements; give the size of every group"
        )
