"""Haiku's own networks, and two written with its modules."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from dms_jax.adapters import haiku as adapter
from tests.networks.network import Network, from_source, images, relaxed, vectors


def resnet18() -> Network:
    def forward(x: Any, is_training: bool) -> Any:
        return hk.nets.ResNet18(10)(x, is_training)

    return _build("resnet18", forward, images(4, 32))


def mobilenet_v1() -> Network:
    def forward(x: Any, is_training: bool) -> Any:
        return hk.nets.MobileNetV1(num_classes=10)(x, is_training)

    return _build("mobilenet_v1", forward, images(4, 32))


def mlp() -> Network:
    def forward(x: Any, is_training: bool) -> Any:
        hidden = hk.nets.MLP([16, 12, 5], activation=jax.nn.gelu)
        return hidden(x, dropout_rate=0.3, rng=hk.next_rng_key()) if is_training else hidden(x)

    return _build("mlp", forward, vectors(4, 7))


def lstm() -> Network:
    def forward(x: Any, is_training: bool) -> Any:
        core = hk.LSTM(10)
        outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        outputs = hk.LayerNorm(-1, True, True)(outputs)
        if is_training:
            outputs = hk.dropout(hk.next_rng_key(), 0.2, outputs)
        return hk.Linear(5)(jnp.tanh(outputs))

    return _build("lstm", forward, vectors(3, 6, 8))


def _build(name: str, forward: Callable[..., Any], x: Any) -> Network:
    transformed = hk.transform_with_state(forward)
    shapes = relaxed(jax.eval_shape)(lambda key: transformed.init(key, x, is_training=True), jax.random.key(0))

    def train(params: Any, x: Any, key: Any) -> Any:
        outputs, state = transformed.apply(params["params"], params["state"], key, x, is_training=True)
        return outputs, {"state": state}

    source = adapter.source(transformed, shapes, x, is_training=False)
    return from_source(f"haiku_{name}", "haiku", source, (x,), train)
