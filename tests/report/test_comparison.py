"""Runs side by side."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dms_jax.errors import UserError
from dms_jax.report import write_report
from dms_jax.report.__main__ import main
from dms_jax.report.comparison import write_comparison

ROOT = Path(__file__).parents[2]
ONE = {"a": (8, "width"), "depth": (2, "depth")}
NAMES = ("structure.json", "results.json")
OTHER = {"a": (8, "width"), "b<i>": (4, "heads")}


@pytest.fixture
def two(write_run, tmp_path) -> list[Path]:
    places = [tmp_path / "runs" / name for name in ("one run", "other")]
    for place, groups, seed in zip(places, (ONE, OTHER), (3, 4), strict=True):
        place.mkdir(parents=True)
        write_run(place, groups, seed=seed)
    return places


def cells(page: str, label: str) -> list[str]:
    row = re.findall(rf'<tr><th scope="row">{re.escape(label)}</th>(.*?)</tr>', page)[0]
    return [re.sub("<[^>]*>", "", cell).replace("\u202f", " ").replace("\xa0", " ") for cell in row.split("</td>")[:-1]]


def test_a_column_a_run(two, tmp_path):
    page = write_comparison(two, tmp_path / "page.html").read_text("utf-8")
    assert cells(page, "seed") == ["3", "4"]
    assert cells(page, "MACs") == ["1.63 M (3.99 %)"] * 2
    assert cells(page, "accuracy") == ["96.94 ± 0.67 %"] * 2
    assert cells(page, "accuracy, uniform") == ["94.17 ± 0.67 %"] * 2
    assert cells(page, "a") == ["3 of 8"] * 2
    assert cells(page, "depth") == ["1 of 2", "–"] and cells(page, "b&lt;i&gt;") == ["–", "2 of 4"]
    assert "<script" not in page and "script-src &#x27;none&#x27;" in page and "<i>" not in page
    assert page.count("the latency of &lt;one&gt; image did not") == 2


@pytest.mark.parametrize(
    ("units", "rows"),
    [
        (("ms", "ms"), {"ms of latency": ["3 (50.0 %)", "3 (50.0 %)"]}),
        (("ms", "s"), {"ms of latency": ["3 (50.0 %)", "–"], "s of latency": ["–", "3 (50.0 %)"]}),
        ((None, "ms"), {"ms of latency": ["3 (50.0 %)", "3 (50.0 %)"]}),  # a run of an earlier version
        ((None, None), {"latency": ["3 (50.0 %)", "3 (50.0 %)"]}),
    ],
)
def test_what_is_counted_in_other_units_has_its_own_row(two, tmp_path, units, rows):
    for place, unit in zip(two, units, strict=True):
        structure, results = (json.loads((place / name).read_text()) for name in NAMES)
        for when, value in (("before", 6), ("after", 3)):
            structure["resources"][when]["latency"] = value
        for row in results["rows"]:
            row["latency"] = 3
        results["resources"] |= {} if unit is None else {"latency": unit}
        for name, content in zip(NAMES, (structure, results), strict=True):
            (place / name).write_text(json.dumps(content))
    page = write_comparison(two, tmp_path / "page.html").read_text("utf-8")
    assert {label: cells(page, label) for label in rows} == rows
    assert page.count("latency</th>") == len(rows)


def test_what_a_run_did_not_write_down_is_a_dash(two, tmp_path):
    path = two[0] / "results.json"
    path.write_text(path.read_text().replace('"steps": 1300', '"steps": null'))
    assert cells(write_comparison(two, tmp_path / "page.html").read_text("utf-8"), "steps") == ["–", "1,300"]


def test_runs_are_links_to_their_reports(two, tmp_path):
    write_report(two[0])
    page = write_comparison(two, tmp_path / "new" / "page.html").read_text("utf-8")
    assert '<a href="../runs/one%20run/report.html">one run</a>' in page and ">other</th>" in page


def test_names_that_are_alike_are_told_apart(write_run, tmp_path):
    places = [tmp_path / name / "run" for name in ("x", "y")]
    for place in places:
        place.mkdir(parents=True)
        write_run(place, ONE)
    page = write_comparison(places, tmp_path / "page.html").read_text("utf-8")
    assert ">x/run<" in page and ">y/run<" in page


def test_the_command(two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(two[0])])
    main(list(map(str, two)))
    main([*map(str, two), "--output=other.html"])
    assert capsys.readouterr().out.split("\n")[:-1] == [str(two[0] / "report.html"), "comparison.html", "other.html"]
    assert (tmp_path / "comparison.html").read_bytes() == (tmp_path / "other.html").read_bytes()


@pytest.mark.parametrize(
    "chosen, complaint",
    [((0, 0), "given twice"), ((0,) * 13, "13 runs cannot"), ((0, None), "structure.json is missing")],
)
def test_what_cannot_be_compared(two, tmp_path, chosen, complaint):
    places = [tmp_path / "nothing" if i is None else two[i] for i in chosen]
    with pytest.raises(UserError, match=complaint):
        write_comparison(places, tmp_path / "page.html")


def test_a_place_that_cannot_be_written(two, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "page.html"):
        with pytest.raises(UserError, match="cannot be written"):
            write_comparison(two, place)


def test_no_run_is_a_line(two):
    with pytest.raises(UserError, match="no run is given; python -m dms_jax.report RUN writes its report"):
        main([])


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "dms_jax.report", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "structure.json is missing" in done.stderr
