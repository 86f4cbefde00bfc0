"""Several processes of one job, on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def run_together(commands: Sequence[Sequence[str]], seconds: float = 400) -> list[str]:
    """Run commands of Python at once, on the CPU, each to its end: what each printed. One that fails is an error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, *command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for command in commands
    ]
    try:
        ended = [(*process.communicate(timeout=seconds), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    for _, err, status in ended:
        assert status == 0, err
    return [out for out, _, _ in ended]
