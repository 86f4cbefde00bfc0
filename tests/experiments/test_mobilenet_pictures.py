"""Crops and patches of real photographs: halves that share nothing, patches that show what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="of the extra data")
pytest.importorskip("sklearn", reason="of the extra data")

from dms_jax.errors import UserError  # noqa: E402 - after the check for its needs
from experiments import mobilenet_pictures as pictures  # noqa: E402
from tests.experiments import mobilenet_cases as cases  # noqa: E402


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield cases.wheels(tmp_path_factory.mktemp("wheels"), patch)


def test_every_third_photograph_is_tested_on(wheels):
    made = pictures.collect(wheels, 16, 3, seed=0)
    whole = pictures.photographs(wheels)
    assert len(whole) == len(cases.COLORS) + 2 and made.test.photographs == -(-len(whole) // 3)
    assert made.train.photographs + made.test.photographs == len(whole)
    assert (
        made.train.crops.shape == (3 * made.train.photographs, 16, 16, 3)
        and len(made.test.crops) == made.test.photographs
    )
    seen = {half: {tuple(crop[0, 0]) for crop in getattr(made, half).crops} for half in ("train", "test")}
    plain = [tuple(color) for color in cases.COLORS.values()]  # photographs of one color each
    for n, color in enumerate(plain):
        assert (color in seen["test"]) == (n % 3 == 0) and (color in seen["train"]) == (n % 3 != 0)
    arrays = made.train.arrays
    assert len(arrays["image"]) == len(arrays["label"]) and set(arrays["label"]) == {-1, 0, 1}
    assert "3 crops of" not in made.words and f"{len(made.train.crops)} crops of" in made.words


def test_the_same_seed_gives_the_same_pictures(wheels):
    one, same, other = (pictures.collect(wheels, 16, 2, seed) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest


@settings(max_examples=200, deadline=None)
@given(st.integers(40, 120), st.integers(40, 120), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_patch_of_ground_touches_no_crown_and_one_of_a_tree_shows_it(width, height, seed, count):
    draw = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.uint8)
    sides = draw.integers(4, 12, (count, 2))
    corners = np.stack([draw.integers(0, limit - sides[:, i] + 1) for i, limit in enumerate((width, height))], axis=1)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(float)
    for left, top, right, bottom in boxes.astype(int):
        pixels[top:bottom, left:right] = 255
    patches, kinds = pictures.patched([(pixels, boxes)], 16, draw)
    assert (kinds == 1).sum() == count and (kinds == 0).sum() <= count
    assert all(patch.max() > 128 for patch in patches[kinds == 1])
    assert not patches[kinds == 0].any()


def test_crowns_at_an_edge_and_ground_that_is_not_there_make_no_patch():
    pixels = np.zeros((50, 50, 3), np.uint8)
    boxes = np.array([[-5, 10, 20, 30], [0, 0, 50, 50]], float)
    patches, kinds = pictures.patched([(pixels, boxes)], 8, np.random.default_rng(0))
    assert kinds.tolist() == [1] and patches.shape == (1, 8, 8, 3)


def test_wheels_that_are_not_there_or_hold_something_else_are_one_line(wheels, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no wheel of scikit-image==0.25.2 .*bring it with pip download"):
        pictures.photographs(tmp_path)
    (tmp_path / "scikit_image-0.25.2-any.whl").write_bytes(b"PK")
    with pytest.raises(UserError, match="is another file than the wheel scikit-image==0.25.2 for manylinux"):
        pictures.photographs(tmp_path)
    cases.known(monkeypatch, pictures, "SKIMAGE", tmp_path / "scikit_image-0.25.2-any.whl")
    with pytest.raises(UserError, match="does not hold the photographs of scikit-image==0.25.2"):
        pictures.photographs(tmp_path)
