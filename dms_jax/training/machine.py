"""What a measurement was made on, in words."""

from __future__ import annotations

import platform

import jax

from dms_jax.hardware import cores, processor


def machine() -> str:
    """Processor, cores, devices, and versions: `AMD EPYC 7B13, 2 cores, cpu x 1, JAX 0.10.2, Python 3.11.7`."""
    devices = f"{jax.devices()[0].device_kind} x {jax.device_count()}"
    return f"{processor()}, {cores()} cores, {devices}, JAX {jax.__version__}, Python {platform.python_version()}"
