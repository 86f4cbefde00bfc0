"""The zoo against published numbers."""

import time

import jax
import jax.numpy as jnp
import pytest

import dms_jax
from dms_jax import SearchSpace, UserError, models
from tests.counting import folded, numbers

# torchvision 0.20, `sum(p.numel() for p in torchvision.models.resnet50().parameters())` and so on
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
# He et al. 2015, table 6: 0.27, 0.46 and 0.85 million, with shortcuts free of parameters; ours are projections
SMALL = {"resnet20": 269_722, "resnet32": 464_154, "resnet56": 853_018}
PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_imagenet_models(name):
    model = models.create(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert numbers(shapes["params"]) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_parameters_of_small_models(name):
    model = models.create(name, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert numbers(shapes["params"]) == SMALL[name] + PROJECTIONS


def test_resnet50_at_224():
    """4.09 GMACs (the paper's and everybody's number); 41 groups and 11,468 elements (METHOD)."""
    space = SearchSpace.from_model(models.create("resnet50"), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    found = space.resources()
    assert (found["macs"], found["params"]) == (4_089_184_256, PARAMETERS["resnet50"])
    kinds = [group.kind for group in space.groups.values()]
    assert (kinds.count("width"), kinds.count("depth")) == (37, 4)
    assert sum(g.size for g in space.groups.values() if g.kind == "width") == 11_456
    assert sum(g.size for g in space.groups.values() if g.kind == "depth") == 12
    assert len(space.groups) == 41
    assert folded(space) == set(space.groups)  # every mask runs for free


def test_resnet152_is_traced_in_seconds_and_nothing_is_allocated():
    model, before = models.create("resnet152"), len(jax.live_arrays())
    start = time.perf_counter()
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert time.perf_counter() - start < 30  # 2 s alone on one core; the bound is for a busy machine
    assert len(jax.live_arrays()) <= before + 4  # scalars, no parameters
    assert space.resources()["params"] == PARAMETERS["resnet152"]


def test_macs_scale_with_the_batch_and_parameters_do_not():
    model = models.create("resnet20")
    one, four = (
        SearchSpace.from_model(model, jax.ShapeDtypeStruct((n, 8, 8, 3), jnp.float32)).resources() for n in (1, 4)
    )
    assert (four["macs"], four["params"]) == (4 * one["macs"], one["params"])


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    model = models.create("resnet20", dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert jax.eval_shape(lambda v: model.apply(v, jnp.zeros(x.shape)), shapes).dtype == jnp.float32
    exact = SearchSpace.from_model(models.create("resnet20"), x)
    space = SearchSpace.from_model(model, x)
    assert space.resources() == exact.resources()
    assert folded(space) == folded(exact)


def test_unknown_models_and_arguments():
    with pytest.raises(UserError, match="unknown model 'resnet51'; the nearest of .* are .*resnet50"):
        models.create("resnet51")
    with pytest.raises(UserError, match=r"model 'resnet50' cannot be made with \['classes'\]"):
        dms_jax.models.create("resnet50", classes=10)


def test_summary_shows_every_group_and_the_reach():
    space = SearchSpace.from_model(models.create("resnet20"), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    text = space.summary()
    for name in space.groups:
        assert name in text
    for resource in ("macs", "params"):
        assert f"{space.resources()[resource]:,}" in text and f"{space.smallest[resource]:,}" in text
    assert "float32[1, 8, 8, 3]" in text
    assert text.count(" parameters\n") == 15  # every mask folds


def test_explain():
    space = SearchSpace.from_model(models.create("resnet50"), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    text = space.explain("stage2/block1/conv1/kernel")
    assert "axis 2 (512): stage2/out" in text and "axis 3 (128): stage2/block1/mid1" in text
    assert "conv_general_dilated at models/resnet.py" in text
    assert "goes with the gates: stage2/depth[0]" in text
    with pytest.raises(UserError, match="no parameter 'stage2/block1/conv9/kernel'; the nearest of .*conv"):
        space.explain("stage2/block1/conv9/kernel")
