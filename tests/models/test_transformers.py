"""Windows, masks and bad input of ViT and Swin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import UserError, models
from dms_jax.models.swin import relative_positions, shift_mask, window_merge, window_partition
from tests.counting import random_variables
from tests.models.small import images, space_of


def test_windows_are_tiles():
    x = jnp.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    windows = window_partition(x, 4)
    np.testing.assert_array_equal(windows[:, 1].reshape(2, 4, 4, 3), x[:, :4, 4:])
    np.testing.assert_array_equal(window_merge(windows, 8, 8), x)


def test_relative_positions_depend_on_the_offset_alone():
    table = relative_positions(3)
    assert len(np.unique(table)) == 25
    at = [(i, j) for i in range(3) for j in range(3)]
    offsets = {}
    for p, (i, j) in enumerate(at):
        for q, (k, m) in enumerate(at):
            offsets.setdefault((i - k, j - m), set()).add(int(table[p, q]))
    assert all(len(rows) == 1 for rows in offsets.values())


def test_shifted_windows_keep_apart_what_was_not_neighbours():
    """By brute force: two positions of a window may see each other if rolling did not carry just one of them over."""
    size, window, shift = 8, 4, 2
    came_from = [(i + shift) % size for i in range(size)]
    mask = shift_mask(size, window, shift)
    for w in range(4):
        at = [(w // 2 * 4 + i, w % 2 * 4 + j) for i in range(4) for j in range(4)]
        for p, (i, j) in enumerate(at):
            for q, (k, m) in enumerate(at):
                near = abs(came_from[i] - came_from[k]) < window and abs(came_from[j] - came_from[m]) < window
                assert (mask[w, p, q] == 0) == near


def test_the_bias_goes_with_its_head():
    space = space_of("swin")
    variables = random_variables(space)
    structure = space.structure({"stage2/block1/attention/heads": (0, 2)})
    shrunk = dms_jax.shrink(space, variables, structure)
    before = variables["params"]["stage2"]["block1"]["attention"]["bias_table"]
    after = shrunk["params"]["stage2"]["block1"]["attention"]["bias_table"]
    np.testing.assert_array_equal(after, before[:, jnp.array([0, 2])])


def test_a_query_key_dimension_goes_without_a_new_scale():
    space = space_of("vit")
    kept = {f"block{i}/attention/query_key": (1, 4, 5) for i in range(2)}
    assert dms_jax.verify(space, random_variables(space), space.structure(kept), images()) < 1e-5


@pytest.mark.parametrize("name", ["deit_tiny", "swin_tiny"])
def test_a_resolution_that_does_not_fit_is_an_error(name):
    model = models.create(name)
    with pytest.raises(UserError, match="192"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 192, 192, 3), jnp.float32))
