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
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError, one_line
from dms_jax.programs import as_key, inference, is_key, loss_of, read, write
from dms_jax.reading import shown
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
        self._call = jax.jit(read(folder / "inference.stablehlo").call)
        self._keys: dict[str, str] = described["keys"]
        self._fixed: dict[str, str] = described.get("fixed", {})
        self.loss = self._loss(read(folder / "loss.stablehlo").call) if described["loss"] else None

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
    save_file = _safetensors().save_file
    folder = Path(directory) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths, arrays = space.parameters.paths, space.parameters.arrays(params)
    flat = {path: array for path, array in zip(paths, arrays, strict=True) if array is not None}
    keys = {path: str(jax.random.key_impl(array)) for path, array in flat.items() if is_key(array)}
    plain = {path: jax.random.key_data(array) if path in keys else array for path, array in flat.items()}

    def tree(given: Mapping[str, Any]) -> Any:
        return space.parameters.tree([as_key(given.get(path), keys.get(path)) for path in paths])

    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in plain.items()}
    fixed: dict[str, str] = {}
    exported, fixed["inference"] = inference(space.shrunk(fn, structure), tree, shapes, space.example)
    write(folder / "inference.stablehlo", exported, 0)
    if loss is not None:
        exported, fixed["loss"] = loss_of(space, loss, structure, tree, shapes, batch)
        write(folder / "loss.stablehlo", exported, 1)
    try:
        save_file({path: np.asarray(array, order="C") for path, array in plain.items()}, folder / "params.safetensors")
    except Exception as error:  # dtypes that it does not know raise what they like
        raise UserError(f"parameters cannot be written as safetensors: {one_line(error)[:200]}") from error
    described = {
        "format": FORMAT,
        "version": VERSION,
        "title": space.title,
        "loss": loss is not None,
        "fixed": {name: why for name, why in fixed.items() if why},
        "keys": keys,
        "trained": {p: bool(t) for p, t in zip(paths, space.parameters.trained, strict=True) if p in flat},
        "full": _template(space),
    }
    (folder / "program.json").write_text(json.dumps(described, indent=1) + "\n")
    structure.save(Path(directory) / "structure.json")
    for name, why in described["fixed"].items():
        warnings.warn(f"the {name} program {why}", stacklevel=3)
    return folder


def load(directory: str | os.PathLike[str], *, fn: Any = None, host: bool = False) -> tuple[Any, Any]:
    """A network that a run or `SearchSpace.save` left: a function and its parameters.

    Args:
      directory: of a finished run, or of a saved network.
      fn: None: a network of the zoo is built again, `model.apply(variables, x)`; any other comes as the exported
        program, `fn(params, *inputs)` with params {path: array}. Or the full network's function, or its
        `SearchSpace`, which is then run smaller, on parameters of its own kind. A function alone is enough where the
        parameters are dictionaries, lists and tuples.
      host: parameters as NumPy arrays; False puts them on the default device.

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
            from dms_jax.training import runs

            return runs.load(directory, host=host)
        if not hasattr(fn, "shrunk"):
            raise UserError(f"{directory} holds no saved network; give the directory of SearchSpace.save or of a run")
    structure = Structure.load(Path(directory) / "structure.json")
    if fn is None:
        described = _described(folder)
        return Program(folder, described, structure), _arrays(folder, described, host)
    space = fn if hasattr(fn, "shrunk") else _space(folder, fn)
    if not (folder / "program.json").exists():
        from dms_jax.training import runs

        return space.shrunk(space.fn, structure), space.whole(runs.load_params(directory, space, structure, host=host))
    flat = _arrays(folder, _described(folder), host)
    strange = sorted(set(flat) - set(space.parameters.paths))
    if strange:
        raise UserError(f"{directory} has parameter {strange[0]!r}, which {space.source.title} does not have")
    return space.shrunk(space.fn, structure), space.parameters.tree([flat.get(p) for p in space.parameters.paths])


def _described(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "program.json").read_text())
    except ValueError:
        raise UserError(f"{folder / 'program.json'} is not JSON; save the network again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise UserError(f"{folder / 'program.json'} is not of a network that this dms_jax saved; save it again")
    return found


def _arrays(folder: Path, described: Mapping[str, Any], host: bool) -> dict[str, Any]:
    found = _safetensors().load_file(folder / "params.safetensors")
    if not host:
        found = {path: jnp.asarray(array) for path, array in found.items()}
    return {path: as_key(array, described["keys"].get(path)) for path, array in found.items()}


def _template(space: SearchSpace) -> dict[str, Any] | None:
    """Shapes of the full network's parameters and inputs; None where they are no plain containers of arrays."""
    p = space.parameters
    kinds = [[(type(k).__name__, getattr(k, "key", getattr(k, "idx", None))) for k in keys] for keys in p.keys]
    plain = all(
        (kind == "DictKey" and isinstance(key, str)) or kind == "SequenceKey" for keys in kinds for kind, key in keys
    )
    inputs = all(hasattr(x, "shape") for x in space.example)
    if not (plain and inputs and len(p) == len(jax.tree.leaves(p.template)) and not any(map(is_key, p.shapes))):
        return None
    leaves = [
        {"keys": [key for _, key in keys], "shape": list(s.shape), "dtype": str(s.dtype), "path": path, "trained": t}
        for keys, s, path, t in zip(kinds, p.shapes, p.paths, p.trained, strict=True)
    ]
    return {"leaves": leaves, "inputs": [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in space.example]}


def _space(folder: Path, fn: Callable[..., Any]) -> SearchSpace:
    """The space of a function whose parameters are plain containers."""
    from dms_jax.space import SearchSpace

    full = _described(folder)["full"]
    if full is None:
        raise UserError(
            f"{folder} is of parameters that are no plain containers: give fn=SearchSpace.from_..., not a function"
        )
    params: Any = {}
    for leaf in full["leaves"]:
        node = params
        for key in leaf["keys"][:-1]:
            node = node.setdefault(key, {})
        node[leaf["keys"][-1]] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
    inputs = [jax.ShapeDtypeStruct(tuple(x["shape"]), x["dtype"]) for x in full["inputs"]]
    paths = [leaf["path"] for leaf in full["leaves"]]
    trained = {leaf["path"]: leaf["trained"] for leaf in full["leaves"]}
    return SearchSpace.from_function(fn, _sequences(params), *inputs, paths=paths, trainable=trained.__getitem__)


def _sequences(node: Any) -> Any:
    """Dictionaries whose keys are numbers as lists."""
    if not isinstance(node, dict):
        return node
    inner = {key: _sequences(child) for key, child in node.items()}
    return [inner[i] for i in range(len(inner))] if inner and all(isinstance(k, int) for k in inner) else inner


def _safetensors() -> Any:
    try:
        import safetensors.numpy

        return safetensors.numpy
    except ImportError as error:
        raise UserError("weights are kept as safetensors, which is missing: install dms_jax[export]") from error
