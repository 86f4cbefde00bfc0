"""Damaged run directories: file x damage x moment, then the same command again."""

from __future__ import annotations

import atexit
import contextlib
import io
import re
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


def roles(directory: Path) -> dict[str, list[Path]]:
    """The files of a run by what they are.

    TensorStore's data files have random names, and how many arrays it puts into one depends on its threads: all of a
    checkpoint are one role, in the order of their sizes.
    """
    files = [p for p in directory.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    found: dict[str, list[Path]] = {}
    for path in sorted(files, key=lambda p: (p.stat().st_size, p.read_bytes())):
        found.setdefault(re.sub(r"[0-9a-f]{32}", "*", str(path.relative_to(directory))), []).append(path)
    return dict(sorted(found.items()))


def damaged(seed: int, cases: int) -> Tally:
    """Draw a moment, a file and a damage; the command goes on to the very same weights and tells what is lost."""
    tally = Tally("damaged run directory")
    for what, draw in draws(tally.kind, seed, cases):
        number = int(draw.integers(len(MOMENTS)))
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(shutil.copytree(templates() / f"run-0-{number}", Path(folder) / "run"))
            every = roles(directory)
            top = [role for role in every if "/" not in role and role != "lock"]
            role, place = str(pick(draw, top if draw.integers(2) else list(every))), draw.random()
            damage = str(pick(draw, list(DAMAGES)))
            template = templates() / f"run-1-{number}"
            strangers = roles(template).get(role, [template / role])
            DAMAGES[damage](_at(every[role], place), _at(strangers, place), draw)
            with tally.case(f"{what} ({damage}: {role} at {MOMENTS[number]})"):
                finish(directory)
    return tally


def _at(files: list[Path], place: float) -> Path:
    """The file at a place in [0, 1) of a list."""
    return files[int(place * len(files))]


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
    assert found["results"] == {"seed": 0, "steps": sum(job.PHASES.values())}, found["results"]
    others = [name for name, lines in records(directory).items() if lines != history[name]]
    assert all(name in told for name in others), f"{others} are others without a word: {told}"
    assert "Traceback" not in told, told
