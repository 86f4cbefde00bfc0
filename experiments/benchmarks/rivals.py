"""What other packages a benchmark can do without."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from importlib.util import find_spec

PACKAGES: Mapping[str, str] = {"ott": "ott-jax", "torch_pruning": "torch-pruning"}
"""Import name -> what to install, where that is another name."""


def absent(*modules: str) -> str:
    """Why a rival is left out: the command that installs what it needs, or what keeps it from being imported.

    Args:
      modules: import names.

    Returns:
      Empty where all is there.
    """
    names = [PACKAGES.get(module, module) for module in modules if find_spec(module) is None]
    if names:
        return f"not installed: pip install {' '.join(names)}"
    with warnings.catch_warnings():  # what other packages say of themselves when they are imported
        warnings.simplefilter("ignore")
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # a build for another PyTorch, another JAX: any kind of error
                return f"left out: {module} does not import ({error})"
    return ""
