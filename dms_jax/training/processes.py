"""Several processes, one a host or a device group: how they find each other, and what one of them does for all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dms_jax import checks
from dms_jax.errors import UserError, one_line

# What a launcher says about how many processes there are; JAX itself knows how to read the rest.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


def initialize(coordinator: str | None = None, processes: int | None = None, index: int | None = None) -> None:
    """Join the processes of one job; to be called before anything is computed, by every process alike.

    Given an address, a count and an index, those count. With nothing given, JAX looks for them in the environment (TPU
    pods, SLURM, Open MPI); where it finds none, or `processes` is 1, this process is alone and nothing happens.

    Args:
      coordinator: `host:port` of process 0, on which it will listen.
      processes: how many there are.
      index: of this one, from 0.

    Raises:
      UserError: only some of the three, impossible ones, or the others cannot be reached.
    """
    if jax.distributed.is_initialized() or (processes == 1 and index in (None, 0)):
        return
    given = {"coordinator": coordinator, "processes": processes, "index": index}
    if all(value is None for value in given.values()):
        _from_environment()
        return
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UserError(
            f"several processes need {', '.join(given)}, and {' and '.join(missing)} is missing; give all three, or "
            "none and start them with SLURM, Open MPI or on a TPU pod"
        )
    _check(str(coordinator), int(processes or 0), int(index or 0))
    try:
        jax.distributed.initialize(coordinator, processes, index)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {index} of {processes} cannot join at {coordinator}: {one_line(error)[:300]}"
        ) from error


def _check(coordinator: str, processes: int, index: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and checks.digits(port) and 0 < int(port) < 2**16):
        raise UserError(f"coordinator {coordinator!r} is not host:port; give process 0's, such as 10.0.0.1:1234")
    if processes < 1 or not 0 <= index < processes:
        raise UserError(f"index {index} of {processes} processes is not possible; count them from 0")


def _from_environment() -> None:
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "coordinator_address" not in str(error):  # with which JAX says that it found no cluster
            raise UserError(f"the environment names several processes wrongly: {one_line(error)[:300]}") from error
    except RuntimeError as error:
        if _several():
            raise UserError(f"cannot join the processes of the environment: {one_line(error)[:300]}") from error


def _several() -> bool:
    """Whether a launcher says that this process is one of several."""
    counts = [os.environ.get(name, "1") for name in _COUNTS]
    return any(checks.digits(n) and int(n) > 1 for n in counts) or any("," in os.environ.get(n, "") for n in _HOSTS)


def is_first() -> bool:
    """Whether this is process 0, which writes and shows."""
    return jax.process_index() == 0


def anywhere(flag: bool) -> bool:
    """Whether the flag is up in any process; to be called by all, as one that stops by itself leaves others waiting."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def on_first(action: Callable[[], Any]) -> Any:
    """Run something on process 0 and return its value in all: to be called by all, who wait for it.

    Args:
      action: returns what JSON can hold; it looks at files, or writes them.

    Raises:
      UserError: `action` raised one; all processes raise it. Of any other exception they raise the message: nobody is
        left waiting.
    """
    if jax.process_count() == 1:
        return action()
    answer, error = {}, None
    if is_first():
        try:
            answer = {"value": action()}
        except Exception as caught:
            answer, error = {"error": str(caught) or type(caught).__name__}, caught
    answer = json.loads(_broadcast(json.dumps(answer).encode()))
    if "error" in answer:
        raise error or UserError(answer["error"])
    return answer["value"]


def local(tree: Any) -> Any:
    """Arrays that lie on several processes, whole on this one's host (to be called by all); others as they are."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


def _broadcast(content: bytes) -> bytes:
    """Process 0's bytes; what others give is not looked at."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
