"""All benchmarks, or some of them, on several cores at once.

    python -m experiments.benchmarks [--workers 2] [--quick] [NAME ...]

Benchmarks of quality are divided among processes of one thread each, on a core of its own where the system allows it:
every process runs the same command and takes the cells that no other has begun. Those that measure time run after that,
alone. Stopped, the same command goes on where it was. Everything takes about fifteen hours on two cores; the bar that
is shown is that of the first process and counts the cells of all, what the others say is in runs/benchmarks/worker1.log
and so on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from dms_jax.command_line import parse
from dms_jax.errors import Interrupted, UserError, exit_on_user_error
from dms_jax.training.interrupt import InterruptFlag

Shared = Literal[
    "frontier",
    "width",
    "scratch",
    "ablation",
    "pminus",
    "digits",
    "sizes",
    "regret",
    "kinds",
    "torch_pruning",
    "landing",
    "tracking",
    "depth",
    "allocations",
    "boxes",
]
Alone = Literal["operator", "latency", "equal_time"]
SHARED: tuple[Shared, ...] = get_args(Shared)
ALONE: tuple[Alone, ...] = get_args(Alone)
LOGS = Path("runs/benchmarks")
PROGRAMS = LOGS / "programs"
"""XLA's compiled programs: cells that differ in their seed alone share one."""


def main(
    names: Annotated[tuple[Shared | Alone, ...], tyro.conf.Positional] = (*SHARED, *ALONE),
    workers: int = 2,
    quick: bool = False,
) -> None:
    """Run benchmarks one after the other.

    Args:
      names: which; all, unless some are given.
      workers: processes, one a core.
      quick: a tiny version of everything, which leaves RESULTS.md alone.
    """
    if workers < 1:
        raise UserError(f"--workers={workers}: give 1 or more")
    for name in names:
        count = workers if name in SHARED else 1
        print(f"{name}: {count} process{'es' if count > 1 else ''}", file=sys.stderr, flush=True)
        run([sys.executable, "-m", f"experiments.benchmarks.{name}", *(["--quick"] if quick else [])], count)


def run(command: Sequence[str], workers: int) -> None:
    """Run one command in several processes at once, and wait for all of them.

    Raises:
      Interrupted: stopped; the processes have stopped, too.
      UserError: one of them failed.
    """
    with ExitStack() as stack, InterruptFlag() as interrupt:
        running = [stack.enter_context(_start(command, i, stack)) for i in range(workers)]
        while not (interrupt.requested or _failed(running)) and any(process.poll() is None for process in running):
            time.sleep(0.2)
        failed = _failed(running)  # before the others are stopped
        _stop(running)
        for process in running:
            process.wait()
    if interrupt.requested:
        raise Interrupted(0, "stopped; the same command goes on")
    if failed:
        logs = [f"see {_log(i)}" if i else "see above" for i in failed]
        raise UserError(f"{' '.join(command[1:])} ended with status {running[failed[0]].returncode}: {', '.join(logs)}")


def _failed(running: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The numbers of those that ended with an error."""
    return [i for i, process in enumerate(running) if process.poll()]


def _log(number: int) -> Path:
    return LOGS / f"worker{number}.log"


def _start(command: Sequence[str], number: int, stack: ExitStack) -> subprocess.Popen[bytes]:
    """A process of one thread; the first one says what it does on the terminal. Ctrl-C reaches it through us alone."""
    LOGS.mkdir(parents=True, exist_ok=True)
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip(),
        "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS.resolve()),
    }
    output = stack.enter_context(_log(number).open("wb")) if number else None
    process = subprocess.Popen(list(command), env=environment, stdout=output, stderr=output, start_new_session=True)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
    return process


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    exit_on_user_error(lambda: parse(main, prog="python -m experiments.benchmarks", description=__doc__))()
