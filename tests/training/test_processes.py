"""Two processes of two devices each equal one device, and stop together when one of them is asked to.

Run as a program this file is one of the two: `python test_processes.py RANK PORT DIRECTORY`.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import toy

from dms_jax.training import (
    Checkpoints,
    Interrupted,
    InterruptFlag,
    MetricsWriter,
    make_mesh,
    replicate,
    run_phase,
    shard_batch,
)
from dms_jax.training.metrics import read

ROOT = Path(__file__).parents[2]
STEPS, LOG_EVERY, STOP_AT = 9, 4, 5


def main(rank: int, port: str, directory: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
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


def test_two_processes_equal_one_device_and_stop_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen(
            [*command, str(rank), port, str(tmp_path)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "stopped 8" in out  # the next step after STOP_AT at which the two compare notes
    one = run_phase("toy", toy.step, toy.init(), toy.batch_of, jax.random.key(1), steps=STEPS)
    for rank in (0, 1):
        # A sum over 4 parts rounds otherwise than a sum in one go: float32's 1e-7, grown over 9 steps.
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), one.params["w/1"], rtol=2e-5, atol=2e-6)
    assert [record["step"] for record in read(tmp_path)] == [1, 4, 8, 9]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
