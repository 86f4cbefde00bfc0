"""What networks say about a few images, for a report."""

import base64
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.detection.examples import SHOWN_OBJECTS, SHOWN_SIDE, examples
from dms_jax.detection.suppression import detect
from dms_jax.training import make_mesh
from tests.helpers import FLOAT32_ROUNDING

pillow = pytest.importorskip("PIL.Image", reason="of the extra data")

CLASSES, BINS = 3, 4


def batch(size):
    draw = np.random.default_rng(0)
    boxes = np.zeros((3, 2, 4), np.float32)
    boxes[0, 0] = [0.25 * size, 0.5 * size, 0.75 * size, size]
    classes = np.array([[2, -1], [-1, -1], [-1, -1]], np.int32)
    image = draw.integers(0, 256, (3, size, size, 3), np.uint8)
    return {"image": image, "boxes": boxes, "classes": classes, "weight": np.array([1, 1, 0], np.float32)}


def network(params, images):
    """Prediction 0 sees an object of class 1 where the image is bright."""
    count = images.shape[1] * images.shape[2] * 21 // 1024
    outputs = jnp.full((len(images), count, 4 * BINS + CLASSES), -9.0)
    return outputs.at[:, 0, 4 * BINS + 1].set(params * jnp.mean(images, axis=(1, 2, 3)))


@pytest.mark.parametrize("size", [64, 640])
def test_objects_and_detections_in_pixels_of_what_is_shown(size):
    given = batch(size)
    found = json.loads(json.dumps(examples({"a": (network, 6.0), "b": (network, -6.0)}, given, CLASSES)))["images"]
    assert len(found) == 2  # the third is none
    shown, scale = min(size, SHOWN_SIDE), min(size, SHOWN_SIDE) / size
    pixels = np.asarray(pillow.open(io.BytesIO(base64.b64decode(found[0]["png"]))))
    assert pixels.shape == (shown, shown, 3) and found[0]["size"] == shown
    if shown == size:
        np.testing.assert_array_equal(pixels, given["image"][0])
    objects = found[0]["objects"]
    assert objects["truth"] == [{"box": [0.25 * shown, 0.5 * shown, 0.75 * shown, shown], "class": 2}]
    assert found[1]["objects"]["truth"] == [] and objects["b"] == []
    (said,) = objects["a"]
    expected = detect(network(6.0, given["image"] / np.float32(255)), (size, size), CLASSES)
    np.testing.assert_allclose(said["box"], np.asarray(expected.boxes[0, 0]) * scale, atol=0.01)  # as it is rounded
    assert said["class"] == 1 and said["score"] == pytest.approx(float(expected.scores[0, 0]), abs=1e-4)


def test_many_devices_say_the_same():
    given = batch(64)
    one, four = (examples({"a": (network, 6.0)}, given, CLASSES, mesh) or {} for mesh in (None, make_mesh()))
    boxes = [[entry["box"] for entry in image["objects"]["a"]] for found in (one, four) for image in found["images"]]
    np.testing.assert_allclose(boxes[:2], boxes[2:], atol=0.01 + FLOAT32_ROUNDING)


@pytest.mark.parametrize("count", [0, 1, SHOWN_OBJECTS, SHOWN_OBJECTS + 7])
def test_a_report_takes_what_is_written_of_however_many_objects(count):
    reader = pytest.importorskip("dms_jax.report.example_pictures", reason="of the extra report")
    given, draw = batch(64), np.random.default_rng(count)
    corners = draw.uniform(0, 32, (3, count + 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + draw.uniform(1, 32, corners.shape).astype(np.float32)], axis=-1)
    classes = np.where(np.arange(count + 2) < count, 1, -1)[None].repeat(3, 0)
    for weight in (given["weight"], np.zeros(3, np.float32)):
        content = examples(
            {"a": (network, 6.0)}, given | {"boxes": boxes, "classes": classes, "weight": weight}, CLASSES
        )
        if not weight.any():
            assert content is None  # a report refuses a file without images
            continue
        assert content is not None
        reader.EXAMPLES(json.loads(json.dumps(content)), "")
        for n, image in enumerate(content["images"]):
            listed = np.array([entry["box"] for entry in image["objects"]["truth"]]).reshape(-1, 4)
            areas = np.sort(np.prod(boxes[n, :count, 2:] - boxes[n, :count, :2], axis=-1))[::-1][:SHOWN_OBJECTS]
            shown = np.sort(np.prod(listed[:, 2:] - listed[:, :2], axis=-1))[::-1]
            np.testing.assert_allclose(shown, areas, atol=1)  # coordinates are rounded
