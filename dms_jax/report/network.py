"""The network as a list: its blocks as they lie, the widths of their groups as bars, what was removed faint.

Every number stands there as text, so that it can be read without a picture and without a script. Where the run kept its
masks, rows carry what a script (`dms_jax.report.script`) shows at each step of the search.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dms_jax.report.cut_picture import ranked_groups
from dms_jax.report.drawing import even_choice
from dms_jax.report.quantities import count, share, without_controls
from dms_jax.report.run_files import Record, Run

Gate: TypeAlias = tuple[str, int]

MOST_FRAMES, MOST_NUMBERS = 41, 60_000
"""Steps that the slider has; numbers that all rows carry together."""

MANY = 24
"""Rows from which on they stand in columns."""


@dataclass(frozen=True)
class Block:
    """A residual branch that can go, with the groups that lie in it."""

    name: str
    gates: Sequence[Gate]
    groups: list[str] = field(default_factory=list)


def blocks_and_groups(run: Run) -> list[Block | str]:
    """What the list shows, in the order of the network: names of groups, and blocks with theirs.

    Blocks are where their first group is; those without any follow the block before them. Runs of earlier versions do
    not say which blocks there are: their depth groups are rows like others.
    """
    groups, network = run.structure["groups"], run.results.get("network") or {}
    blocks = {_gate(b["gates"][0]): Block(b["name"], [_gate(g) for g in b["gates"]]) for b in network.get("blocks", ())}
    of_depth = {name for name, _ in blocks}
    items: list[Block | str] = []
    placed: set[Gate] = set()

    def place(gates: Iterable[Gate]) -> None:
        for gate in gates:
            if gate not in placed:
                placed.add(gate)
                items.append(blocks[gate])

    for name in groups:
        block = network.get("groups", {}).get(name, {}).get("block")
        if block is not None:
            gate = _gate(block)
            blocks[gate].groups.append(name)
            place(other for other in blocks if other[0] == gate[0] and other[1] <= gate[1])
        elif name not in of_depth:
            items.append(name)
    place(blocks)
    return items


def network_list(run: Run) -> str:
    """The list as HTML, with the slider where there are masks of several steps."""
    items = blocks_and_groups(run)
    frames = _frames(run)
    bars = _Bars(run.structure["groups"], frames)
    rows = "\n".join(bars.row(item) if isinstance(item, str) else bars.block(item) for item in items)
    shown = sum(1 if isinstance(item, str) else 1 + len(item.groups) for item in items)
    many = " many" if shown > MANY else ""
    scale = "; bars on a square-root scale" if bars.square_root else ""
    return (
        f"{_player(run, frames)}"
        f'<ol class="network{many}">\n{rows}\n</ol>\n'
        f'<p class="muted">From the input to the output. Outline: full network. Filled: kept{scale}. '
        "A block that was removed is dashed, and its layers are gone with it.</p>"
    )


def _gate(pair: Sequence[Any]) -> Gate:
    return pair[0], pair[1]


def _frames(run: Run) -> list[Record]:
    """Records of masks that the slider shows, evenly spread."""
    last = run.masks[-1]["masks"] if run.masks else {}
    whole = [record for record in run.masks if record["masks"].keys() == last.keys()]
    numbers = sum(group["size"] if group["kind"] == "depth" else 1 for group in run.structure["groups"].values())
    most = min(MOST_FRAMES, MOST_NUMBERS // numbers)
    if not last or min(len(whole), most) < 2:
        return []
    return [whole[i] for i in even_choice(len(whole), most)]


def _player(run: Run, frames: Sequence[Record]) -> str:
    """The slider, hidden until the script shows it; what it says at each step."""
    if not frames:
        return ""
    searched = {line["step"]: line for line in run.metrics if line["phase"] == "search"}
    said = [f"Step {frame['step']:,}{_shares(run, searched.get(frame['step'], {}))}" for frame in frames]
    said.append("The network that was found")
    steps = html.escape("|".join(text.replace("|", "/") for text in said))
    return (
        f'<div class="player" data-said="{steps}" hidden>\n'
        '<label>Step of the search <input type="range" min="0" step="1" '
        f'max="{len(frames)}" value="{len(frames)}"></label>\n'
        f"<output>{html.escape(said[-1])}</output>\n</div>\n"
    )


def _shares(run: Run, line: Record) -> str:
    """`: 45.2 % of the MACs, target 40 %`."""
    parts = [
        f"{share(line[name])} of the {without_controls(word)}"
        + (f" (target {share(line[f'{name}_target'])})" if line.get(f"{name}_target") is not None else "")
        for name, word in run.words.items()
        if line.get(name) is not None and name in run.results["budget"]
    ]
    return f": {', '.join(parts)}" if parts else ""


class _Bars:
    """Rows and blocks as HTML."""

    def __init__(self, groups: Record, frames: Sequence[Record]):
        self.groups, self.frames = groups, frames
        sizes = [group["size"] for group in groups.values() if group["kind"] != "depth"] or [1]
        self.widest, self.square_root = max(sizes), max(sizes) > 16 * min(sizes)

    def row(self, name: str, within: str = "") -> str:
        """One group: its name, its bar, and how much of it is kept."""
        group = self.groups[name]
        kept, size = len(group["kept"]), group["size"]
        unit = "blocks" if group["kind"] == "depth" else "" if group["kind"] == "width" else group["kind"]
        number = f"{kept:,} of {size:,}{f' {unit}' if unit else ''}"
        shown = name.removeprefix(f"{within}/") if within else name
        return (
            f'<li class="group"{self._counts(name)}><span class="name">{_text(shown)}</span>'
            f"{bar(self._length(size), self._length(kept) / self._length(size))}"
            f'<span class="count">{_text(number)}</span></li>'
        )

    def block(self, block: Block) -> str:
        """One block with its groups."""
        gone = any(element not in self.groups[name]["kept"] for name, element in block.gates)
        rows = "\n".join(self.row(name, block.name) for name in block.groups)
        inside = f"\n<ol>\n{rows}\n</ol>" if rows else ""
        state = "removed" if gone else "kept"
        return (
            f'<li class="block {state}"{self._presence(block)}>'
            f'<span class="name">{_text(block.name)}</span> <span class="state">{state}</span>{inside}</li>'
        )

    def _length(self, elements: int) -> float:
        """Percent of the widest group's bar."""
        part = min(elements / self.widest, 1.0)
        return 100 * (part**0.5 if self.square_root else part)

    def _counts(self, name: str) -> str:
        """The soft count at every step, and what the script needs to draw it."""
        masks = [bytes.fromhex(frame["masks"][name]) for frame in self.frames if name in frame["masks"]]
        if not masks:
            return ""
        soft = " ".join(f"{sum(mask) / 255:.4g}" for mask in masks)
        scale = "root" if self.square_root else "linear"
        return f' data-counts="{soft}" data-size="{self.groups[name]["size"]}" data-scale="{scale}"'

    def _presence(self, block: Block) -> str:
        """How much of a block is there at every step: the product of its gates' masks."""
        there = []
        for frame in self.frames:
            product = 1.0
            for name, element in block.gates:
                product *= bytes.fromhex(frame["masks"][name])[element] / 255 if name in frame["masks"] else 1.0
            there.append(f"{product:.2g}")
        return f' data-there="{" ".join(there)}"' if there else ""


def bar(full: float, kept: float) -> str:
    """A bar as HTML: the outline `full` percent of the room long, filled to the share `kept`."""
    return f'<span class="bar" style="--full: {full:.2f}%; --kept: {kept:.4f}"><span></span></span>'


def _text(value: str) -> str:
    """Escaped; a line may end behind a slash."""
    return html.escape(without_controls(value)).replace("/", "/<wbr>")


def importance_at_the_cut(run: Run) -> dict[str, tuple[str, str]]:
    """{group: (least kept, most dropped)} in shares of the group's largest importance, of groups that lost some."""
    found = {}
    for name, ranked in ranked_groups(run.structure, run.results).items():
        values = dict(zip(ranked["at"], ranked["values"], strict=True))
        kept, dropped = values.get(ranked["kept"] - 1), values.get(ranked["kept"])
        if dropped is not None:
            found[name] = ("–" if kept is None else share(kept), share(dropped))
    return found


def cost_of_one(run: Run, name: str, resource: str) -> str | None:
    """What one element of a group costs of a resource; None where the run does not say."""
    each = ((run.results.get("network") or {}).get("groups") or {}).get(name, {}).get("each", {}).get(resource)
    return None if each is None else count(each)
