"""Several processes equal one, and stop together when one of them is asked to.

Run as a program this file is one of two: `python test_processes.py loop|job|experiment RANK PORT DIRECTORY`.
"""

import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import toy
from jax.experimental import multihost_utils

from dms_jax import Searchable
from dms_jax.adapters import marked
from dms_jax.conduct import Experiment, conduct
from dms_jax.errors import UserError
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.training import (
    Checkpoints,
    Interrupted,
    InterruptFlag,
    MetricsWriter,
    make_mesh,
    optimizers,
    place,
    processes,
    replicate,
    run_phase,
    shard_batch,
    supervised,
)
from dms_jax.training.job import Job
from dms_jax.training.metrics import read
from dms_jax.training.pipeline import Finished, Pipeline
from dms_jax.training.plan import Steps
from dms_jax.training.processes import local
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from tests import tiny
from tests.counting import random_variables
from tests.helpers import FLOAT32_GRADIENTS
from tests.together import free_port, run_together

ROOT = Path(__file__).parents[2]
STEPS, LOG_EVERY, STOP_AT = 9, 4, 5
TRAIN, SEARCH = 2, 4


def loop(rank: int, directory: Path) -> None:
    """Two devices a process, through the loop alone."""
    mesh, flag = make_mesh(), InterruptFlag()

    def batches(i):
        flag.requested |= (rank, i) == (1, STOP_AT)
        return shard_batch({k: v[8 * rank : 8 * rank + 8] for k, v in toy.batch_of(i).items()}, mesh)

    def run(start, state, position):
        with MetricsWriter(directory, resume_at=position, tensorboard=False) as writer:
            return run_phase(
                "toy", toy.step, state, batches, jax.random.key(1), steps=STEPS, start=start, interrupt=flag,
                log_every=LOG_EVERY, writer=writer, checkpoints=checkpoints, checkpoint_seconds=1e6,
            )  # fmt: skip

    with Checkpoints(directory / "checkpoints") as checkpoints:
        try:
            run(0, replicate(toy.init(), mesh), 0)
        except Interrupted as stop:
            print("stopped", stop.step)
        flag.requested = False
        restored = checkpoints.restore(replicate(toy.init(), mesh))
        assert restored is not None
        state = run(restored.step, restored.state, restored.meta["metrics_position"])
    np.save(directory / f"{rank}.npy", state.params["w/1"].addressable_data(0))


def share(batch, rank, count):
    return {name: array[rank * len(array) // count : (rank + 1) * len(array) // count] for name, array in batch.items()}


def job(rank: int, count: int, directory: Path, stop: bool) -> None:
    """All devices, through a job: train, search, stop, go on; then measure and finish. Leaves RANK.npz."""
    mesh, model = make_mesh(), tiny.make(blocks=(1,), widths=(4,))
    space = SearchSpace.from_model(model, tiny.EXAMPLE)
    loss = supervised.classification_loss(model)
    search = Search(space, loss, optax.sgd(0.05), {"macs": 0.5}, Schedule(SEARCH))
    asked = 0

    def run():
        with Run(directory, {"job": "two processes"}) as run:

            def batches(i):
                nonlocal asked
                asked += 1
                # in the first attempt, by a signal to one process
                run.interrupt.requested |= stop and rank == count - 1 and asked == TRAIN + SEARCH // 2
                return shard_batch(share(tiny.batch_of(i, 16), rank, count), mesh)

            this = Job(run, loss, batches, mesh, jax.random.key(0))
            with pytest.raises(UserError, match="a job is at work in"):
                Run(directory, {"job": "two processes"}).__enter__()
            first = replicate(random_variables(space), mesh)
            trained = this.train("train", loss, first, optimizers.sgd(0.1), TRAIN, average=0.5)
            state = this.search("search", search, trained)
            structure = search.structure(state)
            run.finish(structure, shrink(space, state.params, structure), {"step": int(state.step)})
            assert run.results == {"step": SEARCH} and set(run.seconds) == {"train", "search"}
            return trained, state, structure

    if stop:
        with pytest.raises(Interrupted, match=f"stopped search after step {SEARCH // 2} of {SEARCH}"):
            run()
    trained, state, structure = run()
    assert asked == TRAIN + SEARCH
    padded = {**tiny.batch_of(99, 16), "weight": np.arange(16) < 13}
    found = supervised.accuracy(space.fn, trained, [shard_batch(share(padded, rank, count), mesh)])
    kept = np.concatenate([structure.kept[name] for name in space.groups])
    np.savez(
        directory / f"{rank}.npz", np.array([found.value, found.top5]), kept, *jax.tree.leaves(local((trained, state)))
    )


class Net(Searchable):
    """Large enough that its kernels are cut over two devices."""

    @nn.compact
    def __call__(self, x, *, train=False):
        hidden = self.elements("hidden", 512)
        y = nn.relu(nn.Dense(hidden.size, name="first")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="last")(hidden(y))


def experiment(rank: int, directory: Path) -> None:
    """All of an experiment, parameters cut over the processes: one report, one table. A second time it is done."""
    mesh, model = make_mesh(fsdp=2), Net()
    space = SearchSpace.from_model(model, tiny.EXAMPLE)
    loss = supervised.classification_loss(model)
    search = Search(space, loss, optax.sgd(0.05), {"macs": 0.5}, Schedule(2))
    steps = Steps(1, 2, 1, compare=False)
    test = shard_batch(share(tiny.batch_of(99, 16), rank, 2), mesh)
    variables = place(jax.jit(model.init)(jax.random.key(0), np.zeros(tiny.EXAMPLE.shape, np.float32)), mesh)
    assert not variables["params"]["first"]["kernel"].is_fully_replicated

    def phases(run: Run) -> Finished:
        batches = lambda i: shard_batch(share(tiny.batch_of(i, 16), rank, 2), mesh)  # noqa: E731
        job = Job(run, loss, batches, mesh, jax.random.key(0))
        words = {"name": "net", "arguments": {}}
        example = tiny.batch_of(98)["image"]
        how = {"retrain": "scratch", "fresh": marked.fresh(space)}
        return Pipeline(job, search, steps, lambda n: optax.sgd(0.1), words, example, **how).run(variables)

    for _ in range(2):
        conduct(
            Experiment(
                directory, {"experiment": "net"}, "python net.py", "net on noise", "noise", "p", 0, search, steps,
                Quality("accuracy", "%", lambda fn, v: supervised.accuracy(fn, v, [test])), phases, (1,),
            )
        )  # fmt: skip


def main(what: str, rank: int, port: str, directory: Path) -> None:
    jax.config.update("jax_num_cpu_devices", {"loop": 2, "job": 4, "experiment": 1}[what])
    processes.initialize(f"localhost:{port}", 2, rank)
    assert (processes.is_first(), jax.process_count()) == (rank == 0, 2)
    with pytest.raises(UserError, match="^nobody is here$"):
        processes.on_first(_fail if rank == 0 else lambda: pytest.fail("process 0 alone does it"))
    with pytest.raises(ZeroDivisionError if rank == 0 else UserError, match="division by zero"):
        processes.on_first(lambda: 1 / 0)  # which leaves nobody waiting
    multihost_utils.sync_global_devices("start")
    if what == "job":
        return job(rank, 2, directory, stop=True)
    loop(rank, directory) if what == "loop" else experiment(rank, directory)


def _fail():
    raise UserError("nobody is here")


def outputs(what: str, directory: Path) -> list[str]:
    """Run both processes to their end: what each printed."""
    port = str(free_port())
    return run_together([[__file__, what, str(rank), port, str(directory)] for rank in (0, 1)])


def test_two_processes_equal_one_device_and_stop_together(tmp_path):
    for out in outputs("loop", tmp_path):
        assert "stopped 8" in out  # the next step after STOP_AT at which the two compare notes
    one = run_phase("toy", toy.step, toy.init(), toy.batch_of, jax.random.key(1), steps=STEPS)
    for rank in (0, 1):
        # A sum over 4 parts rounds otherwise than a sum in one go: float32's 1e-7, grown over 9 steps.
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), one.params["w/1"], rtol=2e-5, atol=2e-6)
    assert [record["step"] for record in read(tmp_path)] == [1, 4, 8, 9]


def test_a_job_of_two_processes_is_that_of_one(tmp_path):
    if jax.device_count() != 8:
        pytest.skip("is compared with eight devices of one process")
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    outputs("job", two)
    job(0, 1, one, stop=False)
    with np.load(one / "0.npz") as expected, np.load(two / "0.npz") as first, np.load(two / "1.npz") as second:
        assert len(expected) >= 50
        for name, value in expected.items():
            np.testing.assert_array_equal(first[name], second[name])
            np.testing.assert_allclose(first[name], value, rtol=1e-3, atol=10 * FLOAT32_GRADIENTS, err_msg=name)
    for name in ("structure.json", "config.json", "results.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    records = [[(r["phase"], r["step"]) for r in read(directory)] for directory in (two, one)]
    assert records[0] == records[1] == [("train", 1), ("train", 2), *[("search", i + 1) for i in range(SEARCH)]]
    assert len((two / "masks.jsonl").read_text().splitlines()) == SEARCH


def test_an_experiment_of_two_processes_is_shown_once(tmp_path):
    shown, silent = outputs("experiment", tmp_path)
    assert all(line.startswith("[Gloo]") for line in silent.splitlines())
    assert "found by DMS" in shown and shown.count("report: ") == shown.count("finished already: ") == 1
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 2 and all(row["latency_ms"]["1"] > 0 for row in rows)
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("host:1", None, None), "processes and index is missing"),
        ((None, 2, 1), "coordinator is missing"),
        (("host", 2, 0), "'host' is not host:port"),
        (("host:port", 2, 0), "is not host:port"),
        (("host:1", 2, 2), "index 2 of 2 processes"),
        (("host:1", 0, 0), "index 0 of 0 processes"),
        (("host:1", 2, 0), "process 0 of 2 cannot join at host:1"),  # this process has used its devices already
    ],
)
def test_processes_that_cannot_be(given, says):
    jax.devices()
    with pytest.raises(UserError, match=says):
        processes.initialize(*given)


def test_alone_nothing_happens(monkeypatch):
    for given in ((None, None, None), (None, 1, None), ("host:1", 1, 0)):
        processes.initialize(*given)
    assert jax.process_count() == 1 and processes.is_first()
    assert processes.on_first(lambda: {"a": 1}) == {"a": 1}
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match="cannot join the processes of the environment"):
        processes.initialize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
