"""How a Flax module declares what may be searched: `self.elements(name, size)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dms_jax.errors import UserError, shortened
from dms_jax.program.marks import mark
from dms_jax.structure import Structure

Kind = Literal["width", "heads", "depth"]


@dataclass(frozen=True)
class Declaration:
    """One group as a module declared it; `size` is what this network has of it."""

    name: str
    size: int
    kind: Kind | None
    least: int | None


# A pytree, so that it can be handed to a module under `nn.remat`, `nn.scan` and other lifted transforms.
@partial(jax.tree_util.register_dataclass, data_fields=["mask"], meta_fields=["name", "kept", "declared"])
@dataclass(frozen=True, eq=False)
class Elements:
    """The elements of one group inside a running module.

    Attributes:
      name: the group's name, its module path: "stage2/block1/mid".
      kept: which of the declared elements this network has; block numbers, for a depth group.
      declared: how many elements the full network has.
      mask: `[size]` float, or None when the network runs unmasked.
    """

    name: str
    kept: tuple[int, ...]
    declared: int
    mask: jax.Array | None

    @property
    def size(self) -> int:
        """How many elements this network has."""
        return len(self.kept)

    def __call__(self, x: jax.Array, axis: int = -1) -> jax.Array:
        """Multiply `x` by the mask along `axis` (its size is `size`). Without masks, `x` itself.

        Raises:
          UserError: the axis has another size.
        """
        if x.shape[axis] != self.size:
            raise UserError(
                f"group {self.name!r} has {self.size} elements; axis {axis} of {x.shape} has {x.shape[axis]}"
            )
        if self.mask is None:
            return mark(x, self.name, axis=axis if axis < 0 else axis - x.ndim) if _NAMING.value else x
        shape = [1] * x.ndim
        shape[axis] = self.size
        return x * self.mask.astype(x.dtype).reshape(shape)

    def gate(self, element: int, dtype: Any = jnp.float32) -> jax.Array:
        """The mask of one kept element as a scalar of `dtype`, for `x + gate * f(x)`; 1 without masks.

        Raises:
          UserError: this network does not have the element.
        """
        if element not in self.kept:
            raise UserError(f"group {self.name!r} keeps elements {self.kept}, not {element}")
        if self.mask is None:
            one = jnp.ones((), dtype)
            return mark(one, self.name, element=self.kept.index(element)) if _NAMING.value else one
        return jax.lax.index_in_dim(self.mask, self.kept.index(element), keepdims=False).astype(dtype)


class Searchable(nn.Module, kw_only=True):
    """A Linen module that declares element groups.

    `structure` is None in the full network. Set it on the outermost module (`model.clone(structure=s)`); modules made
    inside inherit it when they are made, which survives lifted transforms such as `nn.remat`.
    """

    structure: Structure | None = None
    # a field, so that `nn.jit` runs one program for each path: groups have the names of paths
    _place: tuple[str, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        if self.scope is not None:
            object.__setattr__(self, "_place", self.scope.path)
        if self.structure is None:
            object.__setattr__(self, "structure", _inherited(self.parent))

    @nn.nowrap
    def init_with_output(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Flax's, of `init`, too; a structure with a group that the full module does not declare is refused.

        Raises:
          UserError: it has one: what it says of that group would be of no effect.
        """
        made = super().init_with_output(rngs, *args, **kwargs)
        if self.structure is not None and kwargs.get("method") is None:  # a method may declare some of the groups
            full = self.clone(structure=None)
            with declared() as record:
                jax.eval_shape(lambda: nn.Module.init_with_output(full, rngs, *args, **kwargs))
            if strange := sorted(self.structure.kept.keys() - record.keys()):
                raise UserError(
                    f"the structure has group {strange[0]!r}, which {type(self).__name__} does not declare "
                    f"(it declares {shortened(', '.join(record), 100)}): is it another model's?"
                )
        return made

    def elements(self, name: str, size: int, *, kind: Kind | None = None, least: int | None = None) -> Elements:
        """Declare a group of `size` elements named by this module's path and `name`.

        Args:
          name: one word, different from the names of this module's submodules.
          size: elements in the full network, >= 1.
          kind: "width", "heads", or "depth"; None infers "depth" where `gate` is used, "width" elsewhere. Heads and
            depth have sharper masks (METHOD: lambda = 4N) and are settled before the widths.
          least: how many must stay; None means 1, and 0 for depth.

        Raises:
          UserError: a size below 1, or a structure that does not fit.
        """
        path = "/".join((*self.path, name))
        if size < 1:
            raise UserError(f"group {path!r} was declared with {size} elements; at least 1 is needed")
        structure = self.structure if self.structure is not None else _inherited(self.parent)
        kept = tuple(range(size)) if structure is None else structure.kept.get(path, tuple(range(size)))
        had = size if structure is None else structure.sizes.get(path, size)
        if had != size or (kept and kept[-1] >= size):
            last = had if had != size else kept[-1] + 1
            raise UserError(f"the structure has {last} elements of group {path!r}, the model {size}: another model's?")
        if structure is not None and not kept and path not in structure.removed:
            if structure.kinds.get(path, kind) in ("width", "heads"):
                raise UserError(f"the structure keeps nothing of group {path!r}; at least one element must stay")
        record = _RECORD.value
        if record is not None:
            record.setdefault(path, Declaration(path, len(kept), kind, least))
        mask: Any = self.get_variable("masks", name)
        if mask is not None and jnp.shape(mask) != (len(kept),):
            raise UserError(f"mask {path!r} must have shape ({len(kept)},), got {jnp.shape(mask)}")
        return Elements(path, kept, size, mask)


def _inherited(module: Any) -> Structure | None:
    """The structure of the nearest enclosing module that has one."""
    while isinstance(module, nn.Module):
        structure = getattr(module, "structure", None)
        if structure is not None:
            return structure
        module = module.parent
    return None


class _Record(dict[str, Declaration]):
    """What modules declared; a record of its own is another context, whatever it holds."""

    __hash__ = object.__hash__  # type: ignore[assignment]


# JAX's contexts, not Python's: what was traced before (a module under `nn.jit`) runs once more where they differ.
_RECORD: Any = jax.make_user_context(None)
_NAMING: Any = jax.make_user_context(False)
_PORTABLE: Any = jax.make_user_context(False)


def is_portable() -> bool:
    """Whether a program is traced that a `SearchSpace` reads or other machines run: no kernel of one device then."""
    return _PORTABLE.value


def naming() -> AbstractContextManager[None]:
    """Mark every array that is given to `Elements`, so that a program that is traced inside names its groups."""
    return _NAMING(True)


def portable() -> AbstractContextManager[None]:
    """Make `is_portable` true for everything that is traced inside."""
    return _PORTABLE(True)


@contextmanager
def declared() -> Iterator[dict[str, Declaration]]:
    """Collect the declarations of every module that runs inside, in the order of the network."""
    record = _Record()
    with _RECORD(record):
        yield record
