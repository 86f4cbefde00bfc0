"""Handwritten digits: 1797 grey images of 8 x 8 that come with scikit-learn, so that nothing is downloaded.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from dms_jax.errors import UserError

CLASSES = 10
RESOLUTION = 8
TEST_EXAMPLES = 360
"""A fifth of the images. Runs of any seed are compared on the same ones."""

_SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """Training and test examples: {"image": `[N, R, R, 3]` float32, "label": `[N]` int32}."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def load(resolution: int = RESOLUTION) -> Split:
    """Load the digits, split once for all: 1437 for training and 360 for testing, every class in proportion.

    Pixels are `(p - mean) / std` with mean and standard deviation over all pixels of the training images; grey is
    repeated to three channels. The split does not depend on any seed of a run.

    Args:
      resolution: R, pixels of a side; other than 8, images are resized bilinearly.

    Raises:
      UserError: scikit-learn is missing, or a resolution below 1.
    """
    if resolution < 1:
        raise UserError(f"resolution {resolution} is below 1; give the pixels of a side, {RESOLUTION} for no resizing")
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UserError("the digits come with scikit-learn, which is missing: install dms_jax[data]") from error
    pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    numbers = np.arange(len(labels))
    halves = train_test_split(numbers, test_size=TEST_EXAMPLES, random_state=_SPLIT_SEED, stratify=labels)
    train, test = (np.asarray(half) for half in halves)
    grey = ((pixels - pixels[train].mean()) / pixels[train].std()).astype(np.float32)
    images = np.repeat(grey.reshape(-1, RESOLUTION, RESOLUTION, 1), 3, axis=-1)

    def examples(half: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": _resized(images[half], resolution), "label": labels[half].astype(np.int32)}

    return Split(examples(train), examples(test))


def _resized(images: np.ndarray, resolution: int) -> np.ndarray:
    """Bilinear, and smoothed before it is made smaller. Linear, so it may come after the normalisation."""
    if resolution == images.shape[1]:
        return images
    shape = (len(images), resolution, resolution, images.shape[-1])
    return np.asarray(jax.image.resize(images, shape, "bilinear"))
