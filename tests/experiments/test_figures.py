"""The figures of `docs/method.md`: drawn from a tiny search, the same bytes each time; what the page names exists."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from experiments import figures, method_pictures
from tests.helpers import FLOAT32_ROUNDING

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/method.md"
NAMES = {"kept", "operator", "ranks", "masks", "widths", "resources", "losses"}
LARGEST = 150_000  # bytes of a picture in a repository


def test_quick(tmp_path, capsys):
    documents = {path: path.read_bytes() for path in (ROOT / "docs").glob("*.*")}
    options = figures.Options(quick=True, workdir=tmp_path / "run", pictures=tmp_path / "drawn")
    figures.main(options)
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / f"drawn/method_{name}.svg") for name in [*figures_in_order(), "kept"]]
    drawn = {path: path.read_bytes() for path in (tmp_path / "drawn").iterdir()}
    assert {path.stem for path in drawn} == {f"method_{name}" for name in NAMES}
    for content in drawn.values():
        assert len(content) < LARGEST and ElementTree.fromstring(content).tag.endswith("svg")
    metrics = (tmp_path / "run/metrics.jsonl").read_bytes()
    figures.main(options)  # all phases are done: nothing is trained, and the pictures are the same
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == metrics
    assert {path: path.read_bytes() for path in (tmp_path / "drawn").iterdir()} == drawn
    assert {path: path.read_bytes() for path in (ROOT / "docs").glob("*.*")} == documents


def figures_in_order():
    """The order of the page."""
    return ["operator", "ranks", "resources", "masks", "widths", "losses"]


def test_a_quick_run_stays_with_itself():
    quick, real = figures.Options(quick=True), figures.Options()
    assert quick.run != real.run and quick.folder == quick.run and real.folder == Path("docs")


def test_the_operator_is_drawn_as_it_is():
    """The curves against Eq. 3 written out: m = sigmoid(lambda (c' - a)), dm/da = -lambda m (1 - m)."""
    figure = method_pictures.operator()
    size, ratio = method_pictures.ELEMENTS, method_pictures.RATIO
    for multiple, label in ((0.25, "λ = N/4"), (1.0, "λ = N"), (4.0, "λ = 4N")):
        lines = [line for axes in figure.axes for line in axes.lines if line.get_label() == label]
        (rank, mask), (_, slope) = (np.asarray(line.get_xydata(), np.float64).T for line in lines)
        expected = 1 / (1 + np.exp(-multiple * size * (rank - ratio)))
        np.testing.assert_allclose(mask, expected, atol=FLOAT32_ROUNDING)
        np.testing.assert_allclose(slope, -multiple * size * expected * (1 - expected), atol=size * FLOAT32_ROUNDING)


def test_labels_do_not_overlap():
    assert method_pictures._apart([1, 1, 1.5, 9], 2.0) == [1, 3.0, 5.0, 9]


def test_the_page_refers_to_what_there_is():
    text = PAGE.read_text()
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert shown == [f"method_{name}.svg" for name in figures_in_order()]
    for name in shown:
        content = (PAGE.parent / name).read_bytes()
        assert len(content) < LARGEST and ElementTree.fromstring(content).tag.endswith("svg")
    files = set(re.findall(r"\b(?:dms_jax|experiments)/[\w./]+", text))
    assert files and not [name for name in files if not (ROOT / name).exists()]
