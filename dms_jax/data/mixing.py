"""What training does to whole batches, on the device: normalisation, random erasing, mixup and cutmix, soft labels.

Pure functions of a batch and a key, written for the global batch: under `jit` with a batch that is cut over devices
they give what one device gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dms_jax.errors import UserError

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
"""Of ImageNet's channels, for pixels in [0, 1]: what published weights are trained with."""

ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed; the defaults are DeiT's.

    Attributes:
      mixup: alpha of the Beta distribution of the share; 0 is no mixup.
      cutmix: alpha of the Beta distribution of the area; 0 is no cutmix.
      switch: probability that a batch gets cutmix, where both are on.
      probability: that a batch is mixed at all.
      erasing: probability that a rectangle of a picture is replaced by noise.
      label_smoothing: share of the target that is spread over all classes.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    probability: float = 1.0
    erasing: float = 0.25
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0:
            raise UserError(f"mixup {self.mixup} and cutmix {self.cutmix} have to be at least 0; 0 is none")
        for name in ("switch", "probability", "erasing", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)} is not possible; give 0 to 1")

    @property
    def cutmix_share(self) -> float:
        """Probability of cutmix in a batch that is mixed."""
        return self.switch if self.mixup and self.cutmix else float(self.cutmix > 0)


NONE = Mixing(mixup=0.0, cutmix=0.0, erasing=0.0, label_smoothing=0.0)
"""Normalisation alone."""


def mix(batch: Mapping[str, jax.Array], key: jax.Array, mixing: Mixing, num_classes: int) -> dict[str, jax.Array]:
    """Normalise, erase and mix a batch.

    With a share lam of the batch, x_i = lam x_i + (1 - lam) x_(i-1) for mixup; for cutmix, a rectangle of x_i is that
    of x_(i-1), and lam is the rest of the area. The target is lam y_i + (1 - lam) y_(i-1) of smoothed labels.

    Args:
      batch: {"image": `[B, H, W, 3]` uint8, "label": `[B]` int32}; other leaves are passed on.
      key: of the step.
      mixing: how.
      num_classes: labels are below it.

    Returns:
      {"image": `[B, H, W, 3]` float32, "label": `[B]` int32 as it was, "target": `[B, num_classes]` float32, which sums
      to 1 in each row}.

    Source: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; S. Yun et al., "CutMix", ICCV 2019;
    Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
    """
    erasing_key, mixing_key = jax.random.split(key)
    image = normalize(batch["image"])
    target = smooth_labels(batch["label"], num_classes, mixing.label_smoothing)
    if mixing.erasing:
        image = erase(image, erasing_key, mixing.erasing)
    if (mixing.mixup or mixing.cutmix) and mixing.probability:
        weight = mixing_weight(mixing_key, image.shape[1:3], mixing)
        share = jnp.mean(weight)
        image = _blend(weight[None, :, :, None], image)
        target = _blend(share, target)
    return {**batch, "image": image, "target": target}


def normalize(image: jax.Array) -> jax.Array:
    """(x / 255 - mean) / std of ImageNet's channels: `[..., 3]` uint8 to float32."""
    return (image.astype(jnp.float32) / 255 - MEAN) / STD


def smooth_labels(label: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """(1 - s) onehot(label) + s / num_classes: `[B]` int to `[B, num_classes]` float32."""
    return (1 - smoothing) * jax.nn.one_hot(label, num_classes) + smoothing / num_classes


def erase(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Replace a random rectangle of each picture by normal noise, with a probability.

    Its area is uniform in `ERASED_AREA` of the picture, the logarithm of its height / width uniform in that of
    `ERASED_ASPECT`; a side is cut to that of the picture.

    Args:
      image: `[B, H, W, C]` float32, normalised.
      key: every picture draws its own.
      probability: of a picture to be erased.
    """
    count, height, width, _ = image.shape
    chosen, area, aspect, top, left, noise = jax.random.split(key, 6)
    area = jax.random.uniform(area, (count,), minval=ERASED_AREA[0], maxval=ERASED_AREA[1]) * (height * width)
    low, high = np.log(ERASED_ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect, (count,), minval=low, maxval=high))
    tall = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, height)
    wide = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, width)
    inside = _inside(height, jnp.floor(jax.random.uniform(top, (count,)) * (height - tall + 1)), tall)[:, :, None]
    inside &= _inside(width, jnp.floor(jax.random.uniform(left, (count,)) * (width - wide + 1)), wide)[:, None, :]
    inside &= jax.random.bernoulli(chosen, probability, (count, 1, 1))
    return jnp.where(inside[..., None], jax.random.normal(noise, image.shape), image)


def mixing_weight(key: jax.Array, shape: tuple[int, int], mixing: Mixing) -> jax.Array:
    """What share of each pixel is the picture's own: `shape`, in [0, 1]; the rest is its neighbour's.

    Constant for mixup, 0 in a rectangle for cutmix: its centre is uniform, its sides are sqrt(1 - lam) of the
    picture's, and it is cut at the border.
    """
    mixed, which, smooth, area, centre = jax.random.split(key, 5)
    weight = jnp.ones(shape)
    if mixing.mixup:
        weight *= jax.random.beta(smooth, mixing.mixup, mixing.mixup)
    if mixing.cutmix:
        side = jnp.sqrt(1 - jax.random.beta(area, mixing.cutmix, mixing.cutmix))
        at = jnp.floor(jax.random.uniform(centre, (2,)) * jnp.array(shape))
        first = [jnp.clip(at[i] - jnp.floor(side * shape[i]) // 2, 0, shape[i]) for i in range(2)]
        last = [jnp.clip(at[i] + jnp.floor(side * shape[i]) // 2, 0, shape[i]) for i in range(2)]
        rows, columns = (_inside(shape[i], first[i], last[i] - first[i]) for i in range(2))
        cut = jnp.where(rows[:, None] & columns[None, :], 0.0, 1.0)
        weight = jnp.where(jax.random.bernoulli(which, mixing.cutmix_share), cut, weight)
    return jnp.where(jax.random.bernoulli(mixed, mixing.probability), weight, 1.0)


def _inside(length: int, start: jax.Array, size: jax.Array) -> jax.Array:
    """`[..., length]` bool: start <= i < start + size."""
    i = jnp.arange(length)
    start, end = start[..., None], (start + size)[..., None]
    return (jnp.expand_dims(i, tuple(range(start.ndim - 1))) >= start) & (
        jnp.expand_dims(i, tuple(range(start.ndim - 1))) < end
    )


def _blend(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Each example with the one before it: over devices, only neighbours exchange one example."""
    return weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)
