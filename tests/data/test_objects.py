"""Pictures with boxes: a mark and its box move together; composites; objects that cannot be used."""

import numpy as np
import pytest
from PIL import Image

from dms_jax import UserError
from dms_jax.data import box_loading, objects
from dms_jax.data.box_augment import BoxAugment, Piece, drawn, letterbox
from dms_jax.data.objects import Annotated, composites
from dms_jax.data.usable import usable

SIZE = 64
MARKS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


def marked(number, width, height, box):
    """A black picture with a box of its own color, as a piece; the class is the number of the color."""
    pixels = np.zeros((height, width, 3), np.uint8)
    left, upper, right, lower = box
    pixels[upper:lower, left:right] = MARKS[number]
    return Piece(Image.fromarray(pixels), np.array([box], np.float32), np.array([number], np.int32))


PIECES = [
    marked(0, 100, 60, (20, 10, 70, 50)),
    marked(1, 50, 90, (5, 5, 45, 60)),
    marked(2, 64, 64, (0, 0, 64, 30)),
    marked(3, 33, 77, (8, 20, 30, 70)),
]


def around(image, color):
    """The box around the pixels that are nearly of a color."""
    inside = (np.abs(image.astype(int) - color) < 128).all(-1)
    if not inside.any():
        return None
    y, x = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1])


@pytest.mark.parametrize("seed", range(40))
def test_a_mark_and_its_box_move_together(seed):
    augment = BoxAugment(mosaic=0.7, hue=0, saturation=0, value=0)
    draw = np.random.default_rng(seed)
    image, boxes, classes = augment(PIECES[0], lambda i: PIECES[i + 1], SIZE, draw)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
    assert len(set(classes.tolist())) == len(classes) and (boxes >= 0).all() and (boxes <= SIZE).all()
    for box, c in zip(boxes, classes, strict=True):
        seen = around(image, MARKS[c])
        assert seen is not None
        np.testing.assert_allclose(box, seen, atol=1.01)
    for c in set(range(4)) - set(classes.tolist()):  # what has no box is small, or a rest of what it was
        seen = around(image, MARKS[c])
        assert seen is None or np.min(seen[2:] - seen[:2]) <= 3 or np.prod(seen[2:] - seen[:2]) < 0.25 * SIZE**2


def test_a_mosaic_has_four_pictures_and_a_plain_one_has_one():
    augment = BoxAugment(scale=0, translate=0)
    found = [augment(PIECES[0], lambda i: PIECES[i + 1], SIZE, np.random.default_rng(seed)) for seed in range(10)]
    assert {c for example in found for c in example.classes.tolist()} == {0, 1, 2, 3}
    plain = augment(PIECES[0], lambda i: PIECES[i + 1], SIZE, np.random.default_rng(0), plain=True)
    assert plain.classes.tolist() == [0]


def test_colors_change_and_black_stays():
    piece = marked(0, SIZE, SIZE, (10, 10, 50, 50))
    example = BoxAugment(0, 0, 0, 0.015, 0.7, 0.4, 0)(piece, None, SIZE, np.random.default_rng(3))  # type: ignore[arg-type]
    assert (example.image[0, 0] == 0).all() and (example.image[30, 30] != MARKS[0]).any()
    np.testing.assert_array_equal(example.boxes, [[10, 10, 50, 50]])


def test_a_letterbox_shows_all_of_a_picture():
    piece = marked(0, 100, 50, (0, 0, 100, 50))
    at = letterbox(piece.image, SIZE)
    np.testing.assert_array_equal(at.moved(piece.boxes), [[0, 16, 64, 48]])
    image = drawn([piece.image], [at], SIZE)
    np.testing.assert_array_equal(around(image, MARKS[0]), [0, 16, 64, 48])
    assert (image[:16] == 114).all() and (image[48:] == 114).all()


@pytest.mark.parametrize("options", [{"mosaic": 1.5}, {"scale": 1.0}, {"flip": -0.1}])
def test_augmentations_that_are_not_possible(options):
    with pytest.raises(UserError, match="is not possible; give a number"):
        BoxAugment(**options)


# --- composites ----------------------------------------------------------------------------------------------------


def test_composites_are_the_same_every_time_and_their_boxes_are_around_ink():
    data = composites(SIZE)
    assert (len(data.train), len(data.test), data.num_classes) == (1024, 256, 10)
    for number in range(20):
        first, second = data.train[number], data.train[number]
        np.testing.assert_array_equal(first.picture, second.picture)
        assert isinstance(first.picture, np.ndarray) and first.picture.shape == (SIZE, SIZE, 3)
        found = usable(first, SIZE, SIZE, 10)
        assert not found.faults and 1 <= len(found.boxes) <= 4
        assert (found.boxes == np.rint(found.boxes)).all()
        assert ((found.boxes[:, 2:] - found.boxes[:, :2]) <= SIZE / 2).all()
    assert not np.array_equal(np.asarray(data.train[0].picture), np.asarray(data.test[0].picture))


def test_the_box_of_a_composite_is_around_what_was_drawn():
    ink = np.zeros((2, 8, 8), np.float32)
    ink[0, 2:5, 1:7], ink[1, 1:7, 3:4] = 1, 1
    night = (np.zeros((90, 120, 3), np.uint8),)
    source = objects.Composites(ink, np.array([0, 1], np.int32), night, SIZE, 200, "night", 0)
    drawn = [source[n] for n in range(200)]
    alone = [one for one in drawn if len(one.boxes) == 1]
    assert len(alone) >= 20 and {int(one.classes[0]) for one in alone} == {0, 1}
    for one in alone:
        light = np.asarray(one.picture).max(-1).astype(float)
        np.testing.assert_allclose(one.boxes[0] * SIZE, around_light(light, 0.25 * light.max()), atol=1.01)
    for one in drawn:  # however many there are, nothing is drawn outside of all boxes but edges
        outside = np.asarray(one.picture).max(-1).astype(float)
        for left, upper, right, lower in np.rint(one.boxes * SIZE).astype(int):
            outside[upper:lower, left:right] = 0
        assert outside.max() <= 0.3 * 255


def around_light(light, least):
    y, x = np.flatnonzero((light > least).any(1)), np.flatnonzero((light > least).any(0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1])


def test_composites_of_less_than_32_pixels():
    with pytest.raises(UserError, match="composites of 16 pixels are not possible; give at least 32"):
        composites(16)


def test_classes_have_the_numbers_of_coco():
    assert len(objects.COCO_IDS) == 80 and objects.COCO_IDS[0] == 1 and objects.COCO_IDS[-1] == 90


# --- what cannot be used -------------------------------------------------------------------------------------------


class Given:
    """A source of gray pictures; number 1 has the objects that are given."""

    def __init__(self, boxes, classes, length=10, crowd=None, picture=None):
        self.boxes, self.classes, self.length = np.asarray(boxes, np.float32), np.asarray(classes, np.int32), length
        self.crowd, self.picture = crowd, picture

    def __len__(self):
        return self.length

    def name(self, number):
        return f"given [{number}]"

    def __getitem__(self, number):
        n = len(self.boxes) if number % 3 == 1 else 0
        gray = np.full((40, 80, 3), 99, np.uint8)
        crowd = np.zeros(n, bool) if self.crowd is None or not n else np.asarray(self.crowd)
        picture = self.picture if self.picture is not None and number % 3 == 1 else gray
        return Annotated(picture, self.boxes[:n], self.classes[:n], crowd, np.full(n, np.nan, np.float32))


GOOD = [0.25, 0.25, 0.75, 0.75]
BAD = {
    "not finite": ([0, float("nan"), 1, 1], 0),
    "outside of 80 x 40 pixels": ([-0.2, 0, 1, 1], 0),
    "of no area": ([0.5, 0, 0.5, 1], 0),
    "class 3, and there are 3": (GOOD, 3),
    "a class that the set does not list": (GOOD, -1),
}


@pytest.mark.parametrize("what", BAD)
def test_objects_that_cannot_be_used_are_left_out_and_named(what, capfd):
    box, c = BAD[what]
    source = Given([GOOD, box], [1, c], length=4)  # one picture in four: few are no error
    load = box_loading.batches(source, 4, 0, size=32, num_classes=3, augment=BoxAugment(0, 0, 0), most=5)
    for step in range(3):
        batch = load(step)
        assert batch["image"].shape == (4, 32, 32, 3) and batch["boxes"].shape == (4, 5, 4)
        assert set(batch) == {"image", "boxes", "classes"}
        assert batch["classes"].max(initial=-1) <= 1 and np.isfinite(batch["boxes"]).all()
    said = capfd.readouterr().err
    assert said.count("left out") == 1 and "given [1]" in said and what in said and "1 of 4 pictures so far" in said


def test_too_many_are_an_error():
    source = Given([[0, 0, 0, 0]], [0], length=30)
    load = box_loading.batches(source, 15, 0, size=32, num_classes=3, augment=BoxAugment(0, 0, 0))
    with pytest.raises(UserError, match=r"pictures have objects that cannot be used, .* more than 0.1% is too many"):
        for step in range(3):
            load(step)


def test_rounding_is_no_fault():
    found = usable(Given([[-0.005, 0, 1.001, 1]], [0])[1], 80, 40, 3)
    assert not found.faults
    np.testing.assert_array_equal(found.boxes, [[0, 0, 80, 40]])
    np.testing.assert_array_equal(found.areas, [3200])


# --- loading -------------------------------------------------------------------------------------------------------


def test_batches_are_a_function_of_the_step_and_processes_share_them():
    source = Given([GOOD], [2], length=12)
    options = dict(size=32, num_classes=3, most=4, plain_from=3)
    whole = box_loading.batches(source, 4, 5, **options)  # type: ignore[arg-type]
    expected = [whole(step) for step in range(5)]
    for p in range(2):
        half = box_loading.batches(source, 4, 5, shard=(p, 2), **options)  # type: ignore[arg-type]
        for step in (3, 0, 1):
            for name, leaf in half(step).items():
                np.testing.assert_array_equal(leaf, expected[step][name][2 * p : 2 * p + 2])


def test_crowds_are_not_trained_on_and_are_evaluated():
    source = Given([GOOD, [0, 0, 1, 1]], [0, 1], crowd=[False, True], length=3)
    load = box_loading.batches(source, 3, 0, size=32, num_classes=3, augment=BoxAugment(0, 0, 0, flip=0))
    assert sorted(load(0)["classes"].ravel().tolist())[-2:] == [-1, 0]
    (batch,) = box_loading.evaluation(source, 4, size=32, num_classes=3, most=3)
    assert batch["weight"].tolist() == [1, 1, 1, 0]
    assert batch["classes"][1].tolist() == [0, 1, -1] and batch["crowd"][1].tolist() == [False, True, False]
    np.testing.assert_allclose(batch["boxes"][1, 0], [8, 12, 24, 20])
    assert batch["areas"][1, 0] == 40 * 20 and batch["scale"][1] == np.float32(0.4)


def test_a_picture_that_cannot_be_read_is_skipped(capfd):
    source = Given([GOOD], [0], length=4, picture=b"no picture")
    load = box_loading.batches(source, 4, 0, size=32, num_classes=3, augment=BoxAugment(0, 0, 0))
    assert load(0)["image"].shape[0] == 4
    (batch,) = box_loading.evaluation(source, 4, size=32, num_classes=3)
    assert batch["weight"].tolist() == [1, 0, 1, 1]
    assert "skipped, cannot be read: given [1]" in capfd.readouterr().err


def test_every_picture_is_evaluated_once():
    source = Given([GOOD], [0], length=10)
    weights = [
        batch["weight"].sum()
        for p in range(2)
        for batch in box_loading.evaluation(source, 4, size=32, num_classes=3, shard=(p, 2))
    ]
    assert sum(weights) == 10 and len(weights) == 6


def test_more_objects_than_there_is_room_for():
    source = Given([GOOD] * 3, [0] * 3, length=3)
    load = box_loading.batches(source, 3, 0, size=32, num_classes=3, augment=BoxAugment(0, 0, 0), most=2)
    assert (load(0)["classes"] >= 0).sum() == 2
    with pytest.raises(UserError, match=r"given \[1\] has 3 objects, and there is room for 2"):
        list(box_loading.evaluation(source, 3, size=32, num_classes=3, most=2))
