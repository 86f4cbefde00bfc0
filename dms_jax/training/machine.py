"""What a measurement was made on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import jax


def machine() -> str:
    """Processor, cores, devices, and versions: `AMD EPYC 7B13, 2 cores, cpu x 1, JAX 0.10.2, Python 3.11.7`."""
    devices = f"{jax.devices()[0].device_kind} x {jax.device_count()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {devices}, JAX {jax.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
