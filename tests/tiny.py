"""A real model of the zoo, thin enough to compile in a second, with width and depth groups."""

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.models import resnet

EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


def make(num_classes: int = 10, **arguments) -> resnet.ResNet:
    """Two stages of basic blocks, 4 and 8 channels wide unless asked otherwise."""
    given = {"blocks": (2, 1), "widths": (4, 8), "stem": 4, **arguments}
    return resnet.ResNet(block=resnet.BasicBlock, small_images=True, num_classes=num_classes, **given)


def variables(model, seed: int = 0):
    return jax.jit(model.init)(jax.random.key(seed), jnp.zeros(EXAMPLE.shape))


def batch_of(step: int, size: int = 8) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {
        "image": draw.normal(size=(size, 8, 8, 3)).astype(np.float32),
        "label": draw.integers(0, 10, size).astype(np.int32),
    }
