"""`SearchSpace`: what there is to search in a network, what it costs, and the network at other sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp

from dms_jax import checks, explanation, groups
from dms_jax.adapters.doors import Doors
from dms_jax.adapters.source import Source
from dms_jax.errors import TracingError, UserError
from dms_jax.program import checking
from dms_jax.program.discovery import Choice, Extra, discover
from dms_jax.program.parameters import Parameters, is_array
from dms_jax.reading import shown
from dms_jax.space.grouped import Found
from dms_jax.space.priced import Priced
from dms_jax.structure import Structure

_ALSO = '{"train": (fn, args)}'


class SearchSpace(Priced, Doors):
    """Groups, costs and slicing of one set of parameters. Make one with `from_function`, `from_linen`, `from_nnx`, ...

    Attributes:
      title: the network and what its MACs are counted for.
      groups: name -> `Group`, in the order of the network.
      counted: names of groups that have one ratio and one count together; most stand alone.
      leaves: path -> `Leaf`, for every array of the parameters.
      costs: {"macs": ..., "params": ...}: what a budget can bound, see `dms_jax.budgets`.
      uncounted: resources that this network does not have, with the reason.
      left: classes of axes that could be groups and are not searched, with the reason.
      fn: the inference function that was traced, `(params, *inputs)`.
      example: shapes of the inputs; MACs are those of one call with them.
      model: the model it was made of, where there is one.
      call: of a marked Linen model: keyword arguments of its inference; None otherwise.
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[Any],
        *,
        also: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]] | None = None,
        tie: Sequence[str] = (),
        unroll: Sequence[str] = (),
        choice: Choice | None = None,
        context: Callable[[], Any] | None = None,
        model: Any = None,
    ):
        checks.function("fn", source.fn)
        self.also = _programs(also)
        tie, unroll = checks.patterns("tie", tie), checks.patterns("unroll", unroll)
        example = jax.tree.map(_input, tuple(inputs))
        parameters = Parameters.of(source.params, source.trainable, source.paths, tuple(unroll))
        extras = [Extra(f"the program {name!r}", fn, args) for name, (fn, args) in self.also.items()]
        options: dict[str, Any] = {} if context is None else {"context": context}
        if source.train is not None and "train" not in self.also:
            key = jax.eval_shape(lambda: jax.random.key(0))
            options["spare"] = Extra("the network in training", source.train, (*example, key))
        self._how: dict[str, Any] = {"tie": tie, "unroll": unroll, "choice": choice, "context": context, "model": model}
        without: dict[str, str] = {}
        while True:
            taken = replace(choice or Choice(), failed=dict(without))
            found = discover(parameters, source.fn, example, extras, taken, **options)
            if not found.groups:
                raise UserError(explanation.nothing(source.title, found.left))
            super().__init__(Found(source, example, parameters, found, model))
            failed = checking.failed(self)
            if not failed:
                break
            if failed.keys() <= without.keys():
                name, why = next(iter(failed.items()))
                raise TracingError(f"group {name!r}: {why}")
            without |= failed  # of what is left alone nothing can be wrong; the others are checked again
        self.left = {name: why.text for name, why in found.left.items()}
        self.counted = groups.counted_together(found.groups, tie)

    def with_programs(self, also: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]) -> Self:
        """This space read with further programs of the same parameters: {"loss": (fn, args)}.

        Where they tell nothing new, it is this very space. Groups, costs and slices may be others otherwise: of arrays
        that they alone use, or because they leave less to take out.

        Args:
          also: as in `from_function`.

        Raises:
          UserError: one of that name was read before, or nothing is left to search.
        """
        new = {n: (fn, args) for n, (fn, args) in _programs(also).items() if not self.knows(fn, args)}
        if not new:
            return self
        twice = sorted(new.keys() & self.also.keys())
        if twice:
            raise UserError(f"a program {twice[0]!r} was read with this space already; give this one another name")
        other = type(self)(self.source, self.example, also={**self.also, **new}, **self._how)
        other.call = self.call
        return other.with_resources(*self._added)

    def structure(self, kept: Mapping[str, Sequence[int]], model: Mapping[str, Any] | None = None) -> Structure:
        """A complete `Structure` with sizes, kinds, and resources before and after.

        Args:
          kept: kept elements of every group.
          model: {"name", "arguments"} for `dms_jax.models.create`; the example's shapes are added.
        """
        checked = self.kept(kept)
        if model is not None:
            shapes = jax.tree.leaves(self.example)
            model = {**model, "example": [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in shapes]}
        return Structure(
            kept=checked,
            sizes={name: group.size for name, group in self.groups.items()},
            kinds={name: group.kind for name, group in self.groups.items()},
            model=model,
            resources=self._before_and_after(checked),
            removed=frozenset(self._removed(checked)),
        )

    def verify(self, params: Any, structure: Structure | Mapping[str, Sequence[int]], *inputs: Any) -> float:
        """The largest absolute difference between the masked and the small network's outputs.

        Both draw the same random numbers by the same keys; `shrunk` draws them at its own sizes.

        Args:
          params: of the full network.
          structure: what stays.
          *inputs: any batch size.

        Returns:
          max |masked - small| in the outputs' own unit; about 1e-6 times their size in float32. Infinity where one of
          them is not finite and the other is, or is so otherwise.
        """
        from dms_jax.shrink import difference, shrink

        self.parameters.full(params)
        jax.tree.map(_input, inputs)
        with jax.default_matmul_precision("highest"):  # on GPUs and TPUs float32 products are rounded more by default
            masked = jax.jit(self.masked(self.fn))(self.arrays(params), self.masks(structure), *inputs)
            small = jax.tree.map(lambda x: x if is_array(x) else None, shrink(self, params, structure))
            small = jax.jit(self._small(self.fn, structure, as_full=True))(small, *inputs)
        return difference(masked, small)

    def save(
        self,
        directory: str | os.PathLike[str],
        fn: Callable[..., Any],
        params: Any,
        structure: Structure,
        *,
        loss: Callable[..., Any] | None = None,
        batch: Any = None,
    ) -> Path:
        """Write the network of a structure for `dms_jax.load`, which then needs JAX alone; see `dms_jax.saved`.

        Args:
          directory: made if need be.
          fn: `(params, *inputs)` of the full network, of inference; `space.fn` say. Inputs are those of the example,
            with any leading size where no number in the program depends on it.
          params: of the small network (`dms_jax.shrink`).
          structure: what stays.
          loss: `(params, batch, key)` of the full network: written with its derivative, to train on.
          batch: arrays or shapes that the loss is written for; of any leading size where numbers in it depend on that
            in means alone.

        Returns:
          The folder of the programs.

        Warns:
          UserWarning: a program runs with one leading size alone; the operation and its line, or what else keeps it.

        Raises:
          UserError: flatbuffers or safetensors is missing, or parameters that cannot be written.
        """
        from dms_jax import saved

        return saved.save(self, directory, fn, params, structure, loss=loss, batch=batch)

    # --- for people ---

    def summary(self) -> str:
        """A table: every group, its size, kind, and what one element of it costs; the resources reachable."""
        rows = []
        whole, plan = self.resources(), self._readings.plan_of(self.fn, self.example)
        for name, cost in self.each().items():
            group, where = self.groups[name], "parameters" if plan.folds(name) else "activations"
            rows.append(explanation.Row(name, group.kind, group.size, group.least, cost, where))
        said = {name: (cost.unit, cost.note) for name, cost in self.costs.items()}
        return explanation.table(self.title, rows, whole, self.smallest, said, {**self.left, **self.uncounted})

    def explain(self, path: str) -> str:
        """Which groups slice which axes of one parameter, and through which operations they are tied.

        Args:
          path: "stage2/block0/conv1/kernel".

        Raises:
          UserError: the network has no such parameter.
        """
        return explanation.explain(self, path)

    def __repr__(self) -> str:
        elements = sum(group.size for group in self.groups.values())
        plural = "group" if len(self.groups) == 1 else "groups"
        return f"SearchSpace({self.title}: {len(self.groups)} {plural}, {elements:,} elements)"


def _input(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of one input."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)
    if isinstance(leaf, int | float | complex):
        return jax.ShapeDtypeStruct((), jnp.result_type(leaf))
    raise UserError(
        f"input {shown(leaf)} is not possible; give arrays, shapes or numbers, and bind what else the function "
        "takes (functools.partial)"
    )


def _programs(also: Any) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Other programs of the same parameters, checked."""
    given = checks.by_name("also", {} if also is None else also, _ALSO)
    for name, pair in given.items():
        if not (isinstance(pair, Sequence) and len(pair) == 2 and callable(pair[0]) and isinstance(pair[1], Sequence)):
            raise UserError(f"also {name!r}: {shown(pair)} is not possible; give a function and its inputs: {_ALSO}")
    return {name: (fn, tuple(args)) for name, (fn, args) in given.items()}
