"""The memory plan against bytes that are there, and against XLA's own count of a compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dms_jax import Schedule, Search, SearchSpace, Structure, UserError, models
from dms_jax.training import make_mesh, memory, place, supervised
from dms_jax.training.distillation import Distillation
from dms_jax.training.language import language_loss
from experiments import llama_memory
from tests.counting import random_variables

SHAPE = memory.Shape(devices=8, fsdp=4, batch=16, length=64)
OPTIMIZER = optax.adamw(1e-3)


def search_of(**options):
    model = models.create(
        "llama", vocabulary=256, width=128, layers=2, heads=8, kv_heads=4, hidden=1024, dtype="bfloat16", **options
    )
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, SHAPE.length), jnp.int32))
    return Search(space, language_loss(model, Distillation()), OPTIMIZER, {"params": 0.5}, Schedule(5))


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; tests/conftest.py makes them of the CPU")
def test_what_is_held_is_what_lies_on_every_device():
    search, mesh = search_of(), make_mesh(jax.devices()[:8], fsdp=SHAPE.fsdp)
    state = place(search.init(random_variables(search.space)), mesh)
    teacher = place(random_variables(search.space), mesh)
    plan = memory.search_plan(search, SHAPE)
    logits = plan.held["logits of the teacher"]
    assert logits == SHAPE.batch // 8 * SHAPE.length * 256 * 4
    for device in mesh.devices.flat:
        shards = [s for x in jax.tree.leaves((state, teacher)) for s in x.addressable_shards if s.device == device]
        assert sum(s.data.nbytes for s in shards) == sum(plan.held.values()) - logits
    assert plan.held["parameters"] < sum(x.nbytes for x in jax.tree.leaves(state.params)) / 2


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; tests/conftest.py makes them of the CPU")
def test_what_a_step_takes_bounds_the_count_of_xla():
    """XLA frees and shares as it goes; on a CPU it also computes in float32 what is bfloat16 here: up to twice."""
    search = search_of()
    plan = memory.search_plan(search, SHAPE)
    state = jax.eval_shape(search.init, memory.abstract_variables(search.space.model))
    counted = memory.xla_temporaries(search.step, state, 256, SHAPE)
    assert 0.4 < counted / (sum(plan.during.values()) + plan.scores) < 2.0


def test_activations_grow_with_layers_and_not_with_rematerialization():
    kept, again = memory.search_plan(search_of(), SHAPE), memory.search_plan(search_of(remat=True), SHAPE)
    assert again.during["activations"] < kept.during["activations"] and again.scores < kept.scores
    # scores: float32 [batch, heads, T, T] a layer, and their softmax once more in half precision, at least
    local, layers, heads = SHAPE.batch // 8, 2, 8
    assert kept.scores >= layers * local * heads * SHAPE.length**2 * 4
    assert kept.scores % (local * heads * SHAPE.length**2) == 0
    assert kept.held == again.held


def test_finetuning_holds_the_small_network_and_the_original():
    search = search_of()
    space, model = search.space, search.space.model
    small = model.clone(structure=space.structure({"layer0/feed_forward/hidden": tuple(range(64))}))
    original = memory.abstract_variables(model)
    plan = memory.finetune_plan(small, language_loss(small), OPTIMIZER, original, SHAPE, teacher=False)
    state = jax.eval_shape(lambda v: supervised.init(v, OPTIMIZER), memory.abstract_variables(small))
    assert plan.held["parameters"] == memory.bytes_per_device(state.params, SHAPE.mesh)
    assert plan.held["the original network"] == memory.search_plan(search, SHAPE).held["parameters"]
    assert "logits of the teacher" not in plan.held
    assert plan.total == sum(plan.held.values()) + sum(plan.during.values())


def test_a_network_that_is_pruned_already_has_plans():
    model = search_of().space.model
    pruned = model.clone(
        structure=Structure({"layer1/attention/heads": (0, 1), "layer1/feed_forward/hidden": (0, 1, 2)})
    )
    whole, rest = (llama_memory.plans(network, SHAPE, 0.5) for network in (model, pruned))
    for phase in ("search", "finetune"):
        assert 0 < rest[phase].held["parameters"] < whole[phase].held["parameters"]


def test_shapes_that_do_not_divide():
    with pytest.raises(UserError, match="fsdp must divide the devices"):
        memory.Shape(8, 3, 8, 16)
    with pytest.raises(UserError, match="at least 1"):
        memory.Shape(8, 8, 8, 0)
    assert np.prod(list(SHAPE.mesh.shape.values())) == 8
