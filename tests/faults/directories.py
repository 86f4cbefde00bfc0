"""Damaged run directories: file x damage x moment, then the same command again."""

from __future__ import annotations

import atexit
import contextlib
import io
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dms_jax.errors import Interrupted
from dms_jax.training.checkpoints import Checkpoints
from dms_jax.training.digests import Owner
from tests.faults import job
from tests.faults.damages import DAMAGES
from tests.faults.tally import Tally, draws, pick
from tests.training import toy

MOMENTS = [("pretrain", 3), ("search", 0), ("search", 1), ("search", 5), None]
"""Where a signal stopped the job; None: it is finished."""


@cache
def templates() -> Path:
    """A directory of run directories: the job's and a stranger's at every moment."""
    root = Path(tempfile.mkdtemp(prefix="dms_jax-faults-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for seed in (0, 1):
        for number, stop in enumerate(MOMENTS):
            with contextlib.suppress(Interrupted), contextlib.redirect_stderr(io.StringIO()):
                job.go(root / f"run-{seed}-{number}", seed, stop)
    return root


@cache
def unbroken() -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """Final weights, and the records of every file, of the job that nothing happened to."""
    folder = templates() / f"run-0-{len(MOMENTS) - 1}"
    return final(folder), records(folder)


def final(directory: Path) -> dict[str, Any]:
    """The final weights, whoever looks."""
    with Checkpoints(directory / "checkpoints" / "final", owner=Owner(job.config(0), "final")) as checkpoints:
        restored = checkpoints.restore(toy.init().params)
    assert restored is not None
    return jax.tree.map(np.asarray, restored.state)


def records(directory: Path) -> dict[str, list[bytes]]:
    """The lines of metrics.jsonl and masks.jsonl, sorted: a phase done anew writes its records behind others'."""
    names = ("metrics.jsonl", "masks.jsonl")
    return {n: sorted((directory / n).read_bytes().splitlines()) if (directory / n).exists() else [] for n in names}


def damaged(seed: int, cases: int) -> Tally:
    """Draw a moment, a file and a damage; the command goes on to the very same weights and tells what is lost."""
    tally = Tally("damaged run directory")
    for what, draw in draws(tally.kind, seed, cases):
        number = int(draw.integers(len(MOMENTS)))
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(shutil.copytree(templates() / f"run-0-{number}", Path(folder) / "run"))
            every = sorted(p for p in directory.rglob("*") if p.is_file() and "tensorboard" not in p.parts)
            top = [p for p in every if p.parent == directory and p.name != "lock"]
            file: Any = pick(draw, top if draw.integers(2) else every)
            damage = str(pick(draw, list(DAMAGES)))
            relative = file.relative_to(directory)
            DAMAGES[damage](file, templates() / f"run-1-{number}" / relative, draw)
            with tally.case(f"{what} ({damage}: {relative} at {MOMENTS[number]})"):
                finish(directory)
    return tally


def finish(directory: Path) -> None:
    """Run the job to its end, and compare with one that nothing happened to."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        found = job.go(directory)
        weights = final(directory)
    expected, history = unbroken()
    for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(expected), strict=True):
        assert a.tobytes() == b.tobytes(), "the final weights are others"
    told = said.getvalue()
    if found["params"] is not None:
        assert found["results"] == {"seed": 0, "steps": sum(job.PHASES.values())}, found["results"]
        # How many records there are is saved with each checkpoint, what they say is not: a line that is a stranger's,
        # or one number of it changed, is not noticed (docs/reliability.md).
        lost = [name for name, lines in records(directory).items() if len(lines) < len(history[name])]
        assert not lost or "lacks" in told or "cannot be read" in told, f"{lost} lost records without a word: {told}"
    assert "Traceback" not in told, told
