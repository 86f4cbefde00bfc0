"""What is done to whole batches on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import UserError
from dms_jax.data.mixing import ERASED_AREA, NONE, Mixing, erase, mix, mixing_weight, normalize
from dms_jax.training.mesh import make_mesh, shard_batch
from tests.helpers import FLOAT32_ROUNDING

CLASSES = 5
MIXUP = Mixing(mixup=0.8, cutmix=0.0, erasing=0.0, label_smoothing=0.0)
CUTMIX = Mixing(mixup=0.0, cutmix=1.0, erasing=0.0, label_smoothing=0.0)


def _batch(count=16, side=16, seed=0):
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (count, side, side, 3), np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.arange(count, dtype=jnp.int32) % CLASSES}


_erase = jax.jit(erase)


@functools.partial(jax.jit, static_argnums=2)
def _mixed(batch, key, mixing):
    return mix(batch, key, mixing, CLASSES)


def test_normalisation_is_that_of_published_weights():
    image = np.array([[[0, 128, 255]]], np.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(normalize(jnp.asarray(image))[0, 0], expected, rtol=FLOAT32_ROUNDING)
    batch = _batch()
    mixed = _mixed(batch, jax.random.key(0), NONE)
    np.testing.assert_allclose(mixed["image"], normalize(batch["image"]), rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)
    np.testing.assert_array_equal(mixed["target"], np.eye(CLASSES)[np.asarray(batch["label"])])
    assert mixed["target"].dtype == mixed["image"].dtype == jnp.float32


def test_label_smoothing():
    mixing = Mixing(mixup=0, cutmix=0, erasing=0, label_smoothing=0.1)
    target = _mixed(_batch(), jax.random.key(0), mixing)["target"]
    np.testing.assert_allclose(target[2], [0.02, 0.02, 0.92, 0.02, 0.02], rtol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("mixing", [Mixing(), MIXUP, CUTMIX, NONE])
def test_targets_sum_to_one_and_labels_stay(mixing):
    batch = _batch() | {"weight": jnp.ones(16)}
    for seed in range(5):
        mixed = _mixed(batch, jax.random.key(seed), mixing)
        np.testing.assert_allclose(mixed["target"].sum(axis=1), 1, rtol=FLOAT32_ROUNDING)
        np.testing.assert_array_equal(mixed["label"], batch["label"])
        assert float(mixed["target"].min()) >= 0 and set(mixed) == {"image", "label", "target", "weight"}


def test_mixup_mixes_pictures_as_labels():
    batch, shares = _batch(), []
    labels = np.eye(CLASSES)[np.asarray(batch["label"])]
    own = np.asarray(normalize(batch["image"]))
    for seed in range(20):
        mixed = _mixed(batch, jax.random.key(seed), MIXUP)
        share = float(mixed["target"][1, 1])
        expected = share * own + (1 - share) * np.roll(own, 1, axis=0)
        np.testing.assert_allclose(mixed["image"], expected, atol=10 * FLOAT32_ROUNDING)
        np.testing.assert_allclose(
            mixed["target"], share * labels + (1 - share) * np.roll(labels, 1, axis=0), atol=FLOAT32_ROUNDING
        )
        shares.append(share)
    assert 0.2 < np.mean(shares) < 0.8 and np.std(shares) > 0.1


def test_cutmix_swaps_a_rectangle_and_counts_its_area():
    batch = _batch()
    own = np.asarray(normalize(batch["image"]))
    for seed in range(20):
        mixed = _mixed(batch, jax.random.key(seed), CUTMIX)
        image = np.asarray(mixed["image"])
        kept = np.all(np.abs(image - own) < 1e-5, axis=-1)
        swapped = np.all(np.abs(image - np.roll(own, 1, axis=0)) < 1e-5, axis=-1)
        assert (kept ^ swapped).all()
        assert (swapped == swapped[0]).all()  # one rectangle a batch
        rows, columns = swapped[0].any(1), swapped[0].any(0)
        np.testing.assert_array_equal(swapped[0], rows[:, None] & columns[None, :])
        assert (np.abs(np.diff(np.pad(rows, 1).astype(int))).sum()) in (0, 2)
        assert float(mixed["target"][1, 1]) == pytest.approx(kept.mean(), abs=FLOAT32_ROUNDING)


def _weights(mixing, count=2000, side=16):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: mixing_weight(key, (side, side), mixing)))(keys))


def test_how_often_a_batch_is_mixed_and_how():
    weights = _weights(Mixing(switch=0.3, probability=0.6))
    untouched = (weights == 1).all((1, 2))
    binary = np.isin(weights, [0.0, 1.0]).all((1, 2)) & ~untouched
    smooth = ~untouched & ~binary
    assert smooth.mean() == pytest.approx(0.6 * 0.7, abs=0.05)
    # a rectangle of no area happens: its batch counts as untouched
    assert binary.mean() == pytest.approx(0.6 * 0.3, abs=0.05)
    assert (np.ptp(weights[smooth], axis=(1, 2)) == 0).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_shares_are_beta(alpha):
    shares = _weights(Mixing(mixup=alpha, cutmix=0.0), side=1)[:, 0, 0]
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)  # of Beta(alpha, alpha)


def test_erasing_rate_area_and_noise():
    image = jnp.full((2000, 16, 16, 3), 7.0)
    erased = np.asarray(_erase(image, jax.random.key(0), 0.25))
    gone = (erased != 7).all(-1)
    assert (gone == (erased != 7).any(-1)).all()
    hit = gone.any((1, 2))
    assert hit.mean() == pytest.approx(0.25, abs=0.04)
    for picture in gone[hit][:100]:
        rows, columns = picture.any(1), picture.any(0)
        np.testing.assert_array_equal(picture, rows[:, None] & columns[None, :])
    area = gone[hit].mean((1, 2))
    assert area.mean() == pytest.approx(np.mean(ERASED_AREA), abs=0.02)
    assert area.min() > 0.5 * ERASED_AREA[0] and area.max() < 1.2 * ERASED_AREA[1]
    noise = erased[gone]
    assert noise.mean() == pytest.approx(0, abs=0.02) and noise.std() == pytest.approx(1, abs=0.02)
    # every place is reached, the middle more often
    assert gone.mean(0).min() > 0 and gone.mean(0)[8, 8] > gone.mean(0)[0, 0]


def test_a_probability_of_zero_or_one_is_certain():
    image = jnp.full((2000, 16, 16, 3), 7.0)
    np.testing.assert_array_equal(_erase(image, jax.random.key(1), 0.0), image)
    assert (np.asarray(_erase(image, jax.random.key(1), 1.0)) != 7).any((1, 2, 3)).all()


@pytest.mark.parametrize("mixing", [Mixing(), CUTMIX])
def test_a_batch_over_devices_is_mixed_as_on_one(mixing):
    batch, mesh = _batch(), make_mesh()
    assert mesh.size == 8
    for seed in range(6):
        one = _mixed(batch, jax.random.key(seed), mixing)
        cut = _mixed(shard_batch(batch, mesh), jax.random.key(seed), mixing)
        for name in one:
            np.testing.assert_allclose(cut[name], one[name], rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)


def test_a_key_is_all_that_is_random():
    first, again, other = (_mixed(_batch(), jax.random.key(seed), Mixing()) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])


@pytest.mark.parametrize(
    "options, said",
    [
        ({"mixup": -1.0}, "mixup -1.0"),
        ({"erasing": 1.5}, "erasing 1.5"),
        ({"label_smoothing": -0.1}, "label smoothing -0.1"),
        ({"switch": 2.0}, "switch 2.0"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(UserError, match=said):
        Mixing(**options)
