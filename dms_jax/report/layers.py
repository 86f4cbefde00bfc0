"""What was predicted of every layer beside what was measured of it, as a table with bars."""

from __future__ import annotations

from dms_jax.report.document import scrolling, text
from dms_jax.report.network import bar
from dms_jax.report.quantities import milliseconds, share
from dms_jax.report.run_files import Record, Run

MOST_ROWS = 200


def layer_tables(run: Run) -> list[tuple[str, str]]:
    """(heading, table as HTML) of every budget whose prediction is a sum over layers."""
    found, units = [], run.results.get("resources") or {}
    for name, budget in run.results["budget"].items():
        if budget.get("layers"):
            heading = f"{name[:1].upper()}{name[1:]} of every layer"
            found.append((heading, _table(budget, units.get(name, name), heading)))
    return found


def _table(budget: Record, unit: str, heading: str) -> str:
    layers = budget["layers"]
    largest = max(max(layer["predicted"], layer.get("measured") or 0) for layer in layers) or 1.0
    # where there are too many rows, those that take longest
    shown = sorted(sorted(range(len(layers)), key=lambda i: -layers[i]["predicted"])[:MOST_ROWS])
    rows = "\n".join(_row(layers[i], largest) for i in shown)
    left = len(layers) - len(shown)
    said = _said(layers, unit) + (f" {left:,} layers that take less are left out." if left else "")
    table = (
        '<table class="layers">\n<thead><tr><th scope="col">layer</th>'
        f'<th scope="col" class="number">predicted, {text(unit)}</th><th scope="col" class="number">measured</th>'
        '<th scope="col">predicted above, measured below</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )
    return f'{scrolling(table, heading)}\n<p class="muted">{text(said)}</p>'


def _row(layer: Record, largest: float) -> str:
    predicted, measured = layer["predicted"], layer.get("measured")
    bars = bar(100, predicted / largest) + ("" if measured is None else bar(100, measured / largest))
    return (
        f'<tr><th scope="row">{text(layer["name"])}</th><td class="number">{milliseconds(predicted)}</td>'
        f'<td class="number">{milliseconds(measured)}</td><td class="bars">{bars}</td></tr>'
    )


def _said(layers: list[Record], unit: str) -> str:
    """What both sum to, over the layers that were measured."""
    pairs = [(layer["predicted"], layer["measured"]) for layer in layers if layer.get("measured") is not None]
    what = "Each layer of the network that was found, alone, with the operations that follow it."
    if not pairs:
        return f"{what} There was no time to measure them."
    predicted, measured = (sum(side) for side in zip(*pairs, strict=True))
    some = "all layers" if len(pairs) == len(layers) else f"{len(pairs):,} of {len(layers):,} layers"
    beside = f", {share(predicted / measured)} of it" if measured else ""
    return (
        f"{what} Over {some} {milliseconds(measured)} {unit} were measured and {milliseconds(predicted)} predicted"
        f"{beside}. "
        "The whole network is one program and takes another time, which its prediction is scaled to."
    )
