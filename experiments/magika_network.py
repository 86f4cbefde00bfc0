"""Magika, Google's detector of file types, as a function in plain JAX: read once from the ONNX file of its wheel.

The network of 784,519 numbers (magika 1.0.3, model standard_v3_3, Apache-2.0) sees 1,024 bytes of a file's beginning
and 1,024 of its end, and answers with one of 214 types. Its ONNX file was exported from Flax; nothing in it needs a
mark, a class or a change to be searched.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax import reading
from dms_jax.data import wheels
from dms_jax.errors import UserError, one_line

WHEEL = wheels.Wheel(
    "magika==1.0.3",
    "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    ("--platform", "manylinux_2_28_x86_64"),
)
"""The one for Linux holds the same network as those for other machines."""

BYTES_AT_ONCE = 4
"""Neighboring bytes that become one position."""

_MODEL = "magika/models/standard_v3_3"
_TYPES = "magika/config/content_types_kb.min.json"
_HINT = "give the wheel as it was published"
_EPSILON = 1e-6

IN_ONNX = {  # parameter -> its name in the file, behind what all begin with
    ("embed", "kernel"): "Const:0",
    ("embed", "bias"): "pjit_get_logits_/MagikaV2/Dense_0/Reshape:0",
    ("norm_positions", "scale"): "pjit_get_logits_/MagikaV2/LayerNorm_0/Reshape_2:0",
    ("norm_positions", "bias"): "pjit_get_logits_/MagikaV2/LayerNorm_0/Reshape_3:0",
    ("conv", "kernel"): "pjit_get_logits_/MagikaV2/Conv_0/transpose_3:0",
    ("conv", "bias"): "const_fold_opt__209",
    ("norm", "scale"): "pjit_get_logits_/MagikaV2/LayerNorm_1/Reshape_2:0",
    ("norm", "bias"): "pjit_get_logits_/MagikaV2/LayerNorm_1/Reshape_3:0",
    ("out", "kernel"): "Const_24:0",
    ("out", "bias"): "pjit_get_logits_/MagikaV2/Dense_1/Reshape:0",
}
_PREFIX = "jax2tf_get_logits_/"


def network(params: Any, tokens: jax.Array) -> jax.Array:
    """Logits `[B, types]` float32 of tokens `[B, T]` int: bytes, or 256 for none.

    The original multiplies one-hot vectors with the first kernel; to look its rows up is the same.
    """
    table = jax.nn.gelu(params["embed"]["kernel"] + params["embed"]["bias"][None])
    x = table[tokens]  # [B, T, width]
    x = x.reshape(len(tokens), -1, BYTES_AT_ONCE * x.shape[-1])
    x = _normalized(x, 1) * params["norm_positions"]["scale"][None, :, None]
    x = x + params["norm_positions"]["bias"][None, :, None]
    kernel = params["conv"]["kernel"]
    x = jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    x = jax.nn.gelu(x + params["conv"]["bias"][None, None]).max(axis=1)
    x = _normalized(x, -1) * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    return x @ params["out"]["kernel"] + params["out"]["bias"][None]


def _normalized(x: jax.Array, axis: int) -> jax.Array:
    return (x - x.mean(axis, keepdims=True)) * jax.lax.rsqrt(x.var(axis, keepdims=True) + _EPSILON)


@dataclass(frozen=True)
class Preprocessing:
    """What of a file the network sees.

    Attributes:
      begin, end: tokens of its beginning and of its end.
      block: bytes that are read at either end, before whitespace is stripped.
      padding: token where there is no byte.
      least: bytes that must be left for the network to be asked.
    """

    begin: int
    end: int
    block: int
    padding: int
    least: int

    def tokens(self, first: bytes, last: bytes) -> np.ndarray | None:
        """Tokens `[begin + end]` int16 of a file's first and last `block` bytes; None where too few bytes are left."""
        head, tail = first.lstrip()[: self.begin], last.rstrip()[-self.end :]
        if len(head) < self.least:
            return None
        found = np.full(self.begin + self.end, self.padding, np.int16)
        found[: len(head)] = np.frombuffer(head, np.uint8)
        found[self.begin + self.end - len(tail) :] = np.frombuffer(tail, np.uint8)
        return found


@dataclass(frozen=True, eq=False)
class Original:
    """The network as it is published.

    Attributes:
      params: for `network`.
      types: name of every class.
      extensions: "py" -> "python", of the extensions that belong to one type alone.
      preprocessing: from a file to tokens.
    """

    params: Any
    types: tuple[str, ...]
    extensions: Mapping[str, str]
    preprocessing: Preprocessing


_CONFIG = reading.record(
    {
        **dict.fromkeys(("beg_size", "end_size", "block_size", "min_file_size_for_dl"), reading.whole(1, 2**20)),
        "mid_size": reading.one_of(0),
        "use_inputs_at_offsets": reading.one_of(False),
        "padding_token": reading.whole(256, 256),
        "target_labels_space": reading.listing(reading.text(64), 2, 2**12),
    }
)
_KNOWN_TYPES = reading.mapping(reading.record({"extensions": reading.listing(reading.text(64))}))


def load(path: Path) -> Original:
    """Read the network out of its wheel.

    Raises:
      UserError: onnx is missing, or the wheel does not hold the network.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config, known = archive.read(f"{_MODEL}/config.min.json"), archive.read(_TYPES)
            model = archive.read(f"{_MODEL}/model.onnx")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no Magika ({one_line(error, 200)}); {_HINT}") from None
    read = reading.parse(config, f"{path}: config.min.json", _CONFIG, hint=_HINT)
    types = tuple(read["target_labels_space"])
    of = reading.parse(known, f"{path}: {Path(_TYPES).name}", _KNOWN_TYPES, hint=_HINT)
    names = ("beg_size", "end_size", "block_size", "padding_token", "min_file_size_for_dl")
    sizes = Preprocessing(*(read[name] for name in names))
    extensions = extensions_of({name: of[name]["extensions"] for name in types if name in of})
    return Original(parameters(model, sizes.begin + sizes.end, len(types)), types, extensions, sizes)


def extensions_of(of: Mapping[str, list[str]]) -> dict[str, str]:
    """Those of one type alone: .m is MATLAB's and Objective-C's."""
    owners: dict[str, set[str]] = {}
    for name, extensions in of.items():
        for extension in extensions:
            owners.setdefault(extension, set()).add(name)
    return {extension: min(names) for extension, names in owners.items() if len(names) == 1}


def parameters(model: bytes, tokens: int, types: int) -> dict[str, dict[str, jax.Array]]:
    """The parameters of `network` out of an ONNX file.

    Args:
      model: content of the file.
      tokens: T, that the network sees.
      types: that it tells apart.

    Raises:
      UserError: onnx is missing, or a parameter is missing or of another shape.
    """
    try:
        onnx: Any = import_module("onnx")
    except ImportError as error:
        raise UserError("the network is read with onnx, which is missing: install dms_jax[magika]") from error
    try:
        stored = {tensor.name: tensor for tensor in onnx.load_model_from_string(model).graph.initializer}
        arrays = {name: onnx.numpy_helper.to_array(stored[whole_name(inside)]) for name, inside in IN_ONNX.items()}
        arrays["conv", "kernel"] = arrays["conv", "kernel"][..., 0].transpose(2, 1, 0)
    except Exception as error:  # whatever protobuf and onnx raise of other bytes
        raise UserError(f"the ONNX file is not Magika's ({one_line(error, 200)}); {_HINT}") from None
    arrays = {name: array.reshape(-1) if name[1] in ("bias", "scale") else array for name, array in arrays.items()}
    width, features = arrays["embed", "bias"].size, arrays["conv", "bias"].size
    positions, taps = tokens // BYTES_AT_ONCE, len(arrays["conv", "kernel"])
    shapes = {
        ("embed", "kernel"): (257, width),
        ("embed", "bias"): (width,),
        **{("norm_positions", name): (positions,) for name in ("scale", "bias")},
        ("conv", "kernel"): (taps, BYTES_AT_ONCE * width, features),
        ("conv", "bias"): (features,),
        **{("norm", name): (features,) for name in ("scale", "bias")},
        ("out", "kernel"): (features, types),
        ("out", "bias"): (types,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(f"{'/'.join(name)} of the ONNX file is {arrays[name].shape}, not {shape}; {_HINT}")
    params: dict[str, dict[str, jax.Array]] = {}
    for (layer, name), array in arrays.items():
        params.setdefault(layer, {})[name] = jnp.asarray(array, jnp.float32)
    return params


def whole_name(name: str) -> str:
    return name if name.startswith("const_fold") else _PREFIX + name
