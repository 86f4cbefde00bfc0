"""Networks of keras.applications."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported

from typing import Any
from unittest import mock

import jax
import keras
import numpy as np

from dms_jax.adapters import keras as adapter
from tests.networks.network import Network, from_source, images, relaxed

SIZE = 32


def mobilenet_v2() -> Network:
    return _build("mobilenet_v2", keras.applications.MobileNetV2)


def efficientnet_b0() -> Network:
    return _build("efficientnet_b0", keras.applications.EfficientNetB0, contrast=100.0)


def resnet50() -> Network:
    return _build("resnet50", keras.applications.ResNet50)


def convnext_tiny() -> Network:
    return _build("convnext_tiny", keras.applications.ConvNeXtTiny, contrast=100.0)


def densenet121() -> Network:
    return _build("densenet121", keras.applications.DenseNet121)


def _build(name: str, application: Any, contrast: float = 1.0) -> Network:
    """Build `application` for ten classes; `contrast` multiplies the inputs of those that divide by 255."""
    model = _without_initializers(application)
    x = np.float32(contrast) * images(2, SIZE)
    source = adapter.source(model, x)
    seeds = [
        place
        for place, variable in enumerate(model.non_trainable_variables)
        if variable.path.endswith("seed_generator_state")
    ]

    def train(params: Any, x: Any, key: Any) -> Any:
        others = list(params["non_trainable"])
        for place in seeds:
            others[place] = jax.random.key_data(jax.random.fold_in(key, place))
        outputs, state = model.stateless_call(params["trainable"], others, x, training=True)
        return outputs, {"non_trainable": state}

    return from_source(f"keras_{name}", "keras", source, (x,), train)


def _without_initializers(application: Any) -> Any:
    """Call `application` with zeros for kernels: compiling an initializer for every shape takes most of the time."""

    def zeros(self: Any, shape: Any, dtype: Any = None, **_: Any) -> np.ndarray:
        return np.zeros(shape, dtype or "float32")

    kinds = (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal)
    patches = [mock.patch.object(kind, "__call__", zeros) for kind in kinds]
    with patches[0], patches[1]:
        build = relaxed(application)
        return build(weights=None, input_shape=(SIZE, SIZE, 3), classes=10, classifier_activation=None)
