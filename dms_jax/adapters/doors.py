"""The doors of a search space: one for a function of parameters, one a framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from dms_jax import checks
from dms_jax.adapters import equinox, haiku, keras, linen, nnx
from dms_jax.adapters.marked import marked_space
from dms_jax.adapters.source import Source
from dms_jax.errors import UserError
from dms_jax.program.choice import Choice
from dms_jax.reading import shown


class Doors:
    """What `dms_jax.SearchSpace` is made with; every door hands its `__init__` a `Source`."""

    def __init__(self, source: Source, inputs: Sequence[Any], **options: Any):
        """Read a network; see `dms_jax.SearchSpace`."""
        raise NotImplementedError

    @classmethod
    def from_function(
        cls,
        fn: Callable[..., Any],
        params: Any,
        *inputs: Any,
        trainable: Any = None,
        also: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]] | None = None,
        tie: Sequence[str] = (),
        unroll: Sequence[str] = (),
        include: Sequence[str] = (),
        freeze: Sequence[str] = (),
        blocks: Sequence[str] = (),
        paths: Sequence[str] | None = None,
    ) -> Self:
        """Read a function of parameters.

        Args:
          fn: `(params, *inputs) -> outputs`: inference; pure.
          params: any pytree; arrays or `jax.ShapeDtypeStruct`s. Leaves that are not arrays are static.
          *inputs: arrays or shapes. MACs are counted for exactly these: give batch 1 for MACs per image.
          trainable: what is trained: a predicate on paths, or a tree of booleans like `params`; None: all
            floating-point arrays.
          also: other programs of the same parameters, {"train": (fn, args)}: ties and reads of all hold. Outputs whose
            path is that of a leaf are its new value.
          tie: glob patterns on group names; the groups that one pattern matches share one ratio and one count, each
            keeping its own best elements.
          unroll: patterns on paths of parameters that are stacked for a `scan` over layers: every layer gets widths of
            its own, and its parameters become tuples of rows. Otherwise all layers have one width, and go by rows.
          include: patterns on candidates that are not searched by themselves (see `summary`).
          freeze: patterns on candidates to leave alone.
          blocks: patterns on module paths, such as "layers/*": residual branches in one module are one element.
          paths: names of the leaves, in the order of `jax.tree.leaves(params)`; None: from their key paths.

        Raises:
          TracingError: a group that is named in the function and of which nothing can be taken; what is refused
            otherwise is in `left`.
          UserError: nothing to search, or patterns that match nothing.
        """
        title = getattr(fn, "__qualname__", type(fn).__name__)
        if paths is not None and not (isinstance(paths, list | tuple) and all(isinstance(p, str) for p in paths)):
            raise UserError(f"paths {shown(paths)} is not possible; give the names of the leaves, a list of texts")
        source = Source(fn, params, trainable, title, None if paths is None else tuple(paths))
        choice = chosen(include, freeze, blocks)
        return cls(source, inputs, also=also, tie=tie, unroll=unroll, choice=choice)

    @classmethod
    def from_linen(cls, model: Any, variables: Any, *inputs: Any, **options: Any) -> Self:
        """A Flax Linen module and its variables; parameters are all collections, trained is "params".

        Args:
          model: any module; it needs no marks.
          variables: what `init` gives, arrays or shapes.
          *inputs: of `__call__`.
          **options: of `from_function`; others are keywords of `__call__`. Whatever tells it that it does not train
            (train=False, deterministic=True, ...) is added where it takes it.
        """
        return _space(cls, linen.source, (model, variables, *inputs), inputs, options, model)

    @classmethod
    def from_nnx(cls, module: Any, *inputs: Any, **options: Any) -> Self:
        """A Flax NNX module; parameters are its `nnx.State`, trained are its `nnx.Param`s. Options as `from_linen`."""
        return _space(cls, nnx.source, (module, *inputs), inputs, options, module)

    @classmethod
    def from_equinox(cls, module: Any, *inputs: Any, **options: Any) -> Self:
        """An Equinox module, which is its own parameters; inputs have a leading batch axis (or `batched=False`)."""
        return _space(cls, equinox.source, (module, *inputs), inputs, options, module)

    @classmethod
    def from_keras(cls, model: Any, *inputs: Any, **options: Any) -> Self:
        """A built Keras 3 model on the JAX backend; parameters are {"trainable": [...], "non_trainable": [...]}."""
        return _space(cls, keras.source, (model, *inputs), inputs, options, model)

    @classmethod
    def from_haiku(cls, transformed: Any, params: Any, *inputs: Any, **options: Any) -> Self:
        """What `hk.transform` gives, and its parameters; with state a pair of both. Options as `from_linen`."""
        return _space(cls, haiku.source, (transformed, params, *inputs), inputs, options, transformed)

    @classmethod
    def from_model(
        cls,
        model: Any,
        *example: Any,
        tie: Sequence[str] = (),
        variables: Any = None,
        also: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]] | None = None,
        **call: Any,
    ) -> Self:
        """A Linen module that declares its groups: modules inside that derive from `Searchable`.

        The groups are those that are declared, under their names; where masks act is found in the program.

        Args:
          model: the module.
          *example: its positional arguments; arrays or `jax.ShapeDtypeStruct`s.
          tie, also: as in `from_function`.
          variables: of the model, arrays or shapes, where it has some that inference does not make (a head for training
            alone); None: those that `init` makes in inference.
          **call: keyword arguments, static. `train=False` is added where the model takes `train`.

        Raises:
          TracingError: an operation that no group may go through, or a group that slices nothing.
          UserError: a model without groups, or a pattern to tie that matches none, or groups of different sizes.
        """
        return marked_space(cls, model, example, {"tie": tie, "also": also}, variables, call)


def chosen(include: Any, freeze: Any, blocks: Any) -> Choice:
    """What is to be searched, of patterns as they were given."""
    patterns = checks.patterns
    return Choice(patterns("include", include), patterns("freeze", freeze), patterns("blocks", blocks))


_OPTIONS = ("also", "tie", "unroll")
_CHOICES = ("include", "freeze", "blocks")


def _space(cls: Any, make: Callable[..., Source], given: Any, inputs: Any, options: dict[str, Any], model: Any) -> Any:
    """A space of what an adapter makes of a model; options that are not the space's go to the model."""
    call = {key: value for key, value in options.items() if key not in (*_OPTIONS, *_CHOICES)}
    choice = chosen(*(options.get(key, ()) for key in _CHOICES))
    rest = {key: options[key] for key in _OPTIONS if key in options}
    return cls(make(*given, **call), inputs, choice=choice, model=model, **rest)
