"""The laws over stock networks of every framework, which nobody here wrote."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from dms_jax import Structure
from tests.laws import checking
from tests.networks.catalogue import NETWORKS

BIG = tuple(name for name in NETWORKS if name.startswith("keras") or name == "equinox_equimo_mobilenet_v3")
"""Networks of hundreds of operations: compiling each of their programs takes seconds."""

SLOW = ("keras_densenet121", "equinox_equimo_mobilenet_v3")
"""Of these nothing is compiled."""

WIDE = ("haiku_mobilenet_v1", "haiku_resnet18")
"""Deep networks with BatchNorm over few numbers differ by rounding in training, as far as one likes; in float64 not."""

TRAINED = tuple(name for name in NETWORKS if name not in (*BIG, *WIDE))


@cache
def case_of(name):
    return checking.case_of(NETWORKS[name]())


@pytest.fixture(autouse=True, scope="module")
def forget():
    yield
    case_of.cache_clear()


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_counted(name):
    case = case_of(name)
    assert {"macs", "params", "weights"} <= set(case.space.costs)
    for kept in checking.some(case.space) if name in BIG else ({}, *checking.some(case.space, (0, 1))):
        checking.costs_are_counted(case, kept)


@pytest.mark.parametrize("name", NETWORKS)
def test_smaller_networks_are_slices_of_larger_ones(name):
    for seed in (0,) if name in BIG else (0, 1, 2):
        checking.slices_of_slices(case_of(name), seed)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SLOW])
def test_masked_is_shrunk(name):
    case = case_of(name)
    for kept in checking.some(case.space)[: 1 if name in BIG else 2]:
        checking.masked_is_shrunk(case, kept)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in BIG])
def test_masks_of_one_change_nothing(name):
    checking.masks_of_one_change_nothing(case_of(name))


@pytest.mark.parametrize("name", TRAINED)
def test_masked_is_shrunk_in_training(name):
    case = case_of(name)
    checking.masked_training_is_shrunk(case, checking.some(case.space)[0])


@pytest.mark.parametrize("name", WIDE)
def test_masked_is_shrunk_in_training_in_float64(name):
    def wide(tree):
        return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)

    with jax.enable_x64(True):
        network = NETWORKS[name]()
        case = checking.case_of(replace(network, params=wide(network.params), inputs=wide(network.inputs)))
        checking.masked_training_is_shrunk(case, checking.some(case.space)[0])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in BIG or name == "keras_mobilenet_v2"])
def test_folded_is_inserted(name):
    checking.folded_is_inserted(case_of(name))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in BIG])
def test_a_gradient_is_shrunk(name):
    case = case_of(name)
    kept = checking.blocks_stay(case.space, checking.some(case.space)[0])
    checking.gradient_is_shrunk(case, kept)


def test_a_gradient_is_shrunk_without_blocks():
    checking.gradient_is_shrunk(case_of("plain_rezero"), {"layers/depth": (0, 2)})


ON_REQUEST = (
    "equinox_vit", "equinox_cnn", "nnx_vit", "nnx_cnn", "linen_tied_lm", "linen_encoder_decoder", "linen_scan_remat",
    "plain_grouped_convolution", "plain_grouped_query",
)  # fmt: skip
"""Networks with features of heads, or with groups of channels."""


@pytest.mark.parametrize("name", ON_REQUEST)
def test_what_is_searched_on_request(name, tmp_path):
    case = checking.case_of(NETWORKS[name](), include=("*",))
    assert set(case.space.groups) > set(case_of(name).space.groups)
    structure = case.space.structure(checking.some(case.space)[0])
    again = Structure.load(structure.save(tmp_path / "structure.json"))
    assert again == structure and again.kinds == {name: group.kind for name, group in case.space.groups.items()}
    checking.hold(case)
