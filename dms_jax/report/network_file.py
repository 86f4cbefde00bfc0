"""What results.json says of a network, checked: its blocks, what elements cost, how important they were."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from dms_jax import reading
from dms_jax.reading import Mismatch, listing, mapping, optional, record, whole
from dms_jax.structure import MOST_ELEMENTS, MOST_GROUPS

_GATE = listing(reading.anything, least=2, most=2)
_RANKED = record(
    {
        "at": listing(whole(0, MOST_ELEMENTS), most=256),
        "values": listing(reading.number(0, 1), most=256),
        "kept": whole(0, MOST_ELEMENTS),
    }
)
NETWORK = record(
    {
        "blocks": listing(
            record({"gates": listing(_GATE, least=1, most=64), "name": reading.text()}), most=MOST_GROUPS
        ),
        "groups": mapping(
            record(
                {"each": mapping(reading.number(-1e30, 1e30), 64)},
                {"block": optional(_GATE), "importance": optional(_RANKED)},
            ),
            MOST_GROUPS,
        ),
    }
)

LAYERS = listing(
    record(
        {"name": reading.text(), "predicted": reading.number(0, 1e12)}, {"measured": optional(reading.number(0, 1e12))}
    ),
    most=2**16,
)
"""Parts of a measured resource."""


def check(network: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    """Groups and gates are those of the structure."""
    gates = [gate for block in network.get("blocks", ()) for gate in block["gates"]]
    firsts = {tuple(block["gates"][0]) for block in network.get("blocks", ()) if _is_gate(block["gates"][0], groups)}
    for name, group in network.get("groups", {}).items():
        expect(name in groups, f"the network has a group {reading.shown(name)} that the structure lacks")
        block, ranked = group.get("block"), group.get("importance")
        inside = block is None or (_is_gate(block, groups) and tuple(block) in firsts)
        expect(inside, f"the network has group {reading.shown(name)} in no block of its own")
        fits = ranked is None or (len(ranked["at"]) == len(ranked["values"]) >= 1)
        expect(fits, f"the network has importances of group {reading.shown(name)} without their ranks")
        rises = ranked is None or all(a < b for a, b in pairwise(ranked["at"]))
        expect(rises, f"the network has ranks of group {reading.shown(name)} that do not rise")
        ranks = [] if ranked is None else [*ranked["at"], max(ranked["kept"] - 1, 0)]
        expect(all(r < groups[name]["size"] for r in ranks), f"the network ranks more elements than {name!r} has")
    for gate in gates:
        expect(_is_gate(gate, groups), f"the network has a gate {reading.shown(gate)} that the structure lacks")


def _is_gate(gate: Any, groups: Mapping[str, Any]) -> bool:
    name, element = gate
    known = isinstance(name, str) and name in groups and type(element) is int
    return known and 0 <= element < groups[name]["size"]


def expect(condition: bool, message: str) -> None:
    """Raises `Mismatch` where a condition does not hold."""
    if not condition:
        raise Mismatch(message)
