"""Rotary positions (Su et al. 2021, arXiv 2104.09864) and the ways their frequencies are scaled for longer texts.

Position t turns pair i of a head's features by the angle t * f_i, with f_i = theta^(-2i / D). The scalings are those of
Hugging Face configurations, under their names and with their keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn the pairs (i, i + D/2) of the last axis.

    Args:
      x: `[B, T, ..., D]`, any float dtype.
      cos, sin: `[T, D/2]` float32, from `table`.

    Returns:
      `[B, T, ..., D]` in the dtype of `x`; computed in float32.
    """
    shape = (1, cos.shape[0], *(1,) * (x.ndim - 3), cos.shape[1])
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def table(
    length: int, size: int, theta: float, scaling: Mapping[str, Any] | None, max_positions: int
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of all angles, `[T, D/2]` float32 each.

    Args:
      length: T, positions 0 to T - 1.
      size: D, features of a head; even.
      theta: base of the frequencies.
      scaling: None, or {"rope_type": one of `SCALINGS`, and what it takes}.
      max_positions: the longest text of the configuration ("dynamic" looks at it).

    Raises:
      UserError: an unknown kind of scaling, or one that lacks a value.
    """
    kind = (scaling or {}).get("rope_type", "default")
    if kind not in SCALINGS:
        raise UserError(f"rotary positions scaled by {kind!r} are not supported; supported: {', '.join(SCALINGS)}")
    try:
        frequencies, factor = SCALINGS[kind](size, theta, scaling or {}, max(length, max_positions), max_positions)
    except KeyError as error:
        raise UserError(f"rotary positions scaled by {kind!r} need a value for {error}; given: {scaling}") from None
    positions = jnp.arange(length, dtype=jnp.float32)
    angles = positions[:, None] * jnp.asarray(frequencies, jnp.float32)[None, :]
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def check(size: int, theta: float, scaling: Mapping[str, Any] | None, max_positions: int) -> None:
    """Refuse what makes no angles.

    Raises:
      UserError: as `table`; or values of the scaling that no frequencies come from.
    """
    kind = (scaling or {}).get("rope_type", "default")
    if kind not in SCALINGS:
        raise UserError(f"rotary positions scaled by {kind!r} are not supported; supported: {', '.join(SCALINGS)}")
    try:
        with np.errstate(all="ignore"):
            found = SCALINGS[kind](size, theta, scaling or {}, max_positions, max_positions)
        if not np.isfinite(np.asarray(found[0])).all() or not 0 < found[1] < math.inf:
            raise ValueError
    except KeyError as error:
        raise UserError(f"rotary positions scaled by {kind!r} need a value for {error}; given: {scaling}") from None
    except (ArithmeticError, TypeError, ValueError):
        raise UserError(
            f"rotary positions of base {theta:g} over heads of {size}, scaled by {scaling}, have no finite angles"
        ) from None


_Scaled = tuple[np.ndarray, float]  # frequencies [D/2], and what cosines and sines are multiplied by


def _frequencies(size: int, theta: float) -> np.ndarray:
    # float32 as the networks were trained: a float64 table differs in the angles of far positions
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.float32(1) / np.float32(theta) ** exponents


def _default(size: int, theta: float, scaling: Mapping[str, Any], length: int, limit: int) -> _Scaled:
    return _frequencies(size, theta), 1.0


def _linear(size: int, theta: float, scaling: Mapping[str, Any], length: int, limit: int) -> _Scaled:
    """All frequencies divided by the factor."""
    return _frequencies(size, theta) / np.float32(scaling["factor"]), 1.0


def _dynamic(size: int, theta: float, scaling: Mapping[str, Any], length: int, limit: int) -> _Scaled:
    """A larger base for texts longer than the limit, nothing for others: theta' = theta g^(D / (D - 2))."""
    growth = scaling["factor"] * length / limit - (scaling["factor"] - 1)
    return _frequencies(size, theta * growth ** (size / (size - 2))), 1.0


def _llama3(size: int, theta: float, scaling: Mapping[str, Any], length: int, limit: int) -> _Scaled:
    """Waves longer than the old limit / low are divided by the factor, shorter than / high kept, between: mixed."""
    frequencies = _frequencies(size, theta)
    turns = (scaling.get("original_max_position_embeddings") or limit) * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return keep * frequencies + (1 - keep) * frequencies / scaling["factor"], 1.0


def _yarn(size: int, theta: float, scaling: Mapping[str, Any], length: int, limit: int) -> _Scaled:
    """YaRN (Peng et al. 2023, arXiv 2309.00071): slow pairs are interpolated, fast ones kept, attention sharpened."""
    old = scaling.get("original_max_position_embeddings") or limit
    factor = scaling.get("factor") or limit / old
    ends = [
        size * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1)
    ]
    if scaling.get("truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], size - 1)
    slow = np.clip((np.arange(size // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    frequencies = _frequencies(size, theta)
    return slow * frequencies / factor + (1 - slow) * frequencies, _yarn_attention(scaling, factor)


def _yarn_attention(scaling: Mapping[str, Any], factor: float) -> float:
    def sharper(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return sharper(scaling["mscale"]) / sharper(scaling["mscale_all_dim"])
    return sharper(1.0)


SCALINGS: dict[str, Callable[..., _Scaled]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
