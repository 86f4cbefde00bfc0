"""Boxes: coding, overlaps, the assigner against a plain one, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.detection import boxes
from dms_jax.detection.assignment import ALPHA, BETA, TOP, assign
from dms_jax.detection.loss import as_floats, detection_loss, distribution_loss, parts
from dms_jax.models.yolov8 import STRIDES
from tests.helpers import FLOAT32_ROUNDING
from tests.models.small import CLASSES, NETWORKS

SIZE = 64


def drawn_boxes(rng, shape, most=SIZE):
    corner = rng.uniform(0, most * 0.7, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(2, most * 0.5, (*shape, 2))], -1).astype(np.float32)


def test_points_are_the_centers_of_cells_in_rows():
    at = boxes.points(32, 64, (8, 32))
    assert at.centers.shape == (4 * 8 + 2, 2)
    np.testing.assert_array_equal(at.centers[[0, 1, 8, 32, 33]], [[4, 4], [12, 4], [4, 12], [16, 16], [48, 16]])
    np.testing.assert_array_equal(at.strides[[0, 31, 32]], [8, 8, 32])


def test_decode_is_the_inverse_of_encode():
    at, rng = boxes.points(SIZE, SIZE, STRIDES), np.random.default_rng(0)
    drawn = drawn_boxes(rng, (3, len(at.strides)))
    np.testing.assert_allclose(boxes.decode(boxes.encode(jnp.asarray(drawn), at), at), drawn, atol=1e-4)


def test_a_distance_is_the_mean_of_its_distribution():
    sides = jnp.log(jnp.asarray([[0.5, 0.25, 0.25, 1e-30]] * 4))
    np.testing.assert_allclose(boxes.distances(sides), [0.75] * 4, atol=FLOAT32_ROUNDING)


def test_predictions_are_cut_where_classes_begin():
    said = boxes.predictions(jnp.arange(2.0 * 3 * 23).reshape(2, 3, 23), 7)
    assert said.sides.shape == (2, 3, 4, 4) and said.classes.shape == (2, 3, 7)
    assert said.sides[0, 0, 1, 0] == 4 and said.classes[0, 0, 0] == 16


@pytest.mark.parametrize(
    ("a", "b", "overlap", "complete"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 3 - 1 / 13),  # centers 1 apart, in a box of 3 x 2
        ([0, 0, 1, 1], [2, 0, 3, 1], 0, -4 / 10),
    ],
)
def test_overlaps_by_hand(a, b, overlap, complete):
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    assert float(boxes.iou(a, b)) == pytest.approx(overlap, abs=1e-5)
    assert float(boxes.complete_iou(a, b)) == pytest.approx(complete, abs=1e-5)


def test_aspects_count():
    wide, tall = jnp.asarray([0.0, 1, 4, 3]), jnp.asarray([1.0, 0, 3, 4])  # one center
    v = 4 / np.pi**2 * (np.arctan(2) - np.arctan(0.5)) ** 2
    expected = 4 / 12 - v * v / (1 - 4 / 12 + v)
    assert float(boxes.complete_iou(wide, tall)) == pytest.approx(expected, abs=1e-5)


def test_the_slope_of_the_complete_overlap_is_finite_everywhere():
    slope = jax.vmap(jax.grad(boxes.complete_iou), (0, 0))
    a = jnp.asarray([[0.0, 0, 0, 0], [5, 5, 1, 1], [0, 0, 2, 2], [0, 0, 9, 9]])
    b = jnp.asarray([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]])
    assert np.all(np.isfinite(slope(a, b)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int16, jnp.uint16, jnp.int32])
def test_overlaps_of_half_precision_and_of_whole_numbers(dtype):
    a, b = jnp.asarray([0, 0, 600, 600], dtype), jnp.asarray([12, 0, 612, 600], dtype)  # areas above 2^16
    for overlap in (boxes.iou, boxes.complete_iou):
        expected = overlap(a.astype(jnp.float32), b.astype(jnp.float32))
        assert float(overlap(a, b)) == float(expected) and 0.9 < float(expected) < 1


def test_outputs_of_other_classes_or_of_another_size():
    for classes in (0, 4, 16, 99):
        with pytest.raises(UserError, match=f"19 outputs a prediction are not those of {classes} classes; give"):
            boxes.predictions(jnp.zeros((1, 84, 19)), classes)
    with pytest.raises(UserError, match="84 predictions are not those of 21 points; give height and width"):
        boxes.decode(jnp.zeros((1, 84, 4)), boxes.points(32, 32, STRIDES))


# --- assignment ----------------------------------------------------------------------------------------------------


def plain(scores, predicted, centers, truth, classes):
    """The assigner in loops over objects."""
    found = np.zeros(len(scores), bool)
    number, best = np.zeros(len(scores), int), np.full(len(scores), -1.0)
    aligned = {}
    for m, (box, c) in enumerate(zip(truth, classes, strict=True)):
        if c < 0:
            continue
        overlap = np.maximum(np.asarray(boxes.complete_iou(jnp.asarray(predicted), jnp.asarray(box)[None])), 0)
        inside = (centers > box[:2]).all(1) & (centers < box[2:]).all(1)
        t = np.where(inside, scores[:, c] ** ALPHA * overlap**BETA, -1)
        aligned[m] = (t, overlap)
        for a in np.argsort(-t, kind="stable")[:TOP]:
            if inside[a] and overlap[a] > best[a]:
                found[a], number[a], best[a] = True, m, overlap[a]
    weight = np.zeros(len(scores))
    for m, (t, overlap) in aligned.items():
        mine = found & (number == m)
        if mine.any() and t[mine].max() > 0:
            weight[mine] = t[mine] / t[mine].max() * overlap[mine].max()
    return found, number, weight


@pytest.mark.parametrize("seed", range(6))
def test_the_assigner_is_the_plain_one(seed):
    rng, at = np.random.default_rng(seed), boxes.points(SIZE, SIZE, STRIDES)
    truth = drawn_boxes(rng, (5,))
    classes = np.array([0, 2, 1, 2, -1], np.int32)
    scores = rng.uniform(0.01, 0.99, (len(at.strides), 3)).astype(np.float32)
    spread = rng.uniform(0.5, 4, (len(at.strides), 4)).astype(np.float32)
    predicted = np.asarray(boxes.decode(jnp.asarray(spread), at))
    given = jax.jit(assign)(scores, predicted, jnp.asarray(at.centers), truth, classes)
    found, number, weight = plain(scores, predicted, at.centers, truth, classes)
    assert found.any() and not found.all()
    np.testing.assert_array_equal(given.found, found)
    np.testing.assert_array_equal(given.number, np.where(found, number, 0))
    np.testing.assert_allclose(given.weight, weight, atol=1e-5)


def test_an_image_without_objects_assigns_nothing():
    at = boxes.points(SIZE, SIZE, STRIDES)
    n = len(at.strides)
    given = assign(
        jnp.ones((n, 3)), jnp.ones((n, 4)), jnp.asarray(at.centers), jnp.zeros((2, 4)), jnp.full(2, -1, jnp.int32)
    )
    assert not np.any(given.found) and not np.any(given.weight)


def test_objects_in_one_box():
    at = boxes.points(SIZE, SIZE, STRIDES)
    n, box = len(at.strides), np.array([8, 8, 40, 40], np.float32)
    scores = np.tile(np.array([0.9, 0.1], np.float32), (n, 1))
    given = assign(
        jnp.asarray(scores),
        jnp.asarray(np.tile(box, (n, 1))),
        jnp.asarray(at.centers),
        jnp.asarray(np.tile(box, (3, 1))),
        jnp.asarray([1, 1, 0]),
    )
    assert np.sum(given.found) == TOP and set(np.asarray(given.number).tolist()) == {0}  # of equal ones the first
    np.testing.assert_allclose(given.weight, np.asarray(given.found, np.float32), atol=FLOAT32_ROUNDING)


# --- the loss ------------------------------------------------------------------------------------------------------


def outputs_of(truth, classes, sharp=30.0, bins=16):
    """Outputs `[1, A, 4 * bins + 3]` that say exactly one object at every point of the finest stride inside of it."""
    at = boxes.points(SIZE, SIZE, STRIDES)
    wanted = np.clip(np.asarray(boxes.encode(jnp.asarray(truth)[None], at)), 0, bins - 1.01)
    nearness = np.maximum(1 - np.abs(np.arange(bins) - wanted[..., None]), 1e-12)
    logits = np.full((len(at.strides), 3), -sharp)
    logits[np.asarray((at.centers > truth[:2]).all(1) & (at.centers < truth[2:]).all(1)), classes] = sharp
    return jnp.asarray(np.concatenate([np.log(nearness).reshape(len(logits), -1), logits], -1), jnp.float32)[None]


def test_what_is_right_costs_no_more_than_its_own_uncertainty():
    truth = np.array([8, 8, 40, 40], np.float32)
    exact = parts(outputs_of(truth, 1), (SIZE, SIZE), truth[None, None], np.array([[1]], np.int32), 3)
    assert float(exact.boxes) == pytest.approx(0, abs=1e-4)
    assert float(exact.distributions) == pytest.approx(np.log(2))  # distances half way between two bins
    wrong = parts(outputs_of(truth, 2), (SIZE, SIZE), truth[None, None], np.array([[1]], np.int32), 3)
    assert float(wrong.classes) > float(exact.classes)


def test_padding_changes_nothing():
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(2, 84, 4 * 4 + 3)), jnp.float32)
    truth, classes = drawn_boxes(rng, (2, 3)), rng.integers(0, 3, (2, 3)).astype(np.int32)
    classes[1] = -1
    expected = parts(outputs, (SIZE, SIZE), truth, classes, 3)
    numbers = np.concatenate([np.full((2, 4), -1, np.int32), classes], 1)
    for filler in (7, np.nan):
        padded = np.concatenate([np.full((2, 4, 4), np.float32(filler)), truth], 1)
        np.testing.assert_allclose(parts(outputs, (SIZE, SIZE), padded, numbers, 3), expected, rtol=1e-5)


@pytest.mark.parametrize(("box", "c"), [([0, 0, np.nan, 9], 1), ([0, 0, np.inf, 9], 1), ([0, 0, 9, 9], 3)])
def test_an_object_that_is_not_possible_is_heard(box, c):
    truth = np.array([[[8, 8, 40, 40], box]], np.float32)
    found = parts(jnp.zeros((1, 84, 19)), (SIZE, SIZE), truth, np.array([[0, c]], np.int32), 3)
    assert np.all(np.isnan(found))


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [9, 9, 4, 4], [-90, -90, -80, -80], [0, 0, 1e9, 1e9]])
def test_boxes_of_no_area_or_outside_have_a_slope(box):
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(1, 84, 19)), jnp.float32)
    truth, classes = np.array([[box]], np.float32), np.array([[1]], np.int32)
    slope = jax.grad(lambda x: sum(parts(x, (SIZE, SIZE), truth, classes, 3)))(outputs)
    assert np.all(np.isfinite(slope))


def test_images_of_a_range_that_is_not_known():
    np.testing.assert_array_equal(as_floats(jnp.asarray([255], jnp.uint8)), [1])
    assert as_floats(jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16
    for dtype in (jnp.int32, jnp.uint16, jnp.bool_):
        with pytest.raises(UserError, match="; give uint8, or floats in 0 to 1"):
            as_floats(jnp.ones(1, dtype))


def test_a_batch_without_objects_has_a_slope():
    outputs = jnp.zeros((1, 84, 4 * 4 + 3))
    boxes, classes = jnp.zeros((1, 1, 4)), jnp.full((1, 1), -1)

    def total(outputs):
        found = parts(outputs, (SIZE, SIZE), boxes, classes, 3)
        return found.classes + found.boxes + found.distributions

    value, slope = jax.value_and_grad(total)(outputs)
    assert float(value) == pytest.approx(84 * 3 * np.log(2), rel=1e-5)
    assert np.all(np.isfinite(slope)) and not np.any(slope[..., :16])


def test_the_slope_of_a_distribution_is_what_it_has_too_much():
    rng = np.random.default_rng(1)
    sides, wanted = rng.normal(size=(5, 4, 8)).astype(np.float32), rng.uniform(-1, 9, (5, 4)).astype(np.float32)
    slope = jax.grad(lambda x: jnp.sum(distribution_loss(x, jnp.asarray(wanted))))(sides)
    nearness = np.maximum(1 - np.abs(np.arange(8) - np.clip(wanted, 0, 6.99)[..., None]), 0)
    np.testing.assert_allclose(slope, (jax.nn.softmax(sides) - nearness) / 4, atol=FLOAT32_ROUNDING)


def test_objects_in_shapes_that_do_not_fit():
    with pytest.raises(UserError, match=r"boxes of shape \(2, 3, 4\) and classes of \(2, 2\) are not those"):
        parts(jnp.zeros((2, 84, 19)), (SIZE, SIZE), jnp.zeros((2, 3, 4)), jnp.zeros((2, 2), jnp.int32), 3)
    for shape, dtype in (((2, 0), jnp.int32), ((2, 1), jnp.float32), ((2, 1), jnp.uint8)):
        with pytest.raises(UserError, match="is not possible; give room for at least one, and int32, -1 where"):
            parts(jnp.zeros((2, 84, 19)), (SIZE, SIZE), jnp.zeros((*shape, 4)), jnp.zeros(shape, dtype), 3)


def test_a_network_learns_one_image():
    model = NETWORKS["yolov8"]
    loss = detection_loss(model)
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 32, 32, 3)).astype(np.float32)
    batch = {
        "image": image,
        "boxes": np.array([[[4, 4, 20, 20]], [[8, 2, 30, 28]]], np.float32),
        "classes": np.array([[3], [CLASSES - 1]], np.int32),
    }
    variables = jax.jit(model.init)(jax.random.key(0), image)

    @jax.jit
    def step(variables):
        (value, more), slope = jax.value_and_grad(lambda v: loss(v, batch, jax.random.key(0)), has_aux=True)(variables)
        moved = jax.tree.map(lambda w, g: w - 0.02 * g, variables["params"], slope["params"])
        return {"params": moved, **more["state"]}, value

    values = []
    for _ in range(30):
        variables, value = step(variables)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
