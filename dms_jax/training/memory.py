"""What a step of a language model needs on every device, computed from shapes alone: nothing is allocated.

What lies on the devices between steps follows from `shardings`. What a backward pass keeps is read off the program that
JAX makes of it, traced at three sizes to see what grows with the batch and with the square of the length. The rest is
arithmetic. `xla_temporaries` asks XLA's own count of the compiled step instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.extend.core import Var
from jax.sharding import AbstractMesh, Mesh

from dms_jax.errors import UserError
from dms_jax.method.loss import Loss, outcome
from dms_jax.method.search import Search
from dms_jax.placement import FSDP
from dms_jax.training import supervised
from dms_jax.training.distillation import TEACHER
from dms_jax.training.language import language_loss
from dms_jax.training.mesh import DATA, batch_sharding, make_mesh, shardings

AnyMesh = Mesh | AbstractMesh


@dataclass(frozen=True)
class Shape:
    """Of a step.

    Attributes:
      devices: of the mesh, which is `devices / fsdp` x `fsdp`.
      fsdp: over how many of them states are cut.
      batch: windows, over all devices.
      length: tokens of a window.

    Raises:
      UserError: numbers that do not divide each other.
    """

    devices: int
    fsdp: int
    batch: int
    length: int

    def __post_init__(self):
        if min(self.devices, self.fsdp, self.batch, self.length) < 1:
            raise UserError(f"{self} is not possible; give whole numbers of at least 1")
        if self.devices % self.fsdp or self.batch % self.devices:
            raise UserError(
                f"{self.devices} devices, fsdp {self.fsdp}, batch {self.batch}: fsdp must divide the devices, and they "
                "the batch"
            )

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh, of no devices in particular."""
        return AbstractMesh((self.devices // self.fsdp, self.fsdp), (DATA, FSDP))


@dataclass(frozen=True)
class Plan:
    """Bytes on every device: `held` between steps, `during` a step on top of it (an upper bound: not all at once).

    Attributes:
      held, during: what -> bytes.
      scores: what attention adds on a device without a fast kernel; not in `total`.
    """

    held: Mapping[str, int]
    during: Mapping[str, int]
    scores: int

    @property
    def total(self) -> int:
        """All of it, with a fast attention kernel."""
        return sum(self.held.values()) + sum(self.during.values())


def bytes_per_device(tree: Any, mesh: AnyMesh) -> int:
    """Bytes that a state needs on each device where `shardings` puts it.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s.
      mesh: as `make_mesh` makes them, or abstract.
    """
    where = jax.tree.leaves(shardings(tree, mesh))
    return sum(_bytes(s.shard_shape(x.shape), x.dtype) for x, s in zip(jax.tree.leaves(tree), where, strict=True))


def search_plan(search: Search, shape: Shape, *, teacher: bool = True) -> Plan:
    """A step of a search, and the original network beside it, which teaches or at least waits for its controls.

    Args:
      search: over a network of the Llama family.
      shape: of the step.
      teacher: the loss distills; its batches hold the original's logits.
    """
    variables = abstract_variables(search.space.model)
    state = jax.eval_shape(search.init, variables)
    small = state.replace(params={}, opt_state=())  # type: ignore[attr-defined]

    def task(weights: tuple[Any, jax.Array], batch: Any) -> jax.Array:
        trained, rest = search.space.partition(weights[0])
        return search.task(trained, weights[1], rest, batch, jax.random.key(0))[0]

    masks = jax.eval_shape(search.space.flat, state.importance)
    held = {
        "parameters": bytes_per_device(state.params, shape.mesh),
        "moments of the optimizer": bytes_per_device(state.opt_state, shape.mesh),
        "ratios and importance": bytes_per_device(small, shape.mesh),
        "the original network": bytes_per_device(state.params, shape.mesh),
    }
    # without an optimizer the weights stay, but their gradients are what the masks' are read off
    gradients = bytes_per_device(state.params, shape.mesh)
    return _plan(
        search.space.model, state.params, held, gradients, partial(_kept, task, (state.params, masks)), shape, teacher
    )


def finetune_plan(
    model: nn.Module,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    original: Any,
    shape: Shape,
    *,
    teacher: bool = True,
) -> Plan:
    """A step of plain training, the original network beside it.

    Args:
      model: what is trained, of the Llama family; after a search, with its structure.
      loss, optimizer: of the phase.
      original: the variables of the original network; shapes do.
      shape: of the step.
      teacher: the loss distills; its batches hold the original's logits.
    """
    state = jax.eval_shape(lambda variables: supervised.init(variables, optimizer), abstract_variables(model))
    held = {
        "parameters": bytes_per_device(state.params, shape.mesh),
        "moments of the optimizer": bytes_per_device(state.opt_state, shape.mesh),
        "the original network": bytes_per_device(original, shape.mesh),
    }

    def task(params: Any, batch: Any) -> jax.Array:
        return outcome(loss)(params, batch, jax.random.key(0))[0]

    kept = partial(_kept, task, state.params)
    return _plan(model, state.params, held, bytes_per_device(state.params, shape.mesh), kept, shape, teacher)


def xla_temporaries(
    step: Callable[..., Any], state: Any, vocabulary: int, shape: Shape, *, teacher: bool = True
) -> int:
    """Bytes of temporaries on each device by XLA's own count of the compiled step; as many devices must be there.

    CPUs will do, `jax_num_cpu_devices` of them, but they count a little otherwise: attention keeps its scores, and
    products of bfloat16 are computed in float32.

    Args:
      step: `(state, batch, key) -> (state, metrics)`.
      state: shapes.
      vocabulary: of the network.
      shape: of the step.
      teacher: the batch holds logits.
    """
    mesh = make_mesh(jax.devices()[: shape.devices], fsdp=shape.fsdp)
    place = partial(jax.tree.map, lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s))
    where = shardings(state, mesh)
    windows = batch_of(shape.batch, shape.length, vocabulary if teacher else None)
    batch = place(windows, jax.tree.map(lambda _: batch_sharding(mesh), windows))
    key = jax.eval_shape(lambda: jax.random.key(0))
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
    memory: Any = jitted.lower(place(state, where), batch, key).compile().memory_analysis()
    return int(memory.temp_size_in_bytes)


def abstract_variables(model: nn.Module) -> dict[str, Any]:
    """The shapes of a language model's variables, without masks."""
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.int32))
    return {"params": variables["params"]}


def batch_of(batch: int, length: int, vocabulary: int | None) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of windows, with the logits of a teacher unless `vocabulary` is None."""
    windows = {"tokens": jax.ShapeDtypeStruct((batch, length + 1), jnp.int32)}
    if vocabulary is None:
        return windows
    return windows | {TEACHER: jax.ShapeDtypeStruct((batch, length, vocabulary), jnp.float32)}


@dataclass(frozen=True)
class _Kept:
    """Bytes on every device that a backward pass finds, inputs not counted."""

    weights: int
    activations: int
    scores: int
    logits: int


def _kept(function: Callable[[Any, Any], jax.Array], params: Any, batches: Any, shape: Shape, vocabulary: int) -> _Kept:
    """What `function(params, batch)` leaves for its backward pass: `batches(b, T)` are the shapes of a batch."""
    local = shape.batch // shape.devices
    sizes = [(local, shape.length), (2 * local, shape.length), (local, 2 * shape.length)]
    once, twice, longer = (_residuals(function, params, batches(*size)) for size in sizes)
    total = dict.fromkeys(_Kept.__annotations__, 0)
    for one, wide, long in zip(once, twice, longer, strict=True):
        if np.prod(wide.shape) == np.prod(one.shape):
            # a kernel with a mask in it, or in another precision; a table of positions
            total["weights"] += bytes_per_device(one, shape.mesh)
        elif one.shape[-1:] == (vocabulary,):
            total["logits"] += _bytes(one.shape, one.dtype)
        elif np.prod(long.shape) > 3 * np.prod(one.shape):
            total["scores"] += _bytes(one.shape, one.dtype)
        else:
            total["activations"] += _bytes(one.shape, one.dtype)
    return _Kept(**total)


def _residuals(function: Callable[[Any, Any], jax.Array], params: Any, batch: Any) -> list[Any]:
    """Shapes of the distinct arrays that the backward pass gets and that are not among the arguments."""

    def backward(params: Any, batch: Any) -> list[Any]:
        return jax.tree.leaves(jax.vjp(lambda p: function(p, batch), params)[1])

    jaxpr = jax.make_jaxpr(backward)(params, batch).jaxpr
    there = {*jaxpr.invars, *jaxpr.constvars}
    made = dict.fromkeys(v for v in jaxpr.outvars if isinstance(v, Var) and v not in there)
    return [v.aval for v in made]


def _plan(
    model: Any, params: Any, held: dict[str, int], gradients: int, kept: Any, shape: Shape, teacher: bool
) -> Plan:
    vocabulary = model.vocabulary
    batches = partial(batch_of, vocabulary=vocabulary if teacher else None)
    found: _Kept = kept(lambda b, t: batches(b, t), shape, vocabulary)
    again = _layer_again(model, batches, shape) if model.remat else _Kept(0, 0, 0, 0)
    during = {
        "gradients": gradients,
        "kernels with masks folded in, or in the dtype of computation": found.weights,
        "kernels of one layer, whole": _largest(params, model, shape.fsdp),
        "activations": found.activations + again.activations,
        "logits, and their gradient": found.logits + _bytes(_logits(shape, vocabulary), jnp.float32),
    }
    if teacher:
        held = held | {"logits of the teacher": _bytes(_logits(shape, vocabulary), jnp.float32)}
    return Plan(held, during, found.scores + again.scores)


def _layer_again(model: Any, batches: Any, shape: Shape) -> _Kept:
    """What one layer keeps while rematerialization computes it again: that of a network of one layer."""
    one = model.clone(remat=False, layers=1, window_layers=None, structure=None)

    def task(params: Any, batch: Any) -> jax.Array:
        return outcome(language_loss(one))(params, batch, jax.random.key(0))[0]

    return _kept(task, abstract_variables(one), batches, shape, model.vocabulary)


def _logits(shape: Shape, vocabulary: int) -> tuple[int, ...]:
    return shape.batch // shape.devices, shape.length, vocabulary


def _largest(params: Any, model: Any, fsdp: int) -> int:
    """The most that is gathered at once: two layers' kernels (XLA fetches the next one early), or the vocabulary's."""
    if fsdp == 1:
        return 0
    sizes: dict[str, int] = {}
    leaves: dict[Any, Any] = dict(flatten_dict(params["params"]))
    for path, leaf in leaves.items():
        sizes[path[0]] = sizes.get(path[0], 0) + _bytes(leaf.shape, model.dtype)
    return max((2 if name.startswith("layer") else 1) * size for name, size in sizes.items())


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return int(np.prod(shape, dtype=np.int64)) * jnp.dtype(dtype).itemsize
