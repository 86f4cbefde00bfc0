"""Non-maximum suppression against a plain one, and detections from outputs."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.detection.suppression import detect, suppress

N, MOST = 12, 6
suppressed = jax.jit(suppress, static_argnames=("most",))


def plain(boxes, scores, classes, score, overlap, most):
    """In loops."""
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > score]
    kept = []
    for i in order:
        if len(kept) < most and all(classes[i] != classes[j] or iou(boxes[i], boxes[j]) <= overlap for j in kept):
            kept.append(int(i))
    return kept


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.maximum(sides, 0))
    areas = [np.prod(np.maximum(x[2:] - x[:2], 0)) for x in (a, b)]
    return common / (sum(areas) - common) if sum(areas) else 0.0


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    corners=hnp.arrays(np.int32, (N, 2), elements=st.integers(0, 6)),
    sides=hnp.arrays(np.int32, (N, 2), elements=st.integers(0, 8)),
    scores=hnp.arrays(np.float32, N, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0])),
    classes=hnp.arrays(np.int32, N, elements=st.integers(0, 2)),
    score=st.sampled_from([0.001, 0.3]),
    overlap=st.sampled_from([0.03, 0.47, 0.71, 1.0]),  # no ratio of small whole numbers
)
def test_it_is_the_plain_one(corners, sides, scores, classes, score, overlap):
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    taken, there = suppressed(boxes, scores, classes, score=score, overlap=overlap, most=MOST)
    assert np.asarray(taken)[np.asarray(there)].tolist() == plain(boxes, scores, classes, score, overlap, MOST)
    assert np.all(np.diff(np.asarray(there).astype(int)) <= 0)


def test_nan_is_never_taken():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 12, 12]], np.float32)
    taken, there = suppressed(boxes, np.array([np.nan, 0.5, 0.4], np.float32), np.zeros(3, np.int32), most=3)
    assert np.asarray(taken)[np.asarray(there)].tolist() == [1, 2]


def outputs(classes=3, bins=4):
    """One prediction of 32 x 32 pixels that is certain, one beside it that is less so, of two classes each."""
    made = np.full((1, 16 + 4 + 1, 4 * bins + classes), -20.0, np.float32)
    made[..., : 4 * bins] = np.tile([0, 20, 0, 0], 4)  # one stride to each side
    made[0, 5, 4 * bins :] = [4, 3, -20]
    made[0, 6, 4 * bins :] = [2, -20, 1]
    return jnp.asarray(made)


def test_every_class_of_a_prediction_is_a_candidate():
    found = jax.jit(lambda x: detect(x, (32, 32), 3, most=8))(outputs())
    assert found.boxes.shape == (1, 8, 4)
    there = np.asarray(found.scores[0]) > 0
    assert there.tolist() == [True] * 4 + [False] * 4
    assert np.asarray(found.classes[0]).tolist() == [0, 1, 0, 2] + [-1] * 4
    np.testing.assert_allclose(found.boxes[0, 0], [4, 4, 20, 20], atol=1e-4)  # a point at 12, 12 and 8 pixels
    np.testing.assert_allclose(found.scores[0, :2], jax.nn.sigmoid(jnp.asarray([4.0, 3.0])), rtol=1e-5)
    # boxes 16 pixels wide and 8 apart: IoU 1/3
    one = detect(outputs(), (32, 32), 3, overlap=0.3, most=8)
    assert np.asarray(one.classes[0]).tolist()[:4] == [0, 1, 2, -1]


def test_a_prediction_that_is_not_finite_is_no_candidate():
    broken = outputs().at[0, 7, 0].set(jnp.nan).at[0, 8, 16].set(jnp.nan).at[0, 9, 17].set(jnp.inf)
    broken = broken.at[0, 7, 16].set(9.0)  # the best there would be
    found, expected = (detect(x, (32, 32), 3, most=8, candidates=5) for x in (broken, outputs()))
    assert all(np.all(np.isfinite(leaf)) for leaf in found)
    assert np.asarray(found.classes[0]).tolist() == [1, 0, 1, 0, 2, -1, -1, -1]
    np.testing.assert_array_equal(found.scores[0, 1:4], expected.scores[0, :3])
    nothing = detect(jnp.full((2, 21, 19), jnp.nan), (32, 32), 3, most=2)
    assert not np.any(nothing.scores) and np.all(np.asarray(nothing.classes) == -1)


def test_thresholds_that_are_not_possible():
    with pytest.raises(UserError, match="score 1.5 is not possible; give a number from 0 to 1"):
        detect(outputs(), (32, 32), 3, score=1.5)
    with pytest.raises(UserError, match="0 detections of 4096 candidates"):
        detect(outputs(), (32, 32), 3, most=0)
