"""Images with detections in a report: drawn where they are, and refused in one line where they are no such thing."""

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from dms_jax.errors import UserError
from dms_jax.report import pictures, write_report
from dms_jax.report.drawing import GREEN, ORANGE
from dms_jax.report.example_pictures import read_examples

pillow = pytest.importorskip("PIL.Image", reason="of the extra data")


def png(size=32):
    buffer = io.BytesIO()
    pillow.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def content(count=2, **changed):
    objects = {
        "truth": [{"box": [1, 2, 11, 22], "class": 3}],
        "full network": [{"box": [1.5, 2, 11, 21], "class": 3, "score": 0.9}],
        "found": [],
    }
    return {"images": [{"png": png(), "size": 32, "objects": objects} | changed for _ in range(count)]}


def test_every_box_is_where_it_is_said_to_be():
    figure = pictures.examples(content())
    assert len(figure.axes) == 2 * 3
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["objects", "full network", "found"]
    rectangles = [[p for p in axes.patches if isinstance(p, Rectangle)] for axes in figure.axes]
    assert [len(found) for found in rectangles] == [1, 1, 0] * 2
    (truth,), (found,) = rectangles[:2]
    assert (*truth.get_xy(), truth.get_width(), truth.get_height()) == (1, 2, 10, 20)
    assert (*found.get_xy(), found.get_width(), found.get_height()) == (1.5, 2, 9.5, 19)
    from matplotlib.colors import to_hex

    assert (to_hex(truth.get_edgecolor()), to_hex(found.get_edgecolor())) == (GREEN, ORANGE)


def test_the_page_has_them_inside(make_run, small_groups):
    directory = make_run(small_groups)
    without = write_report(directory).read_text()
    (directory / "examples.json").write_text(json.dumps(content()))
    page = write_report(directory).read_text()
    assert "<h2>Detections</h2>" in page and "<h2>Detections</h2>" not in without
    svg = page[page.index("<svg", page.index("<h2>Detections</h2>")) :]
    svg = ElementTree.fromstring(svg[: svg.index("</svg>") + 6])
    images = [element.attrib["href"] for element in svg.iter("image")]
    assert len(images) == 6 and all(href.startswith("data:image/png;base64,") for href in images)
    assert write_report(directory).read_text() == page


def test_qualities_of_parts_have_columns(make_run, small_groups):
    rows = [
        {"name": "found", "macs": 1_630_112, "params": 11_203, "quality": 0.5, "mAP small": 0.25, "mAP large": None}
    ]
    quality = {"name": "mAP", "unit": "%", "parts": ["mAP small", "mAP large"]}
    page = write_report(make_run(small_groups, rows=rows, quality=quality)).read_text()
    assert "MAP" not in page and "mAP: 50.00" in page
    assert ">mAP small</th>" in page and ">25.00\u202f%</td>" in page
    for wrong in (1.5, "x", True):
        with pytest.raises(ValueError, match="has mAP small .*, expected a fraction between 0 and 1"):
            write_report(make_run(small_groups, rows=[rows[0] | {"mAP small": wrong}], quality=quality))


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("it is \\[\\], not an object", []),
        ("images is \\[\\], not 1 to 16 items", {"images": []}),
        ("cannot be read", content(png="AAAA")),
        ("cannot be read", content(png="no base64")),
        ("cannot be read", content(png="\u00e9")),
        ("has a picture of another size than it says", content(size=31)),
        ("size is 5000, not at most 1,024", content(size=5000)),
        (r"'truth'\[0\].box is \[1, 2\], not 4 items", content(objects={"truth": [{"box": [1, 2], "class": 1}]})),
        ("score is 2, not at most 1", content(objects={"a": [{"box": [1, 2, 3, 4], "class": 1, "score": 2}]})),
        ("has other networks for one image", {"images": [*content()["images"], *content(objects={})["images"]]}),
    ],
)
def test_what_no_job_writes(said, wrong, tmp_path):
    (tmp_path / "examples.json").write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=said) as error:
        read_examples(tmp_path)
    assert "\n" not in str(error.value)
    assert read_examples(tmp_path / "elsewhere") is None
