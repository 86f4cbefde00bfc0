"""Sizes, overlaps, assignment and losses against what KerasCV computes; `kerascv.py` wrote the file.

In KerasCV's CIoU the whole of 4 / pi^2 (arctan - arctan) is squared; in the paper, and here, the arctangents alone. So
boxes are compared that have the aspect of their objects, where that part is 0. And where two objects want one
prediction, KerasCV takes both into its weight: no two objects here lie over each other.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import models
from dms_jax.detection import boxes
from dms_jax.detection.assignment import assign
from dms_jax.detection.loss import parts
from tests.detection import drawn
from tests.detection.kerascv import FILE

STORED = 2e-5
"""Its values are rounded to six digits, and its small constants against division by 0 are 1e-7, in other places."""


@pytest.fixture(scope="module")
def theirs():
    return json.loads(FILE.read_text())


def test_sizes_of_backbone_and_head(theirs):
    model = models.create("yolov8n")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 640, 640, 3)))["params"]
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    head = sum(size for name, size in sizes.items() if name.startswith(("box", "class")))
    neck = sum(size for name, size in sizes.items() if name.startswith("neck"))
    assert (theirs["backbone"], theirs["head"]) == (1_272_656, 897_648)
    assert (sum(sizes.values()) - head - neck, head) == (1_272_656, 897_648), sizes


def test_complete_overlaps(theirs):
    found = boxes.complete_iou(*map(jnp.asarray, drawn.boxes()))
    assert -1 < min(theirs["complete_iou"]) < 0 < 0.8 < max(theirs["complete_iou"])
    np.testing.assert_allclose(found, theirs["complete_iou"], atol=STORED)


def test_assignment(theirs):
    at = boxes.points(drawn.SIZE, drawn.SIZE, drawn.STRIDES)
    said = boxes.predictions(jnp.asarray(drawn.outputs()), drawn.CLASSES)
    predicted = boxes.decode(boxes.distances(said.sides), at)
    truth, classes = drawn.objects()
    for i in range(2):
        given = assign(jax.nn.sigmoid(said.classes[i]), predicted[i], jnp.asarray(at.centers), truth[i], classes[i])
        weight = np.asarray(theirs["weight"][i])
        assert 10 <= np.sum(weight > 0) <= 40
        np.testing.assert_array_equal(given.found, weight > 0)
        np.testing.assert_allclose(given.weight, weight, atol=STORED)
        found = np.flatnonzero(weight > 0)
        number = np.asarray(given.number)[found]
        np.testing.assert_array_equal(classes[i][number], np.asarray(theirs["class"][i])[found])
        np.testing.assert_allclose(truth[i][number], np.asarray(theirs["box"][i])[found], atol=STORED)


def test_losses(theirs):
    boxes, classes = map(jnp.asarray, drawn.objects())
    found = parts(jnp.asarray(drawn.outputs()), (drawn.SIZE, drawn.SIZE), boxes, classes, drawn.CLASSES)
    assert float(found.classes) == pytest.approx(theirs["classes_loss"], rel=STORED)
    assert float(found.boxes) == pytest.approx(theirs["boxes_loss"], rel=STORED)
