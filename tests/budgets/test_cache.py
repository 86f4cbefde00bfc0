"""Bytes of keys and values: of decoders of every kind, and of nothing else."""

# Some arguments are wrong on purpose:
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dms_jax import SearchSpace, UserError, models
from dms_jax.budgets.cache import Cache
from dms_jax.method.projection import project
from tests.networks.network import relaxed

LENGTH, HEAD = 10, 4
TOKENS = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)


@pytest.fixture(scope="module")
def llama():
    model = models.create("llama_bytes", width=24, layers=3, heads=6, kv_heads=3, head_dim=HEAD, hidden=16)
    return SearchSpace.from_model(model, TOKENS)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("given", [{}, {"length": 1000, "batch": 7, "dtype": "bfloat16"}, {"dtype": "int8"}])
def test_a_llama_keeps_heads_of_the_layers_that_stay(llama, seed, given):
    rng, kept = np.random.default_rng(seed), {}
    for name, group in llama.groups.items():
        kept[name] = tuple(range(int(rng.integers(group.least, group.size + 1))))
    heads = [len(kept[f"layer{i}/attention/heads"]) for i in kept["depth"]]
    size = jnp.dtype(given.get("dtype", "float32")).itemsize
    numbers = given.get("batch", 1) * given.get("length", LENGTH) * HEAD * sum(heads)
    assert llama.with_resources(Cache(**given)).resources(kept)["cache"] == 2 * size * numbers


def test_a_budget_of_it_holds_and_prices_heads_and_layers_alone(llama):
    slope = jax.grad(lambda m: llama.fractions(m)["cache"])(jnp.ones(sum(g.size for g in llama.groups.values())))
    priced = {name for name, each in llama.by_group(slope).items() if np.any(np.asarray(each) != 0)}
    assert priced == {"depth", *(f"layer{i}/attention/heads" for i in range(3))}
    most = llama.resources()["cache"] // 2
    ranking = {name: np.arange(group.size) for name, group in llama.groups.items()}
    kept = project(llama, dict.fromkeys(llama.groups, 0.0), ranking, {"cache": most})
    assert 0 < llama.resources(kept)["cache"] <= most


def softmax(scores):
    return jax.nn.softmax(scores, axis=-1)


def written_out(mask, repeat=2, loop=False, batch=1, repeated=jnp.repeat):
    """A block of plain JAX: three key heads of four features, each for `repeat` queries."""
    shapes = {"q": (8, 3 * repeat, HEAD), "k": (8, 3, HEAD), "v": (8, 3, HEAD), "o": (3 * repeat, HEAD, 8)}
    if loop:
        shapes = {name: (5, *shape) for name, shape in shapes.items()}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def block(x, p):
        q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qkv")
        k, v = (repeated(each, repeat, axis=2) for each in (k, v))
        scores = jnp.einsum("bthe,bshe->bhts", q, k) / 2
        return x + jnp.einsum("bhts,bshe,hed->btd", softmax(mask(scores)), v, p["o"])

    def fn(params, x):
        return jax.lax.scan(lambda x, p: (block(x, p), None), x, params)[0] if loop else block(x, params)

    with jax.numpy_rank_promotion("allow"):
        return SearchSpace.from_function(fn, params, jax.ShapeDtypeStruct((batch, LENGTH, 8), jnp.float32))


def compared(scores):
    position = jnp.arange(LENGTH)
    return jnp.where((position[:, None] >= position[None])[None, None], scores, -1e9)


def added(scores):
    return scores + jnp.asarray(np.where(np.tril(np.ones((LENGTH, LENGTH))), 0, -1e9), jnp.float32)[None, None]


@pytest.mark.parametrize("mask", [compared, added])
@pytest.mark.parametrize(("repeat", "loop", "batch"), [(1, False, 1), (2, False, 1), (2, True, 1), (2, False, 3)])
def test_heads_that_queries_share_count_once_and_layers_of_a_loop_each(mask, repeat, loop, batch):
    space = written_out(mask, repeat, loop, batch)
    assert space.resources()["cache"] == 2 * 4 * batch * LENGTH * 3 * HEAD * (5 if loop else 1)
    assert space.with_resources(Cache(batch=8)).resources()["cache"] == space.resources()["cache"] * 8 // batch


def stacked(x, times, axis):
    return jnp.stack([x] * times, axis + 1).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


REPEATED = {
    "tile": lambda x, times, axis: jnp.tile(x, (1, 1, times, 1)),
    "concatenate": lambda x, times, axis: jnp.concatenate([x] * times, axis),
    "stack": stacked,
    "stack, other heads first": lambda x, times, axis: jnp.stack([x] * times, axis).reshape(*x.shape[:2], -1, HEAD),
    "take": lambda x, times, axis: jnp.take(x, np.repeat(np.arange(x.shape[axis]), times), axis=axis),
    "index": lambda x, times, axis: x[:, :, jnp.arange(x.shape[axis] * times) // times],
    "broadcast": lambda x, times, axis: jnp.broadcast_to(x[:, :, :, None], (*x.shape[:3], times, HEAD)).reshape(
        *x.shape[:2], -1, HEAD
    ),
}


@pytest.mark.parametrize("how", REPEATED)
@pytest.mark.parametrize("loop", [False, True])
def test_however_they_are_shared(how, loop):
    space = written_out(compared, 2, loop, repeated=REPEATED[how])
    assert space.resources()["cache"] == 2 * 4 * LENGTH * 3 * HEAD * (5 if loop else 1)


AT = np.arange(LENGTH)
QUERY, KEY = AT[:, None], AT[None]
MASKS = {  # what each query may look at
    "causal": KEY <= QUERY,
    "causal, a window": (KEY <= QUERY) & (KEY > QUERY - 3),
    "causal, in parts": (KEY <= QUERY) & (KEY // 4 == QUERY // 4),
    "causal, but for a prefix of one": (KEY <= QUERY) | (KEY == 0),
    "a symmetric window": abs(KEY - QUERY) < 3,
    "blocks": KEY // 4 == QUERY // 4,
    "all": KEY < LENGTH + QUERY,
    "causal after a prefix": (KEY <= QUERY) | (KEY < 4),
    "causal after a long prefix": (KEY <= QUERY) | (KEY < LENGTH - 2),
    "a prefix that some see": (KEY <= QUERY) | ((KEY < 4) & (QUERY < 2)),
    "with the next": KEY <= QUERY + 1,
    "all but itself": KEY != QUERY,
    "a table by chance": np.random.default_rng(0).random((LENGTH, LENGTH)) < 0.7,
}
WRITTEN = {
    "where": lambda s, m: jnp.where(m, s, -1e9),
    "where, as NumPy has it": lambda s, m: jnp.where(np.asarray(m), s, -np.inf),
    "hidden": lambda s, m: jnp.where(~jnp.asarray(m), -1e30, s),
    "bias": lambda s, m: s + jnp.where(m, 0.0, -1e9),
    "bias of one": lambda s, m: s + (1.0 - jnp.asarray(m, jnp.float32)) * -1e9,
    "bias by distance": lambda s, m: s + jnp.where(m, -0.1 * abs(KEY - QUERY), -1e9),
    "zero or one": lambda s, m: jnp.where(jnp.asarray(m, jnp.int32) == 0, -1e9, s),
    "heads and batch": lambda s, m: jnp.where(jnp.broadcast_to(m, s.shape), s, -1e9),
    "through jit": lambda s, m: jax.jit(lambda s: jnp.where(m, s, -1e9))(s),
    "beside another": lambda s, m: jnp.where(jnp.asarray(m) & (s < 1e8), s, -1e9),
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("name", MASKS)
def test_causal_is_what_a_mask_hides(name, how):
    mask = MASKS[name]
    hides = any(
        bool(np.all(mask[:, :prefix]) and np.all(mask[AT, AT])) and not np.any(mask & (KEY > QUERY) & (KEY >= prefix))
        for prefix in range(LENGTH - 1)
    )
    space = written_out(lambda scores: WRITTEN[how](scores, MASKS[name]))
    assert ("cache" in space.resources()) is hides is name.startswith("causal")


MADE = {  # by operations on positions
    "tril": (lambda: jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), True),
    "triu, turned": (lambda: ~jnp.triu(jnp.ones((LENGTH, LENGTH), bool), 1), True),
    "a sum of rows": (lambda: jnp.cumsum(jnp.eye(LENGTH), 0) > 0, True),
    "a symmetric window": (lambda: jnp.abs(jnp.arange(LENGTH)[None] - jnp.arange(LENGTH)[:, None]) < 3, False),
    "either side": (lambda: (jnp.arange(LENGTH) >= jnp.asarray(QUERY) - 2) & (jnp.arange(LENGTH) <= QUERY + 2), False),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("loop", [False, True])
def test_masks_that_are_computed(name, loop):
    make, causal = MADE[name]
    assert ("cache" in written_out(lambda s: jnp.where(make(), s, -1e9), loop=loop).resources()) is causal


@pytest.mark.parametrize("slope", [lambda d: -0.5 * abs(d), lambda d: jnp.where(d > 0, -d, d), lambda d: 0.1 * d])
def test_biases_by_distance_hide_nothing(slope):
    space = written_out(lambda s: s + slope(jnp.arange(LENGTH)[:, None] - jnp.arange(LENGTH)[None]).astype(s.dtype))
    assert "cache" not in space.resources()


def attended(p, x, mask, before=0):
    """Attention of as many heads everywhere, with keys and values of ones in front of the others."""
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qkv")
    k, v = (jnp.concatenate([jnp.ones((x.shape[0], before, *a.shape[2:])), a], 1) if before else a for a in (k, v))
    scores = jnp.where(mask, jnp.einsum("bthe,bshe->bhts", q, k), -1e9)
    return jnp.einsum("bhts,bshe,hed->btd", softmax(scores), v, p["o"])


def space_of(fn):
    params = {name: jax.ShapeDtypeStruct((8, 3, HEAD), jnp.float32) for name in "qkv"}
    params["o"] = jax.ShapeDtypeStruct((3, HEAD, 8), jnp.float32)
    with jax.numpy_rank_promotion("allow"):
        return SearchSpace.from_function(fn, params, jax.ShapeDtypeStruct((2, LENGTH, 8), jnp.float32))


@pytest.mark.parametrize("before", [1, 3, LENGTH])
def test_keys_in_front_are_kept_too(before):
    mask = np.arange(before + LENGTH) <= before + QUERY
    resources = space_of(lambda p, x: attended(p, x, mask, before)).resources()
    assert resources["cache"] == 2 * 4 * 2 * (before + LENGTH) * 3 * HEAD


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", ["causal", "a symmetric window", "of the device"])
def test_inside_of_a_shard_map(name, check_vma):
    """What is the same on all devices is read; what differs over them is unknown."""
    spec, mesh = jax.sharding.PartitionSpec, jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))

    def body(p, x):
        mask = MASKS.get(name)
        if mask is None:
            mask = jnp.asarray(KEY) <= jnp.asarray(QUERY) + jax.lax.axis_index("d")
        return attended(p, x, mask)

    fn = jax.shard_map(body, mesh=mesh, in_specs=(spec(), spec("d")), out_specs=spec("d"), check_vma=check_vma)
    assert ("cache" in space_of(fn).resources()) is (name == "causal")


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.attend = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.head = nnx.Linear(16, 16, rngs=rngs)

    def __call__(self, x):
        return self.head(x + self.attend(x, mask=nnx.make_causal_mask(x[..., 0])))


def test_a_stock_module():
    with jax.numpy_rank_promotion("allow"):
        space = SearchSpace.from_nnx(Decoder(nnx.Rngs(0)), jax.ShapeDtypeStruct((2, LENGTH, 16), jnp.float32))
    assert space.resources()["cache"] == 2 * 4 * 2 * LENGTH * 16


@relaxed
def no_decoder(name):
    if name == "both ways":
        return written_out(lambda scores: scores)
    model, size = {"windows": ("swin_tiny", 224), "no attention": ("resnet20", 32)}[name]
    return SearchSpace.from_model(models.create(model), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


@pytest.mark.parametrize("name", ["both ways", "no attention", "windows"])
def test_what_is_no_decoder_has_none(name):
    space = no_decoder(name)
    assert "cache" not in space.resources() and "cache" not in space.summary()
    with pytest.raises(UserError, match=r"has nothing that Cache\(length=None.* counts"):
        space.with_resources(Cache())


@pytest.mark.parametrize("wrong", [{"length": 0}, {"batch": 1.5}, {"dtype": "int3"}, {"length": "10"}])
def test_impossible_options(wrong):
    with pytest.raises(UserError, match="of cache"):
        Cache(**wrong)
