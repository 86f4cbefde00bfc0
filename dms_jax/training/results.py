"""What a finished pipeline is measured by: the rows of results.json, and the table a user sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from dms_jax.budgets.amounts import Given, words
from dms_jax.explanation import exactly, label
from dms_jax.method.correction import NEAR
from dms_jax.method.found import targets
from dms_jax.method.search import Search
from dms_jax.training import latency
from dms_jax.training.interrupt import stop_if_requested
from dms_jax.training.machine import machine
from dms_jax.training.pipeline import Finished, name_of
from dms_jax.training.plan import FOUND, FULL, LONGER, UNIFORM, Steps
from dms_jax.training.portrait import layers, portrait
from dms_jax.training.sizes import Sizes


@dataclass(frozen=True)
class Quality:
    """How well a network does.

    Attributes:
      name: "accuracy", "bits per byte".
      unit: "%" for fractions in [0, 1]; anything else is written behind the number.
      measure: `(fn, params) -> (value, standard error)`, of the inference function and its parameters; what follows
        them is not looked at, but where there are `parts`: it is name -> value, NaN where it is not defined.
      also: other names of the same quality -> from the value to theirs: {"perplexity": lambda bits: 2**bits}. Written
        into the rows under these names.
      parts: qualities of the same unit that are measured beside it, such as that of small objects alone.
    """

    name: str
    unit: str
    measure: Callable[[Any, Any], Sequence[Any]]
    also: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    parts: Sequence[str] = ()

    def show(self, value: float, stderr: float | None) -> str:
        """`98.6±0.6%` or `2.514±0.012`."""
        scale, digits = (100, 1) if self.unit == "%" else (1, 3)
        error = "" if stderr is None else f"±{scale * stderr:.{digits}f}"
        return f"{scale * value:.{digits}f}{error}" + ("%" if self.unit == "%" else "")


def measure(
    finished: Finished, search: Search, steps: Steps, quality: Quality, batches: Sequence[int] = (1, 64)
) -> dict[str, Any]:
    """Resources, quality and latency of every network: "rows", "warnings", "budget", "quality",
    "network", "verify", "machine".

    With several processes all of them call this.

    Args:
      finished: the networks.
      search: what they came from.
      steps: of the phases.
      quality: how well they do.
      batches: the batch sizes to measure latency at: on one device, or where parameters are cut over devices, on these.
    """
    space = search.space
    passes = {name: (net.fn, _on_one_device(net.params)) for name, net in finished.networks.items()}
    if not {FULL, LONGER} & set(passes):  # nobody trained it; how long it takes does not depend on that
        shapes = space.arrays(space.parameters.template)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        passes[FULL] = (lambda params, *inputs: space.fn(space.whole(params), *inputs), zeros)
    milliseconds = latency.rows(passes, space.example, batches)
    rows = []
    for name, network in finished.networks.items():
        stop_if_requested(f"{quality.name} was measured")
        value, stderr, *more = quality.measure(network.fn, network.params)
        shown = _shown(name, finished, search)
        counted = {**space.resources(network.structure), **space.measured(network.structure)}
        row = {"name": shown, **counted, "quality": value, "stderr": stderr}
        row |= {name: None if math.isnan(more[0][name]) else float(more[0][name]) for name in quality.parts}
        row |= {also: convert(value) for also, convert in quality.also.items()}
        rows.append(row | {"latency_ms": milliseconds[name], "steps": steps.after(name), "note": ""})
        if name == FOUND and finished.trial is not None:
            rows[-1]["note"] = finished.trial.words
    full, found = space.resources(), space.resources(finished.structure)
    last = finished.structure if finished.family is None else list(finished.family.structures.values())[-1]
    budget, wanted = asked(search, finished.sizes)
    measured, spreads = space.measured(finished.structure), space.spreads(finished.structure)
    promised = (full["macs"], found["macs"]) if "macs" in full else None  # where they cannot be counted
    before = milliseconds[FULL if FULL in milliseconds else LONGER]
    return {
        "machine": machine(),
        "resources": {name: cost.unit for name, cost in space.costs.items()},
        "budget": {
            n: {"asked": budget[n], "target": t, "full": full[n]}
            | ({"predicted": found[n], "measured": measured[n]} if n in measured else {})
            | ({"spread": spreads[n]} if n in spreads else {})
            | ({"layers": found_layers} if (found_layers := layers(space, n, finished.structure.kept)) else {})
            for n, t in wanted.items()
        },
        "quality": {
            "name": quality.name,
            "unit": quality.unit,
            "also": list(quality.also),
            "parts": list(quality.parts),
        },
        "network": portrait(space, finished.importance, finished.structure.kept),
        "sizes": [_shown(name_of(FOUND, i, s), finished, search) for i, s in enumerate(finished.labels)],
        "verify": {"max_abs_difference": finished.difference},
        "rows": rows,
        "warnings": [
            *projection_warnings(search, finished.reached, space.resources(last), space.measured(last)),
            *unused_warnings(search, space.resources(last), space.measured(last)),
            *([] if promised is None else latency.latency_warnings(before, milliseconds[FOUND], promised)),
        ],
    }


def asked(search: Search, sizes: Sizes | None) -> tuple[Mapping[str, Given], Mapping[str, Any]]:
    """The budget of the structure that was found, of several the largest, as it was asked for and in numbers."""
    largest = {} if sizes is None else next(iter(sizes.budgets.values()))
    return {**search.budget, **largest}, search.targets if sizes is None else targets(search, largest)


def _shown(name: str, finished: Finished, search: Search) -> str:
    """The name of a network in tables; of several sizes each has its own in it."""
    kind = next((kind for kind in (FOUND, UNIFORM) if name.startswith(kind)), name)
    shown = f"{FOUND} by {search.strategy.title}" if kind == FOUND else kind
    if finished.family is None or kind not in (FOUND, UNIFORM):
        return shown
    return f"{shown}, {finished.family.sizes[0]}" if name == kind else shown + name.removeprefix(kind)


FAR = 0.1
"""How far a projection may move resources, as a logarithm, before people are told."""


def projection_warnings(
    search: Search, reached: Mapping[str, float], found: Mapping[str, float], measured: Mapping[str, float]
) -> list[str]:
    """A line where the projection moved resources far from what the search ended at: it chose much of the structure.

    Args:
      search: with its budgets.
      reached: fractions of the full network before the projection, as `Search.reached` has them.
      found: the resources of the structure; predicted ones of what is measured, as `reached` is.
      measured: of the structure, what is measured.
    """
    full = search.space.resources()
    least = 1e-12  # a resource of one's own may be 0
    moved = {
        name: math.log(max(found[name] / full[name], least) / max(reached[name], least)) for name in search.targets
    }
    far = [name for name, by in moved.items() if abs(by) > FAR]
    if not far:
        return []
    name = max(far, key=lambda n: measured.get(n, found[n]) / search.targets[n])  # the budget that bounds the result
    title = words(name, search.space.costs[name].unit)
    ended = f"the search ended at {100 * reached[name]:.1f} % of the {title}"
    how = "gave elements back" if moved[name] > 0 else "took more elements"
    has, asked = (
        f"{100 * found[name] / full[name]:.1f} %",
        f"{100 * search.targets[name] / full[name]:.1f} % were asked",
    )
    can = search.strategy.ratios and not search.strategy.on_target  # others have nothing that a shift could hold
    advice = "search longer (more steps)" + (", or hold the search on its target (`on_target`)" if can else "")
    if name in measured:
        truth = f"{has} predicted are {100 * measured[name] / full[name]:.1f} % measured ({asked})"
        missed = abs(math.log(max(reached[name] * full[name] / search.targets[name], least))) > FAR
        why = f"; {advice}" if missed else ""  # else what was predicted was wrong, and more steps change nothing
        return [f"{ended}, as predicted, and the projection {how}, as {truth}: what it chose is not searched{why}"]
    return [
        f"{ended}, and the projection {how}; the result has {has} ({asked}): what it chose is not searched; {advice}"
    ]


def unused_warnings(search: Search, found: Mapping[str, float], measured: Mapping[str, float]) -> list[str]:
    """A line for every budget of what is measured, where the result leaves more of all budgets than it should.

    Args:
      search: with its budgets.
      found: the resources of the structure.
      measured: of the structure, what is measured.
    """
    used = {name: measured.get(name, found[name]) / most for name, most in search.targets.items()}
    if max(used.values()) >= NEAR:
        return []
    return [
        f"the result has {exactly(measured[name])} {words(name, search.space.costs[name].unit)} when measured, "
        f"{100 * share:.0f} % of the {exactly(search.targets[name])} that were asked: of the structures that were "
        "tried none lies nearer below, as what is measured jumps where sizes change a little; other amounts may be "
        "used better"
        for name, share in used.items()
        if name in measured
    ]


def _on_one_device(variables: Any) -> Any:
    """The copy that the first device of this process has; the variables as they are where some are cut over devices."""
    arrays = jax.tree.leaves(variables)
    if not all(isinstance(array, jax.Array) and array.is_fully_replicated for array in arrays):
        return variables
    return jax.tree.map(lambda array: array.addressable_data(0), variables)


def shares(search: Search, sizes: Sizes | None = None) -> str:
    """`4 % of the MACs and 10 % of the parameters`; of several sizes `50, 25, 4 % of the MACs`."""
    costs = search.space.costs
    of = {n: [t] for n, t in search.targets.items()}
    if sizes is not None:
        of |= {n: [targets(search, budget)[n] for budget in sizes.budgets.values()] for n in sizes.smallest}
    return " and ".join(
        f"{', '.join(f'{100 * t / costs[n].full:.3g}' for t in most)} % of the {words(n, costs[n].unit)}"
        for n, most in of.items()
    )


def print_table(results: Mapping[str, Any], quality: Quality) -> None:
    """Show the rows, whole, however narrow the terminal."""
    batches = list(results["rows"][0]["latency_ms"])
    table = Table(title=results["title"], box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("network", no_wrap=True)
    units = results["resources"]
    for head in (
        *(label(n, unit) for n, unit in units.items()),
        quality.name,
        *quality.parts,
        *quality.also,
        *(f"ms x{batch}" for batch in batches),
        "steps",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for row in results["rows"]:
        times = (f"{row['latency_ms'][batch]:.2f}" for batch in batches)
        reached = quality.show(row["quality"], row["stderr"])
        parts = ("-" if row[name] is None else quality.show(row[name], None) for name in quality.parts)
        also = (f"{row[name]:.3f}" for name in quality.also)
        counts = (exactly(row[name]) for name in units)
        table.add_row(row["name"], *counts, reached, *parts, *also, *times, f"{row['steps']:,}")
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console.width = max(console.width, needed)  # a number cut short is worse than a line that wraps
    console.print(table)
