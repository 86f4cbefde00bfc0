"""Several sizes on disk: one file of weights, and every size comes back as it was."""

import json
import os
import shutil
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported, by what the networks are taken from

import jax
import numpy as np
import pytest

import dms_jax
from dms_jax import Family, UserError
from dms_jax.training.sizes import Sizes
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
    with pytest.raises(UserError, match=r"sizes\.json.*sizes.*save the networks again"):
        dms_jax.load(tmp_path, size=0.9)
    small = family.params(params, 0.3)
    family.space.save(tmp_path, family.space.fn, small, family.structures[0.3])
    assert dms_jax.load(tmp_path)[0].structure == family.structures[0.3]
    with pytest.raises(UserError, match="holds a network of one size alone; leave size=0.3 out"):
        dms_jax.load(tmp_path, size=0.3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    family, params, _, _ = family_of(plain)
    directory = tmp_path_factory.mktemp("saved")
    family.save(directory, params)
    return directory


def first(content):
    return content["sizes"][0]


def of_one(content):
    return {name: x for name, x in content.items() if name not in ("sizes", "identity")}


OTHERS = {
    "another order": ("sizes.json", lambda c: {**c, "sizes": c["sizes"][::-1]}),
    "one less": ("sizes.json", lambda c: {**c, "sizes": c["sizes"][:2]}),
    "one more": ("sizes.json", lambda c: {**c, "sizes": [*c["sizes"], {**first(c), "size": 0.1}]}),
    "another name": ("sizes.json", lambda c: {**c, "sizes": [{**first(c), "size": 0.8}, *c["sizes"][1:]]}),
    "one structure for all": (
        "sizes.json", lambda c: {**c, "sizes": [{**x, "structure": first(c)["structure"]} for x in c["sizes"]]},
    ),
    "one twice": ("sizes.json", lambda c: {**c, "sizes": [*c["sizes"], {**first(c), "size": "90 %"}]}),
    "not shared": ("sizes.json", lambda c: {**c, "shared": False}),
    "another version": ("sizes.json", lambda c: {**c, "version": 2}),
    "a list": ("sizes.json", lambda c: [c]),
    "none": ("sizes.json", None),
    "programs of one": ("program/program.json", of_one),
    "no sizes": ("program/program.json", lambda c: {**c, "sizes": []}),
    "a text": ("program/program.json", lambda c: {**c, "sizes": "0.9"}),
    "nothing of a size": ("program/program.json", lambda c: {**c, "sizes": [{}] * 3}),
    "slices beyond": (
        "program/program.json",
        lambda c: {**c, "sizes": [{**x, "slices": {p: {"0": [10**6]} for p in c["trained"]}} for x in c["sizes"]]},
    ),
    "arrays that are not there": (
        "program/program.json", lambda c: {**c, "sizes": [{**x, "own": ["nobody"]} for x in c["sizes"]]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_files_that_are_not_of_one_save_are_refused_in_one_line(saved, tmp_path, what):
    """Each of them would be another network under the size that was asked for."""
    directory = shutil.copytree(saved, tmp_path / "there")
    name, change = OTHERS[what]
    if change is None:
        (directory / name).unlink()
    else:
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(change(content)))
    for size in (None, 0.3) if change is not None else (None,):
        with pytest.raises(UserError, match="save the networks again|is not there in") as error:
            dms_jax.load(directory, size=size)
        assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_size_is_an_amount_however_it_is_written(saved):
    for size, written in ((0.9, ("0.9", "90 %", " 0.90")), (0.6, ("60 %", "60%")), (0.3, ("0.3", np.float64(0.3)))):
        structures = [dms_jax.load(saved, size=one)[0].structure for one in (size, *written)]
        assert all(structure == structures[0] for structure in structures)
    others: tuple[Any, ...] = (0.31, float("nan"), True, [0.3], "0.3MB", -0.3)
    for other in others:
        with pytest.raises(UserError, match=r"is not there in .*; there are 0.9, 60 %, 0.3$"):
            dms_jax.load(saved, size=other)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0.5, "0.5"), "is given twice"),
        ((0.5, "50 %"), "is given twice"),
        ((0.123, "12.3 %"), "is given twice"),
        (((1, 2),), "not a positive number or a text"),
        ((None,), "not a positive number or a text"),
        ((float("nan"),), "not a positive number or a text"),
        ((-1,), "not a positive number or a text"),
        (("x" * 65,), "not a positive number or a text"),
        (tuple(range(1, 66)), "65 sizes of one network are not possible; give 1 to 64"),
    ],
)
def test_sizes_that_no_file_can_hold_are_refused_before_anything_is_trained(sizes, message):
    space = plain()[0]
    structure = space.structure({name: tuple(range(group.size)) for name, group in space.groups.items()})
    with pytest.raises(UserError, match=message) as error:
        Family(space, dict.fromkeys(sizes, structure))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message):
        Sizes({size: {"macs": size} for size in sizes})


def test_numbers_of_numpy_are_sizes(tmp_path):
    family, params, _, _ = family_of(plain)
    sizes: tuple[Any, ...] = (np.float64(0.9), np.int64(40), np.float32(0.25))
    again = Family(family.space, dict(zip(sizes, family.structures.values(), strict=True)))
    assert again.sizes == (0.9, 40, 0.25)
    again.save(tmp_path, params)
    assert dms_jax.load(tmp_path, size=40.0)[0].structure == again.structures[40]


def test_parameters_of_one_size_are_not_those_of_all():
    family, params, _, _ = family_of(plain)
    with pytest.raises(UserError, match="not the parameters of all sizes; give what `Family.init`"):
        family.params(family.params(params, 0.9), 0.3)
    kept: Any = dict(family.largest.kept)
    with pytest.raises(UserError, match="structure .* is none; give those of one `Search.structures`"):
        Family(family.space, {0.5: kept})
