"""Sets of TFDS with boxes: COCO in miniature, written as TFDS writes it, and read without TensorFlow."""

import io
from typing import Any, ClassVar

import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.data import box_loading, objects

pytest.importorskip("PIL", reason="of the extra data")
tfds = pytest.importorskip("tensorflow_datasets", reason="of the extra data")

from dms_jax.data.images import NotPrepared  # noqa: E402 - after the check for its needs
from dms_jax.data.pictures import pillow  # noqa: E402

WIDTH, HEIGHT = 40, 20


def png(number):
    buffer = io.BytesIO()
    pillow().new("RGB", (WIDTH, HEIGHT), (number, 99, 199)).save(buffer, format="PNG")
    return io.BytesIO(buffer.getvalue())


def records(count, label=16):
    """Picture n has n objects (left 4, upper 2, right 14 + n, lower 12), the second of which is a crowd."""
    for n in range(count):
        boxes = [(2 / HEIGHT, 4 / WIDTH, 12 / HEIGHT, (14 + n) / WIDTH) for _ in range(n)]
        found = [
            {
                "area": 55, "bbox": tfds.features.BBox(*box), "id": 10 * n + i, "is_crowd": i == 1, "label": label,
            }
            for i, box in enumerate(boxes)
        ]  # fmt: skip
        yield n, {"image": png(n), "image/filename": f"{n:012d}.png", "image/id": n, "objects": found}


with tfds.core.registered.skip_registration():  # the real one names types of TensorFlow

    class Coco(tfds.core.GeneratorBasedBuilder):
        """COCO's features, as TFDS documents them."""

        VERSION = tfds.core.Version("1.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2017")]
        splits: ClassVar[dict[str, Any]] = {}

        def _info(self):
            found = {
                "id": tfds.features.Scalar(np.int64),
                "area": tfds.features.Scalar(np.int64),
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=80),
                "is_crowd": tfds.features.Scalar(np.bool_),
            }
            features = {
                "image": tfds.features.Image(encoding_format="png"),
                "image/filename": tfds.features.Text(),
                "image/id": tfds.features.Scalar(np.int64),
                "objects": tfds.features.Sequence(found),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return self.splits

        def _generate_examples(self):
            raise NotImplementedError


def write(directory, **splits):
    """Prepare coco/2017 with these pictures as the real command does, but for the download."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coco, "splits", splits)
        builder = Coco(data_dir=directory, config="2017", file_format="array_record")
        builder.download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    write(directory, train=records(3), validation=records(2, label=79))
    return directory


def test_objects_are_those_that_were_written(prepared):
    data = objects.open("coco/2017", prepared)
    assert data.num_classes == 80 and (len(data.train), len(data.test)) == (3, 2)
    by_count = {len(data.train[n].boxes): data.train[n] for n in range(3)}
    assert set(by_count) == {0, 1, 2}
    two = by_count[2]
    np.testing.assert_allclose(two.boxes * [WIDTH, HEIGHT, WIDTH, HEIGHT], [[4, 2, 16, 12]] * 2, rtol=1e-6)
    assert two.classes.tolist() == [16, 16] and two.crowd.tolist() == [False, True] and two.areas.tolist() == [55, 55]
    assert objects.COCO_IDS[two.classes[0]] == 18  # a dog
    assert {data.test[n].classes.tolist()[0] for n in range(2) if len(data.test[n].classes)} == {79}
    assert data.train.name(0).startswith("coco/2017 train [0] 00000000000")


def test_batches_of_them(prepared):
    data = objects.open("coco/2017", prepared)
    load = box_loading.batches(data.train, 3, 0, size=64, num_classes=80, most=5)
    assert load(0)["image"].shape == (3, 64, 64, 3) and load(0)["classes"].max() <= 16
    tested = list(box_loading.evaluation(data.test, 2, size=40, num_classes=80, most=4))
    assert sum(batch["weight"].sum() for batch in tested) == 2
    (batch,) = tested
    kept = batch["boxes"][batch["classes"] >= 0]
    np.testing.assert_allclose(kept, [[4, 12, 15, 22]], rtol=1e-6)


def test_worker_processes_read_them(prepared):
    data = objects.open("coco/2017", prepared)
    here, there = (
        box_loading.batches(data.train, 3, 0, size=32, num_classes=80, most=5, workers=workers) for workers in (0, 1)
    )
    try:
        for name, leaf in here(1).items():
            np.testing.assert_array_equal(leaf, there(1)[name])
    finally:
        here.close()  # type: ignore[attr-defined]
        there.close()  # type: ignore[attr-defined]


def test_what_is_not_there(prepared, tmp_path):
    with pytest.raises(NotPrepared, match="python -m dms_jax.data.prepare coco/2017"):
        objects.open("coco/2017", tmp_path)
    write(tmp_path, train=records(2))
    with pytest.raises(UserError, match="coco/2017 has no splits to train and to test on; it has: train"):
        objects.open("coco/2017", tmp_path)


def test_a_set_without_boxes(tmp_path):
    with pytest.raises(UserError, match="did you mean coco"):
        objects.open("cocoo", tmp_path)
    with pytest.raises(NotPrepared, match="cifar10 is not prepared"):
        objects.open("cifar10", tmp_path)
