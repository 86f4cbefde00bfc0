"""Kills at drawn file operations, disks that are full from a drawn write on, and jobs that start at once."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dms_jax import files
from dms_jax.errors import Interrupted, UserError
from tests.faults import job
from tests.faults.directories import finish, unbroken
from tests.faults.tally import Tally, draws, pick

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a child process."""
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def killed(seed: int, cases: int) -> Tally:
    """Kill a job at a drawn file operation, up to three times; then it goes on to the very same weights."""
    tally = Tally("killed at a file operation")
    unbroken()
    for what, draw in draws(tally.kind, seed, cases):
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "run"
            for _ in range(int(draw.integers(1, 4))):
                at = str(int(draw.integers(1, 900)))
                command = [sys.executable, "-P", "-m", "tests.faults.job", str(directory), at]
                ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
                if ended.returncode == 0:
                    break
            with tally.case(what):
                assert ended.returncode in (0, -9), ended.stderr[-500:]
                finish(directory)
    return tally


def full_disk(seed: int, cases: int) -> Tally:
    """From a drawn write on the disk is full: one line with the cause; with room again the job goes on."""
    tally = Tally("full disk")
    write_all = files.write_all
    unbroken()
    for what, draw in draws(tally.kind, seed, cases):
        code = int(pick(draw, [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]))
        left = int(draw.integers(0, 60))

        def limited(descriptor: int, data: bytes, code: int = code) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                with contextlib.suppress(OSError):
                    os.write(descriptor, data[: len(data) // 2])
                raise OSError(code, os.strerror(code))
            write_all(descriptor, data)

        with tempfile.TemporaryDirectory() as folder, tally.case(what):
            directory = Path(folder) / "run"
            files.write_all = limited
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    job.go(directory, stop=("search", int(draw.integers(8))), save=float(pick(draw, [0.0, 1e9])))
            except Interrupted:
                pass
            except UserError as error:
                assert os.strerror(code) in str(error)[:500], f"the cause is not in: {str(error)[:500]}"
            finally:
                files.write_all = write_all
            try:
                finish(directory)
            except UserError as error:
                raise AssertionError(f"does not go on: {error}") from None
    return tally


RACER = """
import sys, time, json
from pathlib import Path
from dms_jax.errors import UserError
from dms_jax.training.runs import Run
me = int(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    directory, start = line.split()
    while time.time() < float(start):
        pass
    try:
        with Run(directory, {"racer": me}) as run:
            time.sleep(0.002)
            said = json.loads((Path(directory) / "config.json").read_text())["racer"]
            print("trains" if said == me else "wrong", flush=True)
    except UserError as error:
        print("refused" if "\\n" not in str(error) else "wrong", flush=True)
"""


def raced(seed: int, cases: int) -> Tally:
    """Two jobs with different configurations start at once in a new directory: who trains is who config.json names."""
    import time

    tally = Tally("two jobs at once")
    racers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", RACER, str(i)], env=environment(), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for i in (0, 1)
    ]  # fmt: skip
    try:
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        for what, draw in draws(tally.kind, seed, cases):
            with tempfile.TemporaryDirectory() as folder, tally.case(what):
                begin = time.time() + 0.01
                for racer in racers:
                    assert racer.stdin is not None
                    racer.stdin.write(f"{folder}/run {begin + draw.uniform(0, 0.002)}\n")
                    racer.stdin.flush()
                found = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
                assert found.count("trains") == 1 and "wrong" not in found, found
    finally:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.close()
            racer.wait()
            assert racer.stdout is not None
            racer.stdout.close()
    return tally
