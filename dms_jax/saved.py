"""A network on disk, of any framework: its programs as StableHLO, its parameters, its structure. No pickle.

structure.json                what was kept of which group
program/program.json          names, shapes and dtypes of parameters and inputs
program/params.safetensors    the parameters, by their paths
program/inference.stablehlo   (parameters, *inputs) -> outputs, for any batch where that is possible
program/loss.stablehlo        (parameters, batch, key data) -> loss, with its derivative, for any batch where that is
                              possible; only where a loss was given

To load it takes JAX; neither the network's framework nor its code. (`jax.export` reads with flatbuffers.)
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import nested
from dms_jax.budgets.amounts import Given
from dms_jax.errors import UserError, one_line
from dms_jax.programs import as_key, inference, is_key, loss_of, read, write
from dms_jax.reading import shown
from dms_jax.saved_template import space_of, template
from dms_jax.structure import Structure

if TYPE_CHECKING:
    from dms_jax.space import SearchSpace

FOLDER, FORMAT, VERSION = "program", "dms_jax.program", 1


class Program:
    """A network that was loaded: `(params, *inputs) -> outputs`, with parameters {path: array}.

    Attributes:
      loss: `(params, batch, key) -> (loss, {"state": ..., "metrics": ...})` with a derivative, as `dms_jax.Search` and
        `dms_jax.training.supervised` take it, for batches of any leading size where no number in it depends on that
        but as what a mean divides by, else of the shapes it was saved with, which `save` warns of; None where none was
        saved.
      trained: {path: bool}: what an optimizer changes.
      structure: what was kept.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any], structure: Structure):
        self.structure, self.trained = structure, dict(described["trained"])
        suffix = described.get("suffix", "")
        self._call = jax.jit(read(folder / f"inference{suffix}.stablehlo").call)
        self._keys: dict[str, str] = described["keys"]
        self._fixed: dict[str, str] = described.get("fixed", {})
        self.loss = self._loss(read(folder / f"loss{suffix}.stablehlo").call) if described["loss"] else None

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        with self._said("inference"):
            return self._call(self._plain(params), *inputs)

    def _loss(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def loss(params: Mapping[str, Any], batch: Any, key: jax.Array) -> Any:
            with self._said("loss"):
                value, state, metrics = call(self._plain(params), batch, jax.random.key_data(key))
            state = {path: as_key(array, self._keys.get(path)) for path, array in state.items()}
            return value, {"state": state, "metrics": metrics}

        return loss

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        """Why a program that was saved for one batch size does not take another."""
        try:
            yield
        except ValueError as error:
            if name not in self._fixed:
                raise
            raise UserError(f"{one_line(error, 200)}: the {name} program {self._fixed[name]}") from error

    def _plain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Typed keys as their data, which is what programs take."""
        return {path: jax.random.key_data(x) if path in self._keys else x for path, x in params.items()}


def save(
    space: SearchSpace,
    directory: str | os.PathLike[str],
    fn: Callable[..., Any],
    params: Any,
    structure: Structure,
    *,
    loss: Callable[..., Any] | None = None,
    batch: Any = None,
) -> Path:
    """Write the network of a structure; see `SearchSpace.save`."""
    folder, flat = folder_of(directory), Flat.of(space, params)
    described = programs(space, folder, fn, structure, flat, loss=loss, batch=batch)
    write_arrays(folder, flat.plain)
    write_description(folder, space, described)
    structure.save(Path(directory) / "structure.json")
    (Path(directory) / nested.FILE).unlink(missing_ok=True)  # of several sizes that lay here before
    warn(described["fixed"], stacklevel=4)
    return folder


def folder_of(directory: str | os.PathLike[str]) -> Path:
    """The folder of the programs, made if need be."""
    _safetensors()
    folder = Path(directory) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Flat(NamedTuple):
    """Parameters by their paths.

    Attributes:
      plain: path -> array, typed keys as their data.
      keys: path -> implementation, of typed keys.
    """

    plain: dict[str, Any]
    keys: dict[str, str]

    @staticmethod
    def of(space: SearchSpace, params: Any) -> Flat:
        """Of a small network."""
        pairs = zip(space.parameters.paths, space.parameters.arrays(params), strict=True)
        flat = {path: array for path, array in pairs if array is not None}
        keys = {path: str(jax.random.key_impl(array)) for path, array in flat.items() if is_key(array)}
        return Flat({path: jax.random.key_data(x) if path in keys else x for path, x in flat.items()}, keys)


def programs(
    space: SearchSpace,
    folder: Path,
    fn: Callable[..., Any],
    structure: Structure,
    flat: Flat,
    *,
    loss: Callable[..., Any] | None,
    batch: Any,
    suffix: str = "",
) -> dict[str, Any]:
    """Write the programs of a structure; returns what program.json says of it."""
    paths = space.parameters.paths

    def tree(given: Mapping[str, Any]) -> Any:
        return space.parameters.tree([as_key(given.get(path), flat.keys.get(path)) for path in paths])

    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in flat.plain.items()}
    fixed: dict[str, str] = {}
    exported, fixed["inference"] = inference(space.shrunk(fn, structure), tree, shapes, space.example)
    write(folder / f"inference{suffix}.stablehlo", exported, 0)
    if loss is not None:
        exported, fixed["loss"] = loss_of(space, loss, structure, tree, shapes, batch)
        write(folder / f"loss{suffix}.stablehlo", exported, 1)
    return {
        "loss": loss is not None,
        "fixed": {name: why for name, why in fixed.items() if why},
        "keys": flat.keys,
        "trained": {p: bool(t) for p, t in zip(paths, space.parameters.trained, strict=True) if p in flat.plain},
    }


def write_arrays(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Write params.safetensors.

    Raises:
      UserError: arrays that cannot be written so.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        _safetensors().save_file(plain, folder / "params.safetensors")
    except Exception as error:  # dtypes that it does not know raise what they like
        raise UserError(f"parameters cannot be written as safetensors: {one_line(error)[:200]}") from error


def write_description(folder: Path, space: SearchSpace, described: Mapping[str, Any]) -> None:
    """Write program.json."""
    head = {"format": FORMAT, "version": VERSION, "title": space.title}
    content = {**head, **described, "full": template(space)}
    (folder / "program.json").write_text(json.dumps(content, indent=1) + "\n")


def warn(fixed: Mapping[str, str], stacklevel: int) -> None:
    """Say which programs run with one leading size alone, and why."""
    for name, why in fixed.items():
        warnings.warn(f"the {name} program {why}", stacklevel=stacklevel)


def load(
    directory: str | os.PathLike[str], *, fn: Any = None, host: bool = False, size: Given | None = None
) -> tuple[Any, Any]:
    """A network that a run or `SearchSpace.save` left: a function and its parameters.

    Args:
      directory: of a finished run, or of a saved network.
      fn: None: a network of the zoo is built again, `model.apply(variables, x)`; any other comes as the exported
        program, `fn(params, *inputs)` with params {path: array}. Or the full network's function, or its
        `SearchSpace`, which is then run smaller, on parameters of its own kind. A function alone is enough where the
        parameters are dictionaries, lists and tuples.
      host: parameters as NumPy arrays; False puts them on the default device.
      size: of several that were trained together, 0.25 say; None: the largest, or the only one.

    Returns:
      (function or model, parameters). A program has `loss`, `trained` and `structure`, too.

    Raises:
      UserError: nothing is there that can be loaded, or it does not fit `fn`.
    """
    if not isinstance(directory, str | os.PathLike):
        raise UserError(f"directory {shown(directory)} is not possible; give the path of one")
    folder = Path(directory) / FOLDER
    if not (folder / "program.json").exists():
        if fn is None or (Path(directory) / "results.json").exists() and not hasattr(fn, "shrunk"):
            from dms_jax.training import finished

            return finished.load(directory, host=host, size=size)
        if not hasattr(fn, "shrunk"):
            raise UserError(f"{directory} holds no saved network; give the directory of SearchSpace.save or of a run")
    sizes, number, structure = nested.chosen(directory, size)
    if fn is None:
        described = _described(folder, sizes, number)
        return Program(folder, described, structure), _arrays(folder, described, host)
    space = fn if hasattr(fn, "shrunk") else space_of(_described(folder, sizes, number)["full"], folder, fn)
    if not (folder / "program.json").exists():
        from dms_jax.training import finished

        params = finished.load_params(directory, space, structure, host=host, size=size)
        return space.shrunk(space.fn, structure), space.whole(params)
    flat = _arrays(folder, _described(folder, sizes, number), host)
    strange = sorted(set(flat) - set(space.parameters.paths))
    if strange:
        raise UserError(f"{directory} has parameter {strange[0]!r}, which {space.source.title} does not have")
    return space.shrunk(space.fn, structure), space.parameters.tree([flat.get(p) for p in space.parameters.paths])


def _described(folder: Path, sizes: nested.Nested | None, number: int) -> dict[str, Any]:
    """What program.json says, of several sizes of one of them."""
    from dms_jax import saved_sizes

    try:
        found = json.loads((folder / "program.json").read_text())
    except ValueError:
        raise UserError(f"{folder / 'program.json'} is not JSON; save the network again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise UserError(f"{folder / 'program.json'} is not of a network that this dms_jax saved; save it again")
    return saved_sizes.described(found, folder, sizes, number)


def _arrays(folder: Path, described: Mapping[str, Any], host: bool) -> dict[str, Any]:
    from dms_jax import saved_sizes

    found = saved_sizes.arrays(_safetensors().load_file(folder / "params.safetensors"), described, folder)
    if not host:
        found = {path: jnp.asarray(array) for path, array in found.items()}
    return {path: as_key(array, described["keys"].get(path)) for path, array in found.items()}


def _safetensors() -> Any:
    try:
        import safetensors.numpy

        return safetensors.numpy
    except ImportError as error:
        raise UserError("weights are kept as safetensors, which is missing: install dms_jax[export]") from error
