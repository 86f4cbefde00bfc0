"""The list of a network in the report: blocks in order, what is gone, why, and the slider's numbers."""

import json
import re

import pytest

from dms_jax.errors import UserError
from dms_jax.report import write_report
from dms_jax.report.network import Block, blocks_and_groups, importance_at_the_cut
from dms_jax.report.run_files import read_run

GROUPS = {"stem": (8, "width"), "s/block1/mid": (6, "width"), "s/depth": (3, "depth"), "head": (9, "width")}


def network(**changes):
    """Three blocks, the second with a group in it; groups keep every third element, so the first block alone stays."""
    blocks = [{"gates": [["s/depth", i]], "name": f"s/block{i}"} for i in range(3)]
    each = {"macs": 120.0, "params": 7.0}
    ranked = {"at": [0, 1, 2, 3, 7], "values": [1.0, 0.5, 0.25, 0.125, 0.0], "kept": 3}
    groups = {name: {"each": each, "block": None, "importance": None} for name in GROUPS}
    groups["stem"]["importance"] = ranked
    groups["s/block1/mid"] |= {"block": ["s/depth", 1], "importance": {**ranked, "at": [0, 1, 2, 3, 5], "kept": 2}}
    return {"blocks": blocks, "groups": groups} | changes


@pytest.fixture
def run_with(make_run):
    def make(**changes):
        return make_run(GROUPS, network=network(**changes))

    return make


def test_blocks_are_in_the_order_of_the_network(run_with):
    items = blocks_and_groups(read_run(run_with()))
    names = [item if isinstance(item, str) else (item.name, item.groups) for item in items]
    assert names == ["stem", ("s/block0", []), ("s/block1", ["s/block1/mid"]), "head", ("s/block2", [])]


def test_depth_of_earlier_runs_is_a_row(make_run):
    assert blocks_and_groups(read_run(make_run(GROUPS))) == list(GROUPS)


def test_a_block_inside_another_goes_with_it(run_with):
    inner = {"gates": [["s/depth", 0], ["s/depth", 2]], "name": "s/block2/inner"}
    blocks = [inner, *network()["blocks"][1:]]
    directory = run_with(blocks=blocks)
    items = blocks_and_groups(read_run(directory))
    assert Block("s/block2/inner", [("s/depth", 0), ("s/depth", 2)]) in items
    page = write_report(directory).read_text("utf-8")
    assert page.count('class="block removed"') == 3 and 'class="block kept"' not in page


def test_the_page_says_what_is_gone_and_why(run_with):
    page = write_report(run_with()).read_text("utf-8")
    assert page.count('class="block removed"') == 2 and page.count('class="block kept"') == 1
    assert '<span class="count">3 of 8</span>' in page and '<span class="count">2 of 6</span>' in page
    assert "--full: 88.89%; --kept: 0.3750" in page  # 8 of the widest group's 9, and 3 of these 8
    assert ">MACs each<" in page and ">120<" in page
    assert "Importance of elements: all 2 groups" in page


def test_importance_on_both_sides_of_the_cut(run_with):
    found = importance_at_the_cut(read_run(run_with()))
    plain = {name: tuple(value.replace("\u202f", " ") for value in pair) for name, pair in found.items()}
    assert plain == {"stem": ("25.0 %", "12.5 %"), "s/block1/mid": ("50.0 %", "25.0 %")}


def test_every_step_of_the_slider_has_its_numbers(run_with):
    page = write_report(run_with()).read_text("utf-8")
    said = re.findall(r'data-said="([^"]*)"', page)[0].split("|")
    last = int(re.findall(r'max="(\d+)"', page)[0])
    assert len(said) == last + 1 and said[-1] == "The network that was found"
    assert said[0].startswith("Step 0: 100") and "target" in said[0]
    rows = re.findall(r'data-(?:counts|there)="([^"]*)"', page)
    assert len(rows) == 3 + 3 and all(len(row.split()) == last for row in rows)  # groups but depth, and blocks
    assert all(float(number) >= 0 for row in rows for number in row.split())


def test_without_masks_there_is_no_slider(run_with):
    directory = run_with()
    (directory / "masks.jsonl").unlink()
    page = write_report(directory).read_text("utf-8")
    assert 'class="player"' not in page and "data-counts" not in page.split("<script>")[0]


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"blocks": [{"gates": [["nowhere", 0]], "name": "x"}]}, "in no block of its own"),
        ({"blocks": [*network()["blocks"], {"gates": [["s/depth", 9]], "name": "x"}]}, "a gate"),
        ({"groups": {"other": {"each": {}}}}, "a group 'other' that the structure lacks"),
        ({"groups": {"stem": {"each": {}, "importance": {"at": [1, 0], "values": [1, 1], "kept": 1}}}}, "do not rise"),
        ({"groups": {"stem": {"each": {}, "importance": {"at": [0, 9], "values": [1, 1], "kept": 1}}}}, "ranks more"),
        ({"groups": {"stem": {"each": {}, "importance": {"at": [0], "values": [], "kept": 1}}}}, "without their ranks"),
        ({"groups": {"stem": {"each": {"macs": "1"}}}}, "results.json"),
        ({"groups": [1]}, "results.json"),
    ],
)
def test_what_is_no_network_is_one_line(run_with, change, complaint):
    with pytest.raises(UserError, match=complaint) as refused:
        read_run(run_with(**change))
    assert "\n" not in str(refused.value)


def test_names_from_a_run_stay_text(make_run):
    name = '"><script>alert(1)</script>|/x'
    groups = {name: (4, "width"), "d": (1, "depth")}
    found = {
        "blocks": [{"gates": [["d", 0]], "name": name}],
        "groups": {name: {"each": {}, "block": ["d", 0]}, "d": {"each": {}}},
    }
    page = write_report(make_run(groups, network=found)).read_text("utf-8")
    assert "<script>alert" not in page and page.count("<script") == 1
    json.dumps(page)


def latency_run(make_run, layers):
    structure = {"before": 4.0, "after": 1.0}
    directory = make_run(GROUPS, network=network())
    for name, change in (("structure.json", structure), ("results.json", layers)):
        path = directory / name
        content = json.loads(path.read_text())
        if name == "structure.json":
            for when, value in change.items():
                content["resources"][when]["latency"] = value
        else:
            content["budget"]["latency"] = {"asked": 0.25, "target": 1.1, "full": 4.0, "layers": change}
            content["resources"]["latency"] = "ms"
            for row in content["rows"]:
                row["latency"] = 1.0
        path.write_text(json.dumps(content))
    return directory


def test_latency_of_every_layer_is_a_table(make_run):
    layers = [
        {"name": "a<b>", "predicted": 0.5, "measured": 0.4},
        {"name": "c", "predicted": 0.25, "measured": None},
        {"name": "d", "predicted": 1.0, "measured": 0.8},
    ]
    page = write_report(latency_run(make_run, layers)).read_text("utf-8").replace("\u202f", " ")
    assert "Latency of every layer" in page and "a&lt;b&gt;" in page and "predicted, ms" in page
    assert "Over 2 of 3 layers 1.20 ms were measured and 1.50 predicted, 125 % of it" in page
    rows = re.findall(r'<td class="bars">(.*?)</td>', page)
    assert [row.count('class="bar"') for row in rows] == [2, 1, 2]


def test_of_many_layers_the_longest_are_shown(make_run):
    layers = [{"name": f"l{i}", "predicted": float(i)} for i in range(250)]
    page = write_report(latency_run(make_run, layers)).read_text("utf-8")
    assert page.count('<td class="bars">') == 200 and ">l50<" in page and ">l49<" not in page
    assert "50 layers that take less are left out" in page and "There was no time to measure them." in page


def test_several_sizes_are_a_table(make_run):
    directory = make_run(GROUPS, sizes=["searched, finetuned", "uniform"])
    page = write_report(directory).read_text("utf-8").replace("\u202f", " ")
    (table,) = re.findall("<h2>Several sizes</h2>(.*?)</section>", page, re.DOTALL)
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == [
        "full network, pretrained",
        "searched, finetuned",
        "uniform",
    ]
    assert [float(kept) for kept in re.findall("--kept: ([0-9.]+)", table)] == [1.0, 0.0399, 0.0392]
    for sizes in ([], ["searched, finetuned"], None):
        assert "Several sizes" not in write_report(make_run(GROUPS, sizes=sizes)).read_text("utf-8")
