"""Mean average precision: by hand, and against COCO's own program where it is installed."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.detection.average_precision import Found, Truth, average_precision, by_pycocotools

BOX = np.array([[10.0, 10, 50, 50]])
NOTHING = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def found(boxes, scores, classes=0):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return Found(boxes, np.asarray(scores, float), np.broadcast_to(classes, len(boxes)))


def test_one_object_found_well_and_less_well():
    truth = [Truth(BOX, np.array([0]))]
    assert average_precision(truth, [found(BOX, [0.9])], 1)["mAP"] == pytest.approx(1)
    moved = average_precision(truth, [found(BOX + [8, 0, 8, 0], [0.9])], 1)  # IoU 32 / 48
    assert moved["mAP50"] == pytest.approx(1) and moved["mAP75"] == 0 and moved["mAP"] == pytest.approx(0.4)
    assert moved["mAP medium"] == moved["mAP"] and np.isnan(moved["mAP small"])


def test_a_false_one_above_the_right_one_costs_half():
    boxes = np.concatenate([BOX + 100, BOX])
    said = average_precision([Truth(BOX, np.array([0]))], [found(boxes, [0.9, 0.8])], 1)
    assert said["mAP"] == pytest.approx(0.5)


def test_classes_without_objects_do_not_count_and_missed_ones_do():
    truths = [Truth(BOX, np.array([0])), Truth(BOX, np.array([2]))]
    assert average_precision(truths, [found(BOX, [0.9]), NOTHING], 5)["mAP"] == pytest.approx(0.5)


def test_as_many_of_each():
    with pytest.raises(UserError, match="1 images have detections and 0 have objects"):
        average_precision([], [NOTHING], 1)


@pytest.mark.parametrize("c", [-1, 1])
def test_a_class_that_is_none_of_the_set(c):
    with pytest.raises(UserError, match=f"image 1 has class {c}, and there are 1, from 0"):
        average_precision([Truth(BOX, np.array([0]))] * 2, [NOTHING, found(BOX, [0.9], c)], 1)
    with pytest.raises(UserError, match=f"image 0 has class {c}, and there are 1, from 0"):
        average_precision([Truth(BOX, np.array([c]))], [NOTHING], 1)


@pytest.mark.parametrize(
    ("truth", "said", "message"),
    [
        (Truth(BOX, np.array([0, 0])), NOTHING, r"objects of image 0 have boxes of shape \(1, 4\); give \(2, 4\)"),
        (Truth(BOX * np.nan, np.array([0])), NOTHING, "objects of image 0 have boxes that are not finite"),
        (
            Truth(BOX, np.array([0]), areas=np.array([np.inf])),
            NOTHING,
            "objects of image 0 have areas that are not fin",
        ),
        (Truth(BOX, np.array([0]), crowd=np.zeros(2)), NOTHING, r"crowd of shape \(2,\); give \(1,\)"),
        (Truth(BOX, np.array([0.0])), NOTHING, "objects of image 0 have classes of float64; give whole numbers"),
        (Truth(BOX, np.array([0])), found(BOX, [np.nan]), "detections of image 0 have scores that are not finite"),
        (Truth(BOX, np.array([0])), found(BOX, [0.5, 0.4]), "detections of image 0 have "),
    ],
)
def test_arrays_that_do_not_fit_and_numbers_that_are_none(truth, said, message):
    with pytest.raises(UserError, match=message):
        average_precision([truth], [said], 1)


def scene(rng, images, classes):
    """Objects of all sizes, some of them crowds, and detections near them: twice, late, in the wrong class, or not."""
    truths, said = [], []
    for _ in range(images):
        n = int(rng.integers(0, 5))
        corner, size = rng.uniform(0, 200, (n, 2)), rng.choice([8, 30, 60, 150], (n, 1)) * rng.uniform(0.5, 1.5, (n, 2))
        boxes, labels = np.round(np.concatenate([corner, corner + size], 1)), rng.integers(0, classes, n)
        truths.append(Truth(boxes, labels, rng.uniform(size=n) < 0.2, rng.uniform(10, 2e4, n)))
        m = rng.integers(0, 8)
        own = rng.integers(0, max(n, 1), m)
        near = boxes[own] if n else np.tile([0.0, 0, 9, 9], (m, 1))
        near = near + np.round(rng.normal(size=(m, 4)) * rng.choice([0, 3, 20], (m, 1)))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        c = labels[own] if n else np.zeros(m, int)
        c = np.where(rng.uniform(size=m) < 0.8, c, rng.integers(0, classes, m))
        said.append(Found(near, np.round(rng.uniform(size=m), 1), c))
    return truths, said


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.integers(0, 2**16), st.integers(1, 5), st.integers(1, 3))
def test_it_is_cocos_own(seed, images, classes):
    pytest.importorskip("pycocotools", reason="the extra `detection` is not installed")
    truths, said = scene(np.random.default_rng(seed), images, classes)
    expected = by_pycocotools(truths, said, classes)
    mine = average_precision(truths, said, classes)
    assert mine.keys() == expected.keys()
    np.testing.assert_allclose(list(mine.values()), list(expected.values()), atol=1e-12)
