"""docs/networks.md is what `python -m tests.networks` makes: all networks, today's groups, small differences."""

import re
from pathlib import Path

import pytest

from tests.helpers import FLOAT32_LOGITS
from tests.networks import __main__ as command
from tests.networks.catalogue import NETWORKS

PAGE = Path(__file__).parents[2] / "docs/networks.md"
EXACT = ("groups (heads)", "elements", "blocks", "can go", "masks in parameters", "not searched")


def rows():
    """(framework, network) -> its line, by columns."""
    lines = PAGE.read_text().split(command.MARKERS[0])[1].split(command.MARKERS[1])[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0]) == command.COLUMNS
    found = [dict(zip(command.COLUMNS, line, strict=True)) for line in cells[2:]]
    return {(line["framework"], line["network"]): line for line in found}


def test_every_network_has_a_line():
    known = [command.titles(name) for name in command.cases()]
    assert [key for key in rows() if key in known] == known
    assert {key for key in rows() if key not in known} <= {
        ("Equinox", "equimo_vit"),
        ("Equinox", "equimo_mobilenet_v3"),
    }


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith(("keras", "equinox_equimo"))])
def test_the_lines_are_true(name):
    case, _ = command.cases()[name]()
    found, line = command.found(case), rows()[command.titles(name)]
    assert {column: line[column] for column in EXACT} == {column: found[column] for column in EXACT}


def test_masked_and_small_networks_agree():
    for line in rows().values():
        assert float(line["masked - small"]) <= FLOAT32_LOGITS * max(float(line["outputs"]), 1e-2), line
        assert re.fullmatch(r"\d+\.\d\d", line["seconds"]) and float(line["seconds"]) < 5, line


def test_reasons_are_short():
    left = {
        "a": "features; searched with include='a'",
        "b": "nothing can be taken out of it because of sort at models/moe.py:3 (Router.__call__)",
        "c": "nothing can be taken out of it because of sort at models/moe.py:9 (Router.__call__)",
    }
    assert command.reasons(left) == "option: features; 2 x sort"
