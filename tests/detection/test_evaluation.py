"""Mean average precision of a network: every image once, on one device and on many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.data import box_loading
from dms_jax.data.objects import composites
from dms_jax.detection import boxes
from dms_jax.detection.evaluation import mean_average_precision
from dms_jax.models.yolov8 import STRIDES
from dms_jax.training import make_mesh, shard_batch

SIZE, BINS = 64, 8


@pytest.fixture(scope="module")
def batches():
    test = composites(SIZE).test
    short = type(test)(**{**vars(test), "length": 20})
    return list(box_loading.evaluation(short, 8, size=SIZE, num_classes=10, most=8))


def knowing(batch):
    """A detector that knows a batch: at the cell in which the middle of an object lies, it says where the object is."""
    at = boxes.points(SIZE, SIZE, STRIDES)

    def outputs(own, classes):
        made = np.full((len(at.strides), 4 * BINS + 10), -20.0, np.float32)
        for box, c in zip(own, classes, strict=True):
            if c < 0:
                continue
            near = np.abs(at.centers - (box[:2] + box[2:]) / 2).max(-1) + 99 * (at.strides != 8)
            i = int(np.argmin(near))
            wanted = np.concatenate([at.centers[i] - box[:2], box[2:] - at.centers[i]]) / at.strides[i]
            nearness = np.maximum(1 - np.abs(np.arange(BINS) - wanted[:, None]), 1e-9)
            made[i, : 4 * BINS] = np.log(nearness).ravel()
            made[i, 4 * BINS + c] = 5
        return made

    return np.stack([outputs(own, c) for own, c in zip(batch["boxes"], batch["classes"], strict=True)])


def test_who_knows_all_has_all(batches):
    answers = np.stack([knowing(batch) for batch in batches])
    assert sum(float(batch["weight"].sum()) for batch in batches) == 20
    numbered = [{**batch, "image": np.full_like(batch["image"], i)} for i, batch in enumerate(batches)]

    def fn(params, images):
        return params[jnp.round(images[0, 0, 0, 0] * 255).astype(jnp.int32)]

    measured = mean_average_precision(fn, jnp.asarray(answers), numbered, 10)
    assert measured["mAP50"] > 0.97 and measured["mAP"] > 0.9  # two digits may have their middles in one cell
    nothing = mean_average_precision(lambda params, images: jnp.full_like(params[0], -20.0), answers, numbered, 10)
    assert nothing["mAP"] == 0


def test_many_devices_are_one(batches):
    key = jax.random.normal(jax.random.key(0), (3, 84 * (4 * BINS + 10))) * 0.1

    def fn(params, images):
        return (jnp.mean(images, axis=(1, 2)) @ params).reshape(len(images), 84, -1)

    one = mean_average_precision(fn, key, batches, 10)
    mesh = make_mesh(jax.devices()[:4])
    four = mean_average_precision(fn, key, [shard_batch(batch, mesh) for batch in batches], 10, mesh)
    np.testing.assert_allclose(list(four.values()), list(one.values()), atol=1e-6)


def test_no_images():
    with pytest.raises(ValueError, match="over no images"):
        mean_average_precision(lambda params, images: images, None, [], 10)
