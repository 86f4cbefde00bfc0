"""How near a budget of milliseconds the result lands: small networks on this machine, 70, 50, 35 and 25 %.

    python -m experiments.benchmarks.latency [--quick | --tables]

Nothing is trained. Every budget gets random pruning ratios and importances, harder than the end of a search, whose
ratios are near the budget already. What comes out is measured as the projection measures it, and then once more: all
four structures and the full network in turn, each the median of rounds, so that what another program does meanwhile
hits all alike, and of three new compilations, as whoever deploys a network compiles it anew. That second number knows
nothing of what was chosen.

What it shows: whether one gets the milliseconds one asked for, and what that takes. What it does not: whether the
network is any good. Run it with nothing else on the machine; where something else runs, the spreads say so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from dms_jax.budgets import timing
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.pieces import whole
from dms_jax.errors import Interrupted, UserError
from dms_jax.space import SearchSpace
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.landing import Landed, from_random, images
from experiments.benchmarks.store import Cell, Say, file_label
from experiments.benchmarks.tables import table
from experiments.benchmarks.timing import interleaved_seconds

BUDGETS = (0.7, 0.5, 0.35, 0.25)

ROUNDS = 16
"""Of the second measurement."""


def _measured(name: str, pixels: int, batch: int, **arguments: Any) -> Landed:
    return replace(images(name, "", pixels, **arguments), title=f"{name}, {pixels} px, batch {batch}", batch=batch)


NETWORKS = (
    _measured("resnet20", 32, 1),
    _measured("resnet20", 32, 16),
    _measured("mobilenet_v2", 64, 1),
    _measured("deit_tiny", 64, 1, patch_size=8, image_size=64),
    Landed("llama_bytes, 64 tokens, batch 4", "llama_bytes", {"layers": 2}, (64,), batch=4),
    _measured("resnet50", 64, 1),
)
QUICK_NETWORKS = (replace(images("resnet20", "", 8), title="resnet20, 8 px", seconds=2.0),)


def land(network: Landed, budgets: Sequence[float], interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """Project onto every budget: {"seconds", "full", "rows": [[asked, target, predicted, measured, spread, again]]}."""
    began = time.monotonic()
    resource = Latency(batch=network.batch, seconds=network.seconds)
    space = network.space().with_resources(resource)
    took, full, rows = time.monotonic() - began, space.resources()["latency"], []
    kepts: list[Any] = [None]
    for number, asked in enumerate(budgets):
        if interrupt.requested:
            raise Interrupted(0, "stopped")
        began = time.monotonic()
        try:
            kept = from_random(space, number, {"latency": asked * full})
        except UserError as error:
            rows.append([asked, asked * full, None, None, None, None, 0.0, str(error)])
            continue
        predicted, measured = space.resources(kept)["latency"], space.measured(kept)["latency"]
        seconds = time.monotonic() - began
        rows.append([asked, asked * full, predicted, measured, space.spreads(kept)["latency"], None, seconds, ""])
        kepts.append(kept)
        say(f"{100 * asked:g} %: {measured / (asked * full):.3f}")
    again = in_turn(space, resource, kepts, ROUNDS)
    for row, ms in zip([row for row in rows if row[3] is not None], again[1:], strict=True):
        row[5] = ms
    spread = space.spreads()["latency"]
    load = os.getloadavg()[0]
    return {"seconds": took, "full": full, "spread": spread, "full_again": again[0], "rows": rows, "load": load}


def in_turn(space: SearchSpace, resource: Latency, kepts: Sequence[Any], rounds: int) -> list[float]:
    """Milliseconds of structures, each compiled a few times, measured in turn: the medians of compilations' medians."""
    calls = []
    for kept in kepts:
        piece = whole(resource.flat(space._network.at(space.kept(kept))))
        given = [jnp.zeros(x.shape, x.dtype) for x in piece.inputs]
        calls += [partial(timing.compiled(piece, given), *given) for _ in range(timing.COMPILATIONS)]
    seconds = np.empty((rounds, len(calls)))
    for now in seconds:
        now[:] = [interleaved_seconds({"": call}, timing.CALLS)[""].min() for call in calls]
    middles = np.median(1000 * seconds, axis=0).reshape(len(kepts), timing.COMPILATIONS)
    return np.median(middles, axis=1).tolist()


def cell(network: Landed, budgets: Sequence[float]) -> Cell:
    """The cell of one network."""
    settings = {"network": network.title, "batch": network.batch, "budgets": list(budgets), "seconds": network.seconds}
    return Cell("latency", file_label(network.title), settings, settings, 0)


def lines(network: Landed, found: Mapping[str, Any]) -> list[list[str]]:
    """A row a budget."""
    rows = []
    for asked, target, predicted, measured, spread, again, seconds, why in found["rows"]:
        if measured is None:
            rows.append([network.title, f"{100 * asked:g}", f"{target:.3g}", "-", "-", "-", "-", "-", why[:60]])
            continue
        drift = found["full_again"] / found["full"]
        rows.append([network.title, f"{100 * asked:g}", f"{target:.3g}", f"{predicted / target:.3f}",
                     f"{measured / target:.3f}", f"{spread / target:.3f}", f"{again / target:.3f}",
                     f"{again / target / drift:.3f}", f"{seconds:.0f}"])  # fmt: skip
    return rows


HEADER = (
    "network | asked, % | asked, ms | predicted / asked | measured / asked | spread / asked | again / asked | "
    "again, of the full network again | seconds"
).split(" | ")


def main(options: Options) -> None:
    """Fill the cells and write the table."""
    networks, budgets = (QUICK_NETWORKS, (0.6,)) if options.quick else (NETWORKS, BUDGETS)
    asked = {network: cell(network, budgets) for network in networks}
    work = [(c, partial(land, n, budgets)) for n, c in asked.items()]
    options.cells.fill(work, "latency", "zeros, random states")
    found = options.cells.found(asked)
    pieces = "; ".join(
        f"{n.title}: {r['seconds']:.0f} s, full {r['full']:.3g} ms with a spread of {r['spread']:.2g}, load "
        f"{r['load']:.1f}"
        for n, r in found.items()
    )
    about = (
        "`python -m experiments.benchmarks.latency`: budgets of milliseconds on this machine, over "
        "what was asked for. Measured: "
        "by the projection; again: afterwards, all in turn, over what was asked for and over that share of the full "
        "network, measured again, too. Seconds: of one projection, with all it compiles and measures."
    )
    rows = table(HEADER, [line for network, result in found.items() for line in lines(network, result)])
    load = f"Measuring pieces, and the load of the machine at the end: {pieces}."
    parts = [about, rows, load, options.cells.machines(asked.values())]
    options.publish("latency", "Latency: milliseconds achieved over asked for", parts)


if __name__ == "__main__":
    start(main, __doc__)
