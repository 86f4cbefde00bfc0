"""Augmentation of single pictures: each operation by itself, on values that can be told by hand."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow, of the extra data")

from dms_jax.data import randaugment  # noqa: E402 - after the check for Pillow
from dms_jax.data.augment import Augment, random_box  # noqa: E402
from dms_jax.data.pictures import Box, Unreadable, crop_resized, enlarged, resize_center  # noqa: E402
from dms_jax.data.randaugment import OPERATIONS, RandAugment  # noqa: E402

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None] + np.zeros((1, 1, 3), np.uint8)


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _smooth(height, width):
    """A picture without fine detail, so that ways to resize agree."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [128 + 100 * np.sin(5 * x + c) * np.cos(4 * y - c) for c in range(3)]
    return np.rint(np.stack(waves, -1)).astype(np.uint8)


def _apply(name, strength, pixels=RAMP):
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), strength)).astype(int)


def _encoded(pixels, kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_the_operations_are_the_fifteen():
    assert (
        list(OPERATIONS)
        == (
            "auto_contrast equalize invert rotate posterize solarize solarize_add color contrast brightness sharpness "
            "shear_x shear_y translate_x translate_y"
        ).split()
    )


@pytest.mark.parametrize(
    "name, strength, expected",
    [
        ("invert", 0.3, lambda x: 255 - x),
        ("posterize", 0.9, lambda x: x & 0b10000000),
        ("posterize", -0.5, lambda x: x & 0b11000000),
        ("posterize", 1.0, lambda x: x & 0b10000000),
        ("posterize", 0.0, lambda x: x & 0b11110000),
        ("solarize", 0.9, lambda x: np.where(x < 26, x, 255 - x)),
        ("solarize", 0.0, lambda x: x),
        ("solarize_add", 0.9, lambda x: np.where(x < 128, np.minimum(x + 99, 255), x)),
        ("brightness", -0.9, lambda x: x * 0.19),
        ("brightness", 0.5, lambda x: np.minimum(x * 1.45, 255)),
        ("contrast", -1.0, lambda x: 128 + 0.1 * (x - 128)),
        ("color", -0.7, lambda x: x),  # the picture is grey
    ],
)
def test_operations_on_values(name, strength, expected):
    np.testing.assert_allclose(_apply(name, strength), expected(RAMP.astype(int)), atol=1)


@pytest.mark.parametrize(
    "name", "rotate color contrast brightness sharpness shear_x shear_y translate_x translate_y".split()
)
def test_no_strength_is_the_picture_itself(name):
    noise = _noise(20, 24)
    np.testing.assert_array_equal(_apply(name, 0.0, noise), noise)


def test_contrast_operations():
    dark = (RAMP // 4 + 10).astype(np.uint8)
    np.testing.assert_allclose(_apply("auto_contrast", 0.9, dark), np.rint((dark - 10.0) * (255 / 63)), atol=1)
    skewed = np.rint(255 * (RAMP / 255.0) ** 3).astype(np.uint8)
    flat = _apply("equalize", 0.9, skewed)
    assert (
        np.abs(np.sort(flat[..., 0].ravel()) - np.arange(256)).mean()
        < 0.4 * np.abs(np.sort(skewed[..., 0].ravel()) - np.arange(256.0)).mean()
    )


def test_color_blends_with_grey():
    noise = _noise(8, 8)
    grey = (noise @ np.array([0.299, 0.587, 0.114]))[..., None]
    np.testing.assert_allclose(_apply("color", -0.9, noise), 0.19 * noise + 0.81 * grey, atol=1.5)


def test_sharpness_blends_with_smoothed():
    noise = _noise(12, 12)
    variances = [_apply("sharpness", s, noise)[2:-2, 2:-2].var() for s in (-0.9, 0.0, 0.9)]
    assert variances[0] < variances[1] < variances[2]


@pytest.mark.parametrize("name, axis", [("translate_x", 1), ("translate_y", 0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_translations(name, axis, sign):
    noise = _noise(20, 20)
    moved = np.moveaxis(_apply(name, sign / 0.9 / 2, noise), axis, 0)  # 0.45 / 0.9 / 2 * 20 = 5 pixels
    source = np.moveaxis(noise, axis, 0)
    inside, outside = (moved[:-5], moved[-5:]) if sign > 0 else (moved[5:], moved[:5])
    np.testing.assert_array_equal(inside, source[5:] if sign > 0 else source[:-5])
    np.testing.assert_array_equal(outside, np.broadcast_to(randaugment.FILL, outside.shape))


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shears_leave_the_first_line_and_move_the_last(name):
    stripe = np.zeros((41, 41, 3), np.uint8)
    stripe[:, 18:23] = 255
    sheared = _apply(name, 0.5, stripe if name == "shear_x" else np.swapaxes(stripe, 0, 1))[..., 0]
    sheared = sheared if name == "shear_x" else sheared.T
    centre = [float(np.average(np.arange(41), weights=line * (line > 150))) for line in sheared]
    assert abs(centre[0] - 20) < 0.5 and abs(centre[-1] - (20 - 0.15 * 40)) < 0.5


def test_rotation_turns_by_thirty_degrees_at_most():
    dot = np.zeros((81, 81, 3), np.uint8)
    dot[38:43, 68:73] = 255  # 30 pixels right of the centre
    for strength in (1.0, -1.0):
        turned = _apply("rotate", strength, dot)[..., 0]
        turned = np.where(turned > 200, turned, 0)
        y, x = (np.average(np.arange(81), weights=turned.sum(axis=a)) - 40 for a in (1, 0))
        assert math.degrees(math.atan2(-y, x)) == pytest.approx(30 * strength, abs=1.5)


def test_randaugment_draws_as_it_says(monkeypatch):
    seen = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, strength, name=name: seen.append((name, strength)) or image)
    draw, image = np.random.default_rng(0), Image.fromarray(RAMP)
    for _ in range(3000):
        RandAugment()(image, draw)
    names, strengths = zip(*seen, strict=True)
    assert len(seen) == pytest.approx(3000, abs=4 * math.sqrt(6000 / 4))  # two draws, each applied with 1/2
    counts = [names.count(name) for name in OPERATIONS]
    assert min(counts) > 0.7 * 200 and max(counts) < 1.3 * 200
    size = np.abs(strengths)
    assert size.mean() == pytest.approx(0.9, abs=0.01) and size.std() == pytest.approx(0.05, abs=0.005)
    assert size.max() <= 1 and np.mean(np.array(strengths) < 0) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("size", [4, 32])
def test_every_operation_keeps_size_and_mode(size):
    image = Image.fromarray(_noise(size, size))
    for operation in OPERATIONS.values():
        for strength in (-1.0, 0.95, 1.0):
            assert (operation(image, strength).size, operation(image, strength).mode) == ((size, size), "RGB")


def test_boxes_are_inside_and_of_the_stated_shape():
    draw = np.random.default_rng(0)
    boxes = np.array([random_box(draw, 400, 300, (0.08, 0.5), (3 / 4, 4 / 3)) for _ in range(4000)])  # all fit
    left, top, width, height = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and (left + width).max() <= 400 and (top + height).max() <= 300
    aspect, share = width / height, width * height / (400 * 300)
    assert 0.74 < aspect.min() and aspect.max() < 1.35 and 0.078 < share.min() and share.max() < 0.505
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(
        np.quantile(share, [0.25, 0.5, 0.75]), 0.08 + 0.42 * np.array([0.25, 0.5, 0.75]), atol=0.02
    )
    assert np.corrcoef(left / (401 - width), top / (301 - height))[0, 1] == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize(
    "width, height, expected", [(1000, 10, (493, 0, 13, 10)), (10, 1000, (0, 493, 10, 13)), (1, 1, (0, 0, 1, 1))]
)
def test_a_picture_that_no_box_fits_gives_its_middle(width, height, expected):
    assert random_box(np.random.default_rng(0), width, height, (0.9, 1.0), (3 / 4, 4 / 3)) == expected


@pytest.mark.parametrize("height, width", [(96, 130), (40, 28), (28, 28)])
def test_evaluation_resizes_and_takes_the_middle(height, width):
    picture, size, crop = _smooth(height, width), 28, 0.875
    side = int(size / crop)
    rows, columns = side * height // min(height, width), side * width // min(height, width)
    resized = jax.image.resize(jnp.asarray(picture, jnp.float32), (rows, columns, 3), "cubic", antialias=True)
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    expected = np.asarray(resized)[top : top + size, left : left + size]
    found = resize_center(picture, size, crop)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=2)


def test_a_crop_is_that_of_the_pixels():
    noise = _noise(30, 40)
    crop = crop_resized(noise, lambda w, h: Box(7, 9, 16, 16), 16)
    np.testing.assert_array_equal(np.asarray(crop), noise[9:25, 7:23])


@pytest.mark.parametrize("size", [16, 40, 90, 200])
def test_a_jpeg_decoded_smaller_gives_the_same_crop(size):
    picture = _smooth(403, 597)
    box = Box(31, 57, 323, 291)
    from_file = crop_resized(_encoded(picture, quality=95), lambda w, h: box, size)
    from_pixels = crop_resized(picture, lambda w, h: box, size)
    assert np.abs(np.asarray(from_file).astype(int) - np.asarray(from_pixels)).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_every_kind_of_file_becomes_rgb(mode):
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    file = io.BytesIO()
    Image.fromarray(_smooth(20, 20)).convert(mode).save(file, kind)
    assert resize_center(file.getvalue(), 8, 1.0).shape == (8, 8, 3)


@pytest.mark.parametrize("content", [b"", b"no picture", _encoded(RAMP)[:200], _encoded(RAMP, "PNG")[:-60]])
def test_broken_bytes_are_unreadable(content):
    with pytest.raises(Unreadable):
        resize_center(content, 8, 1.0)


@pytest.mark.parametrize("picture", [_noise(8, 8), _noise(32, 32), _encoded(_noise(28, 28), "PNG")])
def test_small_pictures_are_augmented(picture):
    made = Augment()(picture, 32, np.random.default_rng(0))
    assert made.shape == (32, 32, 3) and made.dtype == np.uint8
    np.testing.assert_array_equal(made, Augment()(picture, 32, np.random.default_rng(0)))
    assert not np.array_equal(made, Augment()(picture, 32, np.random.default_rng(1)))


def test_half_of_the_pictures_are_flipped():
    augment, draw = Augment((1, 1), (1, 1), rand_augment=None), np.random.default_rng(0)
    made = [augment(RAMP, 16, draw) for _ in range(400)]
    flipped = [np.array_equal(pixels, RAMP[:, ::-1]) for pixels in made]
    assert all(flip or np.array_equal(pixels, RAMP) for flip, pixels in zip(flipped, made, strict=True))
    assert sum(flipped) == pytest.approx(200, abs=40)


def test_made_larger_bicubically():
    expected = jax.image.resize(jnp.asarray(_smooth(8, 8), jnp.float32), (24, 24, 3), "cubic")
    np.testing.assert_allclose(enlarged(_smooth(8, 8), 24), np.clip(expected, 0, 255), atol=1.5)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Augment(scale=(0.0, 1.0)), "crops of"),
        (lambda: Augment(ratio=(2.0, 1.0)), "width / height"),
        (lambda: Augment(flip=1.5), "flip 1.5"),
        (lambda: RandAugment(magnitude=11), "magnitude 11"),
        (lambda: RandAugment(operations=-1), "-1 operations"),
    ],
)
def test_bad_settings_are_named(make, said):
    with pytest.raises(UserError, match=said):
        make()
