"""Ways to get a differentiable top-k mask, ours and those of other packages, each ready to be timed at a size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dms_jax.baselines.capped_simplex import capped_simplex
from dms_jax.baselines.lapsum import lapsum
from dms_jax.topk import soft_mask

Mask = Callable[[Array, Array], Array]
"""(importance `[N]`, ratio) -> mask `[N]`."""
RATIO = 0.5
"""Of the elements that go."""


@dataclass(frozen=True)
class Entry:
    """A contender at one size.

    Attributes:
      call: does the work and waits for it; (mask, gradient in the ratio, gradient in the importance), None for none.
      temporary_bytes: that a call needs.
    """

    call: Callable[[], tuple[Any, Any, Any]]
    temporary_bytes: int


class Enter(Protocol):
    """Makes a contender ready for inputs `[N]`; calls nothing."""

    def __call__(self, importance: np.ndarray, weights: np.ndarray) -> Entry: ...


# --- in JAX ---


def pairwise_mask(importance: Array, ratio: Array) -> Array:
    """The same mask by the definition: c' counts, for every element, the elements below it."""
    size = importance.shape[0]
    index = jnp.arange(size)
    below = importance[None, :] < importance[:, None]
    tied_before = (importance[None, :] == importance[:, None]) & (index[None, :] < index[:, None])
    rank = jnp.sum(below | tied_before, axis=1, dtype=jnp.int32)
    return jax.nn.sigmoid(size * (jax.lax.stop_gradient(rank) / size - ratio))


def of_count(mask: Callable[..., Any]) -> Mask:
    """Of our own rivals in a search, which take the number that stays: the capped simplex, and sums of Laplacians."""
    return lambda importance, ratio: mask(importance, importance.shape[0] * (1 - ratio))


def jaxopt_mask(importance: Array, ratio: Array) -> Array:
    """The point of {0 <= m <= 1, sum m = k} nearest to the importance, differentiated implicitly."""
    from jaxopt.projection import projection_box_section  # pyright: ignore[reportMissingImports]

    zeros, ones = jnp.zeros_like(importance), jnp.ones_like(importance)
    return projection_box_section(importance, (zeros, ones, ones, importance.shape[0] * (1 - ratio)))


def ott_mask(importance: Array, ratio: Array, **options: Any) -> Array:
    """OTT's own soft top-k mask by entropic optimal transport, with its defaults; k is fixed.

    With `implicit_diff=None` it is differentiated through Sinkhorn's iterations: the implicit solver may fail.
    """
    from ott.tools import soft_sort  # pyright: ignore[reportMissingImports]

    return soft_sort.topk_mask(importance, k=_fixed(importance), **options)


def softjax_mask(importance: Array, ratio: Array, method: str) -> Array:
    """The sum of softjax's soft indices of the top k, with its defaults; k is fixed."""
    import softjax  # pyright: ignore[reportMissingImports]

    _, index = softjax.top_k(importance, _fixed(importance), method=method)
    return jnp.sum(index, axis=0)


def _fixed(importance: Array) -> int:
    return round(importance.shape[0] * (1 - RATIO))


def in_jax(mask: Mask) -> Enter:
    """A contender of a function in JAX."""

    def enter(importance: np.ndarray, weights: np.ndarray) -> Entry:
        def weighted(ratio: Array, importance: Array) -> tuple[Array, Array]:
            m = mask(importance, ratio)
            return jnp.asarray(weights) @ m, m

        arguments = (jnp.float32(RATIO), jnp.asarray(importance))
        with jax.numpy_rank_promotion("allow"):  # other packages broadcast as they like
            program = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True)).lower(*arguments).compile()
        memory = program.memory_analysis()

        def call() -> tuple[Any, Any, Any]:
            (_, m), gradients = jax.block_until_ready(program(*arguments))
            return m, *gradients

        return Entry(call, memory.temp_size_in_bytes if memory is not None else 0)

    return enter


# --- in PyTorch ---


def in_torch(importance: np.ndarray, weights: np.ndarray) -> Entry:
    """Pairwise ranks in eager PyTorch, one thread: the published form of the operator, written afresh."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    c, w, size = torch.from_numpy(importance), torch.from_numpy(weights), len(importance)
    ratio = torch.tensor(RATIO, requires_grad=True)

    def call() -> tuple[Any, Any, Any]:
        rank = (c[:, None] > c[None, :]).sum(1)
        m = torch.sigmoid(size * (rank / size - ratio))
        (gradient,) = torch.autograd.grad(w @ m, ratio)
        return m.detach().numpy(), gradient.numpy(), None

    return Entry(call, size * size)  # a byte a pair


CONTENDERS: list[tuple[str, tuple[str, ...], Enter, int]] = [
    ("soft_mask", (), in_jax(soft_mask), 1),
    ("pairwise ranks", (), in_jax(pairwise_mask), 2),
    ("capped simplex", (), in_jax(of_count(capped_simplex)), 1),
    ("LapSum", (), in_jax(of_count(lapsum)), 1),
    ("PyTorch pairwise", ("torch",), in_torch, 2),
    ("jaxopt capped simplex", ("jaxopt",), in_jax(jaxopt_mask), 1),
    ("ott-jax topk_mask", ("ott",), in_jax(ott_mask), 1),
    ("ott-jax topk_mask, unrolled", ("ott",), in_jax(partial(ott_mask, implicit_diff=None)), 1),
    ("softjax softsort", ("softjax",), in_jax(partial(softjax_mask, method="softsort")), 2),
    ("softjax neuralsort", ("softjax",), in_jax(partial(softjax_mask, method="neuralsort")), 2),
]
"""Name, packages it needs, the contender, and the power of N that its time and memory grow with."""
