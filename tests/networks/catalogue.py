"""Stock networks for the tests of the engine: `NETWORKS["keras_resnet50"]()` builds one, importing its framework."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

from tests.networks.network import Network

MODULES = {
    "keras_networks": ("mobilenet_v2", "efficientnet_b0", "resnet50", "convnext_tiny", "densenet121"),
    "equinox_networks": ("vit", "cnn"),
    "haiku_networks": ("resnet18", "mobilenet_v1", "mlp", "lstm"),
    "nnx_networks": ("vit", "cnn"),
    "linen_vision": ("cnn", "resnet", "unet", "squeeze_excite"),
    "linen_sequences": ("tied_lm", "encoder_decoder", "scan_remat", "lstm", "state_space"),
    "linen_routing": ("dense_experts", "routed_experts", "graph"),
    "plain_residual": (
        "rezero", "layer_scale", "rms_norm", "weight_norm", "spectral_norm", "l2_features", "mean_by_dot",
        "auxiliary_head",
    ),
    "plain_features": (
        "cumulative_sum", "sigmoid_after", "tied_autoencoder", "channel_shuffle", "grouped_convolution",
        "dense_concatenation", "uneven_split", "pixel_shuffle", "ragged_dot", "grouped_query",
    ),
}  # fmt: skip
"""A module of this package and its functions, which build a network each."""

if importlib.util.find_spec("equimo") is not None:  # CI adds it after the other tests
    MODULES["equinox_networks"] += ("equimo_vit", "equimo_mobilenet_v3")


def _build(module: str, function: str) -> Network:
    return getattr(importlib.import_module(f"tests.networks.{module}"), function)()


NETWORKS: dict[str, Callable[[], Network]] = {
    f"{module.split('_')[0]}_{function}": partial(_build, module, function)
    for module, functions in MODULES.items()
    for function in functions
}
