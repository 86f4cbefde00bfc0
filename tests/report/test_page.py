import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dms_jax.errors import UserError
from dms_jax.report import write_report
from dms_jax.report.document import policy
from dms_jax.report.script import SCRIPT

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
FEW = {"a": (8, "width"), "depth": (2, "depth")}  # which are drawn fast


class _Outline(HTMLParser):
    """Checks that elements are balanced and collects what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open or tag in VOID, f"<{tag}/> is no element of HTML that closes itself"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module", params=["small_groups", "many_groups", "hostile_groups"])
def written(request, write_run, tmp_path_factory) -> tuple[Path, Path, bytes]:
    """A run's directory, its report and what the report holds: drawn once for all that a test asks of it."""
    directory = write_run(tmp_path_factory.mktemp("run"), request.getfixturevalue(request.param))
    path = write_report(directory)
    return directory, path, path.read_bytes()


@pytest.fixture
def page(written) -> str:
    return written[2].decode()


def test_page_is_balanced_and_needs_nothing_else(written, page):
    outline = _Outline(page)
    assert written[1] == written[0] / "report.html"
    assert not {"link", "iframe", "object", "b", "i"} & {tag for tag, _ in outline.tags}
    assert re.findall("<script.*?</script>", page, re.DOTALL) == [f"<script>{SCRIPT}</script>"]
    assert html.escape(policy(SCRIPT)) in page
    assert "://" not in page and "@import" not in page
    for _, attributes in outline.tags:
        reference = attributes.get("href") or attributes.get("src") or "#"
        assert reference.startswith(("#", "data:image/png;base64,"))


def test_ids_are_unique_and_every_reference_has_one(page):
    outline = _Outline(page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    references = set()
    for _, attributes in outline.tags:
        values = [attributes.get("href") or "", attributes.get("clip-path") or ""]
        references |= {match for value in values for match in re.findall(r"#([^)]+)", value)}
    assert len(ids) == len(set(ids))
    assert references == set(ids)


def test_the_same_run_gives_the_same_bytes(written):
    directory, _, first = written
    assert write_report(directory).read_bytes() == first
    assert not (directory / "report.html.part").exists()


def test_pictures_follow_the_theme(page):
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page
    styles = [attributes.get("style") or "" for _, attributes in _Outline(page).tags]
    assert any("fill: var(--blue)" in style for style in styles)
    assert any("stroke: var(--muted)" in style for style in styles)
    assert not any("#" in re.sub(r"url\(#[^)]*\)", "", style) or "black" in style for style in styles)


def test_text_in_pictures_is_coloured_by_the_theme(page):
    texts = [attributes["style"] or "" for tag, attributes in _Outline(page).tags if tag == "text"]
    assert len(texts) > 50
    assert all("fill: var(--" in style and "font-family" not in style for style in texts)


@pytest.fixture(scope="module")
def small(small_groups, write_run, tmp_path_factory) -> _Outline:
    """The page of an ordinary run."""
    path = write_report(write_run(tmp_path_factory.mktemp("small"), small_groups))
    return _Outline(path.read_text(encoding="utf-8"))


def test_table_holds_the_numbers(small):
    heads = [
        "network",
        "MACs",
        "of full",
        "parameters",
        "accuracy",
        "ms at batch 1",
        "ms at batch 64",
        "steps",
        "note",
    ]
    start = small.cells.index("network")
    rows = [_plain(small.cells[start + 9 * row : start + 9 * row + 9]) for row in range(5)]
    assert rows[0] == heads
    assert rows[1] == [
        "full network, pretrained",
        "40.8 M",
        "100 %",
        "272 k",
        "98.33 ± 0.67 %",
        "1.82",
        "31.4",
        "1,300",
        "",
    ]
    assert rows[2][1:5] == ["1.63 M", "3.99 %", "11.2 k", "96.94 ± 0.67 %"]
    assert rows[3][-1] == "control <i>"
    assert rows[4][4:7] == ["–", "–", "–"]
    titles = [attributes.get("title") for tag, attributes in small.tags if tag == "td"]
    assert "40,812,345 MACs" in titles and "11,203 parameters" in titles


def test_summary_says_what_was_asked_and_what_came_out(small):
    words = " ".join(_plain([small.words]))
    assert "The budget of resnet20 was 1.63 M MACs (4.00 % of the full network)." in words
    assert "from 40.8 M to 1.63 M MACs (3.99 %) and from 272 k to 11.2 k parameters (4.11 %)" in words
    assert "Accuracy: 96.94 ± 0.67 % (“searched, finetuned”) against 98.33 ± 0.67 %" in words
    assert "1.82 ms at batch 1 (full network 1.82 ms)" in words


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        # a control with exactly the result's resources, as a network of one group has
        ({"full network": 1, "found by DMS": 0.5, "same ratio everywhere": 0.5, "full network, trained on": 1}, True),
        # nothing was removed
        ({"full network": 1, "found by DMS": 1, "same ratio everywhere": 1, "full network, trained on": 1}, True),
        # the full network was not measured, or is the only one
        ({"found by DMS": 1, "same ratio everywhere": 1}, True),
        ({"full network": 1, "same ratio everywhere": 0.25}, False),
    ],
)
def test_the_result_is_no_control_of_the_same_size(make_run, networks, said):
    qualities = iter((0.91, 0.92, 0.93, 0.94))
    rows = [{"name": n, "macs": 1000 * s, "params": 100 * s, "quality": next(qualities)} for n, s in networks.items()]
    directory = make_run(FEW, rows=rows, budget={})
    structure = json.loads((directory / "structure.json").read_text())
    found = networks.get("found by DMS", 0.5)
    structure["resources"] = {
        when: {"macs": 1000 * share, "params": 100 * share} for when, share in (("before", 1), ("after", found))
    }
    (directory / "structure.json").write_text(json.dumps(structure))
    page = write_report(directory).read_text("utf-8")
    assert re.findall('<tr class="result"><th scope="row">(.*?)</th>', page) == ["found by DMS"] * said
    compared = re.findall(
        "Accuracy: .*? %\\s\\(“(.*?)”\\)(?: against .*? %\\s\\(“(.*?)”\\))?", page.replace("\u202f", " ")
    )
    full = next((name for name in networks if name.startswith("full")), "same ratio everywhere")
    assert compared == ([("found by DMS", full)] if said else [])


def test_warnings_are_shown_and_a_broken_budget_is_one(make_run):
    budget = {"macs": {"asked": 1_000_000, "target": 1_000_000, "full": 40_812_345}}
    words = _Outline(write_report(make_run(FEW, budget=budget)).read_text("utf-8")).words
    assert "the latency of <one> image did not" in words
    assert "The structure has 1,630,112 MACs, over the 1,000,000 of its budget." in words


@pytest.mark.parametrize(
    ("name", "cells"),
    [("macs", ["1.63 M", "3.99 %", "11.2 k"]), ("params", ["11.2 k", "4.11 %", "1.63 M"])],
)
def test_shares_of_the_full_network_are_of_what_was_asked_for(small_groups, make_run, name, cells):
    entry = {"asked": 0.05, "target": 20_000, "full": 272_474}
    page = _Outline(write_report(make_run(small_groups, budget={name: entry})).read_text("utf-8"))
    start = page.cells.index("network")
    assert _plain(page.cells[start + 19 : start + 22]) == cells


def test_what_was_predicted_and_measured_is_said_with_its_spread(make_run):
    entry = {"asked": "1.7M", "target": 1_700_000, "full": 40_812_345, "predicted": 1_650_000.5, "measured": 1_630_112}
    for spread, said in (({}, ""), ({"spread": 120.25}, ", spread 120.25")):
        words = _Outline(write_report(make_run(FEW, budget={"macs": entry | spread})).read_text("utf-8")).words
        assert f"of 40,812,345; predicted 1.65e+06, measured 1,630,112{said}" in words
        assert ("spread" in words) == bool(spread)


def test_without_warnings_there_is_no_box(make_run):
    tags = _Outline(write_report(make_run(FEW, warnings=[])).read_text("utf-8")).tags
    assert "aside" not in {tag for tag, _ in tags}


def test_what_a_run_lacks_is_left_out_with_a_reason(make_run):
    directory = make_run({"a": (8, "width"), "b": (8, "width")})
    (directory / "masks.jsonl").unlink()
    (directory / "metrics.jsonl").write_text('{"phase": "pretrain", "step": 0, "learning_rate": 0.1}\n')
    outline = _Outline(write_report(directory).read_text("utf-8"))
    assert outline.words.count("Left out: ") == 4
    assert "the run kept no masks (masks.jsonl)" in outline.words
    assert "metrics.jsonl holds no loss" in outline.words
    assert len([tag for tag, _ in outline.tags if tag == "svg"]) == 0


def test_a_page_that_cannot_be_written(make_run):
    directory = make_run(FEW)
    (directory / "report.html").mkdir()
    with pytest.raises(UserError, match="report.html cannot be written .*; report on a copy of the run"):
        write_report(directory)


def test_what_is_wider_than_the_page_is_reached_by_keyboard(small):
    frames = [attributes for tag, attributes in small.tags if attributes.get("class") == "wide"]
    assert len(frames) == 5  # tables and pictures
    assert all(f["tabindex"] == "0" and f["role"] == "region" and f["aria-label"] for f in frames)


def test_optional_results_may_be_missing(make_run):
    directory = make_run(FEW)
    path = directory / "results.json"
    results = json.loads(path.read_text())
    for name in ("verify", "warnings", "seconds"):
        del results[name]
    results["rows"] = [{"name": "only", "macs": 1, "params": 1}]
    path.write_text(json.dumps(results))
    _Outline(write_report(directory).read_text("utf-8"))


def _plain(texts: list[str]) -> list[str]:
    return [re.sub(r"[\u202f\u00a0]", " ", text) for text in texts]
