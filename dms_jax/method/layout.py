"""The groups of a space laid end to end: what every strategy computes on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from dms_jax import topk
from dms_jax.method.limits import Limits
from dms_jax.method.segments import Segments
from dms_jax.space import SearchSpace


@dataclass(frozen=True, eq=False)
class Layout:
    """Constants of a space, and how arrays go from one shape to another. Make one with `Layout.of`.

    `[elements]` are those of all groups in the order of `space.groups`; `[ratios]` are the sets of groups that share
    one count, in the order of `space.counted` (most groups stand alone).

    Attributes:
      space: the search space.
      ratio: `[groups]` number of the ratio that a group follows.
      least: `[groups]` int, how many elements must stay.
      sharpness: `[groups]` float32, lambda: N, and 4N for depth and heads.
    """

    space: SearchSpace
    ratio: np.ndarray
    least: np.ndarray
    sharpness: np.ndarray

    @staticmethod
    def of(space: SearchSpace, limits: Limits | None = None) -> Layout:
        """The layout of a space.

        Args:
          space: the search space.
          limits: groups left alone, and smallest numbers.
        """
        allowed = (limits or Limits()).counts(space)
        numbers = {name: i for i, names in enumerate(space.counted) for name in names}
        return Layout(
            space=space,
            ratio=np.array([numbers[name] for name in space.groups]),
            least=np.array([allowed[name][0] for name in space.groups]),
            sharpness=np.array([group.sharpness for group in space.groups.values()], np.float32),
        )

    # --- constants of groups ---

    @cached_property
    def segments(self) -> Segments:
        """The sizes of the groups."""
        return Segments(tuple(group.size for group in self.space.groups.values()))

    @cached_property
    def size(self) -> np.ndarray:
        """`[groups]` int, N."""
        return np.array(self.segments.sizes)

    @cached_property
    def open(self) -> np.ndarray:
        """`[groups]` float32, a_open = min(c') - 4 / lambda: the weakest mask is 0.982."""
        return topk.lowest_fraction(self.size) - np.float32(4.0) / self.sharpness

    @cached_property
    def closed(self) -> np.ndarray:
        """`[groups]` float32, the largest ratio: at least `least` elements stay."""
        closed = np.where(self.least == 0, 1.0, topk.ratio_for(self.least, self.size)).astype(np.float32)
        return np.maximum(closed, self.open)

    @cached_property
    def fixed(self) -> np.ndarray:
        """`[groups]` bool, left alone, or nothing to take."""
        return self.least >= self.size

    @cached_property
    def settles_early(self) -> np.ndarray:
        """`[groups]` bool, frozen while refining: depth and heads."""
        return np.array([group.rules.settles_early for group in self.space.groups.values()])

    @cached_property
    def moves_together(self) -> np.ndarray:
        """`[groups]` bool, whose ratios have something in common: all that can move but depth."""
        return np.array([group.rules.moves_together for group in self.space.groups.values()]) & ~self.fixed

    @cached_property
    def gates(self) -> np.ndarray:
        """`[groups]` bool: whose elements gate blocks."""
        return np.array([group.rules.gates for group in self.space.groups.values()])

    @cached_property
    def blocks(self) -> np.ndarray:
        """`[blocks]` which elements gate blocks."""
        return np.flatnonzero(self.to_elements(self.gates))

    # --- from one shape to another ---

    @cached_property
    def of_element(self) -> np.ndarray:
        """`[elements]` number of the group."""
        return self.segments.of_element

    @cached_property
    def position(self) -> np.ndarray:
        """`[elements]` index in the group."""
        return np.concatenate([np.arange(n) for n in self.segments.sizes])

    @cached_property
    def first(self) -> np.ndarray:
        """`[ratios]` number of the first group that follows a ratio."""
        return np.unique(self.ratio, return_index=True)[1]

    def to_groups(self, per_ratio: Any) -> Any:
        """`[ratios, ...]` -> `[groups, ...]`: every group has what its ratio has."""
        return per_ratio[self.ratio]

    def to_elements(self, per_group: Any) -> Any:
        """`[groups, ...]` -> `[elements, ...]`: every element has what its group has."""
        return per_group[self.of_element]

    def to_ratios(self, per_group: Any) -> Any:
        """`[groups]` -> `[ratios]`: tied groups have the same size, kind and limits, so the first speaks for all."""
        return per_group[self.first]

    def names(self, chosen: Any) -> list[str]:
        """The names of the groups chosen, `[groups]` bool."""
        return [name for name, yes in zip(self.space.groups, chosen, strict=True) if yes]

    # --- elements that tied groups have in common ---

    @cached_property
    def of_shared(self) -> np.ndarray:
        """`[shared]` group number: the elements of the first group of every ratio."""
        return np.repeat(self.first, self.to_ratios(self.size))

    def to_shared(self, position: Any) -> Any:
        """`[elements]` places among `[shared]`: elements at one position (or of one rank) of tied groups have the same.

        Args:
          position: `[elements]` int, in the group.
        """
        offset = np.concatenate([[0], np.cumsum(self.to_ratios(self.size))[:-1]])
        return self.to_elements(self.to_groups(offset)) + position

    # --- what strategies share ---

    def uninformative(self, importance: jax.Array) -> jax.Array:
        """`[groups]` bool: all importances of several elements are equal, so that no order is known yet."""
        return self.segments.all_equal(importance) & self.segments.several

    def ranks(self, importance: jax.Array) -> jax.Array:
        """`[elements]` int32: how many elements of its group an element is above."""
        return topk.ranks(importance, segments=self.segments.sizes)

    def forced(self, ranks: jax.Array) -> jax.Array:
        """`[elements]` bool: the best elements of a group, as many as must stay."""
        return ranks >= self.to_elements(self.size - self.least)

    def counts(self, kept: Any) -> np.ndarray:
        """`[ratios]` float64: the sum of `kept [elements]` in every group, the mean over tied groups."""
        of_group = np.bincount(self.of_element, np.asarray(kept), len(self.size))
        return np.bincount(self.ratio, of_group) / np.bincount(self.ratio)

    def ratios(self, counts: Any) -> np.ndarray:
        """`[ratios]` float64 pruning ratios at which #{c' >= a} is the nearest whole number to `counts [ratios]`."""
        return topk.ratio_for(counts, self.to_ratios(self.size))
