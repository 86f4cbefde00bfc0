"""What a finished job left in its run directory, and whether it is whole."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dms_jax import nested, reading
from dms_jax.errors import UserError, shortened
from dms_jax.structure import Structure
from dms_jax.training.checkpoints import warn
from dms_jax.training.claims import ELSEWHERE
from dms_jax.training.digests import Owner, find_fault, identity_of, read_meta
from dms_jax.training.histories import history, tell_differences, tell_unknown
from dms_jax.training.metrics import FILE as METRICS

MASKS, FINAL = "masks.jsonl", "final"

_RESULTS = reading.mapping(reading.anything)


def results(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished job measured; None while it is not done.

    It is done when results.json, structure.json and the final weights are there, whole, and of this job. Where one is
    not, a line on stderr says so, and the job's command makes it again.

    Args:
      directory: of the run.
      config: what the job is.
    """
    path = directory / "results.json"
    if not path.exists():
        return None
    try:
        found = reading.read_json(path, _RESULTS, hint=f"{ELSEWHERE}, or remove it")
        structure = Structure.load(directory / "structure.json")
        final = directory / "checkpoints" / FINAL / "0"
        fault = find_fault(final, Owner(config, FINAL))
        meta = {} if fault is not None else read_meta(final)
        if fault is None and meta.get("structure") != identity_of(structure.to_json()):
            fault = "they were saved with another structure.json"
        if fault is None and meta.get("results") != identity_of(found):
            fault = f"they were saved with another {path.name}"
        sizes = nested.read(directory)
        if fault is None and meta.get("sizes") != (None if sizes is None else sizes.identity):
            fault = f"they were saved with another {nested.FILE}"
        if fault is not None:
            raise UserError(f"the final weights in {final} cannot be used ({fault})")
    except UserError as error:
        warn(f"{shortened(str(error), 300)}: this job is not finished, and what is missing is made again")
        return None
    _tell_records(directory, meta.get("histories", {}))
    return found


def _tell_records(directory: Path, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Say what records of a finished job are lost or others."""
    for file in (METRICS, MASKS):
        path, of_phase = directory / file, {p: found[file] for p, found in saved.items() if file in found}
        try:
            past = history(path)
        except UserError as error:
            warn(shortened(str(error), 300))
            continue
        tell_unknown(path, past, of_phase)
        for phase, one in of_phase.items():
            last = one["marks"][-1][1] if one["marks"] else 0
            tell_differences(path, past, phase, last, one, sys.maxsize)
