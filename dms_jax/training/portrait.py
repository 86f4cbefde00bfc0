"""What the report draws of a network: which group lies in which block, what an element costs, how important it was."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dms_jax.budgets import Measured
from dms_jax.program.frames import Node, Value, describe
from dms_jax.space import Leaf, SearchSpace

Gate = tuple[str, int]

MOST_VALUES = 48
"""Importances that are written down of a group, about."""


def portrait(space: SearchSpace, importance: Mapping[str, Any], kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The network as results.json has it.

    Args:
      space: of the full network.
      importance: {group: [N]} at the end of the search; groups that have none are left out.
      kept: what the search kept.

    Returns:
      {"blocks": [{"gates": [[group, element], ...], "name"}], the block's own gate first, "groups": {name: {"each":
      {resource: what the last element costs in the full network}, "block": [group, element] or None, "importance":
      {"at": ranks, the most important is 0, "values": shares of the largest, "kept": k} or None}}}.
    """
    blocks = _blocks(space)
    sliced: dict[str, list[Leaf]] = {name: [] for name in space.groups}
    for leaf in space.leaves.values():
        for name in {name for axis in leaf.axes for name in space.owners(axis)}:
            sliced[name].append(leaf)
    return {
        "blocks": [{"gates": [list(gate) for gate in gates], "name": name} for gates, name in blocks.values()],
        "groups": {
            name: {
                "each": each,
                "block": _block_of(sliced[name], blocks),
                "importance": _sampled(importance.get(name), len(kept[name])),
            }
            for name, each in space.each().items()
        },
    }


def layers(space: SearchSpace, resource: str, kept: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Of every part of a measured resource its name, what was predicted, and what was measured of it alone.

    Args:
      space: of the full network.
      resource: a name of `space.costs`.
      kept: what the search kept.

    Returns:
      [{"name": module path of the weights, or where the operation stands, "predicted", "measured": or None}], in the
      order of the network; empty for a resource that is no sum of parts.
    """
    cost = space.costs[resource]
    if not isinstance(cost, Measured) or cost.parts is None:
        return []
    names = _Names(space)
    return [
        {"name": names.of(node), "predicted": predicted, "measured": measured}
        for node, predicted, measured in cost.parts(kept)
    ]


class _Names:
    """What products are called: by the parameters that they multiply with.

    Every value has the parameters that it is made of; None for one that depends on an input.
    """

    def __init__(self, space: SearchSpace):
        program, parameters = space.traced
        self.known: dict[Value, tuple[str, ...] | None] = {x: None for x in program.inputs}
        self.known |= {value: (path,) for path, value in parameters.items()}
        for node in program.nodes:  # in the order in which they run; what a loop carries is known when it is met first
            found = [self.known.get(x, ()) for x in node.inputs]
            paths = tuple(dict.fromkeys(path for each in found for path in each or ()))
            for out in node.outputs:
                self.known.setdefault(out, None if None in found else paths)

    def of(self, node: Node | None) -> str:
        if node is None:
            return "before the first product"
        paths = [path for x in node.inputs for path in self.known.get(x) or ()]
        modules = dict.fromkeys(path.removesuffix("/kernel").removesuffix("/weight") for path in paths)
        return ", ".join(list(modules)[:2]) or describe(node)


def _blocks(space: SearchSpace) -> dict[Gate, tuple[list[Gate], str]]:
    """Of every gate: all gates that the block goes with, its own first, and what it is called."""
    behind: dict[Gate, list[Leaf]] = {}
    for leaf in space.leaves.values():
        for gate in leaf.gates:
            behind.setdefault(gate, []).append(leaf)
    found = {}
    for name, group in space.groups.items():
        for gate in ((name, i) for i in range(group.size) if group.rules.gates):
            leaves = behind.get(gate, [])
            outer = set.intersection(*(set(leaf.gates) for leaf in leaves)) - {gate} if leaves else set()
            # of two branches with the very same parameters neither is in the other
            outer = {other for other in outer if len(behind[other]) > len(leaves)}
            # statistics lie under another name than what is trained
            found[gate] = (
                [gate, *sorted(outer)],
                [leaf.path for leaf in leaves if leaf.trained] or [leaf.path for leaf in leaves],
            )
    titles = {gate: _common(paths) for gate, (_, paths) in found.items()}
    several = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    return {
        gate: (gates, _title(gate, titles[gate], paths, titles[gate] in several))
        for gate, (gates, paths) in found.items()
    }


def _title(gate: Gate, prefix: str, paths: Sequence[str], shared: bool) -> str:
    if prefix and not shared:
        return prefix
    parts = dict.fromkeys(path.removeprefix(f"{prefix}/").split("/")[0] for path in paths)
    inside = ", ".join(list(parts)[:3]) + (", ..." if len(parts) > 3 else "")
    return f"{prefix or f'{gate[0]} {gate[1]}'}{f': {inside}' if inside else ''}"


def _common(paths: Iterable[str]) -> str:
    parts = [path.split("/")[:-1] for path in paths]
    return "/".join(os.path.commonprefix(parts)) if parts else ""


def _block_of(leaves: Sequence[Leaf], blocks: Mapping[Gate, tuple[list[Gate], str]]) -> list[Any] | None:
    """The innermost block that all of these parameters lie in."""
    around = set.intersection(*(set(leaf.gates) for leaf in leaves)) if leaves else set()
    return list(max(sorted(around), key=lambda gate: len(blocks[gate][0]))) if around else None


def _sampled(importance: Any, kept: int) -> dict[str, Any] | None:
    """Importances in order, evenly spread and on both sides of the cut; None where they say nothing."""
    if importance is None:
        return None
    values = np.sort(np.nan_to_num(np.asarray(importance, np.float64), nan=0.0, neginf=0.0))[::-1]
    if not (values[0] > 0 and np.isfinite(values[0])) or values[-1] == values[0]:
        return None
    even = np.linspace(0, len(values) - 1, min(MOST_VALUES, len(values))).round().astype(int)
    at = sorted({*even.tolist(), *(i for i in (kept - 1, kept) if 0 <= i < len(values))})
    shares = np.clip(values[at] / values[0], 0, 1)
    return {"at": at, "values": [float(f"{share:.4g}") for share in shares], "kept": kept}
