"""How near a search stays to its target: r over target in every step, over a grid of searches drawn by chance.

    python -m experiments.benchmarks.tracking [--quick | --tables]

About an hour of one core. The grid: a small network of every family of the zoo, from new weights (np,
half of the search is warm-up) or shortly pretrained ones (p), 40, 150, 500 or 4,000 steps (the last on two networks
alone), batches of 8, 64 or 1,024 (as many examples in all as 40 of the largest), budgets of 5, 10, 25, 50 or 90 % on
MACs, parameters or both. Of it so many settings a network are drawn, with one seed for all; each is searched three
times: with a weight that follows the miss alone; with that and a slack, as usual; and on the target, half of these with
blocks judged by finite effects. A budget below the smallest reachable network is refused, and counted as such.

- miss: the largest |log(r / target)| after the first tenth of the steps that follow the warm-up, r of the network that
  would be exported in that step; of two budgets, the one that is missed most above, or least below.
- moved by the projection: log of the result's resource over that of the network at the end, of the same budget.

What it shows: whether a search follows its schedule. What it does not: whether what it finds is any good.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from dms_jax.errors import Interrupted, UserError
from dms_jax.method.dms import DMS
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.training.interrupt import InterruptFlag
from experiments.benchmarks import pictures
from experiments.benchmarks.command import Options, start
from experiments.benchmarks.small_networks import NETWORKS, TINY, SmallNetwork, weights
from experiments.benchmarks.store import Cell, Say, file_label
from experiments.benchmarks.tables import table

SEED = 22
"""Of the draw."""
EACH = 4
"""Settings a network."""
LENGTHS, LONG = (40, 150, 500), 4000
BATCHES = (8, 64, 1024)
EXAMPLES = 40 * 1024
"""At most so many in a search."""
BUDGETS = (0.05, 0.1, 0.25, 0.5, 0.9)
RESOURCES = (("macs",), ("params",), ("macs", "params"))
PIPELINES = ("np", "p")
PROMISED = 0.1
FREE, USUAL, HELD = "usual", "slack", "on the target"
"""As cells say it; the first was usual when they were made."""
MOVEMENTS = {FREE: "a weight alone", USUAL: "and a slack: as usual", HELD: "on the target"}
POINTS = 50
"""Of a line of the picture: in each of as many parts of the way the largest miss."""


@dataclass(frozen=True)
class Setting:
    """One search of the grid.

    Attributes:
      network: its title.
      number: of its draw; the seed of weights and batches.
      budget: {resource: share of the full network}.
      effects: of the search on its target.
    """

    network: str
    number: int
    pipeline: str
    steps: int
    batch: int
    budget: tuple[tuple[str, float], ...]
    effects: bool

    @property
    def warmup(self) -> int:
        return self.steps // 2 if self.pipeline == "np" else 0

    @property
    def settled(self) -> int:
        """The first step after the first tenth of those that follow the warm-up."""
        return self.warmup + -(-(self.steps - self.warmup) // 10)

    def cell(self, movement: str) -> Cell:
        """Of one movement."""
        named = {**dataclasses.asdict(self), "budget": dict(self.budget), "movement": movement}
        return Cell("tracking", file_label(f"{self.network}-{movement}"), named, named, self.number)


def drawn(networks: Sequence[SmallNetwork], each: int, lengths: Sequence[int] = LENGTHS) -> list[Setting]:
    """Settings a network, drawn independently of each other."""
    draw, settings = np.random.default_rng(SEED), []
    for network in networks:
        possible = [*lengths, *([LONG] if network.quick and lengths == LENGTHS else [])]
        for number in range(each):
            steps = int(draw.choice(possible))
            batch = int(draw.choice([b for b in BATCHES if b == BATCHES[0] or b * steps <= EXAMPLES]))
            names = RESOURCES[draw.integers(len(RESOURCES))]
            budget = tuple((name, float(draw.choice(BUDGETS))) for name in names)
            pipeline, effects = str(draw.choice(PIPELINES)), bool(draw.integers(2))
            settings.append(Setting(network.title, number, pipeline, steps, batch, budget, effects))
    return settings


# --- one search ---

_space, _pretrained = cache(SmallNetwork.space), cache(SmallNetwork.pretrained)


def track(network: SmallNetwork, setting: Setting, movement: str, interrupt: InterruptFlag, say: Say) -> dict[str, Any]:
    """Search, and measure.

    Returns:
      "line", log(r / target) in parts of the way after the warm-up, the largest of each part; "miss"; "end", of the
      network after the last step; "moved"; or "refused", why there is no search.
    """
    try:
        search = searched(network, setting, movement)
    except UserError as error:
        return {"refused": str(error)}
    state = search.init(_pretrained(network) if setting.pipeline == "p" else network.new(setting.number))
    step, draw = jax.jit(search.step, donate_argnums=0), network.draw(setting.batch, setting.number)
    key, metrics = jax.random.key(setting.number), []
    for i in range(setting.steps):
        if interrupt.requested:
            raise Interrupted(i, "stopped")
        state, found = step(state, draw(i), key)
        metrics.append({name: found[name] for one in search.targets for name in (one, f"{one}_target")})
        if i % 50 == 0:
            say(f"{i}/{setting.steps}")
    misses = missed(jax.device_get(metrics), list(search.targets))
    reached, full = search.reached(state), search.space.resources()
    asked = {name: most / full[name] for name, most in search.targets.items()}
    name = max(asked, key=lambda n: reached[n] / asked[n])
    after = search.space.resources(search.structure(state))[name] / full[name]
    return {
        "line": [round(float(x), 4) for x in largest(misses[setting.warmup :], POINTS)],
        "miss": round(float(largest(misses[setting.settled :], 1)[0]), 4),
        "end": round(float(np.log(reached[name] / asked[name])), 4),
        "moved": round(float(np.log(after / reached[name])), 4),
    }


def searched(network: SmallNetwork, setting: Setting, movement: str) -> Search:
    """The search of a setting."""
    held, slack = movement == HELD, math.inf if movement == FREE else DMS.slack
    return Search(
        _space(network),
        network.loss(network.made()),
        weights(),
        dict(setting.budget),
        Schedule(setting.steps, setting.warmup),
        strategy=DMS(slack=slack, on_target=held, effects=held and setting.effects),
    )


def missed(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """log(r / target) of every step, `[steps]`: of the budget where it is largest."""
    logs = [[np.log(m[name] / m[f"{name}_target"]) for m in metrics] for name in names]
    return np.max(np.asarray(logs, np.float64), axis=0)


def largest(values: np.ndarray, parts: int) -> np.ndarray:
    """The value that is farthest from 0 in each of so many parts, or all values where there are no more."""
    pieces = np.array_split(values, min(parts, len(values)))
    return np.array([piece[np.argmax(np.abs(piece))] for piece in pieces])


# --- the page ---

Found = Mapping[Setting, Mapping[str, Any]]
"""Setting -> its result, of those that were not refused."""


def row(title: str, movement: str, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """A row of searches."""
    every = list(found)
    if not every:
        return [title, MOVEMENTS[movement], "0", "-", "-", "-", "-", "-"]
    misses = np.array([result["miss"] for result in every])
    within = int(np.sum(np.abs(misses) < PROMISED))
    ends, moved = (np.abs([result[name] for result in every]).max() for name in ("end", "moved"))
    ratios = [f"{np.exp(x):.3f}" for x in (max(misses.max(), 0.0), min(misses.min(), 0.0))]
    median = f"{np.median(np.abs(misses)):.3f}"
    return [title, MOVEMENTS[movement], f"{within} of {len(every)}", median, *ratios, f"{ends:.3f}", f"{moved:.3f}"]


HEADER = (
    f"searches | movement | miss below {PROMISED:g} | median miss | r / target, most | least | end, largest miss | "
    "moved by the projection, most"
).split(" | ")
TITLE = "Tracking: r over target in every step"


def parts(setting: Setting) -> list[tuple[str, str]]:
    """The table and the row in which a setting counts, one a table."""
    names = " and ".join({"macs": "MACs", "params": "parameters"}[name] for name, _ in setting.budget)
    least = min(share for _, share in setting.budget)
    return [
        ("network", setting.network),
        ("pipeline", setting.pipeline),
        ("steps", f"{setting.steps:,} steps"),
        ("batch", f"batches of {setting.batch:,}"),
        ("budget on", names),
        ("smallest budget", f"{100 * least:g} %"),
        ("effects", f"block effects {'on' if setting.effects else 'off'} on the target"),
    ]


def tables(found: Mapping[str, Found]) -> list[str]:
    """All searches, then those of every network, pipeline, length and so on."""
    together = [row("all", movement, found[movement].values()) for movement in MOVEMENTS]
    made = [table(HEADER, together)]
    settings = list(dict.fromkeys(s for one in found.values() for s in one))
    for i, (kind, _) in enumerate(parts(settings[0]) if settings else ()):
        rows = list(dict.fromkeys(parts(s)[i][1] for s in sorted(settings, key=lambda s: (s.steps, s.batch, s.budget))))
        lines = [
            row(name, movement, [r for s, r in found[movement].items() if parts(s)[i][1] == name])
            for name in rows
            for movement in MOVEMENTS
        ]
        made.append(table([kind, *HEADER[1:]], lines))
    return made


def main(options: Options) -> None:
    """Fill the cells and write the tables."""
    networks = {network.title: network for network in (TINY if options.quick else NETWORKS)}
    each, lengths = (2, (10,)) if options.quick else (EACH, LENGTHS)
    settings = drawn(list(networks.values()), each, lengths)
    asked = [(setting, movement) for setting in settings for movement in MOVEMENTS]
    cells = options.cells
    try:
        # those of fewest examples first: stopped at any time, most are there
        turns = sorted(asked, key=lambda one: one[0].steps * one[0].batch)
        work = [(s.cell(m), partial(track, networks[s.network], s, m)) for s, m in turns]
        cells.fill(work, "tracking", "digits, source code and composites that come with the packages")
    finally:
        whole = [s for s in settings if all(cells.get(s.cell(m)) for m in MOVEMENTS)]  # of the same searches
        found = {m: cells.found({s: s.cell(m) for s in whole}, without="refused") for m in MOVEMENTS}
        refused = len(whole) - len(found[FREE])
        lines = {MOVEMENTS[m]: [(s.pipeline, r["line"]) for s, r in one.items()] for m, one in found.items()}
        made = tables(found)
        parts = [
            f"`python -m experiments.benchmarks.tracking`: {len(whole)} of {len(settings)} settings are computed, "
            f"those of fewest examples first, each with every movement; {refused} ask for less than the smallest "
            "network and are refused. The miss is the largest |log(r / target)| after the first tenth of the steps "
            "that follow the warm-up.",
            options.drawn("tracking", "r over target in every search", pictures.tracks(lines, PROMISED)),
            *made,
            cells.machines(s.cell(m) for s, m in asked),
        ]
        options.publish("tracking", TITLE, parts, headline="" if options.quick else made[0])


if __name__ == "__main__":
    start(main, __doc__)
