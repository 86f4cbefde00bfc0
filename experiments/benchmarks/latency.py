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
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from dms_jax.budgets import timing
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.pieces import whole
from dms_jax.errors import Interrupted, UserError
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.landing import Network, from_random, images, tokens
from experiments.benchmarks.store import Cell, Say, file_label
from experiments.benchmarks.tables import table, write_section

BUDGETS = (0.7, 0.5, 0.35, 0.25)

ROUNDS = 16
"""Of the second measurement."""


def _measured(name: str, pixels: int, batch: int, **arguments: Any) -> Network:
    return replace(images(name, "", pixels, **arguments), title=f"{name}, {pixels} px, batch {batch}", batch=batch)


NETWORKS = (
    _measured("resnet20", 32, 1),
    _measured("resnet20", 32, 16),
    _measured("mobilenet_v2", 64, 1),
    _measured("deit_tiny", 64, 1, patch_size=8, image_size=64),
    tokens("llama_bytes, 64 tokens, batch 4", "llama_bytes", {"layers": 2}, 64, batch=4),
    _measured("resnet50", 64, 1),
)
QUICK_NETWORKS = (replace(images("resnet20", "", 8), title="resnet20, 8 px", seconds=2.0),)


def land(network: Network, budgets: Sequence[float], interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
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
    flats = [resource.flat(space._network.at(space.kept(kept))) for kept in kepts]
    again = in_turn([whole(flat) for flat in flats], ROUNDS)
    for row, (ms, _) in zip([row for row in rows if row[3] is not None], again[1:], strict=True):
        row[5] = ms
    spread = space.spreads()["latency"]
    load = os.getloadavg()[0]
    return {"seconds": took, "full": full, "spread": spread, "full_again": again[0][0], "rows": rows, "load": load}


def in_turn(pieces: Sequence[Any], rounds: int) -> list[tuple[float, float]]:
    """Milliseconds and their spread of programs compiled a few times and measured in turn.

    Returns:
      Of every program the median of its compilations, and half of their range.
    """
    arrays = [[jnp.zeros(x.shape, x.dtype) for x in piece.inputs] for piece in pieces]
    programs = [
        [timing.compiled(piece, given) for _ in range(timing.COMPILATIONS)]
        for piece, given in zip(pieces, arrays, strict=True)
    ]
    times: list[list[list[float]]] = [[[] for _ in compilations] for compilations in programs]
    for _ in range(rounds):
        for compilations, given, own in zip(programs, arrays, times, strict=True):
            for program, rows in zip(compilations, own, strict=True):
                calls = []
                for _ in range(timing.CALLS):
                    start = time.perf_counter()
                    jax.block_until_ready(program(*given))
                    calls.append(1000 * (time.perf_counter() - start))
                rows.append(min(calls))
    middles = [[median(rows) for rows in own] for own in times]
    return [(median(found), timing.spread(found)) for found in middles]


def cell(network: Network, budgets: Sequence[float]) -> Cell:
    """The cell of one network."""
    settings = {"network": network.title, "batch": network.batch, "budgets": list(budgets), "seconds": network.seconds}
    return Cell("latency", file_label(network.title), settings, settings, 0)


def lines(network: Network, found: Mapping[str, Any]) -> list[list[str]]:
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


HEADER = [
    "network",
    "asked, %",
    "asked, ms",
    "predicted / asked",
    "measured / asked",
    "spread / asked",
    "again / asked",
    "again, of the full network again",
    "seconds",
]


def main(options: Options) -> None:
    """Fill the cells and write the table."""
    networks, budgets = (QUICK_NETWORKS, (0.6,)) if options.quick else (NETWORKS, BUDGETS)
    asked = [(network, cell(network, budgets)) for network in networks]
    if not options.tables:
        options.cells.fill([(c, partial(land, n, budgets)) for n, c in asked], "latency", "zeros, random states")
    found = [(network, result) for network, c in asked if (result := options.cells.get(c))]
    rows = [line for network, result in found for line in lines(network, result)]
    pieces = "; ".join(
        f"{n.title}: {r['seconds']:.0f} s, full {r['full']:.3g} ms with a spread of {r['spread']:.2g}, load "
        f"{r['load']:.1f}"
        for n, r in found
    )
    text = (
        "`python -m experiments.benchmarks.latency`: budgets of milliseconds on this machine, over "
        "what was asked for. Measured: "
        "by the projection; again: afterwards, all in turn, over what was asked for and over that share of the full "
        "network, measured again, too. Seconds: of one projection, with all it compiles and measures.\n\n"
        f"{table(HEADER, rows)}\n\nMeasuring pieces, and the load of the machine at the end: {pieces}.\n\n"
        f"{options.cells.machines(c for _, c in asked)}"
    )
    write_section("latency", "Latency: milliseconds achieved over asked for", text, folder=options.pages)


if __name__ == "__main__":
    start(main, __doc__)
