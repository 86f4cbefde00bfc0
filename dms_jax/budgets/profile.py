"""What pieces of a network take at some sizes, and whole networks: from which all others are predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import nnls

from dms_jax.budgets import multiples, timing
from dms_jax.budgets.measured import Part
from dms_jax.budgets.pieces import Flat, Piece, cut, whole
from dms_jax.budgets.resource import Network, Sized
from dms_jax.budgets.stepwise import Outline, Shares, Steps, evaluated, fit, gated, outlines
from dms_jax.budgets.table import Table
from dms_jax.budgets.waiting import Waiting
from dms_jax.errors import UserError

Kept: TypeAlias = dict[str, tuple[int, ...]]

EVEN = (1.0, 0.5, 0.25)
"""Shares of all groups, of networks that are measured whole, too."""

DRAWN = 7
"""Networks of which pieces are measured besides, their groups of different shares."""

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)

ASKED = 4
"""Pieces that are asked for steps."""

ROUND = 8
"""Numbers of elements of what is measured are multiples of this, where a group has twice as many."""


class Profile:
    """Measures a network in pieces, as long as there is time.

    Args:
      network: to measure.
      flat: from the network of a structure to its program.
      measure: from such a program to its milliseconds and their spread; True measures anew, and the lower counts.
      seconds: how long to measure.
      table: of what is known.
    """

    def __init__(
        self,
        network: Network,
        flat: Callable[[Sized], Flat],
        measure: Callable[[Flat, Table, bool], tuple[float, float]],
        seconds: float,
        table: Table,
    ):
        self.network, self.flat, self.measure, self.table = network, flat, measure, table
        self.sizes = network.variables.sizes
        self.outlines, self.of_variable = outlines(network), grouped(network)
        self.products = frozenset(term.node.name for term in network.program.products)
        self.times: list[list[tuple[np.ndarray, float]]] = [[] for _ in self.outlines]
        self.wholes: list[tuple[np.ndarray, float]] = []
        self.late, self.seconds, self.ended = 0, seconds, ("", 0)
        self.fitted: list[Shares] = []

    def predicted(self, name: str, unit: str) -> Steps:
        """The cost of every structure."""
        self._measure()
        pieces = self.fitted = self._pieces()
        scale, always = self._scaled(pieces)
        times: dict[Any, float] = {(): always} if always > 0 else {}
        for each in pieces:
            for monomial, ms in each.items():
                times[monomial] = times.get(monomial, 0.0) + scale * ms
        multiple = self._multiple(pieces)
        self.table.time(self.ended[0], lambda: (float(self.ended[1]), 0.0))
        note = self._note(pieces, scale, always, multiple)
        return Steps.of(name, unit, times, self.sizes, self._multiples(multiple), note)

    def parts(self, kept: Mapping[str, Sequence[int]], seconds: float) -> list[Part]:
        """Every piece of the network of a structure: milliseconds predicted and, as long as there is time, measured.

        Args:
          kept: kept elements of every group.
          seconds: how long to measure, about.

        Returns:
          None of them where the network has other pieces at these sizes.
        """
        counts = self.network.variables.counts(kept)
        left = [i for i, outline in enumerate(self.outlines) if all(counts[list(outline.gates)])]
        pieces = cut(self.flat(self.network.at(kept)), self.products)
        if [piece.name for piece in pieces] != [self.outlines[i].name for i in left]:
            return []
        self._ends = timing.now() + seconds
        predicted = [float(evaluated(self.fitted[i], counts, self.sizes)) for i in left]
        nodes = [self.outlines[i].node for i in left]
        return [Part(node, ms, self._time(piece)) for node, ms, piece in zip(nodes, predicted, pieces, strict=True)]

    # --- what is measured ---

    def _measure(self) -> None:
        """Pieces of one network after another. Where it ended is kept, so that the same search sees the same again."""
        designs = list(designed(self.network, self.outlines))
        with Waiting("latency of pieces", len(designs) * len(self.outlines)) as waiting:
            flat = self.flat(self.network.at(designs[0]))
            key = f"{whole(flat).key} in {self.seconds:g} s"
            ended = int(timing.agreed(lambda: self.table.times.get(key, (-1.0,))[:1], 1)[0])
            self._ends = -math.inf if ended >= 0 else timing.now() + self.seconds
            for number, kept in enumerate(designs):
                if number == ended or (ended < 0 and number and self._over()):
                    self.late = len(designs) - number
                    break
                flat = self.flat(self.network.at(kept)) if number else flat
                counts = self.network.variables.counts(kept)
                if number < len(EVEN):
                    self.wholes.append((counts, self.measure(flat, self.table, False)[0]))
                pieces = self._cut(flat)
                if pieces is None:
                    break
                for i, piece in enumerate(pieces):
                    ms = self._time(piece)
                    self.times[i] += [(counts, ms)] if ms is not None else []
                    waiting.update(number * len(pieces) + i + 1, f"{self.table.measured} measured")
            if ended < 0:  # what ran beside it a minute ago may be over
                full = self.flat(self.network.at(designs[0]))
                self.wholes[0] = self.wholes[0][0], self.measure(full, self.table, True)[0]
        self.ended = key, len(designs) - self.late

    def _cut(self, flat: Flat) -> list[Piece] | None:
        """Pieces as outlined; None for a program of its own at these sizes."""
        pieces = cut(flat, self.products)
        return pieces if [each.name for each in pieces] == [each.name for each in self.outlines] else None

    def _over(self) -> bool:
        return bool(timing.agreed(lambda: [timing.now() > self._ends], 1)[0])

    def _time(self, piece: Piece) -> float | None:
        """Milliseconds; None where no time is left."""
        if not piece.made:
            return 0.0
        key = piece.key

        def measured() -> Sequence[float]:
            if key not in self.table.times and timing.now() > self._ends:
                return [-1.0]
            return self.table.time(key, lambda: (timing.repeated(piece, piece.inputs), 0.0))[:1]

        (ms,) = timing.agreed(measured, 1)
        return ms if ms >= 0 else None

    def _multiple(self, pieces: Sequence[Shares]) -> int:
        """Of what number of elements pieces take as long as of fewer, as the longest of them say; often 1."""
        rooms, times = [], []
        for i in sorted(range(len(pieces)), key=lambda i: -sum(pieces[i].values())):
            name = self._widest(self.outlines[i])
            if name is not None and self.outlines[i].name and len(times) < ASKED:
                rooms.append(max(m for m in multiples.CANDIDATES if 2 * m <= self.network.groups[name]))
                times.append(partial(self._beyond, i, name, rooms[-1]))
        return multiples.multiple(times, rooms)

    def _widest(self, outline: Outline) -> str | None:
        """The largest group that a piece has, if it has room for steps."""
        found = {self.of_variable[v] for each in outline.features for m in each for v in m if v in self.of_variable}
        sizes = {name: self.network.groups[name] for name in found}
        name = max(sizes, key=lambda name: sizes[name], default=None)
        return name if name is not None and sizes[name] >= 2 * multiples.CANDIDATES[0] else None

    def _beyond(self, i: int, name: str, start: int, offset: int) -> float | None:
        """Milliseconds of a piece where one group has some elements more than `start`, and the others are whole."""
        kept = {n: range(start + offset if n == name else size) for n, size in self.network.groups.items()}
        pieces = self._cut(self.flat(self.network.at(kept)))
        return None if pieces is None else self._time(pieces[i])

    # --- what follows ---

    def _multiples(self, multiple: int) -> np.ndarray:
        """`[variables]`: the multiple, where there is room for it."""
        found = np.where(self.sizes >= 2 * multiple, multiple, 1)
        found[[0, *self.network.variables.of_gate.values()]] = 1
        return found

    def _pieces(self) -> list[Shares]:
        """Times of all pieces; where there was no time, by what others, or the whole, take for their multiply-adds."""
        fits: dict[int, Shares] = {}
        for i, (outline, samples) in enumerate(zip(self.outlines, self.times, strict=True)):
            if samples:
                counts, times = np.stack([c for c, _ in samples]), np.array([ms for _, ms in samples])
                fits[i] = fit(outline, counts, times, self.sizes)
        took = sum(sum(each.values()) for each in fits.values())
        known = fits if took > 0 else range(len(self.outlines))
        rate = (took or self.wholes[0][1]) / (sum(self.outlines[i].work for i in known) or 1.0)
        left = ({m: rate * outline.work * share for m, share in _first(outline).items()} for outline in self.outlines)
        return [
            gated(fits.get(i, other), outline.gates)
            for i, (outline, other) in enumerate(zip(self.outlines, left, strict=True))
        ]

    def _scaled(self, pieces: Sequence[Shares]) -> tuple[float, float]:
        """What to multiply the pieces' sum by and to add, to predict whole networks: both of at least 0."""
        counts, truth = np.stack([c for c, _ in self.wholes]), np.array([ms for _, ms in self.wholes])
        sums = sum((evaluated(each, counts, self.sizes) for each in pieces), np.zeros(len(truth)))
        if not np.all(sums > 0):
            raise UserError("no piece of this network takes any time that this machine's clock can tell")
        rows = np.stack([sums, np.ones(len(truth))], axis=-1) / truth[:, None]
        (scale, always), _ = nnls(rows, np.ones(len(truth)))
        return (float(scale), float(always)) if scale > 0 else (float(truth[0] / sums[0]), 0.0)

    def _note(self, pieces: Sequence[Shares], scale: float, always: float, multiple: int) -> str:
        total = sum(sum(each.values()) for each in pieces)
        samples = sum(map(len, self.times))
        late = f", no time was left for {self.late} of {len(EVEN) + DRAWN} networks" if self.late else ""
        return (
            f"{samples} times of {len(pieces)} pieces{late}; they sum to {total:.3g} ms, of which {scale:.2f} and "
            f"{always:.2g} ms more are predicted; steps of {multiple} elements"
        )


def grouped(network: Network) -> dict[int, str]:
    """{variable: group}, of those that count elements."""
    return {int(v): n for n, numbers in network.variables.of_elements.items() for v in np.unique(numbers) if v}


def _first(outline: Outline) -> Shares:
    return outline.features[0] if outline.features else {(): 1.0}


def designed(network: Network, outlined: Sequence[Outline]) -> Iterator[Kept]:
    """Structures to measure pieces at: all groups alike, and then groups that meet in a piece of different shares.

    Groups of equal parts have equal shares where they come in equal order, so that equal pieces stay equal. No block is
    removed: what then goes is known.
    """
    colors = colored(network, outlined)
    many = max(colors.values(), default=0) + 1
    for share in EVEN:
        yield _kept(network, dict.fromkeys(colors, share))
    rng = np.random.default_rng(0)
    for _ in range(DRAWN):
        shares = rng.choice(SHARES, many, replace=many > len(SHARES))
        yield _kept(network, {name: float(shares[color]) for name, color in colors.items()})


def colored(network: Network, outlined: Sequence[Outline]) -> dict[str, int]:
    """{group: color}, groups that meet in a piece of different ones; the fewest, in the order of the network."""
    of_variable = grouped(network)
    blocks = {name for name, _ in network.variables.of_gate}
    near: dict[str, set[str]] = {name: set() for name in network.groups if name not in blocks}
    for outline in outlined:
        there = {of_variable[v] for each in outline.features for m in each for v in m if v in of_variable} - blocks
        for name in there:
            near[name] |= there - {name}
    colors: dict[str, int] = {}
    for name, others in near.items():
        taken = {colors[other] for other in others if other in colors}
        colors[name] = next(color for color in range(len(near) + 1) if color not in taken)
    return colors


def _kept(network: Network, shares: Mapping[str, float]) -> Kept:
    found = {name: tuple(range(size)) for name, size in network.groups.items()}
    for name, share in shares.items():
        size, step = network.groups[name], ROUND if network.groups[name] >= 2 * ROUND else 1
        number = max(round(share * size / step) * step, step, network.least[name])
        found[name] = tuple(range(min(number, size) if share < 1 else size))
    return found
