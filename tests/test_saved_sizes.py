"""Several sizes on disk: one file of weights, and every size comes back as it was."""

import json
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported, by what the networks are taken from

import jax
import numpy as np
import pytest

import dms_jax
from dms_jax import Family, UserError
from tests.helpers import FLOAT32_GRADIENTS
from tests.test_saved import KEY, batch_of, of_linen, of_nnx, plain

pytest.importorskip("flatbuffers")

SIZES = (0.9, "60 %", 0.3)


def family_of(make):
    """Three nested sizes, in parameters whose statistics differ from size to size."""
    space, params, loss, shape = make()
    draw, kept, structures = np.random.default_rng(0), {}, {}
    for size, share in zip(SIZES, (0.9, 0.6, 0.3), strict=True):
        for name, group in space.groups.items():
            before = kept.get(name, range(group.size))
            kept[name] = tuple(sorted(draw.choice(before, max(round(share * group.size), 1), replace=False).tolist()))
        structures[size] = space.structure(kept)
    family = Family(space, structures)
    found = family.init(params)
    own = tuple(jax.tree.map(lambda x, i=i: x + i, rest) for i, rest in enumerate(found["own"]))
    return family, {**found, "own": own}, loss, shape


@pytest.mark.parametrize("make", [plain, of_nnx, of_linen])
def test_every_size_comes_back_from_one_set_of_weights(make, tmp_path):
    family, params, loss, shape = family_of(make)
    space = family.space
    with jax.numpy_rank_promotion("allow"):
        family.save(tmp_path, params, loss=loss, batch=batch_of(8, *shape))
        batch = batch_of(4, *shape)
        for size in (None, *SIZES):
            program, flat = dms_jax.load(tmp_path, size=size)
            there = SIZES[0] if size is None else size
            small = space.whole(family.params(params, there))
            expected = family.fn(there)(small, batch["x"])
            np.testing.assert_allclose(program(flat, batch["x"]), expected, rtol=0, atol=FLOAT32_GRADIENTS)
            assert program.structure == family.structures[there] and program.trained.keys() == flat.keys()
            value = program.loss(flat, batch, KEY)[0]
            own = space.shrunk(loss, family.structures[there])(small, batch, KEY)
            own = own[0] if isinstance(own, tuple) else own
            np.testing.assert_allclose(value, own, rtol=0, atol=10 * FLOAT32_GRADIENTS)
            run, again = dms_jax.load(tmp_path, fn=space, size=size)
            np.testing.assert_allclose(run(again, batch["x"]), expected, rtol=0, atol=FLOAT32_GRADIENTS)
    assert json.loads((tmp_path / "sizes.json").read_text())["shared"]
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    assert (tmp_path / "program" / "params.safetensors").stat().st_size < weights + 20_000


def test_what_is_not_there_is_said_in_one_line(tmp_path):
    family, params, _, _ = family_of(plain)
    family.save(tmp_path, params)
    with pytest.raises(UserError, match=r"size 0.25 is not there in .*; there are 0.9, 60 %, 0.3$"):
        dms_jax.load(tmp_path, size=0.25)
    assert dms_jax.load(tmp_path, size="0.3")[0].structure == family.structures[0.3]
    (tmp_path / "sizes.json").write_text('{"format": "dms_jax.sizes", "version": 1, "shared": true, "sizes": []}')
    with pytest.raises(UserError, match=r"sizes\.json.*sizes"):
        dms_jax.load(tmp_path, size=0.9)
    small = family.params(params, 0.3)
    family.space.save(tmp_path, family.space.fn, small, family.structures[0.3])
    assert dms_jax.load(tmp_path)[0].structure == family.structures[0.3]
    with pytest.raises(UserError, match="holds a network of one size alone; leave size=0.3 out"):
        dms_jax.load(tmp_path, size=0.3)
