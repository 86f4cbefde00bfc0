"""Predictions and objects that are drawn by NumPy alone, so that programs without JAX can draw them, too."""

import numpy as np

SIZE, CLASSES, BINS, STRIDES = 128, 5, 16, (8, 16, 32)


def boxes(count=200, seed=0):
    """Pairs of boxes `[count, 4]` float32 in pixels, overlapping more or less or not at all; both of one aspect."""
    draw = np.random.default_rng(seed)
    corner, sides = draw.uniform(0, 60, (count, 2)), draw.uniform(4, 60, (count, 2))
    moved = corner + draw.normal(0, 1, (count, 2)) * draw.choice([0.5, 4, 20], (count, 1))
    grown = sides * draw.uniform(0.5, 2, (count, 1))
    pair = (np.concatenate([corner, corner + sides], axis=1), np.concatenate([moved, moved + grown], axis=1))
    return tuple(box.astype(np.float32) for box in pair)


def objects(seed=1):
    """Two images of up to four objects, each in its own quarter: `[2, 4, 4]` float32, `[2, 4]` int32, -1 for none."""
    draw = np.random.default_rng(seed)
    half = SIZE / 2
    quarters = np.array([[0, 0], [half, 0], [0, half], [half, half]])
    corner = quarters + draw.uniform(1, 12, (2, 4, 2))
    found = np.concatenate([corner, corner + draw.uniform(24, 50, (2, 4, 2))], axis=-1)
    classes = draw.integers(0, CLASSES, (2, 4)).astype(np.int32)
    classes[1, 2:] = -1
    found[1, 2:] = -1
    return found.astype(np.float32), classes


def outputs(seed=2):
    """`[2, A, 4 * BINS + CLASSES]` float32: what a network says that has half learned where the objects are.

    The prediction at a point inside an object is a box around it, of its aspect and larger.
    """
    draw = np.random.default_rng(seed)
    made = [
        np.concatenate([_of_stride(draw, stride, *image) for stride in STRIDES])
        for image in zip(*objects(), strict=True)
    ]
    return np.stack(made).astype(np.float32)


def _of_stride(draw, stride, truth, classes):
    y, x = np.mgrid[: SIZE // stride, : SIZE // stride].reshape(2, -1)
    centers = (np.stack([x, y], axis=-1) + 0.5) * stride
    wanted = draw.uniform(1.5, 2.5, (len(centers), 4))
    for box in truth[classes >= 0]:
        inside = ((centers > box[:2]) & (centers < box[2:])).all(axis=-1)
        grown = (box[2:] - box[:2]) * draw.uniform(0.05, 0.4, (len(centers), 1))
        share = draw.uniform(0, 1, (len(centers), 2))
        sides = np.concatenate([centers - box[:2] + share * grown, box[2:] - centers + (1 - share) * grown], axis=-1)
        wanted[inside] = sides[inside] / stride
    nearness = np.maximum(1 - np.abs(np.arange(BINS) - wanted[..., None]), 0)
    logits = np.log(nearness + 1e-6)  # whose mean is what is wanted
    return np.concatenate([logits.reshape(len(centers), -1), draw.normal(-1, 1, (len(centers), CLASSES))], axis=-1)
