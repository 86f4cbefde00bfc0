"""The groups of a space laid end to end: what every strategy computes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.importance import Segments
from dms_jax.projection import Limits
from dms_jax.space import SearchSpace


@dataclass(frozen=True, eq=False)
class Layout:
    """Per-group and per-element constants of a space, laid end to end. Make one with `Layout.of`.

    `[elements]` are those of all groups in the order of `space.groups`; `[ratios]` are the sets of groups that share
    one count, in the order of `space.counted` (most groups stand alone); `[shared]` are the elements of the first group
    of every ratio.

    Attributes:
      space: the search space.
      segments: the sizes of the groups.
      of_element: `[elements]` group number.
      position: `[elements]` float32 index in the group.
      ratio: `[groups]` number of the ratio that a group follows.
      first: `[ratios]` number of the first group that follows a ratio.
      size: `[groups]` int, N.
      least: `[groups]` int, how many elements must stay.
      sharpness: `[elements]` float32, lambda: N, and 4N for depth and heads.
      open: `[groups]` float32, a_open = min(c') - 4 / lambda: the weakest mask is 0.982.
      closed: `[groups]` float32, the largest ratio: at least `least` elements stay.
      coarse: `[groups]` bool, depth and heads.
      fixed: `[groups]` bool, left alone, or nothing to take.
    """

    space: SearchSpace
    segments: Segments
    of_element: np.ndarray
    position: np.ndarray
    ratio: np.ndarray
    first: np.ndarray
    size: np.ndarray
    least: np.ndarray
    sharpness: np.ndarray
    open: np.ndarray
    closed: np.ndarray
    coarse: np.ndarray
    fixed: np.ndarray

    @staticmethod
    def of(space: SearchSpace, limits: Limits | None = None) -> Layout:
        """The layout of a space.

        Args:
          space: the search space.
          limits: groups left alone, and smallest numbers.
        """
        groups, allowed = list(space.groups.values()), (limits or Limits()).counts(space)
        sizes = tuple(group.size for group in groups)
        least = np.array([allowed[group.name][0] for group in groups])
        sharpness = np.array([group.sharpness for group in groups], np.float32)
        lowest = np.array([0.5 if n == 1 else 0.0 for n in sizes], np.float32)
        opened = lowest - 4.0 / sharpness
        closed = [1.0 if n == 0 else 1.0 - (n + 0.5) / size for n, size in zip(least, sizes, strict=True)]
        of_element = np.repeat(np.arange(len(groups)), sizes)
        numbers = {name: i for i, names in enumerate(space.counted) for name in names}
        ratio = np.array([numbers[group.name] for group in groups])
        return Layout(
            space=space,
            segments=Segments(sizes),
            of_element=of_element,
            position=np.concatenate([np.arange(n, dtype=np.float32) for n in sizes]),
            ratio=ratio,
            first=np.unique(ratio, return_index=True)[1],
            size=np.array(sizes),
            least=least,
            sharpness=sharpness[of_element],
            open=opened,
            closed=np.maximum(np.array(closed, np.float32), opened),
            coarse=np.array([group.kind != "width" for group in groups]),
            fixed=least >= np.array(sizes),
        )

    # --- from groups to ratios and elements ---

    def per_ratio(self, per_group: Any) -> Any:
        """`[groups]` -> `[ratios]`: tied groups have the same size, kind and limits, so the first speaks for all."""
        return per_group[self.first]

    @property
    def ratio_of_element(self) -> np.ndarray:
        """`[elements]` number of the ratio that an element's group follows."""
        return self.ratio[self.of_element]

    @property
    def offset(self) -> np.ndarray:
        """`[ratios]` where the elements of a ratio's first group begin among `[shared]`."""
        return np.concatenate([[0], np.cumsum(self.per_ratio(self.size))[:-1]])

    @property
    def shared(self) -> np.ndarray:
        """`[elements]` place among `[shared]`: elements at one position of tied groups have the same."""
        return self.offset[self.ratio_of_element] + self.position.astype(int)

    @property
    def of_shared(self) -> np.ndarray:
        """`[shared]` group number: of the first group of a ratio."""
        return np.repeat(self.first, self.per_ratio(self.size))

    # --- groups as rows ---

    def rows(self, x: jax.Array, fill: float) -> jax.Array:
        """`[elements]` -> `[groups, most]`: a row a group, filled up."""
        most, starts = int(self.size.max()), np.cumsum(self.size) - self.size
        column = np.arange(most)
        at = np.where(column < self.size[:, None], starts[:, None] + column, len(self.of_element))
        return jnp.concatenate([x, jnp.full((1,), fill, x.dtype)])[at]

    def elements(self, rows: jax.Array) -> jax.Array:
        """`[groups, most]` -> `[elements]`."""
        return rows[self.of_element, self.position.astype(int)]

    # --- what strategies share ---

    def untold(self, importance: jax.Array) -> jax.Array:
        """`[groups]` bool: all importances of several elements are equal, so that no order is known yet."""
        return self.segments.all_equal(importance) & (jnp.array(self.segments.sizes) > 1)

    def below(self, ranks: jax.Array) -> jax.Array:
        """`[elements]` int32: how many elements of its group an element is above, from c' = rank / N."""
        size = self.size[self.of_element]
        return jnp.where(size == 1, 0, jnp.round(ranks * size)).astype(jnp.int32)

    def forced(self, ranks: jax.Array) -> jax.Array:
        """`[elements]` bool: the best elements of a group, as many as must stay.

        Args:
          ranks: c' `[elements]`, as `topk.normalize_segments` makes them.
        """
        return self.below(ranks) >= (self.size - self.least)[self.of_element]

    def counts(self, kept: Any) -> np.ndarray:
        """`[ratios]` float64: the sum of `kept [elements]` in every group, the mean over tied groups."""
        of_group = np.bincount(self.of_element, np.asarray(kept), len(self.size))
        return np.bincount(self.ratio, of_group) / np.bincount(self.ratio)

    def ratios(self, counts: Any) -> np.ndarray:
        """`[ratios]` float64 pruning ratios at which #{c' >= a} is the nearest whole number to `counts [ratios]`."""
        size = self.per_ratio(self.size)
        return 1.0 - (np.asarray(counts, np.float64) + np.where(size == 1, 0.0, 0.5)) / size
