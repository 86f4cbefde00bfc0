"""What runs inside of `jax.shard_map`, custom derivatives above all: masked and shrunk, it is what it is outside."""

# Functions come from tables, and numbers from trees of them:
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from dms_jax import SearchSpace
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.program.outsiders import numbers

WIDTH = 8
KEPT = (0, 2, 3, 7)


@jax.custom_jvp
def cube(x):
    return x**3


@cube.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return x**3, 3.5 * x**2 * t  # on purpose not the one that is computed: its own is to be used


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda c, cotangent: (1.5 * c * cotangent,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def power(exponent, x):
    return x**exponent


power.defvjp(lambda n, x: (x**n, x), lambda n, x, cotangent: (relu_like(x) * cotangent,))


@jax.custom_jvp
def relu_like(x):
    return jnp.where(x > 0, x, 0.25 * x)


relu_like.defjvps(lambda t, out, x: jnp.where(x > 0, t, 0.5 * t))

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "relu6": jax.nn.relu6,
    "log_softmax": jax.nn.log_softmax,
    "softmax": jax.nn.softmax,
    "logsumexp": lambda h: h - jax.nn.logsumexp(h, -1, keepdims=True),
    "custom_jvp": cube,
    "custom_vjp": sine,
    "custom_vjp, a custom_jvp on its way back": lambda h: power(2, h),
    "none": lambda h: h,
}


def direct(act, x, a):
    return act(x @ a)


def recomputed(act, x, a):
    return jax.checkpoint(lambda x: act(x @ a))(x)


def jitted(act, x, a):
    return jax.jit(act)(x @ a)


def repeated(act, x, a):
    return jax.lax.scan(lambda h, _: (act(h) + h, None), x @ a, None, length=2)[0]


def recomputed_and_repeated(act, x, a):
    return jax.lax.scan(jax.checkpoint(lambda h, _: (act(h) + h, None)), x @ a, None, length=2)[0]


BODIES = [direct, recomputed, jitted, repeated, recomputed_and_repeated]


def batched(body, check, devices):
    """The rows of the batch over a mesh of one axis."""
    mesh = jax.make_mesh((devices,), ("d",), (AxisType.Auto,), devices=jax.devices()[:devices])
    rows, everywhere = PartitionSpec("d"), PartitionSpec()
    return jax.shard_map(body, mesh=mesh, in_specs=(rows, everywhere), out_specs=rows, check_vma=check)


def partly(body, check, devices):
    """The same over one axis of two."""
    shape = (devices, 1)
    mesh = jax.make_mesh(shape, ("d", "e"), (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    rows, everywhere = PartitionSpec("d"), PartitionSpec()
    options = {"in_specs": (rows, everywhere), "out_specs": rows, "check_vma": check, "axis_names": {"d"}}
    return jax.jit(jax.shard_map(body, mesh=mesh, **options))  # which JAX asks for


def nested(body, check, devices):
    """One in another; of those over several devices JAX 0.10 has no derivative."""
    mesh = jax.make_mesh((devices, 1), ("d", "e"), (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    rows, everywhere = PartitionSpec("d"), PartitionSpec()

    def outer(x, a):
        inner = {"in_specs": (PartitionSpec("e"), everywhere), "out_specs": PartitionSpec("e"), "check_vma": check}
        return jax.shard_map(body, axis_names={"e"}, **inner)(x, a)

    options = {"in_specs": (rows, everywhere), "out_specs": rows, "check_vma": check, "axis_names": {"d"}}
    return jax.jit(jax.shard_map(outer, mesh=mesh, **options))


def looped(body, check, devices):
    """In a loop."""
    run = batched(body, check, devices)

    def loop(x, a):
        return jax.lax.scan(lambda total, scale: (total + run(scale * x, a), None), x @ a, jnp.array([1.0, 0.5]))[0]

    return loop


def looped_plainly(body):
    def loop(x, a):
        return jax.lax.scan(lambda total, scale: (total + body(scale * x, a), None), x @ a, jnp.array([1.0, 0.5]))[0]

    return loop


def networks(act, body, placed, check, devices):
    """The same network with and without `shard_map`."""
    run = functools.partial(body, act)
    there, plain = placed(run, check, devices), looped_plainly(run) if placed is looped else run

    def network(run, q, x):
        return jnp.tanh(run(x, q["a"])) @ q["o"]

    return functools.partial(network, there), functools.partial(network, plain)


def agree(act, body=direct, placed=batched, check=True, devices=2):
    fn, plain = networks(ACTIVATIONS[act], body, placed, check, devices)
    params, x = numbers({"a": (4, WIDTH), "o": (WIDTH, 3)}), numbers({"x": (4, 4)})["x"]
    space, other = SearchSpace.from_function(fn, params, x), SearchSpace.from_function(plain, params, x)
    assert list(space.groups) == list(other.groups) == ["a"]
    assert space.resources() == other.resources()
    kept = {"a": KEPT}
    assert space.verify(params, kept, x) < FLOAT32_LOGITS
    near = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=10 * FLOAT32_GRADIENTS)

    def gradients(fn, *args):
        loss = jax.value_and_grad(lambda *args: jnp.sin(fn(*args)).sum(), argnums=tuple(range(len(args))))
        return jax.device_get(jax.jit(loss)(*args))

    # the small network: cut by hand, and run by JAX alone
    small = {"a": params["a"][:, KEPT], "o": params["o"][KEPT, :]}
    expected = gradients(plain, small, x)
    near(gradients(space.shrunk(fn, kept), small, x), expected)
    # the masked one: of what is kept it has these derivatives
    value, (by_params, _, by_x) = gradients(space.masked(fn), params, space.masks(kept), x)
    near((value, ({"a": by_params["a"][:, KEPT], "o": by_params["o"][KEPT, :]}, by_x)), expected)
    # masks that are neither 0 nor 1: those of the network without `shard_map`
    masks = {"a": jnp.linspace(0.2, 0.9, WIDTH)}
    expected = gradients(other.masked(plain), params, masks, x)
    near(gradients(space.masked(fn), params, masks, x), expected)
    near(gradients(space.masked(fn, fold=False), params, masks, x), expected)


@pytest.mark.parametrize(("check", "devices"), [(True, 2), (False, 2), (True, 1)])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_custom_derivatives(act, check, devices):
    agree(act, check=check, devices=devices)


OWN = ("relu", "custom_vjp, a custom_jvp on its way back")
PLACES = [(body, placed) for placed in (batched, partly, nested, looped) for body in BODIES]


@pytest.mark.parametrize(("body", "placed", "act"), [(*place, OWN[i % 2]) for i, place in enumerate(PLACES)])
def test_places(act, body, placed):
    agree(act, body, placed, devices=1 if placed is nested else 2)
