"""The leaves of a tree by the paths that an adapter gave them."""

from typing import Any

import jax

from dms_jax.adapters.source import Source


def named(source: Source, tree: Any) -> dict[str, Any]:
    """Return {path: leaf} for a tree like the parameters of `source`; every leaf has a path of its own."""
    assert source.paths is not None
    assert jax.tree.structure(tree) == jax.tree.structure(source.params)
    leaves = dict(zip(source.paths, jax.tree.leaves(tree), strict=True))
    assert len(leaves) == len(source.paths)
    return leaves
