"""The laws of DESIGN.md for the Llama family, and what is particular to it."""

import time
from functools import cache
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dms_jax
from dms_jax import SearchSpace, UserError, models
from dms_jax.models import llama
from dms_jax.pretrained.llama_configuration import from_config
from tests.counting import flat_masks, multiply_adds, numbers, random_structure, random_variables, structures
from tests.helpers import FLOAT32_GRADIENTS, FLOAT32_LOGITS

SMALL: dict[str, Any] = dict(
    vocabulary=32, width=24, layers=2, heads=6, kv_heads=3, head_dim=8, hidden=20, max_positions=16
)
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one query a head": dict(kv_heads=6),
    "one key/value head": dict(kv_heads=1),
    "mistral": dict(window=4),
    "qwen2": dict(attention_bias=True, window=4, window_layers=(1,), tied=True),
    "qwen3": dict(query_key_norm=True, rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "all biases": dict(attention_bias=True, output_bias=True, feed_forward_bias=True),
    "width": dict(search_width=True, query_key_norm=True),
    "width, tied": dict(search_width=True, tied=True, remat=True),
}
LENGTH = 12
EXAMPLE = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

# Published configurations and their numbers of parameters.
CONFIGURATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-2-7B": (
        6_738_415_616,
        dict(model_type="llama", vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
        | dict(num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5),
    ),
    "Llama-3-70B": (
        70_553_706_496,
        dict(model_type="llama", vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80)
        | dict(num_attention_heads=64, num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500000.0),
    ),
    "Qwen3-8B": (
        8_190_735_360,
        dict(model_type="qwen3", vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36)
        | dict(num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960),
    ),
}


@cache
def small(name: str) -> SearchSpace:
    return SearchSpace.from_model(models.create("llama", **{**SMALL, **VARIANTS[name]}), EXAMPLE)


def tokens(batch: int = 2, length: int = LENGTH) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, SMALL["vocabulary"], (batch, length)), jnp.int32)


@pytest.mark.parametrize("name", VARIANTS)
def test_groups(name):
    space, kv = small(name), {**SMALL, **VARIANTS[name]}["kv_heads"]
    sizes = {key: group.size for key, group in space.groups.items()}
    expected = {"depth": 2}
    for i in range(2):
        expected |= {f"layer{i}/feed_forward/hidden": 20}
        expected |= {f"layer{i}/attention/heads": kv} if kv > 1 else {}
        expected |= {f"layer{i}/attention/queries": 6 // kv} if kv < 6 else {}
    assert sizes == expected | ({"width": 24} if "width" in name else {})
    kinds = {key.rsplit("/")[-1]: group.kind for key, group in space.groups.items()}
    wanted = {"depth": "depth", "heads": "heads", "queries": "heads", "hidden": "width", "width": "width"}
    assert kinds == {key: wanted[key] for key in kinds}


@pytest.mark.parametrize("name", VARIANTS)
@hypothesis.settings(max_examples=3)
@hypothesis.given(data=st.data())
def test_masked_is_shrunk(name, data):
    space = small(name)
    structure = space.structure(data.draw(structures(space.groups)))
    assert dms_jax.verify(space, random_variables(space), structure, tokens()) < FLOAT32_LOGITS


@pytest.mark.parametrize("name", VARIANTS)
@hypothesis.settings(max_examples=3)
@hypothesis.given(data=st.data())
def test_costs_are_counted(name, data):
    space = small(name)
    structure = space.structure(data.draw(structures(space.groups)))
    network = space.model.clone(structure=structure)
    variables = dms_jax.shrink(space, random_variables(space), structure)
    counted = {"macs": multiply_adds(network.apply, variables, tokens(1)), "params": numbers(variables)}
    assert counted.items() <= space.resources(structure).items()


@pytest.mark.parametrize("kv_heads, tied", [(3, False), (1, True)])
def test_costs_by_formula(kv_heads, tied):
    """Every term written out by hand: projections, both attention products, FFN, embedding and head."""
    space = SearchSpace.from_model(models.create("llama", **{**SMALL, "kv_heads": kv_heads, "tied": tied}), EXAMPLE)
    kept = random_structure(space.groups, seed=5, keep=0.6) | {"depth": (1,)}
    t, d, v, hd = LENGTH, 24, 32, 8
    macs, params = t * d * v, v * d * (1 if tied else 2) + d
    for i in (1,):
        kv, g = len(kept.get(f"layer{i}/attention/heads", [0])), len(kept[f"layer{i}/attention/queries"])
        weights = 2 * d * kv * g * hd + 2 * d * kv * hd + 3 * d * len(kept[f"layer{i}/feed_forward/hidden"])
        macs += t * weights + 2 * t * t * kv * g * hd
        params += weights + 2 * d
    found = space.resources(kept)
    assert (found["macs"], found["params"]) == (macs, params)


@pytest.mark.parametrize("name", ["grouped", "qwen2", "all biases", "width, tied"])
def test_folded_is_masked(name):
    """Masks in parameters, masks where they are read, and the module's own collection of masks."""
    space = small(name)
    params, flat = random_variables(space), flat_masks(space, 1)

    def value(logits):
        return jnp.mean(jnp.square(jax.nn.log_softmax(logits)))

    def loss(params, x):
        return value(space.model.apply(params, x))

    def by_collection(params, masks, x):
        return value(space.model.apply({**params, "masks": space.collection(masks)}, x))

    def by_engine(fold):
        masked = space.masked(loss, fold=fold)
        return lambda params, masks, x: masked(params, space.by_group(masks), x)

    ways = [by_collection, by_engine(True), by_engine(False)]
    (expected, grads), *others = (jax.jit(jax.value_and_grad(way, (0, 1)))(params, flat, tokens()) for way in ways)
    for found, found_grads in others:
        np.testing.assert_allclose(found, expected, rtol=FLOAT32_GRADIENTS)
        for a, b in zip(jax.tree.leaves(found_grads), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT32_GRADIENTS * max(1.0, float(jnp.max(jnp.abs(b)))))


@pytest.mark.parametrize("name", [name for name in VARIANTS if "width" not in name])
def test_every_mask_folds(name):
    space = small(name)
    assert space.fold(random_variables(space), space.masks())[1] == {}


def test_a_step_keeps_one_copy_of_the_kernels_that_masks_go_into():
    """Gates and features share one kernel of the FFN, heads and queries one of the attention."""
    space = small("grouped")
    factors = space._readings.plan_of(space.fn, space.example).factors
    leaves = {space.parameters.paths[f.leaf] for several in factors.values() for f in several}
    names = {path.rsplit("/", 1)[-1] for path in leaves}
    assert names == {"value", "output"} | names & {"up", "down"} and len(names) == 3
    params, masks = random_variables(space), space.masks()
    program = jax.make_jaxpr(lambda p, m: space.fold(p, m)[0])(params, masks).jaxpr
    shapes = [space.leaves[path].shape for path in leaves]
    products = [e.outvars[0].aval.shape for e in program.eqns if e.primitive.name == "mul"]
    assert sorted(shape for shape in products if shape in shapes) == sorted(shapes)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_published_sizes_are_exact_and_traced_quickly(name):
    params, config = CONFIGURATIONS[name]
    start = time.monotonic()
    space = SearchSpace.from_model(
        from_config(config, dtype="bfloat16", remat=True), jax.ShapeDtypeStruct((1, 2048), jnp.int32)
    )
    assert space.resources()["params"] == params
    assert time.monotonic() - start < 60
    t, d, v, layers = 2048, config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    products = params - v * d - (2 * layers + 1) * d - (2 * layers * 128 if "qwen3" in config["model_type"] else 0)
    attention = 2 * t * t * config["num_attention_heads"] * config.get("head_dim", 128) * layers
    assert space.resources()["macs"] == t * products + attention


def test_remat_changes_nothing_but_memory():
    space, again = small("grouped"), small("grouped").model.clone(remat=True)
    variables = random_variables(space)

    def gradient(model):
        return jax.jit(jax.grad(lambda v: jnp.mean(jnp.square(model.apply(v, tokens())))))(variables)

    for a, b in zip(jax.tree.leaves(gradient(space.model)), jax.tree.leaves(gradient(again)), strict=True):
        np.testing.assert_allclose(a, b, rtol=FLOAT32_GRADIENTS, atol=FLOAT32_GRADIENTS)
    assert "remat" in str(jax.make_jaxpr(again.apply)(variables, tokens()))


def test_half_precision_keeps_softmax_norms_and_logits_in_float32():
    model = models.create("llama", **SMALL, dtype="bfloat16", query_key_norm=True)
    variables = random_variables(small("qwen3"))
    jaxpr = jax.make_jaxpr(model.apply)(variables, tokens())
    assert jaxpr.out_avals[0].dtype == jnp.float32
    kinds = {name: set() for name in ("exp", "rsqrt", "dot_general", "cos")}
    _dtypes(jaxpr.jaxpr, kinds)
    assert kinds["exp"] == kinds["rsqrt"] == kinds["cos"] == {jnp.dtype("float32")}
    assert kinds["dot_general"] == {jnp.dtype("bfloat16")}


def _dtypes(jaxpr, kinds):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in kinds:
            kinds[eqn.primitive.name].add(jnp.dtype(eqn.invars[0].aval.dtype))
        for key in ("jaxpr", "call_jaxpr"):
            if key in eqn.params:
                _dtypes(getattr(eqn.params[key], "jaxpr", eqn.params[key]), kinds)


def test_a_fast_kernel_runs_but_is_not_traced(monkeypatch):
    asked, real = [], jax.nn.dot_product_attention

    def attention(*args, implementation, **options):
        asked.append(implementation)
        return real(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    monkeypatch.setattr(llama, "_has_fast_kernel", lambda q: True)
    space = SearchSpace.from_model(models.create("llama", **SMALL), EXAMPLE)
    assert asked[-2:] == ["xla"] * 2
    jax.eval_shape(space.model.apply, random_variables(space), tokens())
    assert asked[-2:] == ["cudnn"] * 2


def test_the_future_is_not_seen():
    space = small("mistral")
    apply = jax.jit(space.model.apply)
    variables, text = random_variables(space), tokens()
    before, after = apply(variables, text), apply(variables, text.at[:, 7].set((text[:, 7] + 1) % 32))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert float(jnp.max(jnp.abs(before[:, 7] - after[:, 7]))) > 1e-2


def test_fresh_weights_give_logits_of_size_one():
    model = models.create("llama", **{**SMALL, "width": 96})
    logits, _ = jax.jit(model.init_with_output)(jax.random.key(0), tokens(8))
    assert 0.7 < float(jnp.std(logits)) < 1.4


def test_heads_that_cannot_be_shared_out():
    with pytest.raises(UserError, match="6 heads cannot be shared out among 4"):
        SearchSpace.from_model(models.create("llama", **{**SMALL, "kv_heads": 4}), EXAMPLE)


@pytest.mark.parametrize(
    "scaling, said",
    [
        ({"rope_type": "longrope"}, "'longrope' are not supported; supported: default"),
        ({"rope_type": "llama3"}, "need a value for 'factor'|'low_freq_factor'"),
    ],
)
def test_rotary_scaling_is_checked(scaling, said):
    with pytest.raises(UserError, match=said):
        SearchSpace.from_model(models.create("llama", **{**SMALL, "rope_scaling": scaling}), EXAMPLE)
