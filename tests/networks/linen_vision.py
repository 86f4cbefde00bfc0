"""Networks on images, of Linen modules."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tests.networks.linen_building import build
from tests.networks.network import Network, images


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        for width in (8, 12):
            x = nn.Conv(width, (3, 3))(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.avg_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(nn.Dense(16)(x)))
        return nn.Dense(5)(x)


class ResidualBlock(nn.Module):
    width: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), self.strides)(x)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.conv(self.width, (3, 3))(y))
        if x.shape != y.shape:
            x = self.norm(name="norm_proj")(self.conv(self.width, (1, 1), self.strides, name="conv_proj")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Modules are passed down as partial functions, as in Flax's example."""

    widths: tuple[int, ...] = (8, 12)
    depth: int = 2

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        x = nn.relu(norm(name="bn_init")(conv(self.widths[0], (3, 3), name="conv_init")(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, width in enumerate(self.widths):
            for block in range(self.depth):
                strides = (2, 2) if stage and not block else (1, 1)
                x = ResidualBlock(width, conv, norm, strides)(x)
        return nn.Dense(5)(jnp.mean(x, axis=(1, 2)))


class UNet(nn.Module):
    widths: tuple[int, ...] = (6, 8, 10)

    @nn.compact
    def __call__(self, x, train: bool):
        skips = []
        for width in self.widths[:-1]:
            x = self.twice(x, width, train)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = self.twice(x, self.widths[-1], train)
        for width, skip in zip(self.widths[-2::-1], reversed(skips), strict=True):
            x = nn.ConvTranspose(width, (2, 2), strides=(2, 2))(x)
            x = self.twice(jnp.concatenate([skip, x], axis=-1), width, train)
        return nn.Conv(2, (1, 1))(x)

    def twice(self, x, width, train):
        for _ in range(2):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(width, (3, 3))(x)))
        return x


class SqueezeAndExcite(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = x.mean((1, 2), keepdims=True)
        y = nn.swish(nn.Conv(self.hidden, (1, 1), name="reduce")(y))
        return x * nn.sigmoid(nn.Conv(x.shape[-1], (1, 1), name="expand")(y))


class InvertedBlocks(nn.Module):
    """Depthwise separable bottlenecks with squeeze-and-excite and residuals."""

    @nn.compact
    def __call__(self, x, train: bool):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.swish(norm()(nn.Conv(8, (3, 3), strides=2, use_bias=False)(x)))
        for width in (8, 10):
            y = nn.swish(norm()(nn.Conv(2 * x.shape[-1], (1, 1), use_bias=False)(x)))
            y = nn.Conv(y.shape[-1], (3, 3), feature_group_count=y.shape[-1], use_bias=False)(y)
            y = SqueezeAndExcite(4)(nn.swish(norm()(y)))
            y = norm()(nn.Conv(width, (1, 1), use_bias=False)(y))
            y = nn.Dropout(0.2, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
            x = x + y if width == x.shape[-1] else y
        return nn.Dense(5)(x.mean((1, 2)))


def cnn() -> Network:
    return build("cnn", ConvNet(), images(4, 16), train={"train": True})


def resnet() -> Network:
    return build("resnet", ResNet(), images(4, 16), train={"train": True})


def unet() -> Network:
    return build("unet", UNet(), images(2, 16), train={"train": True})


def squeeze_excite() -> Network:
    return build("squeeze_excite", InvertedBlocks(), images(4, 16), train={"train": True})
