"""Resource loss, its target over time, and budgets (METHOD, "Resource loss"; Eq. 5-7 and 10 of the paper).

Everything is in fractions of the full network's resources, so 0.04 is 4 % of its MACs.
"""

from __future__ import annotations

import math
from numbers import Real

import jax
import jax.numpy as jnp

from dms_jax.errors import UserError


def target(step: jax.Array, final: float, decay_steps: float) -> jax.Array:
    """The target after `step` steps: r_t(s) / r_full = final^min(1, s / S_decay).

    Args:
      step: steps since the end of warm-up, any shape; negative counts as 0.
      final: the fraction asked for, in (0, 1].
      decay_steps: S_decay, the steps until the target stands at `final`; > 0.

    Returns:
      float32 of `step`'s shape.
    """
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / decay_steps, 0.0, 1.0)
    return jnp.power(jnp.float32(final), progress)


def excess(fraction: jax.Array, target: jax.Array) -> jax.Array:
    """log(r / r_t) where r > r_t, else 0: the resource loss before its weight w."""
    return jnp.log(jnp.maximum(fraction / target, 1.0))


def next_weight(weight: jax.Array, fraction: jax.Array, target: jax.Array) -> jax.Array:
    """The multiplier follows the miss: w <- clip(w + log(r / r_t), 1, 50)."""
    return jnp.clip(weight + jnp.log(jnp.maximum(fraction, 1e-12) / target), 1.0, 50.0)


def straight_through(mask: jax.Array, hard: jax.Array | None = None) -> jax.Array:
    """Forward the hard mask (None: m >= 1/2), backward that of the soft one: r counts the network exported now."""
    hard = (mask >= 0.5).astype(mask.dtype) if hard is None else hard
    return mask + jax.lax.stop_gradient(hard - mask)


def budget(name: str, asked: float, full: int, smallest: int, network: str) -> int:
    """What a budget means in absolute numbers, checked.

    Args:
      name: "macs" or "params".
      asked: a fraction of the full network in (0, 1], or an absolute number above 1.
      full, smallest: the largest and smallest resources reachable.
      network: what to call the network in errors.

    Returns:
      The largest number allowed.

    Raises:
      UserError: not a positive number, above `full`, or below `smallest`.
    """
    label = {"macs": "MACs"}.get(name, name)
    if not (isinstance(asked, Real) and math.isfinite(asked) and asked > 0):
        raise UserError(
            f"budget {asked} {label} is not a positive number; give a fraction such as 0.25, or a number of {label} "
            f"between {smallest:,} and {full:,} ({network})"
        )
    wanted = math.floor(asked * full) if asked <= 1 else math.floor(asked)
    shown = f"{asked:g} ({wanted:,} {label})" if asked <= 1 else f"{wanted:,} {label}"
    if wanted > full:
        raise UserError(
            f"budget {shown} is above the full network's {full:,} ({network}); nothing needs to be searched"
        )
    if wanted < smallest:
        raise UserError(
            f"budget {shown} is below {smallest:,}, the smallest reachable ({network}; full: {full:,}); ask for more, "
            "or let more groups be searched"
        )
    return wanted
