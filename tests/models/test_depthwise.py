"""Both forms of the depthwise convolution are one function, and are read as one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax.models.depthwise import DepthwiseConv, depthwise_convolution, native_convolution, shifted_products
from dms_jax.program.axes import UNIT, Atom, Ties, resolve
from dms_jax.program.frames import Value
from dms_jax.program.trace import trace
from tests.helpers import BFLOAT16_ROUNDING, FLOAT32_GRADIENTS, FLOAT32_ROUNDING


def operands(height: int, width: int, size: int, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, height, width, 5)), rng.normal(size=(size, size, 1, 5)) / size
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def both(x, size, stride, symmetric=False):
    half = (size // 2, size // 2)
    pads = (half, half) if symmetric else jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    pads = tuple(pads)
    return [partial(form, stride=stride, pads=pads) for form in (native_convolution, shifted_products)]


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (2, 1)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_both_forms_agree(size, stride, shape, symmetric):
    x, kernel = operands(shape[0], shape[1], size)
    native, shifted = both(x, size, stride, symmetric)
    expected = native(x, kernel)
    assert expected.shape[1:3] == tuple(-(-n // stride) for n in shape)
    np.testing.assert_allclose(shifted(x, kernel), expected, atol=5 * FLOAT32_ROUNDING)
    np.testing.assert_allclose(depthwise_convolution(x, kernel, stride, symmetric), expected, atol=5 * FLOAT32_ROUNDING)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_agree(stride):
    x, kernel = operands(6, 7, 3)
    native, _ = both(x, 3, stride)

    def loss(form):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(form(x, kernel))), (0, 1))(x, kernel)

    for a, b in zip(loss(native), loss(partial(depthwise_convolution, stride=stride)), strict=True):
        np.testing.assert_allclose(a, b, atol=FLOAT32_GRADIENTS * float(jnp.max(jnp.abs(a))))


def test_bfloat16_sums_in_float32():
    x, kernel = operands(8, 8, 5, jnp.bfloat16)
    _, shifted = both(x, 5, 1)
    exact = shifted(x.astype(jnp.float32), kernel.astype(jnp.float32))
    found = shifted(x, kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), exact, atol=BFLOAT16_ROUNDING * float(jnp.max(jnp.abs(exact)))
    )


def test_the_platforms_choice_is_traced_as_one_convolution():
    """Where the program is not traced for a `SearchSpace` it has both forms; ties and costs are still the same."""
    x, kernel = operands(8, 8, 3)
    inputs = [Value(tuple(UNIT if n == 1 else Atom(n) for n in array.shape)) for array in (x, kernel)]
    program = trace(jax.make_jaxpr(partial(depthwise_convolution, stride=2))(x, kernel), inputs, Ties())
    (product,) = program.products
    assert np.prod([axis.size for axis in product.axes]) == 2 * 4 * 4 * 5 * 9
    (out,) = program.outputs
    channels = {id(resolve(value.axes[-1])) for value in (*program.inputs, out)}
    assert len(channels) == 1


def test_the_layer_initialises_for_its_fan():
    layer = DepthwiseConv(3, stride=2)
    variables: Any = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4096)))
    assert float(jnp.std(variables["params"]["kernel"])) == pytest.approx((2 / 9) ** 0.5, rel=0.05)
