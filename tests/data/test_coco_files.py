"""COCO's own files: what they say is what is loaded, and what is wrong with them is told."""

import io
import json
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dms_jax import reading
from dms_jax.data import box_loading, coco_files
from dms_jax.data.corruption import FEW
from dms_jax.data.usable import usable
from dms_jax.errors import UserError

pytest.importorskip("PIL", reason="of the extra data")

from dms_jax.data.pictures import pillow  # noqa: E402 - after the check for its needs

WIDTH, HEIGHT = 40, 20


def png(width=WIDTH, height=HEIGHT):
    buffer = io.BytesIO()
    pillow().new("RGB", (width, height), (9, 99, 199)).save(buffer, format="PNG")
    return buffer.getvalue()


def annotations(pictures: int = 3, **changed: Any) -> dict[str, Any]:
    """A file of annotations; every picture but the first has a box of category 7, and one of the last is a crowd."""
    images = [{"id": 10 + n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(pictures)]
    objects = [
        {"id": n, "image_id": 10 + n, "category_id": 7, "bbox": [4, 2, 10 + n, 5], "area": 30.5, "iscrowd": 0}
        for n in range(1, pictures)
    ]
    objects.append({"id": 99, "image_id": 9 + pictures, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1})
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": objects, "categories": categories, "info": {}} | changed


def write(directory, train=None, val=None, year="2017"):
    (directory / "annotations").mkdir()
    for half, content in (("train", train), ("val", val)):
        content = annotations() if content is None else content
        folder = directory / f"{half}{year}"
        folder.mkdir()
        listed = content.get("images", []) if isinstance(content, dict) else []
        for image in listed if isinstance(listed, list) else []:
            if image["file_name"] not in ("", ".."):
                (folder / str(image["file_name"]).replace("/", "_")).write_bytes(png())
        (directory / "annotations" / f"instances_{half}{year}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("year", ["2017", ""])
def test_what_is_annotated_is_loaded(year, tmp_path):
    data = coco_files.open(write(tmp_path, year=year))
    assert data.num_classes == 2 and len(data.train) == len(data.test) == 3
    none, one, two = (data.train[n] for n in range(3))
    assert none.boxes.shape == (0, 4) and one.size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(one.boxes * [40, 20, 40, 20], [[4, 2, 15, 7]], rtol=1e-6)
    assert one.classes.tolist() == [1] and two.classes.tolist() == [1, 0]  # in the order of their numbers
    assert two.crowd.tolist() == [False, True]
    np.testing.assert_array_equal(two.areas, np.array([30.5, np.nan], np.float32))
    (batch,) = box_loading.evaluation(data.test, 3, size=40, num_classes=2, most=4)
    np.testing.assert_allclose(batch["boxes"][1, 0], [4, 12, 15, 17])
    assert batch["areas"][2].tolist()[:2] == [30.5, 800]


def test_the_name_tells_sets_apart(tmp_path):
    names = set()
    for n, year in enumerate([1, 2]):
        (tmp_path / str(n) / "set").mkdir(parents=True)
        names.add(coco_files.open(write(tmp_path / str(n) / "set", train=annotations(info={"year": year}))).name)
    assert len(names) == 2 and all(name.startswith("set (annotations ") for name in names)


def changed(where, **entry):
    content = annotations()
    content[where][1] |= entry
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "is not COCO's annotations: it is \\[\\], not an object"),
        ({"images": [], "annotations": []}, "it has no categories"),
        (annotations(images=[]), "images is \\[\\], not 1 to "),
        (annotations(annotations={}), "annotations is {}, not a list"),
        (changed("annotations", bbox=[1, 2, 3]), r"annotations\[1\].bbox is \[1, 2, 3\], not 4 items"),
        (changed("annotations", bbox=[1, 2, 3, float("nan")]), "NaN is no number of JSON"),
        (changed("annotations", category_id="cat"), r"annotations\[1\].category_id is 'cat', not a whole number"),
        (changed("images", file_name="../1.png"), "names '../1.png', which is no file of one directory"),
        (changed("images", file_name=""), "names '', which is no file of one directory"),
        (changed("images", file_name=".."), "names '..', which is no file of one directory"),
        (changed("images", id=10), "lists a picture twice"),
        (changed("images", file_name="0.png"), "lists a picture twice"),
        (changed("categories", id=7), "has a category twice"),
        (changed("images", width=0), r"images\[1\].width is 0, not at least 1"),
    ],
)
def test_json_that_is_not_cocos(content, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        coco_files.open(write(tmp_path, train=content))
    assert "instances_train2017.json" in str(error.value) and "\n" not in str(error.value)


def test_no_objects(tmp_path):
    only_a_crowd = annotations(annotations=annotations()["annotations"][-1:])
    with pytest.raises(UserError, match="there are no objects in the annotations for val in "):
        coco_files.open(write(tmp_path, val=only_a_crowd))


def test_files_that_are_missing(tmp_path):
    with pytest.raises(UserError, match=r"should have one instances_train\*.json, and there is none"):
        coco_files.open(tmp_path)
    write(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(UserError, match="there are instances_train.json, instances_train2017.json"):
        coco_files.open(tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(UserError, match="there is no such directory"):
        coco_files.open(tmp_path)


def test_other_categories_to_test_on(tmp_path):
    other = annotations(categories=[{"id": 7, "name": "tree"}, {"id": 3, "name": "dog"}])
    with pytest.raises(UserError, match="have other categories for train than for val"):
        coco_files.open(write(tmp_path, val=other))


# --- what is left out, named and counted -----------------------------------------------------------------------------


def test_pictures_and_annotations_without_each_other(tmp_path, capfd):
    content = annotations()
    content["annotations"].append({"image_id": 77, "category_id": 7, "bbox": [0, 0, 9, 9]})
    write(tmp_path, train=content)
    (tmp_path / "train2017" / "stray.jpg").write_bytes(b"")
    (tmp_path / "train2017" / "notes.txt").write_bytes(b"")
    assert len(coco_files.open(tmp_path).train) == 3
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("left out, 1 of 4 annotations in ") and said[0].endswith(": of image 77")
    assert said[1].startswith("left out, 1 of 3 pictures in ") and said[1].endswith(": stray.jpg")
    for n in range(3):
        (tmp_path / "train2017" / f"more{n}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"4 of 3 pictures in .* have no annotation .* more than 0.1% is too many"):
        coco_files.open(tmp_path)


def test_a_category_that_is_not_listed_and_a_picture_of_another_size(tmp_path, capfd):
    data = coco_files.open(write(tmp_path, train=changed("annotations", category_id=5)))
    (tmp_path / "train2017" / "0.png").write_bytes(png(WIDTH, HEIGHT + 1))
    (tmp_path / "train2017" / "1.png").unlink()
    (batch,) = box_loading.evaluation(data.train, 3, size=40, num_classes=2, most=4)
    said = capfd.readouterr().err
    assert batch["weight"].tolist() == [0, 0, 1] and batch["classes"][2].tolist() == [0, -1, -1, -1]
    assert "0.png (it has 40 x 21 pixels, and its annotation says 40 x 20), 1 of 3 pictures so far" in said
    assert "1.png (cannot be read (No such file or directory); prepare it again), " in said
    assert "2.png: a class that the set does not list; 1 of 3 pictures so far" in said


def test_an_annotation_that_is_there_twice_is_one_object(tmp_path, capfd):
    content = annotations()
    content["annotations"].append(dict(content["annotations"][0]))
    content["annotations"].append(content["annotations"][1] | {"id": 50})  # says of itself that it is another
    data = coco_files.open(write(tmp_path, train=content))
    assert [len(data.train[n].boxes) for n in range(3)] == [0, 1, 3]
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("left out, 1 of 5 annotations in ") and said.endswith(" are there twice: of image 11")
    content["annotations"] += content["annotations"][:2]
    with pytest.raises(UserError, match=r"3 of 7 annotations in .* are there twice: .* more than 0.1% is too many"):
        (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        coco_files.open(tmp_path)


def test_pictures_that_are_not_there_are_an_error_before_they_are_asked_for(tmp_path):
    write(tmp_path, val=annotations(5))
    for n in range(3):
        assert len(coco_files.open(tmp_path).test) == 5
        (tmp_path / "val2017" / f"{n}.png").unlink()
    with pytest.raises(UserError, match=r"3 of 5 pictures that .*val2017.json lists are not in .*: 0.png, 1.png, 2"):
        coco_files.open(tmp_path)


BAD_BOXES = {
    "a box outside of 40 x 20 pixels": [0, 0, 1e9, 5],
    "a box of no area": [3, 3, 9, 0],
    "a class that the set does not list": [0, 0, 9, 9],
}


@pytest.mark.parametrize("what", BAD_BOXES)
def test_too_many_objects_that_cannot_be_used_are_an_error_before_they_are_loaded(what, tmp_path):
    content = annotations(6)
    for entry in content["annotations"][:3]:
        entry |= {"bbox": BAD_BOXES[what]} | ({"category_id": 5} if "class" in what else {})
    with pytest.raises(UserError, match=rf"3 of 6 pictures in .* cannot be used: 1.png \({what}\), 2.png .*too many"):
        coco_files.open(write(tmp_path, val=content))


NUMBERS = st.integers(-5, 60) | st.floats(-100, 100, width=32) | st.sampled_from([1e9, -1e9, 0])


def again(objects):
    """How many of the objects repeat one before them."""
    return len(objects) - len({(entry["image_id"], entry["category_id"], *entry["bbox"]) for entry in objects})


@hypothesis.given(boxes=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=6))
@hypothesis.example(boxes=[(0, 0, 0, 0)] * 4)
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_box_is_an_object_or_a_fault_that_is_named(boxes, tmp_path_factory):
    objects = [{"image_id": 11, "category_id": 3, "bbox": list(map(float, box))} for box in boxes]
    directory = write(tmp_path_factory.mktemp("set"), train=annotations(annotations=objects))
    if again(objects) > FEW:
        with pytest.raises(UserError, match=rf"{again(objects)} of {len(boxes)} annotations in .* are there twice"):
            coco_files.open(directory)
        return
    data = coco_files.open(directory)
    load = box_loading.evaluation(data.train, 3, size=40, num_classes=2, most=8)
    (batch,) = load
    kept = batch["boxes"][1][batch["classes"][1] >= 0]
    whole = [
        box for x, y, w, h in boxes
        if min(box := (x, y, x + w, y + h)) >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT and w >= 0.01 and h >= 0.01
    ]  # fmt: skip
    assert len(kept) >= len(whole)
    assert np.all(kept[:, 2:] > kept[:, :2]) and np.all(kept >= 0) and np.all(kept <= 40)


@hypothesis.given(
    boxes=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=3, max_size=9),
    categories=st.lists(st.sampled_from([3, 7, 7, 5]), min_size=9, max_size=9),
)
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.example(boxes=[(0, 0, 9, 9)] * 9, categories=[3] * 9)
def test_what_loading_would_refuse_is_refused_at_once(boxes, categories, tmp_path_factory):
    objects = [
        {"image_id": 10 + n % 4, "category_id": c, "bbox": list(map(float, box))}
        for n, (box, c) in enumerate(zip(boxes, categories, strict=False))
    ]
    directory = write(tmp_path_factory.mktemp("set"), train=annotations(4, annotations=objects))
    if again(objects) > FEW:
        with pytest.raises(UserError, match=rf"{again(objects)} of {len(objects)} annotations in .* are there twice"):
            coco_files.open(directory)
        return
    path = directory / "annotations" / "instances_train2017.json"
    content = reading.parse(path.read_bytes(), str(path), coco_files.COCO, hint="", title="")
    source = coco_files._pictures(directory / "train2017", content, [3, 7], path)
    faulty = sum(bool(usable(source[n], WIDTH, HEIGHT, 2).faults) for n in range(4))
    try:
        coco_files.open(directory)
    except UserError as error:
        refused = "have objects that cannot be used" in str(error)
        assert refused == (faulty > FEW) and (refused or "there are no objects" in str(error))
    else:
        assert faulty <= FEW


@hypothesis.given(
    where=st.sampled_from(["images", "annotations", "categories"]),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
    key=st.sampled_from(
        ["id", "file_name", "width", "image_id", "category_id", "bbox", "iscrowd", "area", "name", None]
    ),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_lie_is_a_set_or_one_line(where, key, value, tmp_path_factory):
    content = annotations()
    if key is None:
        content[where] = value
    else:
        content[where][0][key] = value
    directory = write(tmp_path_factory.mktemp("set"))
    (directory / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    try:
        data = coco_files.open(directory)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
    else:
        assert all(np.isfinite(data.test[n].boxes).all() for n in range(3))
