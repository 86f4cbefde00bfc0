"""Law 7 for the Llama family: eight devices, and two processes of four, search and finetune as one device does.

Key/value heads with several queries each, groups of all layers tied, a teacher, parameters and moments cut over "fsdp".
Run as a program this file is one of the two processes: `python test_llama_sharded.py RANK PORT DIRECTORY`.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dms_jax import Schedule, Search, SearchSpace, models, placement, shrink
from dms_jax.training import Checkpoints, make_mesh, place, replicated, shard_batch, shardings, supervised
from dms_jax.training.distillation import Distillation, taught
from dms_jax.training.language import language_loss
from tests.counting import random_variables
from tests.helpers import FLOAT32_GRADIENTS
from tests.together import free_port, run_together

ROOT = Path(__file__).parents[2]
SEARCHED, FINETUNED, HALFWAY = 4, 2, 2
CUT_FROM = 64  # numbers: on so small a network nothing would be cut otherwise
MODEL = models.create("llama", vocabulary=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)
TIED = ("layer*/attention/heads", "layer*/attention/queries", "layer*/feed_forward/hidden")
DISTILLATION = Distillation(0.5)


class Outcome(NamedTuple):
    """What a run left, on the host."""

    state: Any
    structure: Any
    losses: Any
    small: Any


@cache
def search_of() -> Search:
    space = SearchSpace.from_model(MODEL, jax.ShapeDtypeStruct((1, 12), jnp.int32), tie=TIED)
    return Search(space, language_loss(MODEL, DISTILLATION), optimizer(), {"macs": 0.5}, Schedule(SEARCHED))


@cache
def optimizer() -> optax.GradientTransformation:
    """With a moment that is cut, too, and a norm over all devices."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.9))


@cache
def start(mesh: Mesh) -> tuple[Any, Any, Any]:
    """The first state of a search, its jitted step, and its batches, which a teacher has seen."""
    search = search_of()
    variables = place(random_variables(search.space), mesh)
    forward = search.space.forward()
    batches = taught(lambda i: _batch(i, mesh), lambda v, batch: forward(v, batch["tokens"][:, :-1]), variables)
    state = place(search.init(variables), mesh)
    return state, _jitted(search.step, state, mesh), batches


def run(mesh: Mesh, saved: Checkpoints | None = None) -> Outcome:
    """Search, shrink and finetune; `saved` gets the state halfway."""
    state, step, batches = start(mesh)
    state, losses = _train(step, state, batches, range(HALFWAY))
    if saved is not None:
        saved.save(HALFWAY, state)
    state, more = _train(step, state, batches, range(HALFWAY, SEARCHED))
    structure = search_of().structure(state)
    small = MODEL.clone(structure=structure)
    tuned = supervised.init(shrink(search_of().space, state.params, structure), optimizer())
    for leaf, where in zip(jax.tree.leaves(tuned.params), jax.tree.leaves(shardings(tuned.params, mesh)), strict=True):
        assert mesh.size == 1 or leaf.sharding.is_equivalent_to(where, leaf.ndim)
    tuned = place(tuned, mesh)
    finetune = supervised.make_step(language_loss(small, DISTILLATION), optimizer())
    tuned, most = _train(_jitted(finetune, tuned, mesh), tuned, batches, range(FINETUNED))
    return Outcome(_whole(state, mesh), structure, losses + more + most, _whole(tuned.params, mesh))


def _batch(i: int, mesh: Mesh) -> Any:
    tokens = np.random.default_rng(i).integers(0, 64, (8, 13)).astype(np.int32)
    own = 8 // jax.process_count()
    return shard_batch({"tokens": tokens[own * jax.process_index() :][:own]}, mesh)


def _jitted(step: Any, state: Any, mesh: Mesh) -> Any:
    return jax.jit(step, out_shardings=(shardings(state, mesh), replicated(mesh)))


def _train(step: Any, state: Any, batches: Any, steps: range) -> tuple[Any, list[float]]:
    losses = []
    for i in steps:
        state, metrics = step(state, batches(i), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return state, losses


def _whole(tree: Any, mesh: Mesh) -> Any:
    gathered = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return multihost_utils.process_allgather(gathered, tiled=True) if jax.process_count() > 1 else jax.device_get(tree)


def assert_same(one: Outcome, other: Outcome) -> None:
    assert one.structure.kept == other.structure.kept
    assert_close((one.losses, one.state, one.small), (other.losses, other.state, other.small))


def assert_close(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=10 * FLOAT32_GRADIENTS), one, other)


@pytest.fixture(scope="module")
def small_arrays_are_cut():
    if jax.device_count() < 8:  # looked at here: the program that this file is, too, counts its devices itself
        pytest.skip("needs eight devices; tests/conftest.py makes them of the CPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SMALL", CUT_FROM)
        yield


@pytest.fixture(scope="module")
def one(small_arrays_are_cut):
    return run(make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def eight(small_arrays_are_cut):
    return run(make_mesh(jax.devices()[:8], fsdp=8))


def test_eight_devices_are_one(one, eight, tmp_path):
    assert_same(one, eight)
    assert_same(one, run(make_mesh(jax.devices()[:8])))
    with Checkpoints(tmp_path) as saved:
        assert_same(one, run(make_mesh(jax.devices()[:8], fsdp=2), saved))
        over_eight = make_mesh(jax.devices()[:8], fsdp=8)  # what a mesh of 4 x 2 saved goes on here
        state, step, batches = start(over_eight)
        restored = saved.restore(state)
    assert restored is not None and restored.step == HALFWAY
    state, _ = _train(step, restored.state, batches, range(HALFWAY, SEARCHED))
    assert_close(one.state, _whole(state, over_eight))
    kept = one.structure.kept
    for group in ("attention/heads", "attention/queries", "feed_forward/hidden"):
        assert len({len(kept[f"layer{i}/{group}"]) for i in range(2)}) == 1


def test_two_processes_of_four_devices_are_one_of_eight(eight, tmp_path):
    port = str(free_port())
    run_together([[__file__, str(rank), port, str(tmp_path)] for rank in (0, 1)])
    expected = [*eight.losses, *jax.tree.leaves((eight.state, eight.small))]
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert_close(expected, [found[name] for name in found.files])


def main(rank: int, port: str, directory: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    placement.SMALL = CUT_FROM
    outcome = run(make_mesh(fsdp=8))
    np.savez(directory / f"{rank}.npz", *outcome.losses, *jax.tree.leaves((outcome.state, outcome.small)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
