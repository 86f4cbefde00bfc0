"""Programs as outside users write them: masked == shrunk, also in gradients, costs == a count, refusals that help."""

import re
from functools import partial
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace, TracingError, UserError
from tests.counting import multiply_adds, random_structure
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS
from tests.laws.checking import (
    Case,
    case_program,
    close,
    costs_are_counted,
    folded_is_inserted,
    joined,
    least,
    masked_is_shrunk,
    masked_training_is_shrunk,
    parted,
    smooth,
)
from tests.program.outsiders import (
    derivatives,
    in_place,
    normal,
    numbers,
    places,
    program,
    promoting,
    reading,
    running,
    states,
)

PROGRAMS = {**reading.TABLE, **places.TABLE, **running.TABLE, **in_place.TABLE, **derivatives.TABLE}
HERE = Path(__file__).name


def values_and_gradients(case, function, *more):
    """What a function `(params, *more, *inputs)` gives, and its gradients by all trained arrays."""

    def loss(trained, rest, *args):
        found = function(case.space.parameters.tree(joined(trained, rest)), *args)
        return smooth(found), found

    run = jax.jit(jax.grad(loss, has_aux=True))
    return lambda arrays, *args: run(*parted(case.space, arrays), *args, *case.inputs)


def check(case, plain, backward=True, inserted=True):
    """The laws, for a random structure and the least one."""
    space = case.space
    structures = [random_structure(space.groups, 0), least(space)]
    for kept in structures:
        costs_are_counted(case, kept, shared=True)
        if plain and "macs" in space.costs and not space.gone(space.kept(kept)):
            assert space.resources(kept)["macs"] == multiply_adds(
                case_program(space, case.fn), case.small(kept), *case.inputs
            )
    if not backward:
        masked = case.jitted(space.masked(case.fn))
        close(masked(case.arrays, space.masks(), *case.inputs), case.jitted(case.fn)(case.arrays, *case.inputs), 1e-6)
        for kept in structures:
            small = case.jitted(space.shrunk(case.fn, kept))(case.small(kept), *case.inputs)
            close(small, masked(case.arrays, space.masks(kept), *case.inputs), FLOAT32_LOGITS)
        return
    masked = values_and_gradients(case, space.masked(case.fn))
    gradients, found = masked(case.arrays, space.masks())
    gradients_fn, found_fn = values_and_gradients(case, case.fn)(case.arrays)
    close(found, found_fn, FLOAT32_LOGITS)
    close(gradients, gradients_fn, FLOAT32_GRADIENTS)
    for kept in structures:
        gradients, found = masked(case.arrays, space.masks(kept))
        gradients_small, small = values_and_gradients(case, space.shrunk(case.fn, kept))(case.small(kept))
        close(small, found, FLOAT32_LOGITS)
        sliced = dms_jax.shrink(space, space.parameters.tree(gradients), kept)
        close(gradients_small, space.parameters.arrays(sliced), 10 * FLOAT32_GRADIENTS)
        if plain and not space.gone(space.kept(kept)):
            close(case.jitted(case.fn)(case.small(kept), *case.inputs), small, FLOAT32_LOGITS)
    if inserted:
        folded_is_inserted(case)


@pytest.mark.parametrize("name", PROGRAMS)
def test_laws(name):
    outsider = PROGRAMS[name]
    case = outsider.case()
    assert dict(outsider.groups) == {name: group.size for name, group in case.space.groups.items()}
    assert {type(group.size) for group in case.space.groups.values()} == {int}  # which JSON can write
    check(case, outsider.plain, outsider.backward, outsider.inserted)


@pytest.mark.parametrize("name", states.STATES)
def test_what_training_gives_back(name):
    """New values of what is not trained are sliced as they are; gradients and values agree in training."""
    shapes, infer, train, trained = states.STATES[name]
    params = numbers(shapes) | ({"at": jnp.int32(2)} if name == "queue" else {})
    x = normal((4, 5), 9)
    infer, train = promoting(infer), promoting(train)
    space = SearchSpace.from_function(infer, params, x, also={"train": (train, (x,))}, trainable=trained)
    assert [group.size for group in space.groups.values()] == [6]
    case = Case(infer, space, params, (x,), lambda p, x, key: train(p, x))
    for kept in (random_structure(space.groups, 0), least(space)):
        masked_is_shrunk(case, kept)
        masked_training_is_shrunk(case, kept)


# --- refusals ---


@jax.custom_vjp
def turned_back(x):
    return jnp.tanh(x)


turned_back.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * jnp.flip(x, -1),))  # turned_back, backward

ALONG = {
    "argmax": ("argmax", lambda h: h * jnp.argmax(h, -1, keepdims=True)),  # argmax
    "median": ("sort", lambda h: h - jnp.median(h, -1, keepdims=True)),  # median
    "flip": ("rev", lambda h: jnp.flip(h, -1)),  # flip
    "local_response": ("reduce_window", lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 3), (1, 1), "SAME")),  # local
    "largest_two": ("top_k", lambda h: lax.top_k(h, 2)[0][:, :1] * h),  # largest_two
    "spectrum": ("fft", lambda h: jnp.abs(jnp.fft.fft(h))),  # spectrum
    "some_channels": ("gather", lambda h: h * jnp.sum(h[:, np.arange(6)], -1, keepdims=True)),  # some_channels
    "one_by_one": ("slice", lambda h: jnp.stack([h[:, i] for i in range(6)], -1)),  # one_by_one
    "host": ("pure_callback", lambda h: jax.pure_callback(np.sort, h, h)),  # host
    "computed_places": ("sort", lambda h: h.at[:, jnp.argsort(h[0])].set(0.0)),  # computed_places
    "own_derivative": ("rev", turned_back),
}


@pytest.mark.parametrize("name", ALONG)
def test_what_needs_every_channel(name):
    """The operation, the line of this file, the group, and what to do."""
    operation, along = ALONG[name]

    @promoting
    def network(p, x):
        return along(x @ p["w"]) @ p["o"]

    params = numbers({"w": (5, 6), "o": (6, 3)})
    with pytest.raises(UserError, match="nothing to search") as caught:
        SearchSpace.from_function(network, params, jnp.ones((2, 5)))
    message = str(caught.value)
    assert re.search(rf"\bw: nothing can be taken out of it because of {operation}\w* at [\w/]*{HERE}:\d+", message)
    assert "register_operation" in message and "\n" not in message
    line = Path(__file__).read_text().splitlines()[int(message.split(f"{HERE}:")[1].split(" ")[0]) - 1]
    assert name in line or "turned_back" in line


def test_a_cache_that_is_an_input_keeps_the_widths():
    """No operation keeps them: the reason is the input, and it is told here alone, where nothing is left."""

    @promoting
    def network(p, x, keys, values):
        keys, values = keys.at[:, 3].set(x @ p["k"]), values.at[:, 3].set(x @ p["v"])
        weights = jax.nn.softmax(jnp.einsum("bd,btd->bt", x @ p["q"], keys))
        return jnp.einsum("bt,btd->bd", weights, values) @ p["o"]

    params = numbers({"q": (5, 6), "k": (5, 6), "v": (5, 7), "o": (7, 3)})
    inputs = (jnp.ones((2, 5)), jnp.ones((2, 4, 6)), jnp.ones((2, 4, 7)))
    with pytest.raises(UserError, match="an axis of an input of the network.*made at other sizes"):
        SearchSpace.from_function(network, params, *inputs)


def test_what_is_asked_for_and_cannot_be_is_told():
    space = SearchSpace.from_function(
        lambda p, x: x @ p["w"] @ p["o"], numbers({"w": (5, 6), "o": (6, 3)}), jnp.ones((2, 5)), include="o"
    )
    assert list(space.groups) == ["w"] and "an axis of an output" in space.left["o"]


def test_a_loop_that_carries_from_channel_to_channel():
    def network(p, x):
        def step(c, w):
            c = jnp.tanh(c + x @ w)
            return c, c

        return lax.scan(step, jnp.zeros(2), p["w"].T)[1].T @ p["o"]

    with pytest.raises(UserError, match=rf"because of scan at [\w/]*{HERE}"):
        SearchSpace.from_function(network, numbers({"w": (5, 6), "o": (6, 3)}), jnp.ones((2, 5)))


def inside(p, x, scale):
    """A derivative of its own that holds an array of the function around it."""

    @jax.custom_vjp
    def f(h):
        return h * scale

    f.defvjp(lambda h: (h * scale, None), lambda _, g: (g * scale * scale,))
    return f(x @ p["w"]) @ p["o"]


def test_a_derivative_that_holds_what_was_made_outside():
    @promoting
    def network(p, x):
        return inside(p, x, jnp.arange(6.0)[None] + jnp.sum(x))

    params, x = numbers({"w": (5, 6), "o": (6, 3)}), jnp.ones((2, 5))
    space = SearchSpace.from_function(network, params, x)
    assert space.verify(params, {"w": (0, 2)}, x) < FLOAT32_LOGITS  # it runs; it cannot be differentiated
    masked = space.masked(network)
    with pytest.raises(TracingError, match=rf"custom_vjp_call at [\w/]*{HERE}.*hand the array in as an argument"):
        jax.grad(lambda p: jnp.sum(masked(p, space.masks(), x)))(params)


def test_masks_inside_of_an_adaptive_derivative():
    from jax.experimental.ode import odeint

    def network(p, x, place=lambda h: h):
        start = place(x @ p["w"])
        return odeint(lambda h, t: jnp.tanh(h @ p["a"]) @ p["b"], start, jnp.array([0.0, 1.0]))[-1] @ p["o"]

    params, x = numbers({"w": (5, 6), "a": (6, 7), "b": (7, 6), "o": (6, 3)}), jnp.ones((2, 5))
    space = SearchSpace.from_function(network, params, x)
    assert set(space.groups) == {"a"}
    assert re.search(rf"custom_vjp_call at [\w/]*{HERE}.*`jax.lax.scan` inside$", space.left["w"])
    named = partial(network, place=lambda h: dms_jax.name(h, "state"))  # it can be shrunk, if not searched
    space = SearchSpace.from_function(named, params, x)
    assert set(space.groups) == {"state", "a"}
    masked = space.masked(named)
    with pytest.raises(TracingError, match=rf"custom_vjp_call at [\w/]*{HERE}.*`freeze="):
        jax.grad(lambda p: jnp.sum(masked(p, space.masks(), x)))(params)


def test_a_kernel_that_multiplies_unseen():
    """Beside a network that can be searched: its MACs are not known, and that is all."""
    from jax.experimental import pallas

    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    def network(p, x):
        call = pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((2, 3), jnp.float32), interpret=True)
        return jnp.tanh(x @ p["w"]) @ p["o"], call(x, p["m"])

    params, x = numbers({"w": (5, 6), "o": (6, 3), "m": (5, 3)}), jnp.ones((2, 5))
    space = SearchSpace.from_function(network, params, x)
    assert set(space.groups) == {"w"} and "macs" not in space.resources()
    assert re.search(rf"pallas_call at [\w/]*{HERE}.*register_operation", space.uncounted["macs"])
    assert "pallas_call" in space.left["m"]


# --- drawn ---

SIZES = st.integers(2, 4)
AXES = {
    "sum": lambda h, axis: h - jnp.sum(h, axis, keepdims=True),
    "norm": lambda h, axis: h / (0.1 + jnp.linalg.norm(h, axis=axis, keepdims=True)),
    "softmax": lambda h, axis: jax.nn.softmax(h, axis),
    "largest": lambda h, axis: jnp.where(h == jnp.max(h, axis, keepdims=True), h, 0.0),
    "cumulative": lambda h, axis: jnp.cumsum(h, axis) + lax.cummax(h, axis=axis),
    "variance": lambda h, axis: h * jnp.var(h, axis, keepdims=True),
    "product": lambda h, axis: h * jnp.prod(1 + 0.1 * h, axis, keepdims=True),
    "centred": lambda h, axis: h - (jnp.max(h, axis, keepdims=True) + jnp.min(h, axis, keepdims=True)) / 2,
}


def drawn(fn, shapes, *inputs, plain=False, **options):
    """The laws for a program of drawn sizes."""
    table = {}
    program(table, shapes, *inputs, groups={}, **options)(fn)
    (outsider,) = table.values()
    check(outsider.case(), plain)


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    order=st.permutations(range(3)), kind=st.sampled_from(sorted(AXES)), axes=st.lists(st.integers(0, 2), min_size=1)
)
def test_reductions_along_any_axis_in_any_order(order, kind, axes):
    def network(p, x):
        h = jnp.transpose(x @ p["w"], order)
        for axis in axes[:2]:
            h = AXES[kind](h, axis)
        return jnp.transpose(h, [order.index(i) for i in range(3)]) @ p["o"]

    drawn(network, {"w": (5, 4), "o": (4, 3)}, (2, 3, 5), plain=True)


@hypothesis.settings(max_examples=4)
@hypothesis.given(runs=SIZES, stride=SIZES, start=st.integers(0, 1), axis=st.sampled_from([0, 1]))
def test_strided_slices(runs, stride, start, axis):
    def network(p, x):
        h = jnp.moveaxis(x @ p["w"], 1, axis)
        one, other = (h[i::stride] if axis == 0 else h[:, i::stride] for i in (start, stride - 1))
        return jnp.moveaxis(one * jax.nn.sigmoid(other), axis, 1) @ p["o"]

    drawn(network, {"w": (5, runs * stride), "o": (runs, 3)}, (3, 5), include=["w/bundle"])


@hypothesis.settings(max_examples=4)
@hypothesis.given(low=st.integers(-2, 2), high=st.integers(-2, 2), fill=st.sampled_from([0.0, 0.7]), turn=SIZES)
def test_padded_rolled_and_joined_channels(low, high, fill, turn):
    width = 6 + low + high

    def network(p, x):
        h = lax.pad(x @ p["a"], fill, ((0, 0, 0), (low, high, 0)))
        h = jax.nn.relu(h + x @ p["b"])
        return jnp.concatenate([jnp.roll(h, turn, -1), x @ p["c"]], -1) @ p["o"]

    drawn(network, {"a": (5, 6), "b": (5, width), "c": (5, 3), "o": (width + 3, 2)}, (4, 5))


@hypothesis.settings(max_examples=3)
@hypothesis.given(heads=SIZES, alike=SIZES, tile=st.booleans())
def test_shared_keys_and_values(heads, alike, tile):
    def shared(y):
        return jnp.tile(y, (1, 1, alike, 1)) if tile else jnp.repeat(y, alike, 2)

    def network(p, x):
        q, k, v = (jnp.einsum("btd,dhf->bthf", x, p[name]) for name in "qkv")
        return jnp.einsum("bthf,hfd->btd", places.attend(q, shared(k), shared(v)), p["o"])

    shapes = {"k": (4, heads, 3), "v": (4, heads, 3), "q": (4, heads * alike, 3), "o": (heads * alike, 3, 4)}
    drawn(network, shapes, (2, 3, 4))
