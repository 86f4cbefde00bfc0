import builtins
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dms_jax import UserError
from dms_jax.data import digits


def test_shapes_and_types():
    split = digits.load()
    for examples, length in ((split.train, 1437), (split.test, 360)):
        assert examples["image"].shape == (length, 8, 8, 3) and examples["image"].dtype == np.float32
        assert examples["label"].shape == (length,) and examples["label"].dtype == np.int32
        assert set(examples["label"]) == set(range(digits.CLASSES))


def test_every_image_is_in_one_half_with_its_label():
    split = digits.load()
    images, labels = load_digits(return_X_y=True)
    grey = np.concatenate([split.train["image"], split.test["image"]])[..., 0].reshape(-1, 64)
    found = np.round((grey - grey.min()) / np.ptp(grey) * 16).astype(int)  # pixels are 0 ... 16 in both
    classes = np.concatenate([split.train["label"], split.test["label"]])

    def rows(pixels, classes):
        return sorted((*row, label) for row, label in zip(pixels.astype(int).tolist(), classes.tolist(), strict=True))

    assert rows(found, classes) == rows(images, labels)


def test_classes_are_in_proportion():
    split = digits.load()
    train, test = (np.bincount(examples["label"]) for examples in (split.train, split.test))
    assert np.all(np.abs(test - (train + test) * 360 / 1797) < 1)


def test_training_pixels_are_standardised_and_grey():
    image = digits.load().train["image"]
    np.testing.assert_allclose([image.mean(), image.std()], [0, 1], atol=1e-5)
    np.testing.assert_array_equal(image, np.broadcast_to(image[..., :1], image.shape))


def test_the_split_is_fixed():
    first = digits.load()
    np.random.seed(3)
    again = digits.load()
    np.testing.assert_array_equal(first.test["image"], again.test["image"])
    np.testing.assert_array_equal(first.train["label"], again.train["label"])


def test_resizing():
    small, large = digits.load().test["image"], digits.load(16).test["image"]
    assert large.shape == (360, 16, 16, 3) and large.dtype == np.float32
    # A pixel lies at its centre, so the mean of four new ones about an old corner is that of the four old ones.
    inner = large[:, 1:-1, 1:-1].reshape(360, 7, 2, 7, 2, 3).mean((2, 4))
    corners = (small[:, 1:, 1:] + small[:, 1:, :-1] + small[:, :-1, 1:] + small[:, :-1, :-1]) / 4
    np.testing.assert_allclose(inner, corners, atol=1e-5)


def test_bad_resolution():
    with pytest.raises(UserError, match="resolution 0"):
        digits.load(0)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"dms_jax\[data\]"):
        digits.load()
