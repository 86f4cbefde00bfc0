"""Pieces of stock networks of every framework: the products that the space reads, each a program of its own."""

import jax
import pytest

from dms_jax.budgets.latency import Latency
from dms_jax.budgets.pieces import cut, flattened
from dms_jax.budgets.profile import designed
from dms_jax.budgets.stepwise import outlines
from tests.laws import checking
from tests.networks.catalogue import NETWORKS

SMALL = tuple(name for name in NETWORKS if not name.startswith(("keras", "haiku_mobilenet", "equinox_equimo")))
"""Those that are read in a second or two."""


@pytest.mark.parametrize("name", SMALL)
def test_pieces_begin_with_the_products_that_the_space_reads(name):
    network = checking.case_of(NETWORKS[name]()).space._network
    found = outlines(network)
    products = frozenset(term.node.name for term in network.program.products)
    for kept in list(designed(network, found))[:5:2]:
        sized = network.at(kept)
        pieces = cut(flattened(sized.fn, sized.params, *sized.inputs), products)
        assert [piece.name for piece in pieces] == [outline.name for outline in found]
        for piece in pieces:
            made = jax.eval_shape(piece, *piece.inputs)
            assert [x.shape for x in made] == [piece.shapes[x].shape for x in piece.made]
    assert sum(outline.work for outline in found[1:]) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["linen_cnn", "linen_tied_lm", "linen_scan_remat", "plain_grouped_query", "nnx_vit"])
def test_another_dtype_is_that_of_the_products(name, dtype):
    network = checking.case_of(NETWORKS[name]()).space._network
    kept = list(designed(network, outlines(network)))[1]
    flat = Latency(dtype=dtype).flat(network.at(kept))
    floating = [str(flat.shapes[x].dtype) for x in flat.inputs if "float" in str(flat.shapes[x].dtype)]
    assert floating and set(floating) == {dtype}
    products = [
        op for op in flat.operations if op.eqn.primitive.name in ("dot_general", "conv_general_dilated", "scan")
    ]
    assert any(str(var.aval.dtype) == dtype for operation in products for var in operation.eqn.invars)
