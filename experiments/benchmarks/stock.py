"""Networks of other frameworks, as people write them, on batches that are timed: nothing in them knows of a search."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dms_jax import SearchSpace, models
from dms_jax.training.language import language_loss


class Stock(NamedTuple):
    """A network to train: its space, parameters, loss and a batch; `title` says what of what size."""

    title: str
    space: SearchSpace
    params: Any
    loss: Callable[[Any, Any, jax.Array], Any]
    batch: Any


def images(side: int, count: int) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    pixels = draw.normal(size=(count, side, side, 3))
    return {"image": jnp.asarray(pixels, jnp.float32), "label": jnp.asarray(draw.integers(0, 10, count))}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def nnx_vit(batch: int = 32) -> Stock:
    """A ViT-S of four blocks in Flax NNX: width 384, 6 heads, 1,536 hidden features."""
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
            self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + self.attention(self.norm1(x))
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    class ViT(nnx.Module):
        def __init__(self, rngs: nnx.Rngs, width: int = 384, heads: int = 6, depth: int = 4):
            self.patches = nnx.Conv(3, width, (8, 8), (8, 8), rngs=rngs)
            self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 64, width)))
            self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
            self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

        def __call__(self, pixels: jax.Array) -> jax.Array:
            x = self.patches(pixels)
            x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions[...]
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x).mean(axis=1))

    model = ViT(nnx.Rngs(0))
    graphdef = nnx.graphdef(model)

    def loss(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        return cross_entropy(nnx.merge(graphdef, params)(batch["image"]), batch["label"])

    space = SearchSpace.from_nnx(model, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    return Stock(f"NNX ViT-S of 4 blocks, 64 px, batch {batch}", space, nnx.state(model), loss, images(64, batch))


def keras_mobilenet_v2() -> Stock:
    """MobileNetV2 of keras.applications, BatchNorm in training mode."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    shape = (64, 64, 3)
    # Keras annotates both as text; its documentation gives None.
    build: Any = keras.applications.MobileNetV2
    model = build(weights=None, input_shape=shape, classes=10, classifier_activation=None)

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        logits, changed = model.stateless_call(
            params["trainable"], params["non_trainable"], batch["image"], training=True
        )
        return cross_entropy(logits, batch["label"]), {"state": {"non_trainable": changed}}

    space = SearchSpace.from_keras(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return Stock("Keras MobileNetV2, 64 px, batch 16", space, space.source.params, loss, images(64, 16))


def llama_bytes() -> Stock:
    """The zoo's decoder of bytes."""
    model = models.create("llama_bytes")
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, 256), jnp.int32))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 256), jnp.int32))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 257)), jnp.int32)
    return Stock("Llama of bytes, 256 tokens, batch 16", space, params, language_loss(model), {"tokens": tokens})


STOCK: dict[str, Callable[[], Stock]] = {make.__name__: make for make in (nnx_vit, keras_mobilenet_v2, llama_bytes)}
STOCK["nnx_vit_128"] = partial(nnx_vit, 128)
