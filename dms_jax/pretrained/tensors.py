"""What the tables of the families share: how PyTorch calls the leaves of a layer."""

from __future__ import annotations

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Name of a leaf in Flax -> in PyTorch."""


def number(name: str) -> int:
    """The number at the end of a module's name: "block12" -> 12."""
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz_"))
