"""Weights of the Llama family from a Hugging Face directory: config.json and safetensors, one or many shards.

Tensors are read one at a time and handed to the device before the next is read, so that a network needs its own
memory and that of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dms_jax.errors import UserError
from dms_jax.models.llama import Llama
from dms_jax.pretrained.directory import DTYPES, StoredTensor, finite, read_json, read_tensors, stored_tensors
from dms_jax.pretrained.llama_configuration import from_config

ParamPath: TypeAlias = tuple[str, ...]
Place: TypeAlias = Callable[[ParamPath, np.ndarray], jax.Array]

_SHOWN = 8  # names in an error; a wrong directory has hundreds


@dataclass(frozen=True)
class Tensor:
    """How a parameter is stored: under which name, and whether as a matrix `[outputs, inputs]` of our `reads` axes.

    Attributes:
      name: of the tensor in the file.
      reads: how many leading axes of our kernel are inputs; 0: stored as it is here, but for the shape.
    """

    name: str
    reads: int = 0

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a parameter of shape `shape`."""
        if not self.reads:
            return shape if self.name.endswith("embed_tokens.weight") else (int(np.prod(shape)),)
        inputs, outputs = np.prod(shape[: self.reads]), np.prod(shape[self.reads :])
        return int(outputs), int(inputs)

    def from_stored(self, array: Any, shape: tuple[int, ...]) -> Any:
        """What is in the file -> the parameter of shape `shape`, a view."""
        return (array.T if self.reads else array).reshape(shape)

    def to_stored(self, array: Any) -> Any:
        """The parameter -> what is in the file, a view."""
        outputs, inputs = self.stored_shape(array.shape) if self.reads else (0, 0)
        return array.reshape(inputs, outputs).T if self.reads else array.reshape(self.stored_shape(array.shape))


def tensor_of(path: ParamPath, number: Mapping[int, int] | None = None) -> Tensor:
    """Where a parameter is stored.

    Args:
      path: ("layer3", "attention", "query"), as in the "params" collection.
      number: number of a layer here -> its number in the file; None: the same.
    """
    if not path[0].startswith("layer"):
        return _OUTSIDE[path]
    i = int(path[0].removeprefix("layer"))
    stem, reads = _INSIDE[path[1:]]
    return Tensor(f"model.layers.{i if number is None else number[i]}.{stem}", reads)


_OUTSIDE = {
    ("embedding",): Tensor("model.embed_tokens.weight"),
    ("norm", "scale"): Tensor("model.norm.weight"),
    ("head",): Tensor("lm_head.weight", 1),
}

_INSIDE = {
    ("attention", "query"): ("self_attn.q_proj.weight", 1),
    ("attention", "key"): ("self_attn.k_proj.weight", 1),
    ("attention", "value"): ("self_attn.v_proj.weight", 1),
    ("attention", "output"): ("self_attn.o_proj.weight", 3),
    ("attention", "query_bias"): ("self_attn.q_proj.bias", 0),
    ("attention", "key_bias"): ("self_attn.k_proj.bias", 0),
    ("attention", "value_bias"): ("self_attn.v_proj.bias", 0),
    ("attention", "output_bias"): ("self_attn.o_proj.bias", 0),
    ("attention", "query_norm", "scale"): ("self_attn.q_norm.weight", 0),
    ("attention", "key_norm", "scale"): ("self_attn.k_norm.weight", 0),
    ("attention_norm", "scale"): ("input_layernorm.weight", 0),
    ("feed_forward_norm", "scale"): ("post_attention_layernorm.weight", 0),
    ("feed_forward", "gate"): ("mlp.gate_proj.weight", 1),
    ("feed_forward", "up"): ("mlp.up_proj.weight", 1),
    ("feed_forward", "down"): ("mlp.down_proj.weight", 1),
    ("feed_forward", "gate_bias"): ("mlp.gate_proj.bias", 0),
    ("feed_forward", "up_bias"): ("mlp.up_proj.bias", 0),
    ("feed_forward", "down_bias"): ("mlp.down_proj.bias", 0),
}


def load(
    directory: str | Path,
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    place: Place | None = None,
    **options: Any,
) -> tuple[Llama, dict[str, Any]]:
    """Load a network and its weights.

    Args:
      directory: holds config.json, and model.safetensors or the shards that model.safetensors.index.json names.
      dtype: of computation.
      param_dtype: of the parameters; None: that of computation. Train in float32.
      place: `(path, array) -> jax.Array` puts one parameter where it belongs, such as onto the devices of a mesh; the
        array has the right shape and dtype. None: the default device.
      **options: other attributes of `Llama` that a configuration says nothing about: remat, search_width.

    Returns:
      The model and {"params": ...}.

    Raises:
      UserError: no such directory, missing shards, an architecture that is not supported, or tensors that are missing,
        not used, or of another shape; all of them are listed.
    """
    directory = Path(directory)
    model = from_config(read_json(directory / "config.json"), dtype=dtype, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.int32))["params"]
    leaves: dict[ParamPath, Any] = dict(flatten_dict(shapes))
    stored = stored_tensors(directory)
    _check(directory, {path: (tensor_of(path), leaf.shape) for path, leaf in leaves.items()}, stored, model.tied)
    kind = jnp.dtype(dtype if param_dtype is None else param_dtype)
    paths = {tensor_of(path).name: path for path in leaves}
    params = {}
    for name, array in read_tensors(stored, paths):
        path = paths[name]
        array = finite(tensor_of(path).from_stored(array, leaves[path].shape), kind, name)
        params[path] = jnp.asarray(array) if place is None else place(path, array)
    return model, {"params": unflatten_dict({path: params[path] for path in leaves})}


def _check(directory: Path, wanted: Mapping[ParamPath, Any], stored: Mapping[str, StoredTensor], tied: bool) -> None:
    """One error that lists everything that does not fit."""
    faults = []
    names = {tensor.name for tensor, _ in wanted.values()}
    for path, (tensor, shape) in wanted.items():
        expected = tensor.stored_shape(shape)
        if tensor.name not in stored:
            faults.append(f"{tensor.name} is missing ({'/'.join(path)} stays empty)")
        elif stored[tensor.name].shape != expected:
            faults.append(f"{tensor.name} has shape {stored[tensor.name].shape}, the configuration says {expected}")
        elif stored[tensor.name].dtype not in DTYPES:
            faults.append(f"{tensor.name} holds {stored[tensor.name].dtype}, not one of {', '.join(DTYPES)}")
    for name in stored:
        known = name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight")  # follow from the rest
        if name not in names and not known:
            faults.append(f"{name} is not used")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(f"{directory}: {len(faults)} tensors do not fit: {'; '.join(faults[:_SHOWN])}{more}")
