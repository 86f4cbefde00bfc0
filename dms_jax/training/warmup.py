"""Whether a network had learned anything when its structure began to move: what a search from random weights needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dms_jax.training.histories import history
from dms_jax.training.metrics import FILE

LEFT = 0.2
"""By how much of its start the loss has to have fallen in the warm-up."""
GROWN = 1 / 3
"""By how much of its start the loss of a search may fall where nothing was trained before and nothing warmed up."""
_FEWEST = 6  # records that say anything of noisy losses


def warmup_warnings(run: Path, steps: int) -> list[str]:
    """A line where the loss of the search was still at its start when its warm-up ended.

    Args:
      run: the run directory, whose records are read.
      steps: of the warm-up; 0: there was none, and nothing is said.
    """
    if not steps:
        return []
    fallen = way(_losses(run, steps))
    if fallen is None or fallen[0] - fallen[1] >= LEFT * abs(fallen[0]):
        return []
    return [
        f"the structure began to move in a network that had learned next to nothing: the loss was {fallen[0]:.3g} at "
        f"first and {fallen[1]:.3g} after a warm-up of {steps} steps; what the search chose is mostly chance; search "
        "longer, with a longer warm-up, or train the network before (pipeline p)"
    ]


def growth_warnings(run: Path) -> list[str]:
    """A line where a network that was handed in as trained learned most of what it knows while it was searched.

    Args:
      run: the run directory of a search without pretraining and without warm-up.
    """
    fallen = way(_losses(run))
    if fallen is None or fallen[0] - fallen[1] < GROWN * abs(fallen[0]):
        return []
    return [
        f"the network was not trained when its structure began to move: the loss fell from {fallen[0]:.3g} to "
        f"{fallen[1]:.3g} during the search, although the network shrank; what it judged at first is mostly chance; "
        "pretrain, or begin with a warm-up"
    ]


def _losses(run: Path, most: int = sys.maxsize) -> list[float]:
    records = [json.loads(line) for _, line in history(run / FILE).of("search", most)]
    return [r["loss"] for r in records if isinstance(r.get("loss"), int | float)]


def way(losses: Sequence[float]) -> tuple[float, float] | None:
    """Where losses began and where they ended: means over the first and the last third; None of too few."""
    if len(losses) < _FEWEST:
        return None
    third = len(losses) // 3
    return float(np.mean(losses[:third])), float(np.mean(losses[-third:]))
