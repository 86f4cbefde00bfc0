"""What KerasCV 0.9.0 (Apache 2.0) computes from `drawn`, written to kerascv.json; a test compares this package with it.

    pip install keras-cv==0.9.0 "keras<3.6" tensorflow-cpu "tensorflow-metadata<1.18" "jax[cpu]<0.7"
    KERAS_BACKEND=jax python -m tests.detection.kerascv

Its neck is not that of this package, so the sizes are those of backbone and head. Its loss has no part for the
distributions.
"""

import json
from pathlib import Path

import numpy as np

from tests.detection import drawn

FILE = Path(__file__).with_suffix(".json")


def main():
    """Write the file."""
    import keras  # pyright: ignore[reportMissingImports]
    import keras_cv  # pyright: ignore[reportMissingImports]
    from keras_cv.src.bounding_box.iou import compute_ciou  # pyright: ignore[reportMissingImports]
    from keras_cv.src.models.object_detection.yolo_v8 import yolo_v8_detector as v8  # pyright: ignore

    backbone = keras_cv.models.YOLOV8Backbone(  # of its preset yolo_v8_xs_backbone
        stackwise_channels=[32, 64, 128, 256], stackwise_depth=[1, 2, 2, 1], include_rescaling=False
    )
    levels = [keras.Input((side, side, width)) for side, width in ((80, 64), (40, 128), (20, 256))]
    head = keras.Model(levels, v8.apply_yolo_v8_head(levels, 80))

    said, (truth, classes) = drawn.outputs(), drawn.objects()
    sides, logits = said[..., : 4 * drawn.BINS], said[..., 4 * drawn.BINS :]
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    anchors, strides = v8.get_anchors((drawn.SIZE, drawn.SIZE, 3))
    strides = np.asarray(strides)[:, None]
    predicted = np.asarray(v8.dist2bbox(v8.decode_regression_to_boxes(sides), anchors)) * strides
    encoder = keras_cv.models.yolov8.LabelEncoder(num_classes=drawn.CLASSES)
    mask = (classes >= 0)[..., None]
    boxes, targets, _ = encoder(scores.astype(np.float32), predicted, anchors * strides, classes, truth, mask)
    targets = np.asarray(targets, np.float64)
    total = max(targets.sum(), 1)
    weight = targets.sum(-1)
    entropy = -(targets * np.log(scores) + (1 - targets) * np.log1p(-scores)).sum()
    missed = keras_cv.losses.CIoULoss("xyxy", reduction=None)(np.asarray(boxes), predicted)
    content = {
        "keras_cv": keras_cv.__version__,
        "backbone": _trainable(backbone),
        "head": _trainable(head),
        "complete_iou": _rounded(compute_ciou(*drawn.boxes(), "xyxy")),
        "class": np.where(weight > 0, targets.argmax(-1), -1).tolist(),
        "box": _rounded(np.where(weight[..., None] > 0, np.asarray(boxes), 0)),
        "weight": _rounded(weight),
        "classes_loss": float(entropy / total),
        "boxes_loss": float((np.asarray(missed) * weight).sum() / total),
    }
    FILE.write_text(json.dumps(content) + "\n")


def _trainable(model):
    return int(sum(np.prod(w.shape) for w in model.trainable_weights))


def _rounded(values):
    return np.round(np.asarray(values, np.float64), 6).tolist()


if __name__ == "__main__":
    main()
