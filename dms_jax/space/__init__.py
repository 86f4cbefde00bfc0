"""`SearchSpace`: groups, costs, folds and slicing of one set of parameters; a facade of `dms_jax.program`.

Everything is read off programs of the parameters; nothing is allocated, and no network is written for it. What it knows
is laid in layers: `grouped` has the parameters and their groups, `programs` runs functions of them masked and smaller,
`priced` counts what they cost, and `search_space` is what a user sees.
"""

from dms_jax.space.grouped import Leaf
from dms_jax.space.search_space import SearchSpace

__all__ = ["Leaf", "SearchSpace"]
