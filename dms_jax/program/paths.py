"""Names of modules, from the paths of their parameters."""

from __future__ import annotations

import os
from collections.abc import Iterable

_COLLECTIONS = ("params/",)


def module_of(path: str) -> str:
    """The module that a parameter belongs to: "encoder/layer0/mlp" for "params/encoder/layer0/mlp/kernel"."""
    for prefix in _COLLECTIONS:
        path = path.removeprefix(prefix)
    return os.path.dirname(path) or path


def common_module(paths: Iterable[str]) -> str:
    """The innermost module that holds all of some parameters; "" where there is none."""
    modules = [module_of(path).split("/") for path in paths]
    shared: list[str] = []
    for parts in zip(*modules, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)
