"""What `fit` gives: the small network of a finished run directory, whose programs are written beside it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dms_jax import nested, saved_sizes
from dms_jax.conduct import say
from dms_jax.errors import one_line
from dms_jax.family import Family
from dms_jax.method.loss import Loss
from dms_jax.partition import numbers
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training.evaluation import runnable
from dms_jax.training.finished import load_params


@dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """What `fit` found.

    Attributes:
      fn: `(params, *inputs) -> outputs` of the small network, jitted; any batch size. Of several sizes the largest,
        here and below; `dms_jax.load(directory, size=0.25)` gives the others.
      params: its parameters, a tree like the full network's.
      structure: what was kept of which group.
      results: the content of results.json: "rows" has one entry a network, with its MACs, parameters and quality.
      report: the page to look at; None where matplotlib is missing.
      directory: of the run; `dms_jax.load(directory)` gives the network back anywhere.
      space: of the full network; `space.shrunk(any_function, structure)` runs others small.
    """

    fn: Callable[..., Any]
    params: Any
    structure: Structure
    results: Mapping[str, Any]
    report: Path | None
    directory: Path
    space: SearchSpace

    def __repr__(self) -> str:
        return f"Fitted({self.directory}: {numbers(self.params)} in params, {self.structure})"


def fitted(directory: Path, space: SearchSpace, loss: Loss, draw: Callable[[int], Any]) -> Fitted:
    """What a finished run directory holds; its programs are written where they are not."""
    structure = Structure.load(directory / "structure.json")
    params = load_params(directory, space, structure)
    if not (directory / "program" / "program.json").exists():
        _save(directory, space, params, structure, loss, draw)
    report = directory / "report.html"
    return Fitted(
        fn=runnable(space, space.shrunk(space.fn, structure)),
        params=space.whole(params),
        structure=structure,
        results=json.loads((directory / "results.json").read_text()),
        report=report if report.exists() else None,
        directory=directory,
        space=space,
    )


def _save(
    directory: Path, space: SearchSpace, params: Any, structure: Structure, loss: Loss, draw: Callable[[int], Any]
) -> None:
    """The programs, so that anybody loads them; with the loss if that can be written. What they lack is said."""
    failed, sizes = "", nested.read(directory)
    for how in ({"loss": loss, "batch": draw(0)}, {}):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if sizes is None:
                    space.save(directory, space.fn, params, structure, **how)
                else:
                    trees = [load_params(directory, space, structure, size=size) for size in sizes.structures]
                    family, shared = Family(space, sizes.structures), sizes.shared
                    saved_sizes.save(family, directory, space.fn, trees, shared=shared, **how)
        except Exception as error:  # an export fails in many ways, and the job is done without it
            failed = one_line(error)[:200]
            continue
        for warning in caught:
            say(str(warning.message))
        if not how:
            say(f"the program is written without the loss ({failed}); dms_jax.load(directory, fn=space) runs any")
        return
    say(f"no program written ({failed}); dms_jax.load(directory, fn=space) runs the network")
