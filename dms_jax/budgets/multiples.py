"""Numbers of elements that take no longer than fewer: what the times of pieces say of a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

CANDIDATES = (4, 8, 16, 32, 64, 128)

LIKELY, UNLIKELY = 0.7, 0.5
"""Of the growth over a multiple that has to be at its first element: all of it on a step, one part in m without. In the
median piece, and in three of four."""

TELLING = 0.02
"""Growth over a multiple, as a share of the time, below which nothing can be told."""


def offsets(most: int) -> list[int]:
    """How many elements more than a multiple are to be timed, up to the largest multiple that a group has room for."""
    return [0, 1, *(m for m in CANDIDATES if m <= most)]


def multiple(times: Sequence[Callable[[int], float | None]], rooms: Sequence[int]) -> int:
    """The largest of `CANDIDATES` whose steps are seen: numbers up to the next multiple of it take equally long; or 1.

        (t(n + 1) - t(n)) / (t(n + m) - t(n)),    n a multiple of m

    is 1 on steps of m, 1/2 on steps of m / 2, and 1 / m without steps. More than half of the pieces have to tell.

    Args:
      times: for some pieces, from offsets beyond a number of elements to milliseconds; None: there was no time.
      rooms: of each, the largest offset that it has.
    """
    seen: dict[int, list[float]] = {m: [] for m in CANDIDATES}
    asked = 0
    for time, room in zip(times, rooms, strict=True):
        found = {offset: time(offset) for offset in offsets(room)}
        first, second = found[0], found[1]
        if not first or second is None:
            continue
        asked += 1
        for m in CANDIDATES:
            last = found.get(m)
            if last is not None and last - first > TELLING * first:
                seen[m].append((second - first) / (last - first))
    told = {m: sorted(ratios) for m, ratios in seen.items() if 2 * len(ratios) > asked}
    sure = (m for m, ratios in told.items() if median(ratios) >= LIKELY and ratios[len(ratios) // 4] >= UNLIKELY)
    return max(sure, default=1)
