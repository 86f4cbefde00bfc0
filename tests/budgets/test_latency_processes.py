"""Two processes agree on what one of them measured, and on what comes out.

Run as a program this file is one of two: `python test_latency_processes.py RANK PORT`.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dms_jax import SearchSpace, UserError
from dms_jax.budgets import timing
from dms_jax.budgets.latency import Latency
from dms_jax.budgets.table import folder
from dms_jax.method.projection import project
from dms_jax.training import processes
from tests.fake_device import Device, installed
from tests.together import free_port, run_together


def part(rank: int, port: int) -> None:
    """A projection, where the machine of the second process would say something else."""
    processes.initialize(f"localhost:{port}", 2, rank)
    draw = np.random.default_rng(0)
    params = {name: jnp.asarray(draw.normal(size=s), jnp.float32) for name, s in {"a": (5, 64), "b": (64, 3)}.items()}
    space = SearchSpace.from_function(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], params, jnp.ones((4, 5)))
    with pytest.MonkeyPatch.context() as patch:
        device = installed(Device(call=0.01 * (1 + 9 * rank), together=1 + rank, noise=0.01), patch)
        space = space.with_resources(Latency())
        ranking = {name: np.arange(float(group.size)) for name, group in space.groups.items()}
        full = space.resources()["latency"]
        kept = project(space, dict.fromkeys(space.groups, 0.3), ranking, {"latency": 0.6 * full})
        spread = space.spreads(kept)["latency"]
        patch.setattr(timing, "calls", lambda *given: 1 / (rank - 0))  # process 0 fails, nobody waits
        with pytest.raises((UserError, ZeroDivisionError)) as caught:
            space.measured({name: range(1) for name in space.groups})
        if rank == 0:
            (path,) = folder().glob("*.json")
            path.write_text("[]")
        with pytest.raises(UserError) as refused:
            space.with_resources(Latency())
    said = [str(caught.value), str(refused.value)]
    print(json.dumps([full, {n: len(k) for n, k in kept.items()}, spread, len(device.wholes) > 0, *said]))


def test_two_processes_see_what_the_first_one_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    port = free_port()
    first, second = (json.loads(out.splitlines()[-1]) for out in run_together([_command(i, port) for i in range(2)]))
    assert first[:3] == second[:3] and (first[3], second[3]) == (True, False)
    assert "division by zero" in first[4] and second[4] == "process 0 could not measure; it says why"
    assert "remove it, and it is measured anew" in first[5] and second[5] == second[4]
    assert len(list(Path(tmp_path).rglob("*.json"))) == 1


def _command(rank: int, port: int) -> list[str]:
    return [__file__, str(rank), str(port)]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    part(int(sys.argv[1]), int(sys.argv[2]))
