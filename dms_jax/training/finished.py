"""What finished runs left: their small networks, one or several sizes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dms_jax import models, nested, reading
from dms_jax.budgets.amounts import Given
from dms_jax.elements import declared
from dms_jax.errors import UserError, one_line
from dms_jax.family import Family
from dms_jax.models.arguments import check_arguments, check_example
from dms_jax.nested import Nested
from dms_jax.shrink import shrink
from dms_jax.space import SearchSpace
from dms_jax.structure import Structure
from dms_jax.training import claims
from dms_jax.training.checkpoints import CheckpointError, Checkpoints, NoWholeCheckpointError, Restored
from dms_jax.training.digests import Owner, identity_of
from dms_jax.training.done import FINAL
from dms_jax.training.pipeline import Finished


def load(
    directory: str | os.PathLike[str], *, host: bool = False, size: Given | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The small network that a finished run found: `model.apply(variables, x)`.

    With several processes all of them call this.

    Args:
      directory: of a run.
      host: variables as NumPy arrays, for networks that fit no single device; False puts them on the default device.
      size: of several; None: the largest, or the only one.

    Returns:
      The model with its structure, and its variables (params, batch_stats).

    Raises:
      UserError: no finished run is there, or what is there does not fit together.
    """
    directory = Path(directory)
    path, folder = directory / "structure.json", directory / "checkpoints" / FINAL
    if not (path.exists() and folder.is_dir()):
        there = "holds no finished run; run its command to the end" if directory.is_dir() else "is not a directory"
        raise UserError(f"{directory} {there}, or give the directory of a finished run")
    sizes, number, alone = nested.chosen(directory, size)
    structures = [alone] if sizes is None else list(sizes.structures.values())
    networks = [_network(structure, str(path)) for structure in structures]

    def space() -> SearchSpace:
        name, arguments, examples = _described(structures[0], str(path))
        return SearchSpace.from_model(models.create(name, **arguments), *examples)

    shapes = [dict(shapes) for _, shapes in networks]
    if sizes is None:
        return networks[0][0], _restored(directory, structures[0], None, shapes[0], host)
    variables = _of_sizes(directory, sizes, shapes, number, space, host)
    return networks[number][0], variables


def load_params(
    directory: str | os.PathLike[str],
    space: SearchSpace,
    structure: Structure,
    *,
    host: bool = False,
    size: Given | None = None,
) -> Any:
    """The small network's parameters that a finished run left: a tree like the space's, arrays alone.

    Raises:
      UserError: no finished run is there, or it is of another network.
    """
    directory = Path(directory)
    folder = directory / "checkpoints" / FINAL
    if not folder.is_dir():
        raise UserError(f"{directory} holds no finished run; run its job to the end")
    full = space.arrays(space.parameters.template)
    sizes, number, _ = nested.chosen(directory, size)
    if sizes is None:
        return _restored(directory, structure, None, shrink(space, full, structure), host)
    shapes = [shrink(space, full, one) for one in sizes.structures.values()]
    return _of_sizes(directory, sizes, shapes, number, lambda: space, host)


def stored(trees: Sequence[Any], own: Sequence[Any], shared: bool) -> dict[str, Any]:
    """What a run keeps of several sizes: the largest network's variables, and what the others have for themselves.

    Args:
      trees: of every size.
      own: of every size what is not trained.
      shared: whether what is trained are slices of the largest's.
    """
    return {"largest": trees[0], "others": tuple((own if shared else trees)[1:])}


def kept(finished: Finished) -> tuple[Any, Nested | None]:
    """What `Run.finish` writes of the phases: variables, and sizes where there are several."""
    trees = [network.params for network in finished.found()]
    if finished.family is None or finished.sizes is None:
        return trees[0], None
    shared = finished.sizes.together
    return stored(trees, finished.family.parts(trees), shared), Nested(dict(finished.family.structures), shared)


def _of_sizes(
    directory: Path, sizes: Nested, shapes: Sequence[Any], number: int, space: Callable[[], SearchSpace], host: bool
) -> Any:
    """The variables of one of several sizes.

    Args:
      shapes: of the variables of every size.
      space: makes the space of the full network, where it is needed.
    """
    structures = list(sizes.structures.values())
    family = Family(space(), sizes.structures) if sizes.shared else None
    wanted = stored(shapes, shapes if family is None else family.parts(shapes), sizes.shared)
    found = _restored(directory, structures[0], sizes, wanted, host)
    if number == 0 or family is None:
        return found["largest"] if number == 0 else found["others"][number - 1]
    return family.params(family.assembled(found["largest"], found["others"]), list(sizes.structures)[number])


def _restored(directory: Path, largest: Structure, sizes: Nested | None, wanted: Any, host: bool) -> Any:
    """The final weights of a run, if they are those of its structure and sizes."""
    if host:  # arrays of one number each, whatever their shape: what Orbax reads is put elsewhere
        wanted = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), wanted)
    restored = _final(directory, wanted)
    expected = identity_of(largest.to_json()), None if sizes is None else sizes.identity
    if (restored.meta.get("structure"), restored.meta.get("sizes")) != expected:
        there = directory / ("structure.json" if sizes is None else nested.FILE)
        raise UserError(
            f"{there} is not what the weights in {directory / 'checkpoints' / FINAL} were saved with; run the job's "
            "command again, which makes both again"
        )
    return restored.state


def _final(directory: Path, wanted: Any) -> Restored:
    """The final weights of a run."""
    folder = directory / "checkpoints" / FINAL
    fault = "there are none"
    try:
        with Checkpoints(folder, owner=Owner(claims.configuration(directory), FINAL)) as checkpoints:
            if (restored := checkpoints.restore(wanted)) is not None:
                return restored
    except NoWholeCheckpointError as error:
        fault = error.fault
    again = "run the job's command again, which makes them again"
    raise CheckpointError(f"the final weights in {folder} cannot be used ({fault}); {again}")


def _network(structure: Structure, source: str) -> tuple[nn.Module, Any]:
    """The model that a structure names, with it; and the shapes of its variables."""
    name, arguments, examples = _described(structure, source)
    try:
        model = models.create(name, **arguments).clone(structure=structure)
        with declared() as groups:  # Flax's own init: what is unknown is refused below, with the file
            shapes = jax.eval_shape(lambda *x: nn.Module.init_with_output(model, jax.random.key(0), *x)[1], *examples)
    except UserError as error:
        fits = "" if str(error).startswith("unknown model") else f" does not fit model {name!r}"
        raise UserError(f"{source}{fits}: {one_line(error, 300)}") from error
    except Exception as error:  # whatever a network raises that cannot be built with these elements
        raise UserError(f"{source} does not fit model {name!r}: {one_line(error, 300)}") from error
    unknown = [group for group in structure.kept if group not in groups and group not in structure.removed]
    if unknown:
        raise UserError(f"{source} has group {reading.shown(unknown[0])}, which model {name!r} does not have")
    return model, shapes


def _described(structure: Structure, source: str) -> tuple[str, dict[str, Any], list[jax.ShapeDtypeStruct]]:
    """Name and arguments of the model that a structure names, and its inputs."""
    try:
        name, arguments, inputs = (dict(structure.model or {})[key] for key in ("name", "arguments", "example"))
        check_example(inputs)
        examples = [jax.ShapeDtypeStruct(tuple(e["shape"]), e["dtype"]) for e in inputs]
        arguments = dict(arguments)
    except (KeyError, TypeError, ValueError, reading.Mismatch):
        raise UserError(
            f"{source} does not say which model of the zoo it is of (name, arguments, example); clone your own model "
            "with the structure, and shrink its variables"
        ) from None
    check_arguments(name, arguments, source)
    return name, arguments, examples
