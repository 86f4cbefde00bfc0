"""A small job with everything a run directory holds: two phases, records, masks, a structure, final weights.

As a program it is one attempt that kills itself at a drawn file operation:
`python -m tests.faults.job DIRECTORY OPERATION`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dms_jax.structure import Structure
from dms_jax.training.runs import Run
from tests.training import toy

PHASES = {"pretrain": 6, "search": 8}
STRUCTURE = Structure({"g": (0, 2)}, sizes={"g": 3}, kinds={"g": "width"})


def config(seed: int) -> dict[str, Any]:
    """What the job is."""
    return {"experiment": "toy", "seed": seed, "phases": dict(PHASES)}


def go(directory: Path, seed: int = 0, stop: tuple[str, int] | None = None, save: float = 1e9) -> dict[str, Any]:
    """Run the job, or what is left of it: its results and final weights.

    Args:
      directory: of the run.
      seed: of the job.
      stop: phase and step in which a signal arrives.
      save: seconds between checkpoints.
    """
    state = toy.init()
    with Run(directory, config(seed)) as run:
        if (there := run.results) is not None:
            return {"results": there, "params": None}
        for name, steps in PHASES.items():

            def batches(i: int, name: str = name) -> Any:
                run.interrupt.requested |= stop == (name, i)
                return toy.batch_of(i)

            def masks(step: int, values: Any, observed: Any, name: str = name) -> None:
                if name == "search":
                    run.record_masks(name, step, {"g": observed})

            state = run.phase(
                name, toy.step, toy.init()._replace(params=jax.tree.map(jax.numpy.copy, state.params)), batches,
                jax.random.key(seed), steps=steps, log_every=2, checkpoint_seconds=save,
                observe=lambda s: jax.nn.sigmoid(s.params["b.1"]), on_log=masks,
            )  # fmt: skip
        params = jax.tree.map(np.asarray, state.params)
        run.finish(STRUCTURE, state.params, {"seed": seed, "steps": sum(PHASES.values())})
        return {"results": run.results, "params": params}


def die_at(directory: Path, operation: int) -> None:
    """Kill this process at its n-th file operation below a directory."""
    left, below = operation, os.fspath(directory)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.listdir"):
            if any(isinstance(a, str | os.PathLike) and os.fspath(a).startswith(below) for a in arguments):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    die_at(Path(sys.argv[1]), int(sys.argv[2]))
    go(Path(sys.argv[1]), save=0.0)
